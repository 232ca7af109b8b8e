// SPDX-License-Identifier: Apache-2.0
// Look-ups that other levels use, too (tables.c).
#ifndef MB_KERNELS_AVX512BF16_TABLES_H
#define MB_KERNELS_AVX512BF16_TABLES_H

#include <stdint.h>

// Upper and lower bytes of the bfloat16 of the 128 magnitudes of e4m3.
extern const uint8_t mb_fp8_high[128], mb_fp8_low[128];

#endif
