// SPDX-License-Identifier: Apache-2.0
// A golden case of tests/golden, and a block made and run the way the command line does it.
#ifndef TESTS_SUPPORT_GOLDEN_H
#define TESTS_SUPPORT_GOLDEN_H

#include "moeblock/moeblock.h"
#include "reference.h"
#include "weights/npy.h"

struct golden_case {
    char name[64], folder[512], family[64], weights[64];
    int64_t layer, tokens, hidden, k;
    double original_bf16;
    struct mb_npy x, expected, ids, route_weights;
    struct mb_npy aux, token_ids, token_types, seq_lens, state_in, state; // data NULL: none; state is the expected one
    struct mb_reference_input inputs;                                     // the same for the library, owned by the case
    int64_t *wide;                                                        // holds token ids and lengths as int64
    int64_t bank; // experts of a bank where there are several, else 0: ids are compared modulo it
};

// Names of all cases, sorted; returns how many.
int golden_list(char names[][64], int most);
// Fails the test when the case cannot be read.
void golden_open(const char *name, struct golden_case *out);
void golden_close(struct golden_case *golden);

// A block of a configuration with weights of a folder, and one forward of the case's input with it.
struct golden_run {
    moeblock_context *context;
    moeblock_config *config;
    moeblock_block *block;
    moeblock_workspace *workspace;
    float *y;
    int32_t *ids;
    float *weights;
    float *state; // NULL unless the case expects one
};
struct golden_settings {
    const char *level; // NULL: the best
    int threads;       // 0: default
    moeblock_compute compute;
    moeblock_mode mode;      // 0: prefill
    const char *config_text; // NULL: the folder's config.json
    const char *const *set;
    size_t n_set;
};
moeblock_status golden_run(const struct golden_case *golden, const struct golden_settings *settings,
                           struct golden_run *out, moeblock_error *error);
void golden_run_free(const struct golden_case *golden, struct golden_run *run);

// Relative rms error of y against expected.
double golden_error(const struct golden_case *golden, const float *y);
// 1e-5 in f32; in bf16 the original framework's own error, at least 4e-3: what check.py allows.
double golden_allowed(const struct golden_case *golden, moeblock_compute compute);
// Room for the state that the case expects to be handed on; NULL when it expects none.
float *golden_state(const struct golden_case *golden);
double golden_state_error(const struct golden_case *golden, const float *state);
// Row of the first difference between ids as sets or weights beyond 1e-5 relative; -1: none.
int64_t golden_router_difference(const struct golden_case *golden, const int32_t *ids, const float *weights);

#endif
