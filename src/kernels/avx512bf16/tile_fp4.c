// SPDX-License-Identifier: Apache-2.0
// Tiles on FP4 codes, decoded in registers: the code's bf16 at the largest plain exponent, less the steps down to its
// own, one saturating subtraction that leaves zeros zero. Exponents above that come out wrong; the tile reports the
// largest it met, and the panel is then computed anew on expanded weights.
#include "kernels/avx512bf16/layout.h"

MB_INLINE void tile(const int rows, const int strips, const struct mb_span *span)
{
    const __m512i values = _mm512_loadu_si512(mb_fp4_values);
    __m512 sum[MB_TILE_ROWS][4];
    MB_UNROLL for (int r = 0; r < rows; r++)
    {
        MB_UNROLL for (int v = 0; v < 2 * strips; v++) sum[r][v] = _mm512_loadu_ps(span->sums + r * MB_PANEL + 16 * v);
    }
    const uint32_t *x = span->x;
    const uint8_t *w0 = span->weights[0], *w1 = span->weights[strips - 1];
    for (int64_t p = 0; p < span->pairs; p += MB_FP4_BLOCK / 2, w0 += 64, w1 += 64) {
        const uint8_t *steps0 = w0 + 1024, *steps1 = w1 + 1024;
        *span->top = _mm512_max_epu8(*span->top, _mm512_loadu_si512(steps0));
        if (strips == 2) *span->top = _mm512_max_epu8(*span->top, _mm512_loadu_si512(steps1));
        for (int g = 0; g < 2; g++) {
            __m512i steps[4];
            MB_UNROLL for (int v = 0; v < 2 * strips; v++) steps[v] = mb_fp4_steps(v < 2 ? steps0 : steps1, g, v % 2);
            for (int i = 0; i < 8; i++, w0 += 64, w1 += 64, x += 2) {
                __m512i codes[2] = {_mm512_loadu_si512(w0)};
                _mm_prefetch((const char *)w0 + MB_AHEAD, _MM_HINT_T0);
                if (strips == 2) {
                    _mm_prefetch((const char *)w1 + MB_AHEAD, _MM_HINT_T0);
                    codes[1] = _mm512_loadu_si512(w1);
                }
                MB_UNROLL for (int h = 0; h < 2; h++)
                {
                    __m512i w[4];
                    MB_UNROLL for (int v = 0; v < 2 * strips; v++)
                    {
                        const __m512i code = mb_shift_right(codes[v / 2], 8 * h + 4 * (v % 2));
                        w[v] = mb_fp4_decode(code, values, steps[v]);
                    }
                    MB_UNROLL for (int r = 0; r < rows; r++)
                    {
                        const __m512i pair = mb_pair(x + h + r * MB_X_STRIDE);
                        MB_UNROLL for (int v = 0; v < 2 * strips; v++) sum[r][v] = mb_dot(sum[r][v], pair, w[v]);
                    }
                }
            }
        }
    }
    MB_UNROLL for (int r = 0; r < rows; r++)
    {
        MB_UNROLL for (int v = 0; v < 2 * strips; v++) _mm512_storeu_ps(span->sums + r * MB_PANEL + 16 * v, sum[r][v]);
    }
}

#define WIDE(R)                                                                                                        \
    static void wide_##R(const struct mb_span *span) { tile(R, 2, span); }
#define NARROW(R)                                                                                                      \
    static void narrow_##R(const struct mb_span *span) { tile(R, 1, span); }

WIDE(1)
WIDE(2)
WIDE(3)
WIDE(4)
NARROW(4)
NARROW(5)
NARROW(6)
NARROW(7)
NARROW(8)
NARROW(9)
NARROW(10)
NARROW(11)
NARROW(12)

const mb_tile mb_tiles_fp4[2][MB_TILE_ROWS + 1] = {
    {[4] = narrow_4, narrow_5, narrow_6, narrow_7, narrow_8, narrow_9, narrow_10, narrow_11, narrow_12},
    {[1] = wide_1, wide_2, wide_3, wide_4},
};
