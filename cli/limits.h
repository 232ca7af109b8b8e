// SPDX-License-Identifier: Apache-2.0
// What this machine reaches in the simplest loops: the yardstick beside every number of bench. Both rates drift on
// shared machines, so that they are sampled right beside what they are compared with, for a few hundredths of a second.
#ifndef MB_CLI_LIMITS_H
#define MB_CLI_LIMITS_H

#include <stddef.h>

#include "cli/peaks.h"

enum { CLI_SAMPLES_MAX = 16 };

// Memory to read, far larger than the largest cache, and the state of reading it in turn.
struct cli_ruler {
    char *memory;
    size_t bytes, next;
};

// Without enough memory the rates of reading stay unknown.
void cli_ruler_open(struct cli_ruler *ruler);
void cli_ruler_close(struct cli_ruler *ruler);

// Samples taken beside one case: of every pattern of reading, and of the machine's best instruction.
struct cli_samples {
    int count;
    double read[CLI_READERS][CLI_SAMPLES_MAX];
    double peak[CLI_SAMPLES_MAX];
};

struct cli_limit {
    double rate; // bytes or flops a second; 0: unknown
    double lowest, highest;
    const char *how; // pattern or instruction
};

struct cli_limits {
    struct cli_limit read, peak;
};

// Flops a second of one kind of instruction; 0 where the machine lacks it.
double cli_peak_rate(const struct cli_peak *peak, int threads);
// The fastest kind of instruction for a compute type (one of CLI_PEAK_*) on `threads` threads.
const struct cli_peak *cli_peak_best(unsigned serves, int threads);

// Work that is timed: does a little of it as thread `worker` and returns how much, in bytes or flops.
typedef double (*cli_work)(void *argument, int worker);
// Runs `work` on `threads` threads at once for about `duration` seconds and returns the amount per second, from the
// first start to the last end. Threads are pinned, start together and stamp the time themselves; a run in which one of
// them was without its CPU is repeated a few times. 0 when threads cannot be made.
double cli_rate(int threads, double duration, cli_work work, void *argument);

// Adds a sample of each pattern and of `peak`.
void cli_samples_take(struct cli_ruler *ruler, const struct cli_peak *peak, int threads, struct cli_samples *samples);
// Copies the last sample of `from`.
void cli_samples_share(const struct cli_samples *from, struct cli_samples *to);
// The limits that samples show: the pattern whose median is highest.
struct cli_limits cli_limits_of(const struct cli_samples *samples, const struct cli_peak *peak);

#endif
