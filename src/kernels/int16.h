// SPDX-License-Identifier: Apache-2.0
// Rows of int16 compute: integers with one float32 scale per 32 inputs, and how a row of floats becomes one.
#ifndef MB_KERNELS_INT16_H
#define MB_KERNELS_INT16_H

#include <string.h>

#include "base/arith.h"
#include "base/float.h"

// A row is its integers, zeros up to a whole group, and then its groups' scales. With integers of at most 32767 and
// weights' integers of at most 12 (twice e2m1) the sum of a group is below 2^24: no int32 overflows, and its
// conversion to float32 is exact.
enum { MB_INT16_GROUP = 32 };

static inline int64_t mb_int16_groups(int64_t n) { return mb_ceil_div(n, MB_INT16_GROUP); }

static inline size_t mb_int16_scales_at(int64_t n)
{
    return (size_t)mb_int16_groups(n) * MB_INT16_GROUP * sizeof(int16_t);
}

static inline size_t mb_int16_row_bytes(int64_t n)
{
    return mb_round_up(mb_int16_scales_at(n) + (size_t)mb_int16_groups(n) * sizeof(float), 64);
}

// The scale that `count` floats, at most 32, share: a power of two, half of what an integer stands for (weights'
// integers are twice their values), so that the largest magnitude takes 15 bits. Magnitudes are compared as bits; 0x100
// carries into the exponent what would round to 32768. A group of zeros and denormals has scale 0, one with an infinity
// or a NaN the scale NaN; integers of both are 0. *factor turns values into integers.
static inline float mb_int16_scale(const float *from, int64_t count, float *factor)
{
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t magnitude = mb_bits(from[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    *factor = 0;
    if (largest >= 0x7f800000u) return mb_float(0x7fc00000u);
    if (largest < 0x00800000u) return 0;
    const uint32_t above = (largest + 0x100u) >> 23, exponent = above < 16 ? 16 : above;
    *factor = mb_float((268 - exponent) << 23);
    return mb_float((exponent - 15) << 23);
}

// n floats to a row. The sum with 1.5 * 2^23 rounds to the nearest integer, ties to even, and holds it in its low bits.
static inline void mb_int16_row(void *row, const float *from, int64_t n)
{
    int16_t *to = row;
    float *scales = (float *)(void *)((char *)row + mb_int16_scales_at(n));
    for (int64_t g = 0; g < mb_int16_groups(n); g++, to += MB_INT16_GROUP, from += MB_INT16_GROUP) {
        float group[MB_INT16_GROUP] = {0}, factor;
        memcpy(group, from, (size_t)mb_min(MB_INT16_GROUP, n - g * MB_INT16_GROUP) * sizeof *from);
        scales[g] = mb_int16_scale(group, MB_INT16_GROUP, &factor);
        if (factor == 0) memset(group, 0, sizeof group); // a NaN times 0 would be one
        for (int i = 0; i < MB_INT16_GROUP; i++)
            to[i] = (int16_t)(uint16_t)(mb_bits(group[i] * factor + 0x1.8p23f) & 0xffffu);
    }
    const size_t used = mb_int16_scales_at(n) + (size_t)mb_int16_groups(n) * sizeof(float);
    memset((char *)row + used, 0, mb_int16_row_bytes(n) - used); // rows travel whole
}

// A row times a weight: its scales, each rounded once.
static inline void mb_int16_weigh(void *to, const void *row, int64_t n, float weight)
{
    memcpy(to, row, mb_int16_row_bytes(n));
    float *scales = (float *)(void *)((char *)to + mb_int16_scales_at(n));
    for (int64_t g = 0; g < mb_int16_groups(n); g++) scales[g] = scales[g] * weight;
}

#endif
