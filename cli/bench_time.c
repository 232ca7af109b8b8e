// SPDX-License-Identifier: Apache-2.0
// Times the cases in turn, a slice of each a round, with a sample of the machine's limits between slices, so that what
// drifts meets all of them. Runs during which our threads were without their CPUs are disturbed: they are made again
// and counted.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/context.h"
#include "cli/bench.h"
#include "cli/exit.h"
#include "cli/progress.h"

enum { ROUNDS = 5, INPUTS = 64, ATTEMPTS = 3, CLEAN_LEAST = 3 };
static const double slice_seconds = 0.06, short_seconds = 0.02, own_share = 0.95;
static const double tick_seconds = 0.004; // of Linux at 250 Hz

static double process_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// Rows of x where the next input begins: a different one each call, so that a few tokens meet other experts and their
// weights come from memory.
static int64_t next_row(const struct bench *bench, struct bench_case *one)
{
    const int64_t step = (bench->rows - one->tokens) / (INPUTS - 1);
    const int64_t most = one->tokens < step ? one->tokens : step;
    return one->next_input++ % INPUTS * most;
}

// The counts of one run in bench->load.
static void count_run(const struct bench *bench, struct bench_case *one)
{
    const int64_t experts = one->variant->shape.num_experts;
    for (int64_t e = 0; e < experts && e < bench->n_load; e++) {
        one->active_experts += bench->load[e] > 0;
        one->slots += (double)bench->load[e];
    }
    one->counted++;
}

static moeblock_status forward(struct bench *bench, struct bench_case *one, int64_t row)
{
    struct bench_variant *const variant = one->variant;
    moeblock_error *const error = &variant->session.error;
    const int64_t hidden = variant->shape.hidden_size;
    moeblock_workspace *const workspace = variant->workspaces[one->team];
    moeblock_array x = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {one->tokens, hidden}}, y = x;
    x.data = bench->x + row * hidden;
    y.data = bench->y;
    if (bench->ids)
        return moeblock_block_forward_experts(variant->session.block, workspace, &x, bench->ids + row * bench->k,
                                              bench->weights + row * bench->k, bench->k, &y, error);
    moeblock_forward_stats stats = {.struct_size = sizeof stats, .expert_load = bench->load};
    const moeblock_forward_input input = {.struct_size = sizeof input, .mode = MOEBLOCK_DECODE, .x = x};
    const moeblock_forward_output output = {.struct_size = sizeof output, .y = y, .stats = &stats};
    return moeblock_block_forward(variant->session.block, workspace, &input, &output, error);
}

static int run_once(struct bench *bench, struct bench_case *one, double *seconds)
{
    const int64_t row = next_row(bench, one);
    memset(bench->load, 0, sizeof *bench->load * (size_t)bench->n_load);
    const double started = cli_seconds();
    const moeblock_status status = forward(bench, one, row);
    *seconds = cli_seconds() - started;
    if (status != MOEBLOCK_OK) return cli_fail_status(CLI_ABOUT_CONFIG, &one->variant->session.error);
    if (bench->ids) {
        for (int64_t i = row * bench->k; i < (row + one->tokens) * bench->k; i++)
            if (bench->ids[i] >= 0) bench->load[bench->ids[i]]++;
    }
    return CLI_OK;
}

// FNV-1a over the words of y.
static uint64_t hash_of(const float *y, int64_t count)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (int64_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, &y[i], sizeof word);
        hash = (hash ^ word) * UINT64_C(0x100000001b3);
    }
    return hash;
}

static int warm_up(struct bench *bench, struct bench_case *one)
{
    const int code = run_once(bench, one, &one->once);
    if (!code) one->output = hash_of(bench->y, one->tokens * one->variant->shape.hidden_size);
    return code;
}

// Runs made since `first` are set aside.
static void set_aside(struct bench_case *one, int64_t first)
{
    while (one->count > first) one->seconds[one->room - ++one->aside] = one->seconds[--one->count];
}

// Runs for `enough` seconds, or `wanted` times. Whether the threads had their CPUs shows over the whole stretch only:
// the kernel adds up the time of threads that run elsewhere once a tick.
static int time_stretch(struct bench *bench, struct bench_case *one, int64_t wanted, double enough, bool *clean)
{
    const double busy = process_seconds(), started = cli_seconds();
    const int64_t first = one->count;
    double time = 0, seconds;
    for (int64_t done = 0; wanted ? done < wanted : time < enough; done++) {
        const int code = run_once(bench, one, &seconds);
        if (code) return code;
        count_run(bench, one);
        time += seconds;
        if (seconds < one->once) one->once = seconds;
        if (one->count + one->aside < one->room) one->seconds[one->count++] = seconds;
    }
    const double owed = own_share * (cli_seconds() - started) * one->threads - tick_seconds * (one->threads - 1);
    *clean = process_seconds() - busy >= owed;
    if (!*clean) one->disturbed += one->count - first;
    if (!*clean && !wanted) set_aside(one, first);
    return CLI_OK;
}

static int time_slice(struct bench *bench, struct bench_case *one, int64_t wanted)
{
    const double enough = one->once > slice_seconds ? one->once / 2 : slice_seconds;
    double seconds;
    bool clean = false;
    int code = CLI_OK;
    // Threads sleep between slices; a long run does not notice.
    if (one->once < short_seconds) code = run_once(bench, one, &seconds);
    for (int i = 0; i < (wanted ? 1 : ATTEMPTS) && !code && !clean; i++)
        code = time_stretch(bench, one, wanted, enough, &clean);
    return code;
}

static void sample(struct bench *bench, int team, struct bench_case *before, struct bench_case *after)
{
    struct cli_samples now = {0};
    cli_samples_take(&bench->ruler, bench->peaks[team], (int)bench->threads.value[team], &now);
    if (before) cli_samples_share(&now, &before->samples);
    if (after) cli_samples_share(&now, &after->samples);
}

// Runs of a case in this round when --repeat says how many in all; 0: as many as fill the slice.
static int64_t share_of(int64_t repeat, int round) { return repeat / ROUNDS + (round < repeat % ROUNDS); }

// Fewer of cases that take long.
static int rounds_of(const struct bench_case *one) { return one->once > 4 ? 2 : one->once > 1 ? 3 : ROUNDS; }

static int time_round(struct bench *bench, int round, int team)
{
    const int64_t repeat = bench->args->repeat;
    struct bench_case *last = NULL;
    int code = CLI_OK;
    for (int i = 0; i < bench->case_count && !code; i++) {
        struct bench_case *const one = &bench->cases[i];
        const int64_t wanted = share_of(repeat, round);
        if (one->team != team || (repeat && !wanted)) continue;
        if (!repeat && round >= rounds_of(one)) continue;
        one->variant->session.context->team = bench->teams[team];
        sample(bench, team, last, one);
        code = time_slice(bench, one, wanted);
        last = one;
    }
    if (last && !code) sample(bench, team, last, NULL);
    return code;
}

int bench_time(struct bench *bench)
{
    int code = CLI_OK;
    for (int i = 0; i < bench->case_count && !code; i++) {
        bench->cases[i].variant->session.context->team = bench->teams[bench->cases[i].team];
        code = warm_up(bench, &bench->cases[i]);
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int team = 0; team < (int)bench->threads.count && !code; team++) code = time_round(bench, round, team);
    return code;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_summarise(struct bench *bench, struct bench_case *one)
{
    const struct bench_cost *const cost = &one->variant->cost;
    const double n = (double)one->counted, tokens = (double)one->tokens;
    // With hardly an undisturbed run the disturbed ones count too: something is known of the case, and how much.
    if (one->count < CLEAN_LEAST) {
        memmove(one->seconds + one->count, one->seconds + one->room - one->aside,
                sizeof *one->seconds * (size_t)one->aside);
        one->count += one->aside;
    }
    qsort(one->seconds, (size_t)one->count, sizeof *one->seconds, by_value);
    const int64_t middle = one->count / 2, late = (95 * one->count + 99) / 100 - 1;
    one->median = one->count % 2 ? one->seconds[middle] : (one->seconds[middle - 1] + one->seconds[middle]) / 2;
    one->p95 = one->seconds[late];
    one->bytes = cost->expert_bytes * one->active_experts / n + cost->fixed_bytes;
    one->flops = cost->slot_flops * one->slots / n + cost->token_flops * tokens;
    one->limits = cli_limits_of(&one->samples, bench->peaks[one->team]);
    one->by_memory = one->limits.read.rate > 0 ? one->bytes / one->limits.read.rate : 0;
    one->by_peak = one->limits.peak.rate > 0 ? one->flops / one->limits.peak.rate : 0;
    one->roofline = one->by_memory > one->by_peak ? one->by_memory : one->by_peak;
}
