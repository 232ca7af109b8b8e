// SPDX-License-Identifier: Apache-2.0
// Which tiles compute a block of rows: codes expanded in registers for few rows, once into the scratch for many. The
// choice never shows in the bits: every output is the same chain.
#include <string.h>

#include "base/float.h"
#include "kernels/fma/fma_chains.inl"

static const int64_t shape_rows[MB_SHAPES] = MB_SHAPE_ROWS;

// Floats of up to m rows in the scratch.
static int64_t prepared_floats(int64_t m)
{
    const int64_t few =
        mb_max(mb_min(m, shape_rows[1]) * MB_X_STRIDE_FEW, mb_min(m, MB_BF16_ROWS_FEW) * MB_BF16_FEW / 2);
    return mb_max(m * MB_X_STRIDE, few);
}

struct mb_fma_scratch MB_LEVEL(scratch_of)(void *memory, int64_t m)
{
    const int64_t rows = mb_min(m, MB_BLOCK_ROWS);
    struct mb_fma_scratch scratch = {.weights = memory};
    scratch.sums = scratch.weights + MB_TILE_STRIPS * MB_CHUNK * MB_COLUMNS;
    scratch.out = scratch.sums + MB_BLOCK_STRIPS * rows * MB_COLUMNS;
    scratch.x = scratch.out + rows * MB_COLUMNS;
    scratch.chains = scratch.x + prepared_floats(rows);
    return scratch;
}

size_t MB_LEVEL(scratch_bytes)(const struct mb_packing *packing, int64_t m)
{
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    const int64_t rows = mb_min(m, MB_BLOCK_ROWS), chains = has_own_chains(packing, &layout) ? MB_BLOCK_STRIPS : 0;
    const int64_t row = (MB_BLOCK_STRIPS + 1 + chains) * MB_COLUMNS;
    return (size_t)(MB_TILE_STRIPS * MB_CHUNK * MB_COLUMNS + rows * row + prepared_floats(rows)) * sizeof(float);
}

// Inputs [k0, k0 + count) of the rows as float32 times `factor`, then -0 up to a whole line: with a code of zero the
// product is -0, which changes no sum. Rows lie apart: processors do not foresee where the next one begins.
static void prepare_rows(const struct mb_rows *rows, int64_t r0, int64_t m, int64_t k0, int64_t count, int64_t whole,
                         float factor, float *x)
{
    const int64_t size = rows->bf16 ? 2 : 4, stride = m <= shape_rows[1] ? MB_X_STRIDE_FEW : MB_X_STRIDE;
    for (int64_t r = 0; r < m; r++, x += stride) {
        const char *from = (const char *)rows->row[r0 + r] + k0 * size;
        const char *later = (const char *)rows->row[r0 + mb_min(r + 4, m - 1)] + k0 * size;
        for (int64_t byte = 0; byte < count * size; byte += 64) __builtin_prefetch(later + byte);
        if (rows->bf16) {
            const uint16_t *codes = (const uint16_t *)(const void *)from;
            for (int64_t k = 0; k < count; k++) x[k] = mb_from_bf16(codes[k]) * factor;
        } else {
            const float *values = (const float *)(const void *)from;
            for (int64_t k = 0; k < count; k++) x[k] = values[k] * factor;
        }
        for (int64_t k = count; k < whole; k++) x[k] = -0.0f;
    }
}

// Whether all magnitudes of the rows are below 2^120, so that they can be multiplied by 2^8.
static bool are_moderate(const struct mb_rows *rows, int64_t r0, int64_t m, int64_t k)
{
    uint32_t most = 0;
    for (int64_t r = r0; r < r0 + m; r++) {
        const uint16_t *halves = rows->row[r];
        const uint32_t *words = rows->row[r];
        uint16_t largest = 0;
        for (int64_t i = 0; rows->bf16 && i < k; i++) {
            const uint16_t magnitude = halves[i] & 0x7fff;
            largest = magnitude > largest ? magnitude : largest;
        }
        for (int64_t i = 0; !rows->bf16 && i < k; i++)
            most = (words[i] & 0x7fffffffu) > most ? words[i] & 0x7fffffffu : most;
        if ((uint32_t)largest << 16 > most) most = (uint32_t)largest << 16;
    }
    return most < 247u << 23;
}

// Up to how many rows codes become floats in the registers of each tile; beyond, once in the scratch.
static const int64_t rows_in_registers[MB_PACKED_FORMATS] = MB_ROWS_IN_REGISTERS;

struct plan {
    const mb_fma_tile_call (*tiles)[MB_TILE_ROWS_MOST], (*lines)[MB_TILE_ROWS_MOST]; // lines: for expanded codes
    bool expand;
    int shape;     // the most strips of a tile: 1 << shape
    int64_t chunk; // inputs
    float factor;  // of the rows: what the tiles' weights lack
};

// Inputs of a chunk. Few rows go on as long as the scratch has room for them; expanded weights, and what may have to
// be, have their own room.
static int64_t chunk_of(const struct mb_packing *packing, int64_t m, bool expand)
{
    const int64_t chunk = mb_fma_layout_of(packing).chunk;
    const bool may_expand = packing->format == MB_PACKED_MXFP8 || packing->format == MB_PACKED_NVFP4;
    if (m > shape_rows[1] || expand || may_expand || packing->group > MB_CHUNK) return chunk;
    const int64_t parts = mb_ceil_div(packing->k, MB_CHUNK_FEW);
    return mb_ceil_div(mb_ceil_div(packing->k, parts), chunk) * chunk;
}

static struct plan plan_of(const struct mb_packing *packing, const struct mb_rows *rows, int64_t r0, int64_t m,
                           bool separate)
{
    static const mb_fma_tile_call(*const direct[MB_PACKED_FORMATS])[MB_TILE_ROWS_MOST] = {
        MB_LEVEL(tiles_f32),   MB_LEVEL(tiles_f16),   MB_LEVEL(tiles_bf16), MB_LEVEL(tiles_fp8), MB_LEVEL(tiles_fp4),
        MB_LEVEL(tiles_mxfp8), MB_LEVEL(tiles_nvfp4), MB_LEVEL(tiles_int4), MB_LEVEL(tiles_int8)};
    struct plan plan = {.tiles = direct[packing->format], .lines = MB_LEVEL(tiles_f32), .factor = 1};
    plan.expand = m > rows_in_registers[packing->format] || (separate && packing->format != MB_PACKED_F32);
    if (packing->even_odd) {
        plan.tiles = MB_LEVEL(tiles_even_odd)[packing->format];
        plan.lines = MB_LEVEL(tiles_even_odd)[MB_PACKED_F32];
        plan.expand = m > shape_rows[1];
    }
    if (packing->format == MB_PACKED_FP8 && !plan.expand) {
        plan.expand = !are_moderate(rows, r0, m, packing->k);
        if (!plan.expand) plan.factor = 256;
    }
    if (plan.expand) plan.tiles = plan.lines;
    if (separate) plan.tiles = MB_LEVEL(tiles_f32_separate);
    while (plan.shape < MB_SHAPES - 1 && m <= shape_rows[plan.shape + 1]) plan.shape++;
    plan.chunk = chunk_of(packing, m, plan.expand);
    return plan;
}

enum { MB_AHEAD = 2048 };

// What the tile fetches, in a chunk whose codes are `bytes` from `codes` on, and after which come those `next` bytes
// on. Few rows read weights as fast as they come, a little behind what is fetched. Many rows stay long enough with a
// chunk for all of the next one, each of the `tiles` fetching its part.
static void plan_fetching(struct mb_fma_tile *tile, const uint8_t *codes, ptrdiff_t bytes, ptrdiff_t next,
                          int64_t lines, int64_t tiles, int64_t t, bool few)
{
    if (few) {
        const bool here = bytes > MB_AHEAD;
        tile->pace = (ptrdiff_t)MB_LINE_BYTES;
        tile->jump = next - bytes;
        tile->ahead = here ? MB_AHEAD : MB_AHEAD + tile->jump;
        tile->turn = here ? (size_t)(bytes - MB_AHEAD) - MB_LINE_BYTES : SIZE_MAX;
        return;
    }
    tile->pace = mb_ceil_div(bytes, tiles * lines);
    tile->ahead = (ptrdiff_t)((uintptr_t)codes - (uintptr_t)tile->lines[0]) + next + t * lines * tile->pace;
    tile->turn = SIZE_MAX;
}

// One chunk of up to 1 << shape strips for all rows of the block, in tiles of nearly equal height.
static void run_tiles(const struct plan *plan, int shape, int64_t m, const uint8_t *codes, ptrdiff_t bytes,
                      ptrdiff_t next, const struct mb_fma_scratch *scratch, struct mb_fma_tile *tile)
{
    const int64_t tiles = mb_ceil_div(m, shape_rows[shape]);
    const int64_t lines = plan->expand ? tile->count : bytes / (ptrdiff_t)MB_LINE_BYTES;
    const bool few = m <= shape_rows[1];
    for (int64_t t = 0, r = 0; t < tiles; t++) {
        const int64_t rows = mb_ceil_div(m - r, tiles - t);
        plan_fetching(tile, codes, bytes, next, lines, tiles, t, few);
        tile->x = scratch->x + r * (few ? MB_X_STRIDE_FEW : MB_X_STRIDE);
        plan->tiles[shape][rows - 1](tile);
        for (int s = 0; s < 1 << shape; s++) tile->sums[s] += rows * MB_COLUMNS;
        r += rows;
    }
}

// Strips [s0, s0 + (1 << shape)) of the block that starts at `block`, inputs [k0, k0 + whole); their chains continue in
// `sums`, or are the tiles' own and scaled by them.
static void run_strips(const struct mb_packing *packing, const struct plan *plan, const uint8_t *block, int64_t s0,
                       int shape, int64_t k0, int64_t whole, int64_t m, ptrdiff_t next, float *sums,
                       const struct mb_fma_scratch *scratch)
{
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    const bool lines = packing->group && packing->group % layout.line_inputs == 0; // else there is one group at most
    const int64_t group = lines ? mb_min(packing->group, whole) : whole;
    const int64_t g0 = packing->group ? k0 / packing->group : 0, groups = mb_ceil_div(whole, group);
    struct mb_fma_tile tile = {.count = whole, .group = group};
    const ptrdiff_t bytes = whole / layout.line_inputs * (ptrdiff_t)MB_LINE_BYTES;
    struct plan here = *plan;
    bool rare = false;
    for (int s = 0; s < 1 << shape; s++) {
        const uint8_t *strip = block + (size_t)(s0 + s) * layout.strip_bytes;
        tile.lines[s] = strip + (size_t)(k0 / layout.line_inputs) * MB_LINE_BYTES;
        tile.sums[s] = sums + (s0 + s) * m * MB_COLUMNS;
        tile.factors[s] = strip + layout.factors + g0 * MB_COLUMNS;
        if (layout.chain && !layout.late)
            tile.scales[s] = (const float *)(const void *)(strip + layout.scales) + g0 * MB_COLUMNS;
        rare = rare || has_rare_factors(packing->format, tile.factors[s], groups * MB_COLUMNS);
    }
    if (rare && !here.expand) {
        here.expand = true;
        here.tiles = plan->lines;
    }
    const uint8_t *const codes = tile.lines[0];
    for (int s = 0; here.expand && s < 1 << shape; s++) {
        const struct mb_fma_tile one = {
            .lines = {tile.lines[s]}, .factors = {tile.factors[s]}, .count = whole, .group = group};
        float *to = scratch->weights + s * MB_CHUNK * MB_COLUMNS;
        MB_LEVEL(expand)(packing, &one, rare, to);
        tile.lines[s] = (const uint8_t *)to;
    }
    if (here.expand && !tile.scales[0]) tile.group = whole;
    run_tiles(&here, shape, m, codes, bytes, next, scratch, &tile);
}

// All strips of a block of panels on inputs [k0, k0 + whole), which are in the scratch.
static void run_chunk(const struct mb_packing *packing, const struct plan *plan, const uint8_t *block, int64_t strips,
                      int64_t k0, int64_t whole, int64_t m, float *sums, const struct mb_fma_scratch *scratch)
{
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    for (int64_t s = 0; s < strips;) {
        int shape = plan->shape;
        while (1 << shape > strips - s) shape--;
        // After the block's last strip come the first one's next inputs.
        const int64_t chunk_bytes = whole / layout.line_inputs * (int64_t)MB_LINE_BYTES;
        const int64_t strip_bytes = (int64_t)layout.strip_bytes;
        const ptrdiff_t next = s + (1 << shape) < strips ? strip_bytes << shape : chunk_bytes - s * strip_bytes;
        run_strips(packing, plan, block, s, shape, k0, whole, m, next, sums, scratch);
        s += 1 << shape;
    }
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
    const struct plan plan = plan_of(packing, rows, r0, m, separate);
    const int64_t strips = panels * packing->parts;
    const uint8_t *block = (const uint8_t *)packed + (size_t)panel * layout.panel_bytes;
    const bool own_chains = has_own_chains(packing, &layout);
    float *chains = own_chains ? scratch->chains : scratch->sums;
    memset(scratch->sums, 0, (size_t)(strips * m * MB_COLUMNS) * sizeof(float));
    if (own_chains) memset(chains, 0, (size_t)(strips * m * MB_COLUMNS) * sizeof(float));
    for (int64_t k0 = 0, count; k0 < packing->k; k0 += count) {
        // A group longer than a chunk ends with one.
        count = mb_min(plan.chunk, packing->k - k0);
        if (packing->group > layout.chunk) count = mb_min(count, packing->group - k0 % packing->group);
        const int64_t whole = mb_ceil_div(count, layout.line_inputs) * layout.line_inputs;
        prepare_rows(rows, r0, m, k0, count, whole, plan.factor, scratch->x);
        run_chunk(packing, &plan, block, strips, k0, whole, m, chains, scratch);
        const int64_t end = k0 + count;
        if (layout.late && (end == packing->k || end % layout.chain == 0))
            end_chains(packing, block, strips, k0 / layout.chain, m, chains, scratch->sums);
    }
}
