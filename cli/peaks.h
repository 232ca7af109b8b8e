// SPDX-License-Identifier: Apache-2.0
// The simplest loops that load a machine: multiply-adds on registers, one loop a kind of instruction, and reads of
// memory, one a pattern. limits.c runs and times them.
#ifndef MB_CLI_PEAKS_H
#define MB_CLI_PEAKS_H

#include <stddef.h>
#include <stdint.h>

// Compute types that a kind of instruction may serve.
enum { CLI_PEAK_F32 = 1, CLI_PEAK_BF16 = 2, CLI_PEAK_INT16 = 4, CLI_PEAK_BF16X2 = 8 };

struct cli_peak {
    const char *name;
    uint32_t features;                                // of mb_cpu_feature; 0: any machine
    unsigned serves;                                  // of CLI_PEAK_*
    double flops_per_step;                            // multiply and add counted as two
    void (*run)(int64_t steps, volatile float *kept); // `kept` keeps the products from being optimised away
};

extern const struct cli_peak cli_peaks[];
extern const int cli_peak_count;

enum { CLI_READERS = 6 };

struct cli_reader {
    const char *name;
    uint64_t (*read)(const char *from, size_t bytes); // bytes: a multiple of 4096; the sum keeps the reads alive
};

// The patterns of reading, CLI_READERS of them, with the widest loads that this machine has.
const struct cli_reader *cli_readers(void);

#endif
