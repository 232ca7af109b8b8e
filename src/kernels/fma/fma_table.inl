// SPDX-License-Identifier: Apache-2.0
// The calls on plain arrays, which compilers vectorise.
#include "base/float.h"
#include "kernels/int16.h"
#include "kernels/math_inline.h"

static void accumulate(float *restrict y, const float *restrict out, float weight, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = mb_one_nan(y[i] + weight * out[i]);
}

static void to_bf16(uint16_t *restrict to, const float *restrict from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] = mb_to_bf16(from[i]);
}

static void to_int16(void *row, const float *from, int64_t n) { mb_int16_row(row, from, n); }
