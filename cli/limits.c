// SPDX-License-Identifier: Apache-2.0
// Measures the rate of reading memory and of multiply-adds; the best of several short passes, since only disturbances
// make a pass slower.
#include "cli/limits.h"

#include <string.h>

#include "base/context.h"
#include "base/memory.h"
#include "cli/machine.h"
#include "cli/progress.h"

enum {
    READ_PASSES = 4,
    READ_TASK_BYTES = 1 << 20,
    READ_BYTES_MIN = 256 << 20,
    FLOP_PASSES = 4,
    FLOP_TASKS_PER_WORKER = 8,
    FLOP_STEPS = 200000
};

struct reading {
    const uint64_t *words;
    _Atomic uint64_t sum; // keeps the reads from being optimised away
};

static void read_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    enum { WORDS = READ_TASK_BYTES / 8, ACCUMULATORS = 8 };
    struct reading *const reading = argument;
    const uint64_t *const words = reading->words + index * WORDS;
    uint64_t sums[ACCUMULATORS] = {0};
    for (int i = 0; i < WORDS; i += ACCUMULATORS)
        for (int j = 0; j < ACCUMULATORS; j++) sums[j] += words[i + j];
    for (int j = 1; j < ACCUMULATORS; j++) sums[0] += sums[j];
    reading->sum += sums[0];
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
    struct reading reading = {.words = memory};
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

// Twelve independent chains hide the latency of multiply and add. As wide as the vectors of level `generic`; named
// variables, because an array would live in memory.
typedef float vector __attribute__((vector_size(16)));
#define CHAINS(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
enum { LANES = 12 * 4 };

struct multiplying {
    vector factor, term;
    volatile float kept; // keeps the products from being optimised away
};

static void multiply_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    struct multiplying *const multiplying = argument;
    const vector factor = multiplying->factor, term = multiplying->term;
    const float first = (float)index;
#define START(i) vector chain##i = {first + (i), first, 1, 2};
    CHAINS(START)
#define STEP(i) chain##i = chain##i * factor + term;
    for (int step = 0; step < FLOP_STEPS; step++) {
        CHAINS(STEP)
    }
    vector sum = {0};
#define ADD(i) sum += chain##i;
    CHAINS(ADD)
    if (sum[0] == 0.5f) multiplying->kept = sum[0]; // never: the chains tend to term / (1 - factor) = 2
}

static double flop_rate(const moeblock_context *context)
{
    struct multiplying multiplying = {.factor = {0.5f, 0.5f, 0.5f, 0.5f}, .term = {1, 1, 1, 1}};
    const int64_t tasks = (int64_t)mb_workers(context) * FLOP_TASKS_PER_WORKER;
    double best = 0;
    for (int pass = 0; pass < FLOP_PASSES; pass++) {
        const double started = cli_seconds();
        mb_parallel(context, tasks, multiply_task, &multiplying);
        const double rate = 2.0 * LANES * FLOP_STEPS * (double)tasks / (cli_seconds() - started);
        if (rate > best) best = rate;
    }
    return best;
}

void cli_limits_measure(const moeblock_context *context, struct cli_limits *out)
{
    out->read_bytes_per_second = read_rate(context);
    out->flops_per_second = flop_rate(context);
}
