// SPDX-License-Identifier: Apache-2.0
// Loops of multiply-adds on registers, one a kind of instruction that the machine may have.
#ifndef MB_CLI_PEAKS_H
#define MB_CLI_PEAKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moeblock/context.h"

struct cli_peak {
    const char *name;
    uint32_t features; // of mb_cpu_feature; 0: any machine
    bool bf16;         // counts for bf16 compute only
    double flops_per_step;
    void (*run)(int64_t steps, float first,
                volatile float *kept); // `kept` keeps the products from being optimised away
};

extern const struct cli_peak cli_peaks[];
extern const int cli_peak_count;

// Reads `bytes` (a multiple of 256) in order, as fast as the machine's widest loads do; the sum keeps the reads alive.
uint64_t cli_read_sum(const void *from, size_t bytes);

#endif
