// SPDX-License-Identifier: Apache-2.0
// A mesh inside one process: ranks are threads, collectives plain copies between barriers. It writes down the calls
// that each rank made.
#ifndef TESTS_SUPPORT_MESH_DOUBLE_H
#define TESTS_SUPPORT_MESH_DOUBLE_H

#include "moeblock/mesh.h"

enum { MESH_CALLS_MAX = 256 };

struct mesh_call {
    const char *name; // "all_gather", "all_to_all", "reduce_scatter", "agree"
    int axis;         // -1 for agree
    size_t bytes;     // that this rank gave
};

struct mesh_double;

struct mesh_double *mesh_double_create(int rows, int columns);
void mesh_double_destroy(struct mesh_double *mesh);

// Runs body(argument, mesh of the rank) on one thread a rank and returns when all have ended.
typedef void (*mesh_body)(void *argument, const moeblock_mesh *mesh);
void mesh_double_run(struct mesh_double *mesh, mesh_body body, void *argument);

// Calls of a rank since the last reset; *count at most MESH_CALLS_MAX.
const struct mesh_call *mesh_double_calls(const struct mesh_double *mesh, int row, int column, int *count);
void mesh_double_reset(struct mesh_double *mesh);

#endif
