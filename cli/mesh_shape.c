// SPDX-License-Identifier: Apache-2.0
// Reading the shapes of meshes.
#include "cli/mesh_shape.h"

#include <stdlib.h>

#include "cli/exit.h"

// A number at *at, which then stands behind it; 0: none in range.
static int side(const char **at)
{
    char *end;
    if (**at < '1' || **at > '9') return 0;
    const long value = strtol(*at, &end, 10);
    *at = end;
    return value <= CLI_MESH_SIDE_MAX ? (int)value : 0;
}

int cli_mesh_read(const char *text, int most, struct cli_mesh *out, int *count)
{
    const char *at = text;
    for (*count = 0; *count < most; at++) {
        struct cli_mesh *const mesh = &out[(*count)++];
        mesh->rows = side(&at);
        if (!mesh->rows || *at++ != 'x') break;
        mesh->columns = side(&at);
        if (!mesh->columns || (*at && *at != ',')) break;
        if (!*at) return CLI_OK;
    }
    return cli_fail(CLI_USAGE, "option --mesh: found '%.100s', expected %s", text,
                    most == 1 ? "rows x columns, such as 2x4" : "up to 16 shapes of rows x columns, such as 8x4,32x1");
}
