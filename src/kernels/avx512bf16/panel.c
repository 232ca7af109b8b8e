// SPDX-License-Identifier: Apache-2.0
// How a call walks rows, inputs and panels. Few rows: copied to scratch once, pairs turned as the dot instruction wants
// them, and each panel is one pass over its weights, codes decoded in registers. Many rows: turned tile by
// tile, in blocks; chunk by chunk of inputs panels are expanded to bf16 once for the block.
#include <string.h>

#include "base/float.h"
#include "kernels/avx512bf16/layout.h"

enum {
    DIRECT_ROWS = 24, // up to so many rows decode in registers
    AT_ONCE = 2       // panels that share the turned rows of a tile
};
#define STRIP_SCRATCH (MB_CHUNK_PAIRS * 128 + 1024) // expanded; the second strip starts in other cache sets

struct scratch {
    uint8_t *expanded; // [AT_ONCE][2][STRIP_SCRATCH]
    float *sums;       // [AT_ONCE][m][MB_PANEL]
    uint32_t *x;       // few rows: [chunks][m][MB_X_STRIDE]; many: those of a tile
};

// Rows that meet weights as float32: those that are, and all where products and sums are to be rounded separately.
static bool takes_floats(const struct mb_walk *walk) { return !walk->rows->bf16 || walk->separate; }

static int64_t chunks_of(const struct mb_packing *packing) { return mb_ceil_div(packing->k, MB_CHUNK); }

size_t mb_walk_scratch(const struct mb_packing *packing, int64_t m)
{
    const int64_t few = mb_min(m, DIRECT_ROWS) * chunks_of(packing), many = 2 * MB_WIDE_ROWS;
    return AT_ONCE * (2 * STRIP_SCRATCH + (size_t)mb_min(m, MB_ROWS) * MB_PANEL * sizeof(float)) +
           (size_t)mb_max(few, many) * MB_X_STRIDE * sizeof(uint32_t) + 64;
}

static struct scratch scratch_of(const struct mb_walk *walk)
{
    char *memory = (char *)mb_round_up((size_t)(uintptr_t)walk->scratch, 64);
    struct scratch scratch = {.expanded = (uint8_t *)memory};
    scratch.sums = (float *)(void *)(memory + AT_ONCE * 2 * STRIP_SCRATCH);
    scratch.x = (uint32_t *)(void *)(scratch.sums + AT_ONCE * mb_min(walk->rows->m, MB_ROWS) * MB_PANEL);
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

// The same of a row that meets weights as float32.
static void float_row(const struct mb_walk *walk, const void *row, int64_t k0, int64_t count, float *to)
{
    if (walk->rows->bf16) {
        for (int64_t k = 0; k < count; k++) to[k] = mb_from_bf16(((const uint16_t *)row + k0)[k]);
    } else {
        memcpy(to, (const float *)row + k0, (size_t)count * sizeof *to);
    }
    if (count % 2) to[count] = -0.0f;
}

static void load_rows(const struct mb_walk *walk, int64_t r0, int64_t m, int64_t chunk, uint32_t *x)
{
    const int64_t k0 = chunk * MB_CHUNK, count = mb_min(MB_CHUNK, walk->packing->k - k0);
    for (int64_t r = 0; r < m; r++) {
        const void *row = walk->rows->row[r0 + r];
        if (takes_floats(walk)) {
            float_row(walk, row, k0, count, (float *)(void *)(x + r * 2 * MB_X_STRIDE));
        } else {
            turn_row((const uint16_t *)row + k0, count, x + r * MB_X_STRIDE);
        }
    }
}

// How the tiles of one call run.
struct plan {
    const mb_tile *tiles;
    int64_t most;   // rows of a tile
    bool one_strip; // a tile covers one strip
    bool many;      // rows are turned tile by tile
    bool expands;
};

static struct plan plan_of(const struct mb_walk *walk, bool exact)
{
    const enum mb_packed_format format = walk->packing->format;
    const bool scaled = format == MB_PACKED_FP8, coded = format != MB_PACKED_BF16;
    const int64_t wide = coded ? 4 : MB_WIDE_ROWS;
    if (takes_floats(walk))
        return (struct plan){mb_tiles_f32[scaled][walk->separate], MB_WIDE_ROWS, false, true, coded};
    if (exact || walk->rows->m > DIRECT_ROWS)
        return (struct plan){scaled ? mb_tiles_many_fp8 : mb_tiles_many, MB_WIDE_ROWS, false, true, coded};
    const mb_tile(*tiles)[MB_TILE_ROWS + 1] = format == MB_PACKED_BF16 ? mb_tiles_bf16
                                              : scaled                 ? mb_tiles_fp8
                                                                       : mb_tiles_fp4;
    if (walk->rows->m <= wide) return (struct plan){tiles[1], wide, false, false, false};
    return (struct plan){tiles[0], MB_TILE_ROWS, true, false, false};
}

// Where a chunk of strip s of a panel begins.
static const uint8_t *codes_of(const struct mb_walk *walk, int64_t panel, int s, int64_t chunk)
{
    static const size_t pair_bytes[MB_PACKED_FORMATS] = {
        [MB_PACKED_BF16] = 128, [MB_PACKED_FP8] = 64, [MB_PACKED_FP4] = 34};
    return (const uint8_t *)walk->packed + (size_t)(2 * panel + s) * mb_strip_layout_of(walk->packing).strip_bytes +
           (size_t)chunk * MB_CHUNK_PAIRS * pair_bytes[walk->packing->format];
}

// What tile call `call` of a chunk fetches: block by block the strips that the next chunk needs.
static const uint8_t *next_block(const struct mb_walk *walk, int64_t p0, int64_t panels, int64_t chunk, int64_t call)
{
    const int64_t blocks =
        walk->packing->format == MB_PACKED_BF16 ? 2 : 1; // of MB_CHUNK_PAIRS lines, in a strip's chunk
    const int64_t strip = mb_min(call / blocks, 2 * panels - 1), block = call % blocks;
    const bool last = chunk + 1 == chunks_of(walk->packing);
    const int64_t panel = p0 + strip / 2 + (last && p0 + panels < walk->p1 ? panels : 0);
    return codes_of(walk, panel, (int)(strip % 2), last ? 0 : chunk + 1) + block * MB_CHUNK_PAIRS * 64;
}

// The weights of a chunk of a panel, expanded where the plan says so.
static struct mb_span span_of(const struct mb_walk *walk, const struct plan *plan, int64_t panel, int64_t chunk,
                              uint8_t *expanded)
{
    const struct mb_strip_layout layout = mb_strip_layout_of(walk->packing);
    const enum mb_packed_format format = walk->packing->format;
    struct mb_span span = {.pairs = mb_min(MB_CHUNK_PAIRS, layout.pairs - chunk * MB_CHUNK_PAIRS)};
    for (int s = 0; s < 2; s++) {
        const uint8_t *strip = (const uint8_t *)walk->packed + (size_t)(2 * panel + s) * layout.strip_bytes;
        const uint8_t *codes = codes_of(walk, panel, s, chunk);
        span.weights[s] = plan->expands ? expanded + s * STRIP_SCRATCH : codes;
        if (format == MB_PACKED_FP8) {
            const int64_t group = chunk * (MB_CHUNK_PAIRS / MB_FP8_PAIRS);
            span.scales[s] = (const float *)(const void *)(strip + layout.scales) + group;
            span.full[s] = (const float *)(const void *)(strip + layout.full) + group * MB_STRIP;
            if (plan->expands) mb_expand_fp8(codes, span.pairs, expanded + s * STRIP_SCRATCH);
        } else if (plan->expands) {
            mb_expand_fp4(codes, span.pairs, takes_floats(walk), expanded + s * STRIP_SCRATCH);
        }
    }
    return span;
}

// One chunk of a panel for few rows, split evenly over tiles.
static void run_tiles(const struct plan *plan, struct mb_span *span, uint32_t *x, int64_t m, float *sums)
{
    for (int s = 0; s < (plan->one_strip ? 2 : 1); s++) {
        int64_t tiles = mb_ceil_div(m, plan->most);
        for (int64_t r = 0, rows; r < m; r += rows, tiles--) {
            rows = mb_ceil_div(m - r, tiles);
            span->x = x + r * MB_X_STRIDE;
            span->sums = sums + r * MB_PANEL + s * MB_STRIP;
            plan->tiles[rows](span);
        }
        span->weights[0] = span->weights[1];
        span->scales[0] = span->scales[1];
        span->full[0] = span->full[1];
    }
}

// Sums of a panel for few rows, which lie in scratch with all their inputs. False when FP4 exponents ask for exact
// expansion.
static bool sum_few(const struct mb_walk *walk, const struct plan *plan, int64_t panel, const struct scratch *scratch)
{
    const int64_t m = walk->rows->m;
    __m512i top = _mm512_setzero_si512();
    memset(scratch->sums, 0, (size_t)m * MB_PANEL * sizeof(float));
    for (int64_t c = 0; c < chunks_of(walk->packing); c++) {
        struct mb_span span = span_of(walk, plan, panel, c, NULL);
        span.top = &top;
        run_tiles(plan, &span, scratch->x + c * m * MB_X_STRIDE, m, scratch->sums);
    }
    return _mm512_cmpgt_epu8_mask(top, _mm512_set1_epi8((char)MB_FP4_TOP)) == 0;
}

// Sums of up to AT_ONCE panels for rows [r0, r0 + m): the rows of a tile are turned once for all of them, into the
// first-level cache.
static void sum_many(const struct mb_walk *walk, const struct plan *plan, int64_t p0, int64_t panels, int64_t r0,
                     int64_t m, const struct scratch *scratch)
{
    struct mb_span span[AT_ONCE];
    memset(scratch->sums, 0, (size_t)(panels * m) * MB_PANEL * sizeof(float));
    for (int64_t c = 0; c < chunks_of(walk->packing); c++) {
        for (int64_t i = 0; i < panels; i++)
            span[i] = span_of(walk, plan, p0 + i, c, scratch->expanded + i * 2 * STRIP_SCRATCH);
        int64_t tiles = mb_ceil_div(m, plan->most), call = 0;
        for (int64_t r = 0, rows; r < m; r += rows, tiles--) {
            rows = mb_ceil_div(m - r, tiles);
            load_rows(walk, r0 + r, rows, c, scratch->x);
            for (int64_t i = 0; i < panels; i++) {
                span[i].x = scratch->x;
                span[i].sums = scratch->sums + (i * m + r) * MB_PANEL;
                span[i].next = next_block(walk, p0, panels, c, call++);
                plan->tiles[rows](&span[i]);
            }
        }
    }
}

static void walk_few(const struct mb_walk *walk, const struct plan *plan, const struct scratch *scratch)
{
    const struct plan exact = plan_of(walk, true);
    const int64_t m = walk->rows->m;
    bool turned = false;
    for (int64_t panel = walk->p0; panel < walk->p1; panel++) {
        for (int64_t c = 0; c < chunks_of(walk->packing) && !turned; c++)
            load_rows(walk, 0, m, c, scratch->x + c * m * MB_X_STRIDE);
        turned = sum_few(walk, plan, panel, scratch);
        if (!turned) sum_many(walk, &exact, panel, 1, 0, m, scratch); // overwrites the turned rows
        walk->finish(walk->call, panel, 0, m, scratch->sums);
    }
}

static void walk_many(const struct mb_walk *walk, const struct plan *plan, const struct scratch *scratch)
{
    int64_t blocks = mb_ceil_div(walk->rows->m, MB_ROWS);
    for (int64_t r0 = 0, m; r0 < walk->rows->m; r0 += m, blocks--) {
        m = mb_ceil_div(walk->rows->m - r0, blocks);
        for (int64_t p0 = walk->p0, panels; p0 < walk->p1; p0 += panels) {
            panels = mb_min(AT_ONCE, walk->p1 - p0);
            sum_many(walk, plan, p0, panels, r0, m, scratch);
            for (int64_t i = 0; i < panels; i++)
                walk->finish(walk->call, p0 + i, r0, m, scratch->sums + i * m * MB_PANEL);
        }
    }
}

void mb_walk_panels(const struct mb_walk *walk)
{
    const struct scratch scratch = scratch_of(walk);
    const struct plan plan = plan_of(walk, false);
    if (walk->rows->m >= 1) (plan.many ? walk_many : walk_few)(walk, &plan, &scratch);
}
