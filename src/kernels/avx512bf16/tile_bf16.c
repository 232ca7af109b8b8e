// SPDX-License-Identifier: Apache-2.0
// Tiles on bf16 pairs: published bf16 weights where they lie, and others expanded to bf16 in scratch.
#include "kernels/avx512bf16/layout.h"

enum { LINE_PAIRS = 1, LINE_BYTES = 128, GROUPS = 1, SKIP_BYTES = 0 };
#define SCALED false
#define STORED_AS_PAIRS

struct decoder {
    char none;
};
MB_INLINE void start(struct decoder *decoder) { (void)decoder; }
MB_INLINE void enter(struct decoder *decoder, const struct mb_span *span, const int s, const uint8_t *line,
                     int64_t block, const int g)
{
    (void)decoder, (void)span, (void)s, (void)line, (void)block, (void)g;
}
MB_INLINE void decode(struct decoder *decoder, const int s, const uint8_t *line, const int h, __m512i *w)
{
    (void)decoder, (void)s, (void)h;
    w[0] = _mm512_loadu_si512(line);
    w[1] = _mm512_loadu_si512(line + 64);
}

#include "kernels/avx512bf16/tile.inl"

MB_FEW(2, 5)
MB_FEW(2, 6)
MB_MANY(2, 1)
MB_MANY(2, 2)
MB_MANY(2, 3)
MB_MANY(2, 4)
MB_MANY(2, 5)
MB_MANY(2, 6)

const struct mb_tiles mb_tiles_bf16 = {
    .few = {{[4] = few_1x4, few_1x5, few_1x6, few_1x7, few_1x8, few_1x9, few_1x10, few_1x11, few_1x12},
            {[1] = few_2x1, few_2x2, few_2x3, few_2x4, few_2x5, few_2x6},
            {[1] = few_4x1, few_4x2}},
    .wide_rows = 6,
    .many = {[1] = many_2x1, many_2x2, many_2x3, many_2x4, many_2x5, many_2x6},
    .many_strips = 2,
    .many_rows = 6,
};
