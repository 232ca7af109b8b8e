// SPDX-License-Identifier: Apache-2.0
// One run of `moeblock run` (`moeblock route` fills part of it): what it read, what it computed, what it reports.
#ifndef MB_CLI_RUN_H
#define MB_CLI_RUN_H

#include "cli/compare.h"
#include "cli/mesh_report.h"
#include "cli/session.h"

struct cli_run {
    const struct cli_args *args;
    struct cli_session session;
    moeblock_config_shape shape;
    moeblock_block_info info;
    struct mb_npy x, reference, aux, state;
    int64_t *token_ids, *seq_lens;
    int32_t *token_types;
    int64_t n_seq;
    int64_t tokens;
    float *y, *weights; // [T, H], [T, k]
    int32_t *ids;       // [T, k]
    float *state_out;   // [T, state_size] or NULL
    int64_t *load;      // [experts, null experts included]
    int64_t n_load;
    moeblock_forward_stats stats;
    struct cli_mesh_counts counts;
    double seconds, first_forward_seconds; // of forward; from opening the weights to its end
    bool compared;
    struct cli_comparison comparison;
};

// run_input.c: reads the arrays that the options name and checks them against each other and the configuration.
int cli_run_read(struct cli_run *run);
// What was read as the block takes it, and any array of x's shape.
moeblock_forward_input cli_run_input(const struct cli_run *run);
moeblock_array cli_run_array(const struct mb_npy *shape, moeblock_dtype dtype, void *data);
// Frees what cli_run_read and the run itself allocated.
void cli_run_free(struct cli_run *run);

// run_report.c: the summary on stdout, as text or JSON.
void cli_run_report(const struct cli_run *run);

#endif
