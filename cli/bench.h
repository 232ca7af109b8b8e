// SPDX-License-Identifier: Apache-2.0
// One table of `moeblock bench`.
#ifndef MB_CLI_BENCH_H
#define MB_CLI_BENCH_H

#include "base/json.h"
#include "cli/limits.h"
#include "cli/session.h"
#include "config/tensors.h"

struct bench_row {
    int64_t tokens, repeats;
    int threads;
    double median, p95;  // seconds
    double bytes, flops; // per run
    double bound;        // seconds that the machine's limits allow
    struct cli_limits limits;
};

struct bench {
    const struct cli_args *args;
    moeblock_config_shape shape;
    moeblock_block_info info;
    int64_t left_out; // experts that the memory had no room for
    char level[32];
    const char *source; // "made up", or the path of the weights
    json_t *rows;       // NULL: text
    bool head_printed;
};

void bench_report_row(struct bench *bench, const struct bench_row *row);
void bench_report_end(struct bench *bench);

// bench_weights.c: a made-up layer in memory. Experts of one shape share a few data sets: the packed copies are what
// is timed.
struct bench_weights {
    moeblock_tensor *tensors;
    char (*names)[256];
    void **data;
    size_t count, n_data;
};
int bench_weights_make(struct cli_session *session, enum mb_format format, int64_t layer, uint64_t seed,
                       struct bench_weights *out);
void bench_weights_free(struct bench_weights *weights);
// Bytes that the layer takes packed, and that the made-up data takes beside it, roughly.
uint64_t bench_weights_bytes(const moeblock_config *config, enum mb_format format, int64_t layer);

#endif
