// SPDX-License-Identifier: Apache-2.0
// Which tiles compute a block of rows: codes expanded in registers for few rows, once into the scratch for many. The
// choice never shows in the bits: every output is the same chain.
#include <string.h>

#include "base/float.h"

struct mb_fma_scratch MB_LEVEL(scratch_of)(void *memory, int64_t m)
{
    const int64_t rows = mb_min(m, MB_BLOCK_ROWS);
    struct mb_fma_scratch scratch = {.weights = memory};
    scratch.sums = scratch.weights + MB_TILE_STRIPS * MB_CHUNK * MB_COLUMNS;
    scratch.out = scratch.sums + MB_BLOCK_STRIPS * rows * MB_COLUMNS;
    scratch.x = scratch.out + rows * MB_COLUMNS;
    return scratch;
}

size_t MB_LEVEL(scratch_bytes)(const struct mb_packing *packing, int64_t m)
{
    (void)packing;
    const int64_t rows = mb_min(m, MB_BLOCK_ROWS), row = (MB_BLOCK_STRIPS + 1) * MB_COLUMNS + MB_X_STRIDE;
    return (size_t)(MB_TILE_STRIPS * MB_CHUNK * MB_COLUMNS + rows * row) * sizeof(float);
}

// Inputs [k0, k0 + count) of the rows as float32, then -0 up to a whole line: with a code of zero the product is -0,
// which changes no sum. Rows lie apart: processors do not foresee where the next one begins.
static void prepare_rows(const struct mb_rows *rows, int64_t r0, int64_t m, int64_t k0, int64_t count, int64_t whole,
                         float *x)
{
    const int64_t size = rows->bf16 ? 2 : 4;
    for (int64_t r = 0; r < m; r++, x += MB_X_STRIDE) {
        const char *from = (const char *)rows->row[r0 + r] + k0 * size;
        const char *later = (const char *)rows->row[r0 + mb_min(r + 4, m - 1)] + k0 * size;
        for (int64_t byte = 0; byte < count * size; byte += 64) __builtin_prefetch(later + byte);
        if (rows->bf16) {
            const uint16_t *codes = (const uint16_t *)(const void *)from;
            for (int64_t k = 0; k < count; k++) x[k] = mb_from_bf16(codes[k]);
        } else {
            memcpy(x, from, (size_t)count * sizeof *x);
        }
        for (int64_t k = count; k < whole; k++) x[k] = -0.0f;
    }
}

// Up to how many rows codes become floats in the registers of each tile; beyond, once in the scratch.
static const int64_t rows_in_registers[MB_PACKED_FORMATS] = MB_ROWS_IN_REGISTERS;
static const int64_t shape_rows[MB_SHAPES] = MB_SHAPE_ROWS;

struct plan {
    const mb_fma_tile_call (*tiles)[MB_TILE_ROWS_MOST];
    bool expand;
    int shape; // the most strips of a tile: 1 << shape
};

static struct plan plan_of(const struct mb_packing *packing, int64_t m, bool separate)
{
    static const mb_fma_tile_call(*const direct[MB_PACKED_FORMATS])[MB_TILE_ROWS_MOST] = {
        MB_LEVEL(tiles_f32), MB_LEVEL(tiles_f16), MB_LEVEL(tiles_bf16), MB_LEVEL(tiles_fp8), MB_LEVEL(tiles_fp4)};
    struct plan plan = {.tiles = direct[packing->format]};
    plan.expand = m > rows_in_registers[packing->format] || (separate && packing->format != MB_PACKED_F32);
    if (plan.expand) plan.tiles = MB_LEVEL(tiles_f32);
    if (separate) plan.tiles = MB_LEVEL(tiles_f32_separate);
    while (plan.shape < MB_SHAPES - 1 && m <= shape_rows[plan.shape + 1]) plan.shape++;
    return plan;
}

enum { MB_AHEAD = 2048 };

// One chunk of up to 1 << shape strips for all rows of the block, in tiles of nearly equal height. With many rows the
// last tile, which finds the chunk in a cache, fetches the one that comes `next` bytes on.
static void run_tiles(const struct plan *plan, int shape, int64_t m, ptrdiff_t next,
                      const struct mb_fma_scratch *scratch, struct mb_fma_tile *tile)
{
    const int64_t tiles = mb_ceil_div(m, shape_rows[shape]);
    for (int64_t t = 0, r = 0; t < tiles; t++) {
        const int64_t rows = mb_ceil_div(m - r, tiles - t);
        tile->ahead = t + 1 == tiles && m > shape_rows[1] && !plan->expand ? next : MB_AHEAD;
        tile->x = scratch->x + r * MB_X_STRIDE;
        plan->tiles[shape][rows - 1](tile);
        for (int s = 0; s < 1 << shape; s++) tile->sums[s] += rows * MB_COLUMNS;
        r += rows;
    }
}

// Strips [s0, s0 + (1 << shape)) of the block that starts at `block`, inputs [k0, k0 + whole).
static void run_strips(const struct mb_packing *packing, const struct plan *plan, const uint8_t *block, int64_t s0,
                       int shape, int64_t k0, int64_t whole, int64_t m, ptrdiff_t next,
                       const struct mb_fma_scratch *scratch)
{
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    const bool fp4 = packing->format == MB_PACKED_FP4;
    struct mb_fma_tile tile = {.count = whole, .group = fp4 ? packing->group : whole};
    for (int s = 0; s < 1 << shape; s++) {
        const uint8_t *strip = block + (size_t)(s0 + s) * layout.strip_bytes;
        tile.lines[s] = strip + (size_t)(k0 / layout.line_inputs) * MB_LINE_BYTES;
        tile.sums[s] = scratch->sums + (s0 + s) * m * MB_COLUMNS;
        const uint8_t *scales = strip + layout.scales;
        if (fp4) tile.exponents[s] = scales + k0 / packing->group * MB_COLUMNS;
        if (packing->format == MB_PACKED_FP8)
            tile.scales[s] = (const float *)(const void *)scales + k0 / packing->group * MB_COLUMNS;
    }
    for (int s = 0; plan->expand && s < 1 << shape; s++) {
        const struct mb_fma_tile one = {
            .lines = {tile.lines[s]}, .exponents = {tile.exponents[s]}, .count = whole, .group = tile.group};
        float *to = scratch->weights + s * MB_CHUNK * MB_COLUMNS;
        MB_LEVEL(expand)(packing, &one, to);
        tile.lines[s] = (const uint8_t *)to;
    }
    if (plan->expand) tile.group = whole;
    run_tiles(plan, shape, m, next, scratch, &tile);
}

void MB_LEVEL(sums)(const struct mb_packing *packing, const void *packed, int64_t panel, int64_t panels,
                    const struct mb_rows *rows, int64_t r0, int64_t m, bool separate,
                    const struct mb_fma_scratch *scratch)
{
    if (rows->int16) {
        MB_LEVEL(int16_sums)(packing, packed, panel, panels, rows, r0, m, scratch);
        return;
    }
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    const struct plan plan = plan_of(packing, m, separate);
    const int64_t strips = panels * packing->parts;
    const uint8_t *block = (const uint8_t *)packed + (size_t)panel * layout.panel_bytes;
    memset(scratch->sums, 0, (size_t)(strips * m * MB_COLUMNS) * sizeof(float));
    for (int64_t k0 = 0; k0 < packing->k; k0 += layout.chunk) {
        const int64_t count = mb_min(layout.chunk, packing->k - k0);
        const int64_t whole = mb_ceil_div(count, layout.line_inputs) * layout.line_inputs;
        prepare_rows(rows, r0, m, k0, count, whole, scratch->x);
        for (int64_t s = 0; s < strips;) {
            int shape = plan.shape;
            while (1 << shape > strips - s) shape--;
            // After the block's last strip come the first one's next inputs.
            const int64_t chunk_bytes = layout.chunk / layout.line_inputs * (int64_t)MB_LINE_BYTES;
            const int64_t strip_bytes = (int64_t)layout.strip_bytes;
            const ptrdiff_t next = s + (1 << shape) < strips ? strip_bytes << shape : chunk_bytes - s * strip_bytes;
            run_strips(packing, &plan, block, s, shape, k0, whole, m, next, scratch);
            s += 1 << shape;
        }
    }
}
