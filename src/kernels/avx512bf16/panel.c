// SPDX-License-Identifier: Apache-2.0
// How a call walks rows, inputs and panels. Few rows lie in scratch with all their inputs, and each strip is one pass
// over its weights. Many rows go in blocks; chunk by chunk of inputs a block's rows are copied to scratch once for
// several panels. Copies have the halves of each pair exchanged, as the dot instruction wants them. Codes become bf16
// in the tiles' registers; they are expanded in scratch for float32 rows and for factors beyond the tiles.
#include <string.h>

#include "base/float.h"
#include "kernels/avx512bf16/layout.h"

enum {
    FEW_ROWS = 24,
    PANELS_AT_ONCE = 16,                        // that share the copied rows; more where a block has fewer rows
    SUMS = PANELS_AT_ONCE * MB_ROWS * MB_PANEL, // floats, most
    ROWS_AHEAD = 4                              // between the row that is copied and the one that is fetched
};
#define STRIP_SCRATCH (MB_CHUNK_PAIRS * 128 + 1024) // expanded; the second strip starts in other cache sets

struct scratch {
    uint8_t *expanded; // [2][STRIP_SCRATCH]
    float *sums;       // [panels][m][MB_PANEL]
    uint32_t *x;       // few rows: [chunks][m][MB_X_STRIDE]; many: those of a chunk
};

// Rows that meet weights as float32: those that are, and all where products and sums are to be rounded separately.
static bool takes_floats(const struct mb_walk *walk) { return !walk->rows->bf16 || walk->separate; }

// The only processor of that family with the level's instructions. The answer lies ready: CPUID itself costs a virtual
// machine tens of microseconds.
static bool is_zen4(void) { return __builtin_cpu_is("amdfam19h") != 0; }

// Panels whose sums have room side by side.
static int64_t panels_at_once(int64_t m) { return SUMS / (mb_min(m, MB_ROWS) * MB_PANEL); }

static int64_t chunks_of(const struct mb_packing *packing)
{
    const struct mb_strip_layout layout = mb_strip_layout_of(packing);
    return mb_ceil_div(layout.pairs, layout.chunk_pairs);
}

size_t mb_walk_scratch(const struct mb_packing *packing, int64_t m)
{
    const int64_t few = mb_min(m, FEW_ROWS) * chunks_of(packing), many = mb_min(2 * m, MB_ROWS); // rows of floats: two
    return 2 * STRIP_SCRATCH + SUMS * sizeof(float) + (size_t)mb_max(few, many) * MB_X_STRIDE * sizeof(uint32_t) + 64;
}

static struct scratch scratch_of(const struct mb_walk *walk)
{
    char *memory = (char *)mb_round_up((size_t)(uintptr_t)walk->scratch, 64);
    struct scratch scratch = {.expanded = (uint8_t *)memory};
    scratch.sums = (float *)(void *)(memory + 2 * STRIP_SCRATCH);
    scratch.x = (uint32_t *)(void *)(scratch.sums + SUMS);
    return scratch;
}

// Inputs of a bf16 row, halves of each pair exchanged, then -0 to the end of a line, or of a block of FP4: weights are
// 0 there, and the products, -0, leave every sum as it is.
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
    const int64_t inputs = 2 * mb_strip_layout_of(walk->packing).chunk_pairs, k0 = chunk * inputs;
    const int64_t count = mb_min(inputs, walk->packing->k - k0);
    const int64_t size = walk->rows->bf16 ? sizeof(uint16_t) : sizeof(float);
    for (int64_t r = 0; r < m; r++) {
        const void *row = walk->rows->row[r0 + r];
        // Rows lie apart: processors do not foresee where the next one begins.
        const char *later = (const char *)walk->rows->row[r0 + mb_min(r + ROWS_AHEAD, m - 1)] + k0 * size;
        for (int64_t byte = 0; byte < count * size; byte += 64) _mm_prefetch(later + byte, _MM_HINT_T0);
        if (takes_floats(walk)) {
            float_row(walk, row, k0, count, (float *)(void *)(x + r * 2 * MB_X_STRIDE));
        } else {
            turn_row((const uint16_t *)row + k0, count, x + r * MB_X_STRIDE);
        }
    }
}

// What the walk must know of a format.
static const struct form {
    const struct mb_tiles *tiles;
    uint8_t top; // the largest factor that tiles can decode, where they note it
} forms[MB_PACKED_FORMATS] = {
    [MB_PACKED_BF16] = {&mb_tiles_bf16, 0},
    [MB_PACKED_FP8] = {&mb_tiles_fp8, 0},
    [MB_PACKED_FP4] = {&mb_tiles_fp4, MB_FP4_TOP},
    [MB_PACKED_MXFP8] = {&mb_tiles_mxfp8, MB_MXFP8_TOP},
    [MB_PACKED_NVFP4] = {&mb_tiles_nvfp4, MB_NVFP4_TOP},
    [MB_PACKED_INT4] = {&mb_tiles_int4, 0},
    [MB_PACKED_INT8] = {&mb_tiles_int8, 0},
};

static const struct form *form_of(const struct mb_walk *walk) { return &forms[walk->packing->format]; }

// Whether tiles could decode all factors that they noted.
static bool decoded(const struct mb_walk *walk, __m512i top)
{
    return _mm512_cmpgt_epu8_mask(top, _mm512_set1_epi8((char)form_of(walk)->top)) == 0;
}

// Where a strip of a panel begins; the panel after one is strips 2 and 3 of it.
static const uint8_t *strip_of(const struct mb_walk *walk, int64_t panel, int s)
{
    return (const uint8_t *)walk->packed + (size_t)(2 * panel + s) * mb_strip_layout_of(walk->packing).strip_bytes;
}

// Where a chunk of it begins.
static const uint8_t *codes_of(const struct mb_walk *walk, int64_t panel, int s, int64_t chunk)
{
    const struct mb_strip_layout layout = mb_strip_layout_of(walk->packing);
    int64_t bytes = layout.chunk_pairs / layout.line_pairs * layout.line_bytes;
    if (walk->packing->format == MB_PACKED_FP4) bytes = MB_CHUNK / MB_FP4_BLOCK * MB_FP4_BLOCK_BYTES;
    return strip_of(walk, panel, s) + chunk * bytes;
}

// The weights of a chunk of `strips` strips of a panel, from strip s0 on.
static struct mb_span span_of(const struct mb_walk *walk, int64_t panel, int s0, int strips, int64_t chunk)
{
    const struct mb_strip_layout layout = mb_strip_layout_of(walk->packing);
    const struct mb_packed_info info = mb_packed_info_of(walk->packing->format);
    const int64_t p0 = chunk * layout.chunk_pairs, group = p0 / layout.group_pairs;
    struct mb_span span = {.pairs = mb_min(layout.chunk_pairs, layout.pairs - p0), .zen4 = is_zen4()};
    const bool blocks = walk->packing->format == MB_PACKED_FP4;
    span.group_pairs = blocks ? layout.group_pairs : mb_min(layout.group_pairs, span.pairs);
    for (int s = 0; s < strips; s++) {
        const uint8_t *strip = strip_of(walk, panel, s0 + s);
        span.weights[s] = codes_of(walk, panel, s0 + s, chunk);
        if (info.factors) span.factors[s] = strip + layout.factors + group * MB_STRIP;
        if (!info.scaled || layout.late) continue;
        span.scales[s] = (const float *)(const void *)(strip + layout.scales) + group;
        span.full[s] = (const float *)(const void *)(strip + layout.full) + group * MB_STRIP;
    }
    return span;
}

static void expand(const struct mb_walk *walk, struct mb_span *span, uint8_t *expanded)
{
    const struct mb_tiles *tiles = form_of(walk)->tiles;
    for (int s = 0; s < 2 && tiles->expand; s++, expanded += STRIP_SCRATCH) {
        struct mb_span strip = *span;
        strip.weights[0] = span->weights[s];
        strip.factors[0] = span->factors[s];
        tiles->expand(&strip, takes_floats(walk), expanded);
        span->weights[s] = expanded;
    }
}

// The sums of a panel where one scale multiplies a whole row's chain: from +0, as every sum begins.
static void scale_late(const struct mb_walk *walk, int64_t panel, int64_t m, float *sums)
{
    const struct mb_strip_layout layout = mb_strip_layout_of(walk->packing);
    for (int s = 0; s < 2 && layout.late; s++) {
        const uint8_t *strip = strip_of(walk, panel, s);
        const struct mb_span span = {.scales = {(const float *)(const void *)(strip + layout.scales)},
                                     .full = {(const float *)(const void *)(strip + layout.full)}};
        for (int v = 0; v < 2; v++) {
            const __m512 scale = mb_scale(&span, 0, 0, v);
            for (int64_t r = 0; r < m; r++) {
                float *to = sums + r * MB_PANEL + s * MB_STRIP + 16 * v;
                const __m512 part = _mm512_mul_ps(scale, _mm512_loadu_ps(to));
                _mm512_storeu_ps(to, _mm512_add_ps(_mm512_setzero_ps(), part));
            }
        }
    }
}

// Gives the sums of some panels for rows [r0, r0 + m) away.
static void finish(const struct mb_walk *walk, int64_t p0, int64_t panels, int64_t r0, int64_t m, float *sums)
{
    for (int64_t p = p0; p < p0 + panels; p++, sums += m * MB_PANEL) {
        scale_late(walk, p, m, sums);
        walk->finish(walk->call, p, r0, m, sums);
    }
}

// What the tiles on many rows fetch, call by call.
struct fetch {
    const uint8_t *strip[2]; // what to fetch: a chunk of both strips of a panel
    int64_t calls, each;     // calls that each strip takes, bytes of a call
    int64_t call;
};

static const void *fetch_next(struct fetch *fetch, const void *nothing)
{
    const int64_t call = fetch->call++;
    if (call >= 2 * fetch->calls) return nothing;
    return fetch->strip[call / fetch->calls] + call % fetch->calls * fetch->each;
}

// All rows of a span in tiles of nearly equal height, at most `most`. `stride` is the 32-bit words of a row of x.
static void run_tiles(const mb_tile *tiles, int64_t most, struct mb_span *span, const uint32_t *x, int64_t stride,
                      int64_t m, struct fetch *fetch)
{
    float *sums = span->sums;
    int64_t left = mb_ceil_div(m, most);
    for (int64_t r = 0, rows; r < m; r += rows, left--) {
        rows = mb_ceil_div(m - r, left);
        span->x = x + r * stride;
        span->sums = sums + r * MB_PANEL;
        if (fetch) span->next = fetch_next(fetch, span->x);
        tiles[rows](span);
    }
}

// Sums of `panels` panels, one or two, for few rows. False when factors ask for expansion.
static bool sum_few(const struct mb_walk *walk, int64_t panel, int64_t panels, const struct scratch *scratch)
{
    const struct mb_tiles *tiles = form_of(walk)->tiles;
    const int64_t m = walk->rows->m;
    const int shape = panels == 2 ? 2 : m <= tiles->wide_rows ? 1 : 0, strips = 1 << shape;
    const int64_t most = shape == 2 ? MB_FOUR_STRIPS_ROWS : shape == 1 ? tiles->wide_rows : MB_TILE_ROWS;
    __m512i top = _mm512_setzero_si512();
    const struct mb_strip_layout layout = mb_strip_layout_of(walk->packing);
    const size_t codes_bytes = layout.factors ? layout.factors : layout.strip_bytes;
    memset(scratch->sums, 0, (size_t)(panels * m * MB_PANEL) * sizeof(float));
    for (int s = 0; s < 2 * panels; s += strips) {
        for (int64_t c = 0; c < chunks_of(walk->packing); c++) {
            struct mb_span span = span_of(walk, panel, s, strips, c);
            span.sums = scratch->sums + s * MB_STRIP;
            span.panel_sums = m * MB_PANEL;
            span.top = &top;
            span.end = strip_of(walk, panel, s) + codes_bytes;
            span.after = 2 * panel + s + strips < 2 * walk->p1 ? strip_of(walk, panel, s + strips) : NULL;
            span.stride = (ptrdiff_t)((size_t)strips * layout.strip_bytes);
            span.group = c * layout.chunk_pairs / layout.group_pairs;
            span.groups = mb_ceil_div(layout.pairs, layout.group_pairs);
            run_tiles(tiles->few[shape], most, &span, scratch->x + c * m * MB_X_STRIDE, MB_X_STRIDE, m, NULL);
        }
    }
    return decoded(walk, top);
}

// What to fetch while a chunk of a panel is worked on: the same chunk of the group's next panel, or the next chunk of
// its first one, or the next group.
static struct fetch fetch_after(const struct mb_walk *walk, int64_t p0, int64_t panels, int64_t panel, int64_t chunk)
{
    const struct mb_strip_layout layout = mb_strip_layout_of(walk->packing);
    const bool last = chunk + 1 == chunks_of(walk->packing);
    int64_t next = panel + 1;
    if (next == p0 + panels && !last) next = p0;
    if (next == walk->p1) return (struct fetch){.calls = 0};
    if (next == p0) chunk++;
    if (next == p0 + panels) chunk = 0;
    return (struct fetch){.strip = {codes_of(walk, next, 0, chunk), codes_of(walk, next, 1, chunk)},
                          .calls = layout.line_bytes / 64,
                          .each = layout.chunk_pairs / layout.line_pairs * 64};
}

// Sums of some panels for rows [r0, r0 + m). With `expands` the codes are expanded, else this is false when factors ask
// for that.
static bool sum_many(const struct mb_walk *walk, bool expands, int64_t p0, int64_t panels, int64_t r0, int64_t m,
                     const struct scratch *scratch)
{
    const bool floats = takes_floats(walk);
    const bool scaled = mb_packed_info_of(walk->packing->format).scaled && !mb_strip_layout_of(walk->packing).late;
    const struct mb_tiles *tiles = expands ? &mb_tiles_bf16 : form_of(walk)->tiles;
    const mb_tile *calls = floats ? mb_tiles_f32[scaled][walk->separate] : tiles->many;
    const int strips = floats ? 2 : tiles->many_strips;
    const int64_t most = floats ? MB_WIDE_ROWS : tiles->many_rows, stride = (floats ? 2 : 1) * MB_X_STRIDE;
    __m512i top = _mm512_setzero_si512();
    memset(scratch->sums, 0, (size_t)(panels * m) * MB_PANEL * sizeof(float));
    for (int64_t c = 0; c < chunks_of(walk->packing); c++) {
        load_rows(walk, r0, m, c, scratch->x);
        for (int64_t i = 0; i < panels; i++) {
            struct fetch fetch = fetch_after(walk, p0, panels, p0 + i, c);
            for (int s = 0; s < 2; s += strips) {
                struct mb_span span = span_of(walk, p0 + i, s, strips, c);
                span.sums = scratch->sums + i * m * MB_PANEL + s * MB_STRIP;
                span.top = &top;
                if (expands) expand(walk, &span, scratch->expanded);
                run_tiles(calls, most, &span, scratch->x, stride, m, &fetch);
            }
        }
    }
    return expands || decoded(walk, top);
}

static void walk_few(const struct mb_walk *walk, const struct scratch *scratch)
{
    const int64_t m = walk->rows->m;
    bool copied = false;
    for (int64_t p = walk->p0, panels; p < walk->p1; p += panels) {
        panels = m <= MB_FOUR_STRIPS_ROWS ? mb_min(2, walk->p1 - p) : 1;
        for (int64_t c = 0; c < chunks_of(walk->packing) && !copied; c++)
            load_rows(walk, 0, m, c, scratch->x + c * m * MB_X_STRIDE);
        copied = sum_few(walk, p, panels, scratch);
        if (!copied) sum_many(walk, true, p, panels, 0, m, scratch); // overwrites the copied rows
        finish(walk, p, panels, 0, m, scratch->sums);
    }
}

// Whether codes are expanded once for m rows instead of decoded by every tile of them; the tiles of expanded weights
// know no groups of scaled chains. Zen 5 decodes while it multiplies, on Zen 4 the two share their units.
static bool expands(const struct mb_walk *walk, int64_t m)
{
    enum { PAYS_FROM = 32 };
    return takes_floats(walk) || (is_zen4() && m >= PAYS_FROM && mb_packed_chain(walk->packing) >= walk->packing->k);
}

// Panels outside, so that a second block of rows finds their weights in a cache.
static void walk_many(const struct mb_walk *walk, const struct scratch *scratch)
{
    const int64_t most = takes_floats(walk) ? MB_ROWS / 2 : MB_ROWS; // float rows take twice the scratch
    const int64_t at_once = panels_at_once(mb_min(walk->rows->m, most));
    for (int64_t p = walk->p0, panels; p < walk->p1; p += panels) {
        panels = mb_min(at_once, walk->p1 - p);
        int64_t blocks = mb_ceil_div(walk->rows->m, most);
        for (int64_t r0 = 0, m; r0 < walk->rows->m; r0 += m, blocks--) {
            m = mb_ceil_div(walk->rows->m - r0, blocks);
            if (!sum_many(walk, expands(walk, m), p, panels, r0, m, scratch))
                sum_many(walk, true, p, panels, r0, m, scratch);
            finish(walk, p, panels, r0, m, scratch->sums);
        }
    }
}

void mb_walk_panels(const struct mb_walk *walk)
{
    const struct scratch scratch = scratch_of(walk);
    const bool few = !takes_floats(walk) && walk->rows->m <= FEW_ROWS;
    if (walk->rows->m >= 1) (few ? walk_few : walk_many)(walk, &scratch);
}
