// SPDX-License-Identifier: Apache-2.0
// Charts as SVG files, written without any library: rectangles, lines and text in pixels from the upper left corner.
#ifndef MB_CLI_SVG_H
#define MB_CLI_SVG_H

#include "base/file.h"

struct cli_svg {
    struct mb_output output;
    const char *path;
};

enum cli_svg_anchor { CLI_SVG_START, CLI_SVG_MIDDLE, CLI_SVG_END };

// Opens the file, with a white ground of this size and a title. CLI_OK, or an exit code after a message.
int cli_svg_begin(struct cli_svg *svg, const char *path, double width, double height, const char *title);
// Colours are those of CSS: "#4477aa".
void cli_svg_box(struct cli_svg *svg, double x, double y, double width, double height, const char *colour);
void cli_svg_line(struct cli_svg *svg, double x0, double y0, double x1, double y1, const char *colour);
void cli_svg_text(struct cli_svg *svg, double x, double y, enum cli_svg_anchor anchor, const char *text);
// The file appears under its name. CLI_OK, or an exit code after a message.
int cli_svg_end(struct cli_svg *svg);

#endif
