// SPDX-License-Identifier: Apache-2.0
// Tiles of BF16X2 compute: sums = sums + (even + odd), block by block, the even and the odd inputs of a block in chains
// of their own. Few rows expand codes in registers; the others come as float32 lines, whatever their number of rows.
#include "kernels/fma/fma_tile.inl"

MB_EVEN_ODD_TILES(even_odd_bf16, MB_PACKED_BF16)
MB_EVEN_ODD_TILES(even_odd_fp8, MB_PACKED_FP8)
MB_EVEN_ODD_TILES(even_odd_fp4, MB_PACKED_FP4)
MB_EVEN_ODD_TILES(even_odd_mxfp8, MB_PACKED_MXFP8)
MB_EVEN_ODD_TILES(even_odd_nvfp4, MB_PACKED_NVFP4)
MB_EVEN_ODD_TILES(even_odd_int4, MB_PACKED_INT4)
MB_EVEN_ODD_TILES(even_odd_int8, MB_PACKED_INT8)

enum { MB_EVEN_ODD_ROWS = MB_TILE_ROWS / 2 }; // two sums a row and vector fill the registers

// A block of `count` inputs for some rows: its even and its odd chains.
MB_INLINE void mb_even_odd_block(const int rows, int64_t stride, const float *weights, const float *x, int64_t count,
                                 mb_v even[MB_EVEN_ODD_ROWS][MB_STRIP_VECTORS],
                                 mb_v odd[MB_EVEN_ODD_ROWS][MB_STRIP_VECTORS])
{
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < MB_STRIP_VECTORS; v++) even[r][v] = odd[r][v] = mb_v_zero();
    }
    for (int64_t k = 0; k < count; k += 2, weights += 2 * MB_COLUMNS) {
        for (int v = 0; v < MB_STRIP_VECTORS; v++) {
            const mb_v weight = mb_v_load(weights + v * MB_LANES);
            for (int r = 0; r < rows; r++) even[r][v] = mb_v_fma(weight, mb_v_all(x[r * stride + k]), even[r][v]);
        }
        for (int v = 0; k + 1 < count && v < MB_STRIP_VECTORS; v++) {
            const mb_v weight = mb_v_load(weights + MB_COLUMNS + v * MB_LANES);
            for (int r = 0; r < rows; r++) odd[r][v] = mb_v_fma(weight, mb_v_all(x[r * stride + k + 1]), odd[r][v]);
        }
    }
}

// Adds the block's chains to those at `to`.
MB_INLINE void mb_even_odd_add(const int rows, mb_v even[MB_EVEN_ODD_ROWS][MB_STRIP_VECTORS],
                               mb_v odd[MB_EVEN_ODD_ROWS][MB_STRIP_VECTORS], float *to)
{
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < MB_STRIP_VECTORS; v++) {
            float *at = to + r * MB_COLUMNS + v * MB_LANES;
            mb_v_store(at, mb_v_add(mb_v_load(at), mb_v_add(even[r][v], odd[r][v])));
        }
    }
}

// sums = sums + scale * chain of a group.
MB_INLINE void mb_even_odd_scale(const int rows, const float *scales, const float *chains, float *sums)
{
    for (int i = 0; i < rows * MB_COLUMNS; i += MB_LANES) {
        const mb_v product = mb_v_mul(mb_v_load(scales + i % MB_COLUMNS), mb_v_load(chains + i));
        mb_v_store(sums + i, mb_v_add(mb_v_load(sums + i), product));
    }
}

MB_INLINE void mb_even_odd_part(const int rows, int64_t stride, const struct mb_fma_tile *tile, int s, int64_t first)
{
    const float *weights = (const float *)(const void *)tile->lines[s], *x = tile->x + first * stride;
    float *sums = tile->sums[s] + first * MB_COLUMNS;
    mb_v even[MB_EVEN_ODD_ROWS][MB_STRIP_VECTORS], odd[MB_EVEN_ODD_ROWS][MB_STRIP_VECTORS];
    for (int64_t k0 = 0, g = 0; k0 < tile->count; k0 += tile->group, g++) {
        const int64_t k1 = mb_min(k0 + tile->group, tile->count);
        float chains[MB_EVEN_ODD_ROWS * MB_COLUMNS] = {0}, *to = tile->scales[s] ? chains : sums;
        for (int64_t k = k0; k < k1; k += MB_EVEN_ODD_BLOCK) {
            const int64_t count = mb_min(MB_EVEN_ODD_BLOCK, k1 - k);
            mb_even_odd_block(rows, stride, weights + k * MB_COLUMNS, x + k, count, even, odd);
            mb_even_odd_add(rows, even, odd, to);
        }
        if (tile->scales[s]) mb_even_odd_scale(rows, tile->scales[s] + g * MB_COLUMNS, chains, sums);
    }
}

static void mb_even_odd(int64_t rows, int strips, const struct mb_fma_tile *tile)
{
    const int64_t stride = mb_tile_stride((int)rows);
    for (int s = 0; s < strips; s++) {
        int64_t r = 0;
        for (; r + MB_EVEN_ODD_ROWS <= rows; r += MB_EVEN_ODD_ROWS)
            mb_even_odd_part(MB_EVEN_ODD_ROWS, stride, tile, s, r);
        for (; r < rows; r++) mb_even_odd_part(1, stride, tile, s, r);
    }
}

#define MB_EVEN_ODD_TILE(STRIPS, ROWS)                                                                                 \
    static void even_odd_##STRIPS##x##ROWS(const struct mb_fma_tile *tile) { mb_even_odd(ROWS, STRIPS, tile); }
MB_EVEN_ODD_TILE(1, 1)
MB_EVEN_ODD_TILE(1, 2)
MB_EVEN_ODD_TILE(1, 3)
MB_EVEN_ODD_TILE(1, 4)
MB_EVEN_ODD_TILE(1, 5)
MB_EVEN_ODD_TILE(1, 6)
MB_EVEN_ODD_TILE(2, 1)
MB_EVEN_ODD_TILE(2, 2)
MB_EVEN_ODD_TILE(4, 1)
#if MB_TILE_ROWS == 12
MB_EVEN_ODD_TILE(1, 7)
MB_EVEN_ODD_TILE(1, 8)
MB_EVEN_ODD_TILE(1, 9)
MB_EVEN_ODD_TILE(1, 10)
MB_EVEN_ODD_TILE(1, 11)
MB_EVEN_ODD_TILE(1, 12)
MB_EVEN_ODD_TILE(2, 3)
static mb_fma_tiles lines = {{even_odd_1x1, even_odd_1x2, even_odd_1x3, even_odd_1x4, even_odd_1x5, even_odd_1x6,
                              even_odd_1x7, even_odd_1x8, even_odd_1x9, even_odd_1x10, even_odd_1x11, even_odd_1x12},
                             {even_odd_2x1, even_odd_2x2, even_odd_2x3},
                             {even_odd_4x1}};
#else
static mb_fma_tiles lines = {{even_odd_1x1, even_odd_1x2, even_odd_1x3, even_odd_1x4, even_odd_1x5, even_odd_1x6},
                             {even_odd_2x1, even_odd_2x2},
                             {even_odd_4x1}};
#endif

const mb_fma_tile_call (*const MB_LEVEL(tiles_even_odd)[MB_PACKED_FORMATS])[MB_TILE_ROWS_MOST] = {
    [MB_PACKED_F32] = lines,          [MB_PACKED_BF16] = even_odd_bf16,   [MB_PACKED_FP8] = even_odd_fp8,
    [MB_PACKED_FP4] = even_odd_fp4,   [MB_PACKED_MXFP8] = even_odd_mxfp8, [MB_PACKED_NVFP4] = even_odd_nvfp4,
    [MB_PACKED_INT4] = even_odd_int4, [MB_PACKED_INT8] = even_odd_int8,
};
