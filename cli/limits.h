// SPDX-License-Identifier: Apache-2.0
// What this machine reaches in the simplest loops, with the threads of a context: the yardstick beside bench's numbers.
#ifndef MB_CLI_LIMITS_H
#define MB_CLI_LIMITS_H

#include <stdbool.h>

#include "moeblock/context.h"

struct cli_limits {
    double read_bytes_per_second; // a buffer far larger than the largest cache, read in order; 0: no memory for it
    double flops_per_second;      // multiply and add counted as two, on registers, by the fastest kind of instruction
    const char *instruction;      // that kind
};

// Measures and keeps the larger of what it finds and what *limits holds. `bf16`: bf16 dot products count.
void cli_limits_measure(const moeblock_context *context, bool bf16, struct cli_limits *limits);

#endif
