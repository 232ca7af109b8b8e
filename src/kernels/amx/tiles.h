// SPDX-License-Identifier: Apache-2.0
// How the level's files use tiles.
#ifndef MB_KERNELS_AMX_TILES_H
#define MB_KERNELS_AMX_TILES_H

#include <stdint.h>

// What the processor calls palette 1.
struct mb_amx_shape {
    uint8_t palette, start, unused[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static inline void mb_amx_use(const struct mb_amx_shape *shape)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*shape)); // gcc 12's intrinsic names eight of the bytes only
}

// Loads and stores of tiles do not tell compilers what they read and write.
static inline void mb_amx_barrier(void) { __asm__ volatile("" : : : "memory"); }

#endif
