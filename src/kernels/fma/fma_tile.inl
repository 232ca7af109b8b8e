// SPDX-License-Identifier: Apache-2.0
// The arithmetic of the levels with fused multiply-add: tiles of rows x strips held in registers, every output one
// chain over ascending k, or in BF16X2 compute of blocks whose even and odd inputs have sums of their own. Codes become
// floats in registers, once for all rows of a tile. MB_TILES(NAME, FORMAT, SEPARATE) makes all shapes for a format,
// MB_EVEN_ODD_TILES(NAME, FORMAT) those of few rows in BF16X2 compute.
#include "kernels/fma/fma_lines.inl"

#if defined(__clang__)
#define MB_UNROLL _Pragma("clang loop unroll(full)")
#else
#define MB_UNROLL _Pragma("GCC unroll 16")
#endif

// How products become sums: fused into one chain; the same rounded one by one; fused, in chains of even and odd inputs
// that are added block by block.
enum mb_order { MB_FUSED, MB_SEPARATE, MB_EVEN_ODD };
enum { MB_TILE_SUMS = 2 * MB_STRIP_VECTORS * MB_TILE_STRIPS };

// How far apart rows are in the scratch: a tile of few rows stands alone, and has longer chunks.
MB_INLINE int mb_tile_stride(const int rows)
{
    static const int shape_rows[] = MB_SHAPE_ROWS;
    return rows <= shape_rows[1] ? MB_X_STRIDE_FEW : MB_X_STRIDE;
}

// Input i of a line of all strips for all rows. Half of the rows' values come with the operation that needs them, which
// saves an instruction and costs a load: as many as leaves room for both.
MB_INLINE void mb_tile_input(const enum mb_packed_format format, const enum mb_order order, const int rows,
                             const int strips, const int i, mb_v sum[MB_TILE_ROWS_MOST][MB_TILE_SUMS],
                             const struct mb_line *line, const mb_v *factors, const float *x)
{
    const int vectors = strips * MB_STRIP_VECTORS, first_sum = order == MB_EVEN_ODD ? i % 2 * vectors : 0;
    if (i >= mb_line_inputs(format)) return;
    MB_UNROLL
    for (int v = 0; v < vectors; v += 2) {
        const mb_v first = mb_line_value(format, &line[v], i, factors[v]);
        const mb_v second = mb_line_value(format, &line[v + 1], i, factors[v + 1]);
        MB_UNROLL
        for (int r = 0; r < rows; r++) {
            const float *at = x + r * mb_tile_stride(rows) + i;
            mb_v *to = &sum[r][first_sum + v];
            if (order != MB_SEPARATE && strips == 1 && r % 2 == 0) {
                to[0] = mb_v_fma_at(first, at, to[0]);
                to[1] = mb_v_fma_at(second, at, to[1]);
                continue;
            }
            const mb_v value = mb_v_all(*at);
            if (order == MB_SEPARATE) {
                to[0] = mb_v_add(to[0], mb_v_mul(first, value));
                to[1] = mb_v_add(to[1], mb_v_mul(second, value));
            } else {
                to[0] = mb_v_fma(first, value, to[0]);
                to[1] = mb_v_fma(second, value, to[1]);
            }
        }
    }
}

// Asks for the line at `at`. Few rows are done with a line at once and want the next ones in the first
// cache; many rows have the current chunk there, and the next one stays in the second until its turn.
MB_INLINE void mb_tile_fetch(const int rows, const uint8_t *at)
{
    if (mb_tile_stride(rows) == MB_X_STRIDE_FEW) {
        __builtin_prefetch(at);
        if (MB_LANES == 16) __builtin_prefetch(at + 64);
    } else {
        __builtin_prefetch(at, 0, 2);
        if (MB_LANES == 16) __builtin_prefetch(at + 64, 0, 2);
    }
}

// One line of all strips. Everything but the pointers is constant where this is inlined, so that the sums live in
// registers; the inputs are spelled out because compilers give up on unrolling that much.
MB_INLINE void mb_tile_line(const enum mb_packed_format format, const enum mb_order order, const int rows,
                            const int strips, mb_v sum[MB_TILE_ROWS_MOST][MB_TILE_SUMS], const uint8_t *const *lines,
                            size_t offset, const mb_v *factors, const float *x)
{
    struct mb_line line[2 * MB_TILE_STRIPS];
    MB_UNROLL
    for (int v = 0; v < strips * MB_STRIP_VECTORS; v++)
        line[v] = mb_line_load(format, lines[v / MB_STRIP_VECTORS] + offset + v % MB_STRIP_VECTORS * MB_LANES * 4);
    mb_tile_input(format, order, rows, strips, 0, sum, line, factors, x);
    mb_tile_input(format, order, rows, strips, 1, sum, line, factors, x);
    mb_tile_input(format, order, rows, strips, 2, sum, line, factors, x);
    mb_tile_input(format, order, rows, strips, 3, sum, line, factors, x);
    mb_tile_input(format, order, rows, strips, 4, sum, line, factors, x);
    mb_tile_input(format, order, rows, strips, 5, sum, line, factors, x);
    mb_tile_input(format, order, rows, strips, 6, sum, line, factors, x);
    mb_tile_input(format, order, rows, strips, 7, sum, line, factors, x);
}

// Where sums of vector v of row r are.
MB_INLINE float *mb_tile_sums(const struct mb_fma_tile *tile, const int r, const int v)
{
    return tile->sums[v / MB_STRIP_VECTORS] + r * MB_COLUMNS + v % MB_STRIP_VECTORS * MB_LANES;
}

// sums = sums + scale * chain, for group g; the chains begin anew.
MB_INLINE void mb_tile_scale(const int rows, const int vectors, const struct mb_fma_tile *tile, int64_t g,
                             mb_v sum[MB_TILE_ROWS_MOST][MB_TILE_SUMS])
{
    MB_UNROLL
    for (int v = 0; v < vectors; v++) {
        const float *scales = tile->scales[v / MB_STRIP_VECTORS] + g * MB_COLUMNS + v % MB_STRIP_VECTORS * MB_LANES;
        const mb_v scale = mb_v_load(scales);
        MB_UNROLL
        for (int r = 0; r < rows; r++) {
            float *to = mb_tile_sums(tile, r, v);
            mb_v_store(to, mb_v_add(mb_v_load(to), mb_v_mul(scale, sum[r][v])));
            sum[r][v] = mb_v_zero();
        }
    }
}

// The end of a block: total = total + (even + odd), and these begin anew.
MB_INLINE void mb_tile_end_block(const int rows, const int vectors, mb_v sum[MB_TILE_ROWS_MOST][MB_TILE_SUMS],
                                 mb_v total[MB_TILE_ROWS_MOST][MB_TILE_SUMS])
{
    MB_UNROLL
    for (int r = 0; r < rows; r++) {
        MB_UNROLL
        for (int v = 0; v < vectors; v++) {
            total[r][v] = mb_v_add(total[r][v], mb_v_add(sum[r][v], sum[r][vectors + v]));
            sum[r][v] = sum[r][vectors + v] = mb_v_zero();
        }
    }
}

MB_INLINE void mb_tile(const enum mb_packed_format format, const enum mb_order order, const int rows, const int strips,
                       const struct mb_fma_tile *tile)
{
    const int vectors = strips * MB_STRIP_VECTORS;
    mb_v sum[MB_TILE_ROWS_MOST][MB_TILE_SUMS], blocks[MB_TILE_ROWS_MOST][MB_TILE_SUMS], factors[2 * MB_TILE_STRIPS];
    mb_v(*const total)[MB_TILE_SUMS] = order == MB_EVEN_ODD ? blocks : sum;
    const uint8_t *lines[MB_TILE_STRIPS];
    const bool scaled = mb_has_scales(format) && tile->scales[0] != NULL;
    ptrdiff_t ahead = tile->ahead;
    const ptrdiff_t pace = tile->pace;
    const size_t turn = tile->turn;
    MB_UNROLL
    for (int s = 0; s < strips; s++) lines[s] = tile->lines[s];
    MB_UNROLL
    for (int r = 0; r < rows; r++) {
        MB_UNROLL
        for (int v = 0; v < vectors; v++) {
            sum[r][v] = sum[r][vectors + v] = mb_v_zero();
            total[r][v] = scaled ? mb_v_zero() : mb_v_load(mb_tile_sums(tile, r, v));
        }
    }
    size_t offset = 0;
    for (int64_t k0 = 0, g = 0; k0 < tile->count; k0 += tile->group, g++) {
        const int64_t k1 = mb_min(k0 + tile->group, tile->count);
        MB_UNROLL
        for (int v = 0; v < vectors; v++) {
            const int64_t at = g * MB_COLUMNS + v % MB_STRIP_VECTORS * MB_LANES;
            factors[v] = mb_line_factor(format, tile->factors[v / MB_STRIP_VECTORS] + at);
        }
        int64_t k = k0;
        // Lines of one input are so short that the loop would cost as much as they do.
        for (; format == MB_PACKED_F32 && rows > 3 && k + 4 <= k1; k += 4) {
            MB_UNROLL
            for (int i = 0; i < 4; i++, offset += MB_LINE_BYTES, ahead += pace) {
                mb_tile_fetch(rows, lines[0] + ahead);
                mb_tile_line(format, order, rows, strips, sum, lines, offset, factors, tile->x + k + i);
            }
        }
        for (; k < k1; k += mb_line_inputs(format), offset += MB_LINE_BYTES) {
            MB_UNROLL
            for (int s = 0; s < strips; s++) mb_tile_fetch(rows, lines[s] + ahead);
            ahead += pace;
            if (mb_tile_stride(rows) == MB_X_STRIDE_FEW && offset == turn) ahead += tile->jump;
            mb_tile_line(format, order, rows, strips, sum, lines, offset, factors, tile->x + k);
            const int64_t next = k + mb_line_inputs(format), chain = scaled ? k0 : 0;
            if (order == MB_EVEN_ODD &&
                ((next - chain) % MB_EVEN_ODD_BLOCK == 0 || next >= (scaled ? k1 : tile->count)))
                mb_tile_end_block(rows, vectors, sum, total);
        }
        if (scaled) mb_tile_scale(rows, vectors, tile, g, total);
    }
    if (scaled) return;
    MB_UNROLL
    for (int r = 0; r < rows; r++) {
        MB_UNROLL
        for (int v = 0; v < vectors; v++) mb_v_store(mb_tile_sums(tile, r, v), total[r][v]);
    }
}

#define MB_TILE(NAME, FORMAT, ORDER, STRIPS, ROWS)                                                                     \
    static void NAME##_##STRIPS##x##ROWS(const struct mb_fma_tile *tile) { mb_tile(FORMAT, ORDER, ROWS, STRIPS, tile); }

#if MB_TILE_ROWS == 12
#define MB_TILES(NAME, FORMAT, ORDER)                                                                                  \
    MB_TILE(NAME, FORMAT, ORDER, 1, 1)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 2)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 3)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 4)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 5)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 6)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 7)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 8)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 9)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 10)                                                                                \
    MB_TILE(NAME, FORMAT, ORDER, 1, 11)                                                                                \
    MB_TILE(NAME, FORMAT, ORDER, 1, 12)                                                                                \
    MB_TILE(NAME, FORMAT, ORDER, 2, 1)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 2, 2)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 2, 3)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 4, 1)                                                                                 \
    mb_fma_tiles MB_LEVEL(NAME) = {{NAME##_1x1, NAME##_1x2, NAME##_1x3, NAME##_1x4, NAME##_1x5, NAME##_1x6,            \
                                    NAME##_1x7, NAME##_1x8, NAME##_1x9, NAME##_1x10, NAME##_1x11, NAME##_1x12},        \
                                   {NAME##_2x1, NAME##_2x2, NAME##_2x3},                                               \
                                   {NAME##_4x1}};
#define MB_EVEN_ODD_TILES(NAME, FORMAT)                                                                                \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 1, 1)                                                                           \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 1, 2)                                                                           \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 1, 3)                                                                           \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 2, 1)                                                                           \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 2, 2)                                                                           \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 2, 3)                                                                           \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 4, 1)                                                                           \
    static mb_fma_tiles NAME = {                                                                                       \
        {NAME##_1x1, NAME##_1x2, NAME##_1x3}, {NAME##_2x1, NAME##_2x2, NAME##_2x3}, {NAME##_4x1}};
#else
#define MB_TILES(NAME, FORMAT, ORDER)                                                                                  \
    MB_TILE(NAME, FORMAT, ORDER, 1, 1)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 2)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 3)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 4)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 5)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 1, 6)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 2, 1)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 2, 2)                                                                                 \
    MB_TILE(NAME, FORMAT, ORDER, 4, 1)                                                                                 \
    mb_fma_tiles MB_LEVEL(NAME) = {{NAME##_1x1, NAME##_1x2, NAME##_1x3, NAME##_1x4, NAME##_1x5, NAME##_1x6},           \
                                   {NAME##_2x1, NAME##_2x2},                                                           \
                                   {NAME##_4x1}};
#define MB_EVEN_ODD_TILES(NAME, FORMAT)                                                                                \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 1, 1)                                                                           \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 1, 2)                                                                           \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 2, 1)                                                                           \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 2, 2)                                                                           \
    MB_TILE(NAME, FORMAT, MB_EVEN_ODD, 4, 1)                                                                           \
    static mb_fma_tiles NAME = {{NAME##_1x1, NAME##_1x2}, {NAME##_2x1, NAME##_2x2}, {NAME##_4x1}};
#endif
