// SPDX-License-Identifier: Apache-2.0
// One run of `moeblock bench`: variants of a configuration, cases (a batch size on a number of threads), their times
// and the limits of the machine beside them.
#ifndef MB_CLI_BENCH_H
#define MB_CLI_BENCH_H

#include "base/json.h"
#include "cli/limits.h"
#include "cli/session.h"
#include "config/tensors.h"

struct mb_team;

enum { BENCH_VARIANTS_MAX = 8 };

// What one call costs at least: weights read once, the arithmetic of the definition.
struct bench_cost {
    double expert_bytes; // of one routed expert as packed, scales and biases included
    double fixed_bytes;  // router, shared expert, latent projections; 0 when the experts run alone
    double slot_flops;   // of one row in one routed expert, multiply and add counted as two
    double token_flops;  // router, shared expert, latent projections
};

// A configuration with one value of --compare, loaded.
struct bench_variant {
    struct cli_session session;
    char setting[256]; // "key=value"; "" without --compare
    moeblock_config_shape shape;
    moeblock_block_info info;
    struct bench_cost cost;
    moeblock_workspace *workspaces[CLI_LIST_MAX]; // by place in the list of thread counts
    struct mb_team *own_team;                     // the context's, put back before the context goes
};

struct bench_case {
    struct bench_variant *variant;
    int64_t tokens;
    int threads, team; // number, and its place in the list of thread counts
    double *seconds;   // [room]: `count` runs at the front, disturbed ones set `aside` at the end
    int64_t count, aside, room;
    int64_t disturbed; // runs in which our threads were without their CPUs, set aside or not
    int64_t next_input;
    double once;                  // seconds of the fastest run so far
    double active_experts, slots; // summed over `counted` runs
    int64_t counted;
    struct cli_samples samples;
    uint64_t output; // hash of y for the first input
    // Results.
    struct cli_limits limits;
    double median, p95, bytes, flops, by_memory, by_peak, roofline; // seconds, per run
};

struct bench {
    const struct cli_args *args;
    struct cli_list threads;
    struct mb_team *teams[CLI_LIST_MAX];
    const struct cli_peak *peaks[CLI_LIST_MAX]; // the fastest, by place in the list of thread counts
    struct bench_variant *variants;
    int variant_count;
    struct bench_case *cases;
    int case_count;
    char name[256];     // of the configuration
    const char *source; // "made up", or the path of the weights
    struct cli_ruler ruler;
    float *x, *y; // inputs are windows of x
    int64_t rows; // of x
    int32_t *ids; // [rows, k] when the routing is given, else NULL
    float *weights;
    int64_t k;
    int64_t *load; // per expert, of one run
    int64_t n_load;
};

// bench_time.c: runs the cases in turn and fills their times and samples; then the results of one case.
int bench_time(struct bench *bench);
void bench_summarise(struct bench *bench, struct bench_case *one);

// bench_cost.c. `weights` still holds the tensors. `alone`: the routed experts only.
void bench_cost_make(const struct bench_variant *variant, int64_t layer, bool alone, struct bench_cost *out);
// CLI_OK, or an exit code after a message when made-up weights of `variants` such configurations exceed the memory.
int bench_cost_fits(const struct bench *bench, const moeblock_config *config, enum mb_format format, int64_t layer);

// bench_routing.c: ids and weights for all rows as --routing says; none for "router".
int bench_routing_make(struct bench *bench);

// bench_report.c, bench_plot.c
void bench_report(const struct bench *bench);
int bench_plot(const struct bench *bench, const char *path);

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
// Bytes that the made-up data takes, and that the layer takes packed, roughly.
uint64_t bench_weights_bytes(const moeblock_config *config, enum mb_format format, int64_t layer, uint64_t *packed);

#endif
