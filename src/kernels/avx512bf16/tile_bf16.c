// SPDX-License-Identifier: Apache-2.0
// Tiles on bf16 pairs: published bf16 weights where they lie, and FP8 expanded to bf16 in scratch. `rows` and `strips`
// are constants where the body is inlined, so that all sums live in registers.
#include "kernels/avx512bf16/layout.h"

// One chain each over `pairs` pairs from pair p0 on.
MB_INLINE void chains(const int rows, const int strips, const bool many, const struct mb_span *span, int64_t p0,
                      int64_t pairs, __m512 sum[MB_TILE_ROWS][4])
{
    const uint8_t *w0 = span->weights[0] + p0 * 128, *w1 = span->weights[strips - 1] + p0 * 128;
    const uint32_t *x = span->x + p0;
    for (int64_t p = 0; p < pairs; p++, w0 += 128, w1 += 128, x++) {
        __m512i w[4];
        if (many) _mm_prefetch((const char *)span->next + (p0 + p) * 64, _MM_HINT_T1);
        for (int v = 0; v < 2 * strips; v++) {
            const uint8_t *line = (v < 2 ? w0 : w1) + 64 * (v % 2);
            if (!many) _mm_prefetch((const char *)line + MB_AHEAD, _MM_HINT_T0);
            w[v] = _mm512_loadu_si512(line);
        }
        MB_UNROLL for (int r = 0; r < rows; r++)
        {
            const __m512i pair = mb_pair(x + r * MB_X_STRIDE);
            MB_UNROLL for (int v = 0; v < 2 * strips; v++) sum[r][v] = mb_dot(sum[r][v], pair, w[v]);
        }
    }
}

MB_INLINE void plain(const int rows, const int strips, const bool many, const struct mb_span *span)
{
    __m512 sum[MB_TILE_ROWS][4];
    MB_UNROLL for (int r = 0; r < rows; r++)
    {
        MB_UNROLL for (int v = 0; v < 2 * strips; v++) sum[r][v] = _mm512_loadu_ps(span->sums + r * MB_PANEL + 16 * v);
    }
    chains(rows, strips, many, span, 0, span->pairs, sum);
    MB_UNROLL for (int r = 0; r < rows; r++)
    {
        MB_UNROLL for (int v = 0; v < 2 * strips; v++) _mm512_storeu_ps(span->sums + r * MB_PANEL + 16 * v, sum[r][v]);
    }
}

MB_INLINE void grouped(const int rows, const struct mb_span *span)
{
    for (int64_t p = 0, g = 0; p < span->pairs; p += MB_FP8_PAIRS, g++) {
        __m512 sum[MB_TILE_ROWS][4], scale[4];
        MB_UNROLL for (int r = 0; r < rows; r++)
        {
            MB_UNROLL for (int v = 0; v < 4; v++) sum[r][v] = _mm512_setzero_ps();
        }
        chains(rows, 2, true, span, p, mb_min(MB_FP8_PAIRS, span->pairs - p), sum);
        MB_UNROLL for (int v = 0; v < 4; v++) scale[v] = mb_scale(span, v / 2, g, v % 2);
        MB_UNROLL for (int r = 0; r < rows; r++)
        {
            MB_UNROLL for (int v = 0; v < 4; v++)
            {
                float *to = span->sums + r * MB_PANEL + 16 * v;
                _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_mul_ps(scale[v], sum[r][v])));
            }
        }
    }
}

#define WIDE(R)                                                                                                        \
    static void wide_##R(const struct mb_span *span) { plain(R, 2, false, span); }                                     \
    static void many_##R(const struct mb_span *span) { plain(R, 2, true, span); }                                      \
    static void grouped_##R(const struct mb_span *span) { grouped(R, span); }
#define NARROW(R)                                                                                                      \
    static void narrow_##R(const struct mb_span *span) { plain(R, 1, false, span); }

WIDE(1)
WIDE(2)
WIDE(3)
WIDE(4)
WIDE(5)
WIDE(6)
NARROW(4)
NARROW(5)
NARROW(6)
NARROW(7)
NARROW(8)
NARROW(9)
NARROW(10)
NARROW(11)
NARROW(12)

const mb_tile mb_tiles_bf16[2][MB_TILE_ROWS + 1] = {
    {[4] = narrow_4, narrow_5, narrow_6, narrow_7, narrow_8, narrow_9, narrow_10, narrow_11, narrow_12},
    {[1] = wide_1, wide_2, wide_3, wide_4, wide_5, wide_6},
};
const mb_tile mb_tiles_many[MB_WIDE_ROWS + 1] = {[1] = many_1, many_2, many_3, many_4, many_5, many_6};
const mb_tile mb_tiles_many_fp8[MB_WIDE_ROWS + 1] = {[1] = grouped_1, grouped_2, grouped_3,
                                                     grouped_4,       grouped_5, grouped_6};
