// SPDX-License-Identifier: Apache-2.0
// "32x8": rows x columns of processes, as --mesh has it.
#ifndef MB_CLI_MESH_SHAPE_H
#define MB_CLI_MESH_SHAPE_H

enum { CLI_MESHES_MAX = 16, CLI_MESH_SIDE_MAX = 65536 };

struct cli_mesh {
    int rows, columns;
};

// One or several shapes separated by commas, at most `most` of them. CLI_OK, or an exit code after a message.
int cli_mesh_read(const char *text, int most, struct cli_mesh *out, int *count);

#endif
