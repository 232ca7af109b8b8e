// SPDX-License-Identifier: Apache-2.0
// Tiles of float32 rows on bf16 pairs (bf16 weights where they lie, others expanded): a pair widens to two vectors
// of float32, inputs ascending. Products and sums fused, or rounded separately where a call asks for that.
#include "kernels/avx512bf16/layout.h"

MB_INLINE __m512 step(const bool separate, __m512 sum, __m512 x, __m512 w)
{
    return separate ? _mm512_add_ps(sum, _mm512_mul_ps(x, w)) : _mm512_fmadd_ps(x, w, sum);
}

MB_INLINE void chains(const int rows, const bool separate, const struct mb_span *span, int64_t p0, int64_t pairs,
                      __m512 sum[MB_WIDE_ROWS][4])
{
    const uint8_t *w0 = span->weights[0] + p0 * 128, *w1 = span->weights[1] + p0 * 128;
    const float *x = (const float *)(const void *)span->x + 2 * p0;
    const __m512i upper = _mm512_set1_epi32((int32_t)0xffff0000u);
    for (int64_t p = 0; p < pairs; p++, w0 += 128, w1 += 128, x += 2) {
        MB_UNROLL for (int h = 0; h < 2; h++)
        {
            __m512 w[4];
            MB_UNROLL for (int v = 0; v < 4; v++)
            {
                const __m512i pair = _mm512_loadu_si512((v < 2 ? w0 : w1) + 64 * (v % 2));
                w[v] = _mm512_castsi512_ps(h ? _mm512_slli_epi32(pair, 16) : _mm512_and_si512(pair, upper));
            }
            MB_UNROLL for (int r = 0; r < rows; r++)
            {
                const __m512 value = _mm512_set1_ps(x[h + r * 2 * MB_X_STRIDE]);
                MB_UNROLL for (int v = 0; v < 4; v++) sum[r][v] = step(separate, sum[r][v], value, w[v]);
            }
        }
    }
}

MB_INLINE void tile(const int rows, const bool scaled, const bool separate, const struct mb_span *span)
{
    const int64_t length = scaled ? span->group_pairs : span->pairs;
    for (int64_t p = 0, g = 0; p < span->pairs; p += length, g++) {
        __m512 sum[MB_WIDE_ROWS][4];
        MB_UNROLL for (int r = 0; r < rows; r++)
        {
            MB_UNROLL for (int v = 0; v < 4; v++)
            {
                sum[r][v] = scaled ? _mm512_setzero_ps() : _mm512_loadu_ps(span->sums + r * MB_PANEL + 16 * v);
            }
        }
        chains(rows, separate, span, p, mb_min(length, span->pairs - p), sum);
        MB_UNROLL for (int r = 0; r < rows; r++)
        {
            MB_UNROLL for (int v = 0; v < 4; v++)
            {
                float *to = span->sums + r * MB_PANEL + 16 * v;
                if (scaled) {
                    const __m512 part = _mm512_mul_ps(mb_scale(span, v / 2, g, v % 2), sum[r][v]);
                    sum[r][v] = _mm512_add_ps(_mm512_loadu_ps(to), part);
                }
                _mm512_storeu_ps(to, sum[r][v]);
            }
        }
    }
}

#define TILES(R)                                                                                                       \
    static void fused_##R(const struct mb_span *span) { tile(R, false, false, span); }                                 \
    static void separate_##R(const struct mb_span *span) { tile(R, false, true, span); }                               \
    static void scaled_fused_##R(const struct mb_span *span) { tile(R, true, false, span); }                           \
    static void scaled_separate_##R(const struct mb_span *span) { tile(R, true, true, span); }

TILES(1)
TILES(2)
TILES(3)
TILES(4)
TILES(5)
TILES(6)

const mb_tile mb_tiles_f32[2][2][MB_WIDE_ROWS + 1] = {
    {{[1] = fused_1, fused_2, fused_3, fused_4, fused_5, fused_6},
     {[1] = separate_1, separate_2, separate_3, separate_4, separate_5, separate_6}},
    {{[1] = scaled_fused_1, scaled_fused_2, scaled_fused_3, scaled_fused_4, scaled_fused_5, scaled_fused_6},
     {[1] = scaled_separate_1,
      scaled_separate_2,
      scaled_separate_3,
      scaled_separate_4,
      scaled_separate_5,
      scaled_separate_6}},
};
