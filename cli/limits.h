// SPDX-License-Identifier: Apache-2.0
// What this machine reaches in the simplest loops, with the threads of a context: the yardstick beside bench's numbers.
#ifndef MB_CLI_LIMITS_H
#define MB_CLI_LIMITS_H

#include "moeblock/context.h"

struct cli_limits {
    double read_bytes_per_second; // a buffer far larger than the largest cache, read in order; 0: no memory for it
    double flops_per_second;      // float32 multiply-adds on registers as this program is compiled, two a step
};

void cli_limits_measure(const moeblock_context *context, struct cli_limits *out);

#endif
