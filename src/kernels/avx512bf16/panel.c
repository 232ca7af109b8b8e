// SPDX-License-Identifier: Apache-2.0
// How a call walks rows, inputs and panels. Rows are copied to scratch first, pairs turned as the dot instruction wants
// them. Few rows: all their inputs lie in scratch, and each panel is one pass over its weights, codes decoded in
// registers. Many rows: blocks of rows and chunks of inputs; a chunk of a panel is expanded to bf16 once for the block.
#include <string.h>

#include "base/float.h"
#include "kernels/avx512bf16/layout.h"

enum {
    DIRECT_ROWS = 24,  // up to so many rows decode in registers
    F32_ROWS = 48,     // rows of a block of float32 rows
    PANELS_AT_ONCE = 2 // panels that share a chunk of rows
};
#define STRIP_SCRATCH (MB_CHUNK_PAIRS * 128 + 1024) // expanded; the second strip starts in other cache sets

struct scratch {
    uint32_t *x;
    uint8_t *expanded;
    float *sums;
};

// Rows that meet weights as float32: those that are, and all where products and sums are to be rounded separately.
static bool takes_floats(const struct mb_walk *walk) { return !walk->rows->bf16 || walk->separate; }

static int64_t chunks_of(const struct mb_packing *packing) { return mb_ceil_div(packing->k, MB_CHUNK); }

size_t mb_walk_scratch(const struct mb_packing *packing, int64_t m)
{
    const int64_t few = mb_min(m, DIRECT_ROWS) * chunks_of(packing), many = mb_min(m, MB_ROWS);
    const int64_t floats = 2 * mb_min(m, F32_ROWS);
    const size_t rows = (size_t)mb_max(mb_max(few, many), floats);
    return rows * MB_X_STRIDE * sizeof(uint32_t) + 2 * STRIP_SCRATCH +
           (size_t)(PANELS_AT_ONCE * many * MB_PANEL) * sizeof(float) + 64;
}

static struct scratch scratch_of(const struct mb_walk *walk)
{
    char *memory = (char *)mb_round_up((size_t)(uintptr_t)walk->scratch, 64);
    const int64_t many = mb_min(walk->rows->m, MB_ROWS);
    struct scratch scratch = {.expanded = (uint8_t *)memory};
    scratch.sums = (float *)(void *)(memory + 2 * STRIP_SCRATCH);
    scratch.x = (uint32_t *)(void *)(scratch.sums + PANELS_AT_ONCE * many * MB_PANEL);
    return scratch;
}

// Inputs of a bf16 row, halves of each pair exchanged, then -0 to the end of a block of FP4: weights are 0 there, and
// the products, -0, leave every sum as it is.
static void turn_row(const uint16_t *row, int64_t count, uint32_t *to)
{
    const __m512i none = _mm512_set1_epi16((short)0x8000);
    int64_t k = 0;
    for (; k + 32 <= count; k += 32) _mm512_storeu_si512(to + k / 2, _mm512_rol_epi32(_mm512_loadu_si512(row + k), 16));
    if (k < count) {
        const __mmask32 rest = (__mmask32)((1u << (count - k)) - 1);
        _mm512_storeu_si512(to + k / 2, _mm512_rol_epi32(_mm512_mask_loadu_epi16(none, rest, row + k), 16));
        k += 32;
    }
    if (k % MB_FP4_BLOCK) _mm512_storeu_si512(to + k / 2, none);
}

static void load_rows(const struct mb_walk *walk, int64_t r0, int64_t m, int64_t chunk, uint32_t *x)
{
    const int64_t k0 = chunk * MB_CHUNK, count = mb_min(MB_CHUNK, walk->packing->k - k0);
    for (int64_t r = 0; r < m; r++) {
        const void *row = walk->rows->row[r0 + r];
        float *floats = (float *)(void *)(x + r * 2 * MB_X_STRIDE);
        if (!walk->rows->bf16) {
            memcpy(floats, (const float *)row + k0, (size_t)count * sizeof *floats);
        } else if (walk->separate) {
            for (int64_t k = 0; k < count; k++) floats[k] = mb_from_bf16(((const uint16_t *)row + k0)[k]);
        } else {
            turn_row((const uint16_t *)row + k0, count, x + r * MB_X_STRIDE);
        }
        if (takes_floats(walk) && count % 2) floats[count] = -0.0f;
    }
}

// How the tiles of one call run.
struct plan {
    const mb_tile *tiles;
    int64_t most;   // rows of a tile
    bool one_strip; // a tile covers one strip
    bool expands;
    int64_t x_stride;
};

static struct plan plan_of(const struct mb_walk *walk, int64_t m, bool exact)
{
    const enum mb_packed_format format = walk->packing->format;
    const bool scaled = format == MB_PACKED_FP8, coded = format != MB_PACKED_BF16;
    if (takes_floats(walk))
        return (struct plan){mb_tiles_f32[scaled][walk->separate], MB_WIDE_ROWS, false, coded, 2 * MB_X_STRIDE};
    const int64_t wide = coded ? 4 : MB_WIDE_ROWS;
    if (exact || m > DIRECT_ROWS) {
        return (struct plan){scaled ? mb_tiles_expanded_fp8 : mb_tiles_bf16[1], MB_WIDE_ROWS, false, coded,
                             MB_X_STRIDE};
    }
    const mb_tile(*tiles)[MB_TILE_ROWS + 1] = format == MB_PACKED_BF16 ? mb_tiles_bf16
                                              : scaled                 ? mb_tiles_fp8
                                                                       : mb_tiles_fp4;
    if (m <= wide) return (struct plan){tiles[1], wide, false, false, MB_X_STRIDE};
    return (struct plan){tiles[0], MB_TILE_ROWS, true, false, MB_X_STRIDE};
}

// The weights of a chunk of a panel, expanded where the plan says so.
static struct mb_span span_of(const struct mb_walk *walk, const struct plan *plan, int64_t panel, int64_t chunk,
                              const struct scratch *scratch)
{
    static const size_t chunk_bytes[MB_PACKED_FORMATS] = {[MB_PACKED_BF16] = MB_CHUNK_PAIRS * 128,
                                                          [MB_PACKED_FP8] = MB_CHUNK_PAIRS * 64,
                                                          [MB_PACKED_FP4] =
                                                              (size_t)(MB_CHUNK / MB_FP4_BLOCK) * MB_FP4_BLOCK_BYTES};
    const struct mb_strip_layout layout = mb_strip_layout_of(walk->packing);
    const enum mb_packed_format format = walk->packing->format;
    struct mb_span span = {.pairs = mb_min(MB_CHUNK_PAIRS, layout.pairs - chunk * MB_CHUNK_PAIRS)};
    for (int s = 0; s < 2; s++) {
        const uint8_t *strip = (const uint8_t *)walk->packed + (size_t)(2 * panel + s) * layout.strip_bytes;
        const uint8_t *codes = strip + (size_t)chunk * chunk_bytes[format];
        span.weights[s] = plan->expands ? scratch->expanded + s * STRIP_SCRATCH : codes;
        if (format == MB_PACKED_FP8) {
            const int64_t group = chunk * (MB_CHUNK_PAIRS / MB_FP8_PAIRS);
            span.scales[s] = (const float *)(const void *)(strip + layout.scales) + group;
            span.full[s] = (const float *)(const void *)(strip + layout.full) + group * MB_STRIP;
            if (plan->expands) mb_expand_fp8(codes, span.pairs, scratch->expanded + s * STRIP_SCRATCH);
        } else if (plan->expands) {
            mb_expand_fp4(codes, span.pairs, scratch->expanded + s * STRIP_SCRATCH);
        }
    }
    return span;
}

// One chunk of a panel for m rows, split evenly over tiles.
static void run_tiles(const struct plan *plan, struct mb_span *span, uint32_t *x, int64_t m, float *sums)
{
    for (int s = 0; s < (plan->one_strip ? 2 : 1); s++) {
        int64_t tiles = mb_ceil_div(m, plan->most);
        for (int64_t r = 0; r < m; tiles--) {
            const int64_t rows = mb_ceil_div(m - r, tiles);
            span->x = x + r * plan->x_stride;
            span->sums = sums + r * MB_PANEL + s * MB_STRIP;
            plan->tiles[rows](span);
            r += rows;
        }
        span->weights[0] = span->weights[1];
        span->scales[0] = span->scales[1];
        span->full[0] = span->full[1];
    }
}

// Few rows that lie in scratch with all their inputs: one panel. False when FP4 exponents need exact expansion.
static bool panel_of_few(const struct mb_walk *walk, const struct plan *plan, int64_t panel, int64_t m,
                         const struct scratch *scratch)
{
    __m512i top = _mm512_setzero_si512();
    memset(scratch->sums, 0, (size_t)m * MB_PANEL * sizeof(float));
    for (int64_t c = 0; c < chunks_of(walk->packing); c++) {
        struct mb_span span = span_of(walk, plan, panel, c, scratch);
        span.top = &top;
        run_tiles(plan, &span, scratch->x + c * m * MB_X_STRIDE, m, scratch->sums);
    }
    return _mm512_cmpgt_epu8_mask(top, _mm512_set1_epi8((char)MB_FP4_TOP)) == 0;
}

static void walk_few(const struct mb_walk *walk, const struct scratch *scratch)
{
    const int64_t m = walk->rows->m;
    const struct plan fast = plan_of(walk, m, false), exact = plan_of(walk, m, true);
    for (int64_t c = 0; c < chunks_of(walk->packing); c++) load_rows(walk, 0, m, c, scratch->x + c * m * MB_X_STRIDE);
    for (int64_t panel = walk->p0; panel < walk->p1; panel++) {
        if (!panel_of_few(walk, &fast, panel, m, scratch)) panel_of_few(walk, &exact, panel, m, scratch);
        walk->finish(walk->call, panel, 0, m, scratch->sums);
    }
}

static void walk_many(const struct mb_walk *walk, const struct scratch *scratch)
{
    const int64_t most = takes_floats(walk) ? F32_ROWS : MB_ROWS;
    int64_t blocks = mb_ceil_div(walk->rows->m, most);
    for (int64_t r0 = 0, m; r0 < walk->rows->m; r0 += m, blocks--) {
        m = mb_ceil_div(walk->rows->m - r0, blocks);
        const struct plan plan = plan_of(walk, m, true);
        for (int64_t p0 = walk->p0; p0 < walk->p1; p0 += PANELS_AT_ONCE) {
            const int64_t panels = mb_min(PANELS_AT_ONCE, walk->p1 - p0);
            memset(scratch->sums, 0, (size_t)(panels * m) * MB_PANEL * sizeof(float));
            for (int64_t c = 0; c < chunks_of(walk->packing); c++) {
                load_rows(walk, r0, m, c, scratch->x);
                for (int64_t i = 0; i < panels; i++) {
                    struct mb_span span = span_of(walk, &plan, p0 + i, c, scratch);
                    run_tiles(&plan, &span, scratch->x, m, scratch->sums + i * m * MB_PANEL);
                }
            }
            for (int64_t i = 0; i < panels; i++)
                walk->finish(walk->call, p0 + i, r0, m, scratch->sums + i * m * MB_PANEL);
        }
    }
}

void mb_walk_panels(const struct mb_walk *walk)
{
    const struct scratch scratch = scratch_of(walk);
    if (walk->rows->m < 1 || walk->p0 >= walk->p1) return;
    if (!takes_floats(walk) && walk->rows->m <= DIRECT_ROWS) {
        walk_few(walk, &scratch);
    } else {
        walk_many(walk, &scratch);
    }
}
