// SPDX-License-Identifier: Apache-2.0
// Tiles on FP8 codes, decoded in registers. A group of 128 inputs is a chain of its own; its scaled sum is added to
// `sums` in memory, so that the registers are free for the chains.
#include "kernels/avx512bf16/layout.h"

MB_INLINE void tile(const int rows, const int strips, const struct mb_span *span)
{
    const struct mb_fp8_tables tables = mb_fp8_tables_load();
    for (int64_t p0 = 0, g = 0; p0 < span->pairs; p0 += MB_FP8_PAIRS, g++) {
        __m512 sum[MB_TILE_ROWS][4];
        MB_UNROLL for (int r = 0; r < rows; r++)
        {
            MB_UNROLL for (int v = 0; v < 2 * strips; v++) sum[r][v] = _mm512_setzero_ps();
        }
        const uint32_t *x = span->x + p0;
        const uint8_t *w0 = span->weights[0] + p0 * 64, *w1 = span->weights[strips - 1] + p0 * 64;
        const int64_t pairs = mb_min(MB_FP8_PAIRS, span->pairs - p0);
        for (int64_t p = 0; p < pairs; p++, w0 += 64, w1 += 64, x++) {
            __m512i w[4];
            _mm_prefetch((const char *)w0 + MB_AHEAD, _MM_HINT_T0);
            mb_fp8_decode(&tables, w0, &w[0], &w[1]);
            if (strips == 2) {
                _mm_prefetch((const char *)w1 + MB_AHEAD, _MM_HINT_T0);
                mb_fp8_decode(&tables, w1, &w[2], &w[3]);
            }
            MB_UNROLL for (int r = 0; r < rows; r++)
            {
                const __m512i pair = mb_pair(x + r * MB_X_STRIDE);
                MB_UNROLL for (int v = 0; v < 2 * strips; v++) sum[r][v] = mb_dot(sum[r][v], pair, w[v]);
            }
        }
        MB_UNROLL for (int v = 0; v < 2 * strips; v++)
        {
            const __m512 scale = mb_scale(span, v / 2, g, v % 2);
            MB_UNROLL for (int r = 0; r < rows; r++)
            {
                float *to = span->sums + r * MB_PANEL + 16 * v;
                _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_mul_ps(scale, sum[r][v])));
            }
        }
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

const mb_tile mb_tiles_fp8[2][MB_TILE_ROWS + 1] = {
    {[4] = narrow_4, narrow_5, narrow_6, narrow_7, narrow_8, narrow_9, narrow_10, narrow_11, narrow_12},
    {[1] = wide_1, wide_2, wide_3, wide_4},
};
