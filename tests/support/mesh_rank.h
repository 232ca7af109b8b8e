// SPDX-License-Identifier: Apache-2.0
// One rank's part of a golden case on a mesh, against the bytes of one process: the same for ranks that are threads and
// for ranks that are processes.
#ifndef TESTS_SUPPORT_MESH_RANK_H
#define TESTS_SUPPORT_MESH_RANK_H

#include "mesh/mesh.h"
#include "support/golden.h"

struct scenario {
    const struct golden_case *golden;
    const struct golden_run *single; // the truth
    bool sharded;
    bool all_tokens_on_row_0;
    bool swapped; // tensor parallel over rows, expert parallel over columns
    moeblock_compute compute;
    moeblock_mode mode;
    const char *const *set;
    size_t n_set;
    int threads;      // of a rank; 0: one
    double tolerance; // relative rms of a rank's part of y; 0: the same bytes
    float *y;         // [tokens][hidden], where every rank lays its part; NULL: nowhere
    bool y_is_own;    // no other rank lays anything there
};

// A rank's own context, block and workspace.
struct rank_objects {
    moeblock_context *context;
    moeblock_config *config;
    moeblock_block *block;
    moeblock_workspace *workspace;
};

// Fails the test when anything fails.
void rank_open(const struct scenario *scenario, moeblock_mesh *mesh, int64_t tokens, struct rank_objects *out);
void rank_close(struct rank_objects *rank);

// Runs this rank's slice of the input and compares its part of y and ids.
void rank_forward(const struct scenario *scenario, moeblock_mesh *mesh, const struct rank_objects *rank);

// All three. `argument` is a scenario.
void rank_body(void *argument, moeblock_mesh *mesh);

#endif
