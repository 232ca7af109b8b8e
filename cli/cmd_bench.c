// SPDX-License-Identifier: Apache-2.0
// `moeblock bench`: times forward for each thread count and batch size. No result is left out.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "block.h"
#include "cli/bench.h"
#include "cli/commands.h"
#include "cli/machine.h"
#include "cli/out.h"
#include "cli/progress.h"
#include "cli/values.h"

enum { RUNS_MIN = 5, RUNS_MAX = 1000, INPUTS = 8 }; // inputs in turn, so that the busy experts change
static const double enough_seconds = 1.0;

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct timing {
    double *seconds;
    int64_t count;
    double active_experts, chunks; // summed over the runs
};

static int run_once(struct cli_session *session, moeblock_workspace *workspace, const float *x, float *y,
                    int64_t tokens, int64_t hidden, struct timing *timing, bool counted)
{
    moeblock_forward_stats stats = {.struct_size = sizeof stats};
    const moeblock_array rows = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {tokens, hidden}};
    moeblock_forward_input input = {.struct_size = sizeof input, .mode = MOEBLOCK_DECODE, .x = rows};
    moeblock_forward_output output = {.struct_size = sizeof output, .y = rows, .stats = &stats};
    input.x.data = (void *)(uintptr_t)x;
    output.y.data = y;
    const double started = cli_seconds();
    const moeblock_status status = moeblock_block_forward(session->block, workspace, &input, &output, &session->error);
    const double passed = cli_seconds() - started;
    if (status != MOEBLOCK_OK) return cli_fail_status(CLI_ABOUT_CONFIG, &session->error);
    if (!counted) return CLI_OK;
    timing->seconds[timing->count++] = passed;
    timing->active_experts += (double)stats.active_experts;
    timing->chunks += (double)stats.chunks;
    return CLI_OK;
}

static int time_runs(struct cli_session *session, moeblock_workspace *workspace, const float *x, float *y,
                     const struct bench *bench, int64_t tokens, struct timing *timing)
{
    const int64_t hidden = bench->shape.hidden_size, wanted = bench->args->repeat;
    const int64_t most = wanted ? wanted : RUNS_MAX;
    const double started = cli_seconds();
    for (int64_t i = -1; timing->count < most; i++) { // the first run warms up
        if (!wanted && timing->count >= RUNS_MIN && cli_seconds() - started > enough_seconds) break;
        const float *const rows = x + ((i + INPUTS) % INPUTS) * tokens * hidden;
        const int code = run_once(session, workspace, rows, y, tokens, hidden, timing, i >= 0);
        if (code) return code;
    }
    return CLI_OK;
}

// Multiply-adds of one token in one feed-forward count as two.
static double ffn_flops(const struct mb_ffn_config *ffn, int64_t width)
{
    return 2.0 * (ffn->gated ? 3 : 2) * (double)width * (double)ffn->intermediate_size;
}

static void summarise(const struct bench *bench, const moeblock_config *config, struct timing *timing,
                      struct bench_row *row)
{
    const double n = (double)timing->count, one = (double)bench->info.expert_packed_bytes;
    const double rest = (double)bench->info.packed_bytes - one * (double)bench->shape.num_experts;
    const int64_t width = config->latent_size ? config->latent_size : config->hidden_size;
    qsort(timing->seconds, (size_t)timing->count, sizeof *timing->seconds, compare_doubles);
    const int64_t middle = timing->count / 2, late = (95 * timing->count + 99) / 100 - 1;
    row->repeats = timing->count;
    row->median =
        timing->count % 2 ? timing->seconds[middle] : (timing->seconds[middle - 1] + timing->seconds[middle]) / 2;
    row->p95 = timing->seconds[late];
    row->bytes = one * timing->active_experts / n + rest * timing->chunks / n;
    row->flops = (double)row->tokens * (double)config->num_experts_per_tok * ffn_flops(&config->routed, width);
    if (!config->routed_enabled) row->flops = 0;
    if (config->shared_enabled) row->flops += (double)row->tokens * ffn_flops(&config->shared, config->hidden_size);
    const double by_memory = row->limits.read_bytes_per_second > 0 ? row->bytes / row->limits.read_bytes_per_second : 0;
    const double by_flops = row->flops / row->limits.flops_per_second;
    row->bound = by_memory > by_flops ? by_memory : by_flops;
}

static int time_case(struct cli_session *session, struct bench *bench, struct bench_row *row)
{
    const moeblock_allocator *const allocator = &mb_default_allocator;
    const int64_t values = row->tokens * bench->shape.hidden_size;
    const int64_t most = bench->args->repeat ? bench->args->repeat : RUNS_MAX;
    struct timing timing = {.seconds = mb_alloc(allocator, sizeof(double) * (size_t)most)};
    float *const x = mb_alloc(allocator, sizeof(float) * (size_t)(values * INPUTS));
    float *const y = mb_alloc(allocator, sizeof(float) * (size_t)values);
    moeblock_workspace *workspace = NULL;
    int code = CLI_OK;
    if (!timing.seconds || !x || !y)
        code = cli_fail(CLI_SYSTEM_REFUSED, "no memory for %" PRId64 " tokens", row->tokens);
    else if (moeblock_workspace_create(session->block, row->tokens, NULL, 0, &workspace, &session->error) !=
             MOEBLOCK_OK)
        code = cli_fail_status(CLI_ABOUT_CONFIG, &session->error);
    if (!code) {
        cli_values_input(session->context, (uint64_t)bench->args->seed, values * INPUTS, x);
        code = time_runs(session, workspace, x, y, bench, row->tokens, &timing);
    }
    if (!code) {
        cli_limits_measure(session->context, bench->info.compute == MOEBLOCK_COMPUTE_BF16, &row->limits);
        summarise(bench, session->config, &timing, row);
        bench_report_row(bench, row);
    }
    moeblock_workspace_destroy(&workspace);
    mb_free(allocator, x);
    mb_free(allocator, y);
    mb_free(allocator, timing.seconds);
    return code;
}

// Halves the number of made-up experts until they fit the memory.
static int fit_memory(struct cli_session *session, struct bench *bench, enum mb_format format, int64_t layer)
{
    struct cli_machine machine;
    cli_machine_read(&machine);
    const int64_t wanted = session->config->num_experts;
    const uint64_t room = machine.available_bytes - machine.available_bytes / 8;
    while (machine.available_bytes && bench_weights_bytes(session->config, format, layer) > room) {
        char set[64];
        const char *const sets[] = {set};
        const int64_t fewer = session->config->num_experts / 2;
        if (fewer < session->config->num_experts_per_tok) break;
        snprintf(set, sizeof set, "model.num_experts=%" PRId64, fewer);
        moeblock_config_destroy(&session->config);
        const int code = cli_open_config(session, bench->args, bench->args->positional[0], sets, 1);
        if (code) return code;
    }
    bench->left_out = wanted - session->config->num_experts;
    return CLI_OK;
}

static int make_weights(struct cli_session *session, struct bench *bench, struct bench_weights *made)
{
    const struct cli_args *const args = bench->args;
    const bool named = strcmp(session->config->format, "auto") != 0;
    char name[sizeof session->config->format];
    snprintf(name, sizeof name, "%s", args->format ? args->format : named ? session->config->format : "bf16");
    const int found = mb_format_find(name);
    if (found < 0) return cli_fail(CLI_BAD_CONFIG, "weights.format is '%s', which cannot be made up", name);
    const int64_t layer = mb_block_layer(session->config);
    bench->source = "made up";
    const int code = fit_memory(session, bench, (enum mb_format)found, layer);
    if (code) return code;
    cli_expect_format(session->config, name);
    return bench_weights_make(session, (enum mb_format)found, layer, (uint64_t)args->seed, made);
}

static int time_threads(struct cli_session *session, struct bench *bench, int threads, struct bench_weights *made)
{
    const struct cli_args *const args = bench->args;
    struct bench_row row = {0};
    int code;
    if ((code = cli_open_context(session, args, threads))) return code;
    if ((code = cli_open_config(session, args, args->positional[0], NULL, 0))) return code;
    bench->source = args->weights;
    code = args->weights ? cli_open_weights(session, args->weights) : make_weights(session, bench, made);
    if (code) return code;
    if ((code = cli_make_block(session, args))) return code;
    if ((code = cli_load(session, args))) return code;
    moeblock_weights_destroy(&session->weights);
    bench_weights_free(made);
    moeblock_config_get_shape(session->config, &bench->shape);
    bench->info.struct_size = sizeof bench->info;
    moeblock_block_get_info(session->block, &bench->info);
    snprintf(bench->level, sizeof bench->level, "%s", moeblock_context_level(session->context));
    row.threads = moeblock_context_threads(session->context);
    for (size_t i = 0; i < args->tokens.count; i++) {
        row.tokens = args->tokens.value[i];
        row.limits = (struct cli_limits){0}; // measured on both sides of each case: machines drift
        cli_limits_measure(session->context, bench->info.compute == MOEBLOCK_COMPUTE_BF16, &row.limits);
        if ((code = time_case(session, bench, &row))) return code;
    }
    return CLI_OK;
}

int cli_bench(const struct cli_args *args)
{
    static struct cli_session session; // paths and messages inside: too large for the stack's taste
    struct bench bench = {.args = args, .rows = args->json ? json_array() : NULL};
    struct cli_list threads = args->thread_list;
    if (threads.count == 0) threads = (struct cli_list){.value = {0}, .count = 1};
    int code = CLI_OK;
    for (size_t i = 0; i < threads.count && !code; i++) {
        struct bench_weights made = {0};
        code = time_threads(&session, &bench, (int)threads.value[i], &made);
        cli_close(&session);
        bench_weights_free(&made);
        if (!code && i == threads.count - 1) bench_report_end(&bench);
    }
    json_decref(bench.rows);
    return code;
}
