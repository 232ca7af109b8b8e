// SPDX-License-Identifier: Apache-2.0
// A mesh inside one process: ranks are threads, messages go through queues that a test can tamper with. It writes down
// the collective calls that each rank made.
#ifndef TESTS_SUPPORT_MESH_DOUBLE_H
#define TESTS_SUPPORT_MESH_DOUBLE_H

#include <stdbool.h>

#include "mesh/mesh.h"

enum { MESH_CALLS_MAX = 256 };

struct mesh_call {
    const char *name; // "all_gather", "all_to_all", "reduce_scatter", "agree"
    int axis;         // -1 for agree
    size_t bytes;     // that this rank gave; of agree: values
};

struct mesh_double;

struct mesh_double *mesh_double_create(int rows, int columns);
void mesh_double_destroy(struct mesh_double *mesh);

// Seconds that any wait may last; 60 unless set before a run.
void mesh_double_deadline(struct mesh_double *mesh, double seconds);

// Sees every message when it is sent: may change it, shorten it, delay it by a number of seconds; false: it is lost.
struct mesh_message {
    int from, to, tag;
    char *data;
    size_t bytes;
    double delay;
};
typedef bool (*mesh_tamper)(void *user, struct mesh_message *message);
void mesh_double_tamper(struct mesh_double *mesh, mesh_tamper tamper, void *user);

// Runs body(argument, mesh of the rank) on one thread a rank and returns when all have ended.
typedef void (*mesh_body)(void *argument, moeblock_mesh *mesh);
void mesh_double_run(struct mesh_double *mesh, mesh_body body, void *argument);

// Calls of a rank since the last reset; *count at most MESH_CALLS_MAX.
const struct mesh_call *mesh_double_calls(const struct mesh_double *mesh, int row, int column, int *count);
void mesh_double_reset(struct mesh_double *mesh);

#endif
