// SPDX-License-Identifier: Apache-2.0
// The arithmetic of level `generic`: tiles of a few rows by 16 columns held in registers, every output one chain over
// ascending k, multiply and add rounded separately. Three rows fill 16 registers of four floats. A panel walks K in
// chunks that are expanded once for all rows.
#include <string.h>

#include "base/float.h"
#include "kernels/generic/layout.h"

enum { COLUMNS = MB_GENERIC_COLUMNS, LANES = 4, VECTORS = COLUMNS / LANES, TILE_ROWS = 3 };

// `rows` is a constant where this is inlined, so that the sums live in registers.
static inline __attribute__((always_inline)) void tile(const int rows, const float *weights, int64_t first,
                                                       int64_t count, const float *const *x, float *sums)
{
    mb_v4 sum[TILE_ROWS][VECTORS];
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < VECTORS; v++) sum[r][v] = mb_load4(sums + r * COLUMNS + v * LANES);
    }
    for (int64_t k = 0; k < count; k++) {
        for (int v = 0; v < VECTORS; v++) {
            const mb_v4 weight = mb_load4(weights + k * COLUMNS + v * LANES);
            for (int r = 0; r < rows; r++) {
                const float value = x[r][first + k];
                sum[r][v] = sum[r][v] + weight * (mb_v4){value, value, value, value};
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < VECTORS; v++) mb_store4(sums + r * COLUMNS + v * LANES, sum[r][v]);
    }
}

void mb_generic_tile(const float *weights, int64_t first, int64_t count, const float *const *x, int64_t rows,
                     float *sums)
{
    int64_t r = 0;
    for (; r + 3 <= rows; r += 3) tile(3, weights, first, count, x + r, sums + r * COLUMNS);
    if (rows - r == 2) tile(2, weights, first, count, x + r, sums + r * COLUMNS);
    if (rows - r == 1) tile(1, weights, first, count, x + r, sums + r * COLUMNS);
}

// sums[r][c] + (even + odd inputs' chains) of blocks of 32 inputs.
static void tile_even_odd(const float *weights, int64_t first, int64_t count, const float *const *x, int64_t rows,
                          float *sums)
{
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t block = 0; block < count; block += MB_EVEN_ODD_BLOCK) {
            float chains[2][COLUMNS] = {{0}};
            for (int64_t k = block; k < mb_min(block + MB_EVEN_ODD_BLOCK, count); k++) {
                float *chain = chains[(k - block) % 2];
                for (int c = 0; c < COLUMNS; c++) chain[c] = chain[c] + weights[k * COLUMNS + c] * x[r][first + k];
            }
            for (int c = 0; c < COLUMNS; c++) sums[r * COLUMNS + c] += chains[0][c] + chains[1][c];
        }
    }
}

// sums[r][c] = sums[r][c] + scales[c] * chains[r][c]; the chains begin anew.
static void end_group(const float *scales, int64_t rows, float *chains, float *sums)
{
    for (int64_t r = 0; r < rows; r++) {
        for (int v = 0; v < VECTORS; v++) {
            const int64_t at = r * COLUMNS + v * LANES;
            mb_store4(sums + at, mb_load4(sums + at) + mb_load4(scales + v * LANES) * mb_load4(chains + at));
            mb_store4(chains + at, (mb_v4){0, 0, 0, 0});
        }
    }
}

// Pointers to inputs [k0, k0 + count) of each row as float32; bf16 rows are widened into `floats`.
static void prepare_rows(const struct mb_rows *rows, int64_t r0, int64_t m, int64_t k0, int64_t count, int64_t stride,
                         float *floats, const float **out)
{
    for (int64_t r = 0; r < m; r++) {
        if (!rows->bf16) {
            out[r] = (const float *)rows->row[r0 + r] + k0;
            continue;
        }
        const uint16_t *from = (const uint16_t *)rows->row[r0 + r] + k0;
        float *to = floats + r * stride;
        for (int64_t k = 0; k < count; k++) to[k] = mb_from_bf16(from[k]);
        out[r] = to;
    }
}

// A part's sums over inputs [k0, k0 + count), which `weights` holds, group by group where chains are scaled.
static void sum_chunk(const struct mb_packing *packing, const struct mb_generic_layout *layout, const uint8_t *part,
                      const float *weights, int64_t k0, int64_t count, const float *const *x, int64_t m, float *chains,
                      float *sums)
{
    void (*const tiles)(const float *, int64_t, int64_t, const float *const *, int64_t, float *) =
        packing->even_odd ? tile_even_odd : mb_generic_tile;
    const float *scales = (const float *)(const void *)(part + layout->scales);
    if (!layout->scaled) {
        tiles(weights, 0, count, x, m, sums);
        return;
    }
    for (int64_t i = 0, step; i < count; i += step) {
        const int64_t group = (k0 + i) / layout->chain, end = mb_min((group + 1) * layout->chain, packing->k);
        step = mb_min(end - k0, count) - i;
        tiles(weights + i * COLUMNS, i, step, x, m, chains);
        if (k0 + i + step == end) end_group(scales + group * COLUMNS, m, chains, sums);
    }
}

void mb_generic_panel(const struct mb_packing *packing, const void *packed, int64_t panel, const struct mb_rows *rows,
                      int64_t r0, int64_t m, const struct mb_generic_scratch *scratch)
{
    const struct mb_generic_layout layout = mb_generic_layout_of(packing);
    const float *x[MB_GENERIC_ROWS];
    if (rows->int16) {
        mb_generic_int16_panel(packing, packed, panel, rows, r0, m, scratch);
        return;
    }
    for (int part = 0; part < packing->parts; part++) {
        memset(scratch->sums[part], 0, (size_t)m * COLUMNS * sizeof(float));
        memset(scratch->chains[part], 0, (size_t)m * COLUMNS * sizeof(float));
    }
    for (int64_t k0 = 0, count; k0 < packing->k; k0 += count) {
        count = mb_min(layout.chunk, packing->k - k0);
        // A group longer than a chunk ends with one, so that its factors serve the whole chunk.
        if (packing->group > layout.chunk) count = mb_min(count, packing->group - k0 % packing->group);
        prepare_rows(rows, r0, m, k0, count, layout.chunk, scratch->rows, x);
        for (int part = 0; part < packing->parts; part++) {
            const uint8_t *from = mb_generic_part(&layout, packed, panel, part);
            const float *weights = mb_generic_expand(packing, &layout, from, k0, count, scratch->weights);
            sum_chunk(packing, &layout, from, weights, k0, count, x, m, scratch->chains[part], scratch->sums[part]);
        }
    }
}

void mb_generic_add_bias(float *sums, int64_t m, const float *bias, int64_t columns)
{
    if (!bias) return;
    for (int64_t r = 0; r < m; r++) {
        for (int64_t c = 0; c < columns; c++) sums[r * COLUMNS + c] = sums[r * COLUMNS + c] + bias[c];
    }
}

size_t mb_generic_scratch_bytes(const struct mb_packing *packing, int64_t m)
{
    (void)packing;
    (void)m;
    return (MB_GENERIC_CHUNK * (COLUMNS + MB_GENERIC_ROWS) + (size_t)5 * MB_GENERIC_ROWS * COLUMNS) * sizeof(float);
}

struct mb_generic_scratch mb_generic_scratch_of(void *memory)
{
    enum { TILE_FLOATS = MB_GENERIC_ROWS * COLUMNS };
    struct mb_generic_scratch scratch = {.weights = memory};
    scratch.sums[0] = scratch.weights + MB_GENERIC_CHUNK * COLUMNS;
    scratch.sums[1] = scratch.sums[0] + TILE_FLOATS;
    scratch.chains[0] = scratch.sums[1] + TILE_FLOATS;
    scratch.chains[1] = scratch.chains[0] + TILE_FLOATS;
    scratch.out = scratch.chains[1] + TILE_FLOATS;
    scratch.rows = scratch.out + TILE_FLOATS;
    return scratch;
}
