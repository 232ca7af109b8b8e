// SPDX-License-Identifier: Apache-2.0
// Tiles on codes that are decoded in registers, which leaves room for one strip of many rows. What tile.inl asks of a
// format stands before it, and TILES, the table's name; NOTHING_AFTER_BLOCK where expanding leaves nothing to be done.
#if defined(NOTHING_AFTER_BLOCK)
MB_INLINE void after_block(const struct mb_span *span, const uint8_t *lines, int64_t block, int64_t pairs,
                           bool signed_zeros, uint8_t *to)
{
    (void)span, (void)lines, (void)block, (void)pairs, (void)signed_zeros, (void)to;
}
#endif

#include "kernels/avx512bf16/tile.inl"

MB_MANY(1, 8)
MB_MANY(1, 9)
MB_MANY(1, 10)
MB_MANY(1, 11)
MB_MANY(1, 12)

const struct mb_tiles TILES = {
    .few = {{[4] = few_1x4, few_1x5, few_1x6, few_1x7, few_1x8, few_1x9, few_1x10, few_1x11, few_1x12},
            {[1] = few_2x1, few_2x2, few_2x3, few_2x4},
            {[1] = few_4x1, few_4x2}},
    .wide_rows = 4,
    .many = {[8] = many_1x8, many_1x9, many_1x10, many_1x11, many_1x12},
    .many_strips = 1,
    .many_rows = 12,
    .expand = expand,
};
