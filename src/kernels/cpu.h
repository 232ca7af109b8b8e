// SPDX-License-Identifier: Apache-2.0
// What the processor offers and the operating system lets programs use: vendor, family and instruction sets.
#ifndef MB_KERNELS_CPU_H
#define MB_KERNELS_CPU_H

#include <stdbool.h>
#include <stdint.h>

enum mb_cpu_vendor { MB_CPU_OTHER, MB_CPU_AMD, MB_CPU_INTEL };

// Instruction sets; those with wide registers count only if the operating system saves the registers.
enum mb_cpu_feature {
    MB_CPU_AVX2 = 1 << 0,
    MB_CPU_FMA = 1 << 1,
    MB_CPU_F16C = 1 << 2,
    MB_CPU_AVX512F = 1 << 3,
    MB_CPU_AVX512BW = 1 << 4,
    MB_CPU_AVX512DQ = 1 << 5,
    MB_CPU_AVX512VL = 1 << 6,
    MB_CPU_AVX512_VBMI = 1 << 7,
    MB_CPU_AVX512_VNNI = 1 << 8,
    MB_CPU_AVX512_BF16 = 1 << 9,
    MB_CPU_AMX_TILE = 1 << 10,
    MB_CPU_AMX_BF16 = 1 << 11,
    MB_CPU_AMX_INT8 = 1 << 12,
};

// What the files of a level are compiled for (cmake/levels.cmake).
enum {
    MB_CPU_LEVEL_AVX2 = MB_CPU_AVX2 | MB_CPU_FMA | MB_CPU_F16C,
    MB_CPU_LEVEL_AVX512 = MB_CPU_LEVEL_AVX2 | MB_CPU_AVX512F | MB_CPU_AVX512BW | MB_CPU_AVX512DQ | MB_CPU_AVX512VL,
    MB_CPU_LEVEL_AVX512VNNI = MB_CPU_LEVEL_AVX512 | MB_CPU_AVX512_VNNI,
    MB_CPU_LEVEL_AMX = MB_CPU_LEVEL_AVX512VNNI | MB_CPU_AVX512_VBMI | MB_CPU_AMX_TILE | MB_CPU_AMX_BF16,
    MB_CPU_LEVEL_AVX512BF16 = MB_CPU_LEVEL_AVX512VNNI | MB_CPU_AVX512_VBMI | MB_CPU_AVX512_BF16,
};

struct mb_cpu {
    enum mb_cpu_vendor vendor;
    int family, model;
    uint32_t features; // of mb_cpu_feature
};

struct mb_cpu mb_cpu_detect(void);

// Whether this machine has all of `features`. *reason says so, or names the first that is missing.
bool mb_cpu_offers(uint32_t features, const char **reason);

#endif
