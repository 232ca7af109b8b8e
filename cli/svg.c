// SPDX-License-Identifier: Apache-2.0
// Charts as SVG files. Numbers are written with a point whatever the locale, and texts with the characters of XML
// escaped.
#include "cli/svg.h"

#include <stdio.h>

#include "cli/exit.h"

static void put_escaped(FILE *to, const char *text)
{
    for (; *text; text++) {
        const char *const name = *text == '<'   ? "&lt;"
                                 : *text == '>' ? "&gt;"
                                 : *text == '&' ? "&amp;"
                                 : *text == '"' ? "&quot;"
                                                : NULL;
        if (name)
            fputs(name, to);
        else if ((unsigned char)*text >= ' ')
            putc(*text, to);
    }
}

int cli_svg_begin(struct cli_svg *svg, const char *path, double width, double height, const char *title)
{
    moeblock_error error;
    svg->path = path;
    if (mb_output_open(path, &svg->output, &error) != MOEBLOCK_OK) return cli_fail_status(CLI_ABOUT_DATA, &error);
    FILE *const to = svg->output.stream;
    fprintf(to,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n<title>",
            width, height, width, height);
    put_escaped(to, title);
    fputs("</title>\n", to);
    cli_svg_box(svg, 0, 0, width, height, "#ffffff");
    return CLI_OK;
}

void cli_svg_box(struct cli_svg *svg, double x, double y, double width, double height, const char *colour)
{
    fprintf(svg->output.stream, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\"/>\n", x, y,
            width, height, colour);
}

void cli_svg_line(struct cli_svg *svg, double x0, double y0, double x1, double y1, const char *colour)
{
    fprintf(svg->output.stream, "<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\" stroke=\"%s\"/>\n", x0, y0, x1,
            y1, colour);
}

void cli_svg_text(struct cli_svg *svg, double x, double y, enum cli_svg_anchor anchor, const char *text)
{
    static const char *const anchors[] = {"start", "middle", "end"};
    fprintf(svg->output.stream, "<text x=\"%.2f\" y=\"%.2f\" text-anchor=\"%s\">", x, y, anchors[anchor]);
    put_escaped(svg->output.stream, text);
    fputs("</text>\n", svg->output.stream);
}

int cli_svg_end(struct cli_svg *svg)
{
    moeblock_error error;
    fputs("</svg>\n", svg->output.stream);
    if (mb_output_commit(&svg->output, &error) == MOEBLOCK_OK) return CLI_OK;
    return cli_fail_status(CLI_ABOUT_DATA, &error);
}
