// SPDX-License-Identifier: Apache-2.0
// Tiles on FP8 codes, decoded in registers.
#include "kernels/avx512bf16/layout.h"

enum { LINE_PAIRS = 1, LINE_BYTES = 64, BLOCK_PAIRS = MB_FP8_PAIRS, BLOCK_BYTES = BLOCK_PAIRS * LINE_BYTES };
enum { GROUPS = 1, GROUP_PAIRS = BLOCK_PAIRS };
#define SCALED true

struct decoder {
    struct mb_fp8_tables tables;
};
MB_INLINE void start(struct decoder *decoder) { decoder->tables = mb_fp8_tables_load(); }
MB_INLINE void enter(struct decoder *decoder, const struct mb_span *span, const int s, const uint8_t *line, const int g)
{
    (void)decoder, (void)span, (void)s, (void)line, (void)g;
}
MB_INLINE void decode(struct decoder *decoder, const int s, const uint8_t *line, const int h, __m512i *w)
{
    (void)s, (void)h;
    mb_fp8_decode(&decoder->tables, line, &w[0], &w[1]);
}

#include "kernels/avx512bf16/tile.inl"

MB_MANY(1, 8)
MB_MANY(1, 9)
MB_MANY(1, 10)
MB_MANY(1, 11)
MB_MANY(1, 12)

const struct mb_tiles mb_tiles_fp8 = {
    .few = {{[4] = few_1x4, few_1x5, few_1x6, few_1x7, few_1x8, few_1x9, few_1x10, few_1x11, few_1x12},
            {[1] = few_2x1, few_2x2, few_2x3, few_2x4},
            {[1] = few_4x1, few_4x2}},
    .wide_rows = 4,
    .many = {[8] = many_1x8, many_1x9, many_1x10, many_1x11, many_1x12},
    .many_strips = 1,
    .many_rows = 12,
    .line_pairs = LINE_PAIRS,
};
