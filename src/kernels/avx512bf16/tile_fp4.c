// SPDX-License-Identifier: Apache-2.0
// Tiles on FP4 codes, decoded in registers: the code's bf16 at the largest plain exponent, less the steps down to its
// own, one saturating subtraction that leaves zeros zero. Exponents above that come out wrong; the tile reports the
// largest it met, and the panel is then computed anew on expanded weights.
#include "kernels/avx512bf16/layout.h"

enum { LINE_PAIRS = 2, LINE_BYTES = 64, BLOCK_PAIRS = MB_FP4_BLOCK / 2, BLOCK_BYTES = MB_FP4_BLOCK_BYTES };
enum { GROUPS = 2, GROUP_PAIRS = BLOCK_PAIRS / GROUPS };
#define SCALED false

struct decoder {
    __m512i values, steps[4][2];
};
MB_INLINE void start(struct decoder *decoder) { decoder->values = _mm512_loadu_si512(mb_fp4_values); }
MB_INLINE void enter(struct decoder *decoder, const struct mb_span *span, const int s, const uint8_t *line, const int g)
{
    const uint8_t *steps = line + 1024 - g * (GROUP_PAIRS / LINE_PAIRS * LINE_BYTES);
    if (g == 0) *span->top = _mm512_max_epu8(*span->top, _mm512_loadu_si512(steps));
    MB_UNROLL for (int v = 0; v < 2; v++) decoder->steps[s][v] = mb_fp4_steps(steps, g, v);
}
MB_INLINE void decode(struct decoder *decoder, const int s, const uint8_t *line, const int h, __m512i *w)
{
    const __m512i codes = _mm512_loadu_si512(line);
    MB_UNROLL for (int v = 0; v < 2; v++) w[v] =
        mb_fp4_decode(mb_shift_right(codes, 8 * h + 4 * v), decoder->values, decoder->steps[s][v]);
}

#include "kernels/avx512bf16/tile.inl"

MB_MANY(1, 8)
MB_MANY(1, 9)
MB_MANY(1, 10)
MB_MANY(1, 11)
MB_MANY(1, 12)

const struct mb_tiles mb_tiles_fp4 = {
    .few = {{[4] = few_1x4, few_1x5, few_1x6, few_1x7, few_1x8, few_1x9, few_1x10, few_1x11, few_1x12},
            {[1] = few_2x1, few_2x2, few_2x3, few_2x4},
            {[1] = few_4x1, few_4x2}},
    .wide_rows = 4,
    .many = {[8] = many_1x8, many_1x9, many_1x10, many_1x11, many_1x12},
    .many_strips = 1,
    .many_rows = 12,
    .line_pairs = LINE_PAIRS,
};
