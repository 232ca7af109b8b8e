// SPDX-License-Identifier: Apache-2.0
// Measures the rate of reading memory and of multiply-adds; the best of several short passes, since only disturbances
// make a pass slower.
#include "cli/limits.h"

#include <string.h>

#include "base/context.h"
#include "base/memory.h"
#include "cli/machine.h"
#include "cli/peaks.h"
#include "cli/progress.h"
#include "kernels/cpu.h"

enum {
    READ_PASSES = 4,
    READ_TASK_BYTES = 8 << 20,
    READ_BYTES_MIN = 256 << 20,
    FLOP_PASSES = 4,
    FLOP_TASKS_PER_WORKER = 8,
    FLOP_STEPS = 200000
};

struct reading {
    const char *bytes;
    _Atomic uint64_t sum; // keeps the reads from being optimised away
};

static void read_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    struct reading *const reading = argument;
    reading->sum += cli_read_sum(reading->bytes + index * READ_TASK_BYTES, READ_TASK_BYTES);
}

static double read_rate(const moeblock_context *context)
{
    struct cli_machine machine;
    cli_machine_read(&machine);
    uint64_t bytes = 4 * machine.cache_bytes > READ_BYTES_MIN ? 4 * machine.cache_bytes : READ_BYTES_MIN;
    if (machine.available_bytes && bytes > machine.available_bytes / 4) bytes = machine.available_bytes / 4;
    const int64_t tasks = (int64_t)(bytes / READ_TASK_BYTES);
    void *const memory = mb_alloc(&mb_default_allocator, (size_t)tasks * READ_TASK_BYTES);
    if (!memory) return 0;
    memset(memory, 1, (size_t)tasks * READ_TASK_BYTES); // untouched pages would all be one page of zeros
    struct reading reading = {.bytes = memory};
    double best = 0;
    for (int pass = 0; pass < READ_PASSES; pass++) {
        const double started = cli_seconds();
        mb_parallel(context, tasks, read_task, &reading);
        const double rate = (double)tasks * READ_TASK_BYTES / (cli_seconds() - started);
        if (rate > best) best = rate;
    }
    mb_free(&mb_default_allocator, memory);
    return best;
}

struct multiplying {
    const struct cli_peak *peak;
    volatile float kept;
};

static void multiply_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    struct multiplying *const multiplying = argument;
    multiplying->peak->run(FLOP_STEPS, (float)index, &multiplying->kept);
}

static double flop_rate(const moeblock_context *context, const struct cli_peak *peak)
{
    struct multiplying multiplying = {.peak = peak};
    const int64_t tasks = (int64_t)mb_workers(context) * FLOP_TASKS_PER_WORKER;
    double best = 0;
    for (int pass = 0; pass < FLOP_PASSES; pass++) {
        const double started = cli_seconds();
        mb_parallel(context, tasks, multiply_task, &multiplying);
        const double rate = peak->flops_per_step * FLOP_STEPS * (double)tasks / (cli_seconds() - started);
        if (rate > best) best = rate;
    }
    return best;
}

void cli_limits_measure(const moeblock_context *context, bool bf16, struct cli_limits *limits)
{
    const double read = read_rate(context);
    if (read > limits->read_bytes_per_second) limits->read_bytes_per_second = read;
    for (int i = 0; i < cli_peak_count; i++) {
        const char *reason;
        if ((cli_peaks[i].bf16 && !bf16) || !mb_cpu_offers(cli_peaks[i].features, &reason)) continue;
        const double rate = flop_rate(context, &cli_peaks[i]);
        if (rate <= limits->flops_per_second) continue;
        limits->flops_per_second = rate;
        limits->instruction = cli_peaks[i].name;
    }
}
