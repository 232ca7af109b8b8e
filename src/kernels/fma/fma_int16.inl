// SPDX-License-Identifier: Apache-2.0
// Sums of int16 rows on FP4 lines: exact int32 sums of 32 inputs, scaled and added one group after the other. Codes
// become integers in registers for few rows, once in the scratch for many. Sums of integers are the same in any order,
// so that few rows may have several of them.
#include <string.h>

#include "base/float.h"
#include "kernels/int16.h"

#if defined(__clang__)
#define MB_UNROLL _Pragma("clang loop unroll(full)")
#else
#define MB_UNROLL _Pragma("GCC unroll 16")
#endif
#ifndef MB_INLINE
#define MB_INLINE static inline __attribute__((always_inline))
#endif

// A chunk of a row in the scratch is its integers, then its scales, as long as the chunk of a float row there.
enum {
    GROUP = MB_INT16_GROUP,
    PAIRS = GROUP / 2,
    CHUNK = 2 * MB_CHUNK,
    CHUNK_FEW = 2 * MB_CHUNK_FEW,
    LINE_INPUTS = 8,
    GROUP_LINES = GROUP / LINE_INPUTS,
    LINE_PAIRS = LINE_INPUTS / 2,
    GROUP_BYTES = GROUP_LINES * MB_COLUMNS * 4,
    AHEAD = 2048,    // bytes between codes that are read and codes that are prefetched
    DIRECT_ROWS = 24 // up to so many rows decode in registers
};
_Static_assert(CHUNK * sizeof(int16_t) + CHUNK / GROUP * sizeof(float) <= MB_X_STRIDE * sizeof(float),
               "row of scratch");
_Static_assert(CHUNK_FEW * sizeof(int16_t) + CHUNK_FEW / GROUP * sizeof(float) <= MB_X_STRIDE_FEW * sizeof(float),
               "row of scratch");

static const int64_t shape_rows[MB_SHAPES] = MB_SHAPE_ROWS;

// Floats between rows in the scratch, and inputs of a chunk: few rows stand in one tile, and have longer chunks.
MB_INLINE int64_t row_stride(const int64_t rows) { return rows <= shape_rows[1] ? MB_X_STRIDE_FEW : MB_X_STRIDE; }
MB_INLINE int64_t row_chunk(const int64_t rows) { return rows <= shape_rows[1] ? CHUNK_FEW : CHUNK; }

// One tile: rows x strips continue their sums over `groups` groups.
struct int16_tile {
    const uint8_t *lines[MB_TILE_STRIPS]; // codes of the strips, or of one strip its integers
    const uint8_t *exponents[MB_TILE_STRIPS];
    float *sums[MB_TILE_STRIPS]; // [rows][MB_COLUMNS]
    const float *x;              // [rows][row_stride]
    const uint8_t *next;         // codes to fetch beside the integers, `pace` bytes a group
    int64_t pace;
    int64_t lines_left, groups; // of the chunk
};
typedef void (*int16_tile_call)(const struct int16_tile *tile);

MB_INLINE const int32_t *row_pairs(const int rows, const struct int16_tile *tile, int r, int64_t group)
{
    return (const int32_t *)(const void *)(tile->x + r * row_stride(rows)) + group * PAIRS;
}

// sums = sums + scale of the row * (scale of the weights * exact sum), for all rows of two vectors of columns.
MB_INLINE void add_group(const int rows, const struct int16_tile *tile, int s, int64_t group,
                         mb_u exact[MB_TILE_ROWS_MOST][2 * MB_TILE_STRIPS])
{
    mb_v powers[MB_STRIP_VECTORS];
    MB_UNROLL
    for (int v = 0; v < MB_STRIP_VECTORS; v++)
        powers[v] = mb_v_bytes(tile->exponents[s] + group * MB_COLUMNS + v * MB_LANES, 23, 0);
    MB_UNROLL
    for (int r = 0; r < rows; r++) {
        const mb_v scale = mb_v_all(tile->x[r * row_stride(rows) + row_chunk(rows) / 2 + group]);
        MB_UNROLL
        for (int v = 0; v < MB_STRIP_VECTORS; v++) {
            float *to = tile->sums[s] + r * MB_COLUMNS + v * MB_LANES;
            const mb_v chain = mb_v_mul(powers[v], mb_u_to_float(exact[r][s * MB_STRIP_VECTORS + v]));
            mb_v_store(to, mb_v_add(mb_v_load(to), mb_v_mul(scale, chain)));
        }
    }
}

// A pair of row r times two vectors of weights; half of the rows' pairs come with the operation that needs them.
MB_INLINE void add_pair(const int r, const int v, mb_u exact[MB_TILE_ROWS_MOST][2 * MB_TILE_STRIPS], const int32_t *x,
                        mb_u first, mb_u second)
{
    if (r % 2) {
        exact[r][v] = mb_int16_dot_at(exact[r][v], x, first);
        exact[r][v + 1] = mb_int16_dot_at(exact[r][v + 1], x, second);
    } else {
        const mb_u both = mb_u_all(x);
        exact[r][v] = mb_int16_dot(exact[r][v], both, first);
        exact[r][v + 1] = mb_int16_dot(exact[r][v + 1], both, second);
    }
}

// One line of one strip for all rows, decoded in registers.
MB_INLINE void direct_line(const int rows, const struct mb_int16_table table, const uint8_t *from, const int32_t *x,
                           mb_u exact[MB_TILE_ROWS_MOST][2 * MB_TILE_STRIPS], const int v)
{
    __builtin_prefetch(from + AHEAD);
    if (MB_LANES == 16) __builtin_prefetch(from + AHEAD + 64);
    const struct mb_int16_line first = mb_int16_line_load(table, from);
    const struct mb_int16_line second = mb_int16_line_load(table, from + MB_LANES * 4);
    MB_UNROLL
    for (int pair = 0; pair < LINE_PAIRS; pair++) {
        const mb_u weights[] = {mb_int16_pair(table, first, pair), mb_int16_pair(table, second, pair)};
        MB_UNROLL
        for (int r = 0; r < rows; r++) {
            add_pair(r, v, exact, x + r * row_stride(rows) + pair, weights[0], weights[1]);
        }
    }
}

// Four lines of codes a group.
MB_INLINE void direct(const int rows, const int strips, const struct int16_tile *tile)
{
    const struct mb_int16_table table = mb_int16_table_load();
    const int vectors = strips * MB_STRIP_VECTORS;
    for (int64_t g = 0; g < tile->groups; g++) {
        mb_u exact[MB_TILE_ROWS_MOST][2 * MB_TILE_STRIPS];
        const int64_t lines = mb_min(GROUP_LINES, tile->lines_left - g * GROUP_LINES);
        MB_UNROLL
        for (int r = 0; r < rows; r++) {
            MB_UNROLL
            for (int v = 0; v < vectors; v++) exact[r][v] = mb_u_zero();
        }
        for (int64_t i = 0; i < lines; i++) {
            const int32_t *x = row_pairs(rows, tile, 0, g) + i * LINE_PAIRS;
            MB_UNROLL
            for (int s = 0; s < strips; s++) {
                const uint8_t *from = tile->lines[s] + g * GROUP_BYTES + i * MB_COLUMNS * 4;
                direct_line(rows, table, from, x, exact, s * MB_STRIP_VECTORS);
            }
        }
        MB_UNROLL
        for (int s = 0; s < strips; s++) add_group(rows, tile, s, g, exact);
    }
}

// The integers of one strip from the scratch, [pairs][MB_COLUMNS].
MB_INLINE void expanded(const int rows, const struct int16_tile *tile)
{
    const uint8_t *weights = tile->lines[0], *next = tile->next;
    for (int64_t g = 0; g < tile->groups; g++, next += tile->pace) {
        for (int64_t byte = 0; byte < tile->pace; byte += 64) __builtin_prefetch(next + byte, 0, 2);
        mb_u exact[MB_TILE_ROWS_MOST][2 * MB_TILE_STRIPS];
        MB_UNROLL
        for (int r = 0; r < rows; r++) exact[r][0] = exact[r][1] = mb_u_zero();
        for (int64_t pair = 0; pair < PAIRS; pair++, weights += MB_COLUMNS * 4) {
            const mb_u first = mb_u_load(weights), second = mb_u_load(weights + MB_LANES * 4);
            MB_UNROLL
            for (int r = 0; r < rows; r++) {
                add_pair(r, 0, exact, row_pairs(rows, tile, r, g) + pair, first, second);
            }
        }
        add_group(rows, tile, 0, g, exact);
    }
}

// `lines` lines of a strip as integers, then zeros to the end of the group.
static void expand(const uint8_t *from, int64_t lines, int64_t groups, uint8_t *to)
{
    const struct mb_int16_table table = mb_int16_table_load();
    for (int64_t i = 0; i < lines; i++, from += MB_COLUMNS * 4, to += LINE_PAIRS * MB_COLUMNS * 4) {
        MB_UNROLL
        for (int v = 0; v < MB_STRIP_VECTORS; v++) {
            const struct mb_int16_line line = mb_int16_line_load(table, from + v * MB_LANES * 4);
            MB_UNROLL
            for (int pair = 0; pair < LINE_PAIRS; pair++)
                mb_u_store(to + pair * MB_COLUMNS * 4 + v * MB_LANES * 4, mb_int16_pair(table, line, pair));
        }
    }
    memset(to, 0, (size_t)(groups * GROUP_LINES - lines) * LINE_PAIRS * MB_COLUMNS * 4);
}

#define DIRECT(STRIPS, ROWS)                                                                                           \
    static void direct_##STRIPS##x##ROWS(const struct int16_tile *tile) { direct(ROWS, STRIPS, tile); }
#define EXPANDED(ROWS)                                                                                                 \
    static void expanded_##ROWS(const struct int16_tile *tile) { expanded(ROWS, tile); }

DIRECT(4, 1)
DIRECT(2, 1)
DIRECT(2, 2)
DIRECT(2, 3)
DIRECT(1, 1)
DIRECT(1, 2)
DIRECT(1, 3)
DIRECT(1, 4)
DIRECT(1, 5)
DIRECT(1, 6)
EXPANDED(1)
EXPANDED(2)
EXPANDED(3)
EXPANDED(4)
EXPANDED(5)
EXPANDED(6)
#if MB_TILE_ROWS == 12
DIRECT(1, 7)
DIRECT(1, 8)
DIRECT(1, 9)
DIRECT(1, 10)
DIRECT(1, 11)
DIRECT(1, 12)
EXPANDED(7)
EXPANDED(8)
EXPANDED(9)
EXPANDED(10)
EXPANDED(11)
EXPANDED(12)
#endif

// By strips (1, 2, 4) and rows - 1, as many as shape_rows says.
static const int16_tile_call direct_tiles[MB_SHAPES][MB_TILE_ROWS] = {
    {direct_1x1, direct_1x2, direct_1x3, direct_1x4, direct_1x5, direct_1x6,
#if MB_TILE_ROWS == 12
     direct_1x7, direct_1x8, direct_1x9, direct_1x10, direct_1x11, direct_1x12
#endif
    },
    {direct_2x1, direct_2x2, direct_2x3},
    {direct_4x1},
};
static const int16_tile_call expanded_tiles[MB_TILE_ROWS] = {expanded_1,  expanded_2, expanded_3, expanded_4,
                                                             expanded_5,  expanded_6,
#if MB_TILE_ROWS == 12
                                                             expanded_7,  expanded_8, expanded_9, expanded_10,
                                                             expanded_11, expanded_12
#endif
};

// Integers and scales of groups [g0, g0 + groups) of the rows.
static void copy_rows(const struct mb_packing *packing, const struct mb_rows *rows, int64_t r0, int64_t m, int64_t g0,
                      int64_t groups, float *x)
{
    const size_t scales = mb_int16_scales_at(packing->k);
    for (int64_t r = 0; r < m; r++, x += row_stride(m)) {
        const char *row = rows->row[r0 + r];
        memcpy(x, row + (size_t)(g0 * GROUP) * sizeof(int16_t), (size_t)(groups * GROUP) * sizeof(int16_t));
        memcpy(x + row_chunk(m) / 2, row + scales + (size_t)g0 * sizeof(float), (size_t)groups * sizeof(float));
    }
}

// A chunk of up to 1 << shape strips, for all rows in the scratch, in tiles of nearly equal height; many rows on the
// integers of a single strip, fetching the codes at `next` for its successor.
static void run_strips(const struct int16_tile *block, int shape, int64_t m, const uint8_t *next, uint8_t *integers)
{
    const bool expands = m > DIRECT_ROWS;
    struct int16_tile tile = *block;
    const int64_t tiles = mb_ceil_div(m, shape_rows[shape]);
    if (expands) {
        expand(tile.lines[0], tile.lines_left, tile.groups, integers);
        tile.lines[0] = integers;
        tile.pace = mb_ceil_div(GROUP_BYTES, tiles);
        tile.next = next;
    }
    for (int64_t t = 0, r = 0, height; t < tiles; t++, r += height) {
        height = mb_ceil_div(m - r, tiles - t);
        tile.x = block->x + r * row_stride(m);
        for (int i = 0; i < 1 << shape; i++) tile.sums[i] = block->sums[i] + r * MB_COLUMNS;
        (expands ? expanded_tiles : direct_tiles[shape])[height - 1](&tile);
        if (expands) tile.next += tile.groups * tile.pace;
    }
}

// All strips of a block of panels on groups [g0, g0 + groups), whose rows are in the scratch.
static void run_chunk(const struct mb_packing *packing, const uint8_t *first, int64_t strips, int64_t g0,
                      int64_t groups, int64_t m, const struct mb_fma_scratch *scratch)
{
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    struct int16_tile block = {.x = scratch->x, .groups = groups};
    block.lines_left = mb_min(groups * GROUP_LINES, mb_ceil_div(packing->k, LINE_INPUTS) - g0 * GROUP_LINES);
    int most = 0;
    while (most < MB_SHAPES - 1 && m <= shape_rows[most + 1]) most++;
    for (int64_t s = 0, width; s < strips; s += width) {
        int shape = most;
        while (1 << shape > strips - s) shape--;
        width = 1 << shape;
        for (int64_t i = 0; i < width; i++) {
            const uint8_t *strip = first + (size_t)(s + i) * layout.strip_bytes;
            block.lines[i] = strip + (size_t)g0 * GROUP_BYTES;
            block.exponents[i] = strip + layout.factors + (size_t)g0 * MB_COLUMNS;
            block.sums[i] = scratch->sums + (s + i) * m * MB_COLUMNS;
        }
        // After the block's last strip come the first one's next inputs.
        const uint8_t *next =
            s + width < strips ? block.lines[0] + layout.strip_bytes : first + (size_t)(g0 + groups) * GROUP_BYTES;
        run_strips(&block, shape, m, next, (uint8_t *)scratch->weights);
    }
}

void MB_LEVEL(int16_sums)(const struct mb_packing *packing, const void *packed, int64_t panel, int64_t panels,
                          const struct mb_rows *rows, int64_t r0, int64_t m, const struct mb_fma_scratch *scratch)
{
    const int64_t strips = panels * packing->parts, all = mb_packed_groups(packing), step = row_chunk(m) / GROUP;
    const uint8_t *first = (const uint8_t *)packed + (size_t)panel * mb_fma_layout_of(packing).panel_bytes;
    memset(scratch->sums, 0, (size_t)(strips * m * MB_COLUMNS) * sizeof(float));
    for (int64_t g0 = 0; g0 < all; g0 += step) {
        const int64_t groups = mb_min(step, all - g0);
        copy_rows(packing, rows, r0, m, g0, groups, scratch->x);
        run_chunk(packing, first, strips, g0, groups, m, scratch);
    }
}
