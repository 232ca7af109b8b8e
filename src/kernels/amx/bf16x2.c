// SPDX-License-Identifier: Apache-2.0
// BF16X2 compute as products of bfloat16 tiles, whose order of sums is its definition: TDPBF16PS adds the even and the
// odd ones of 32 inputs in chains of their own, and then both to the output. Lines of bf16 weights are tiles as they
// lie; other codes become such lines in the scratch, once for all rows.
#include <string.h>

#include "base/float.h"
#include "kernels/amx/pairs.h"
#include "kernels/amx/tiles.h"
#include "kernels/fma/fma_chains.inl"

#define INLINE static inline __attribute__((always_inline))

enum {
    BLOCK = MB_EVEN_ODD_BLOCK,
    TILE_ROWS = 16,
    ROW_BYTES = BLOCK * 2,
    BLOCK_BYTES = BLOCK / 2 * MB_COLUMNS * 4, // of a strip's lines of pairs
    CHUNK = 256,                              // inputs, of many rows: a strip's stay in the first cache
    CHUNK_EXPANDED = 1024,                    // the most that the scratch has room for
    AHEAD = 8192,
    LEAST_ROWS = 4, // fewer are multiplied in registers: `avx512`
};
_Static_assert(CHUNK * 2 <= MB_X_STRIDE * 4, "rows of scratch");
_Static_assert((CHUNK_EXPANDED * 2 + MB_CHUNK * 4) * MB_COLUMNS <= MB_TILE_STRIPS * MB_CHUNK * MB_COLUMNS * 4,
               "strip of scratch");

// --- tiles ----------------------------------------------------------------------------------------------------------

// Rows of a block of strips, in tiles of `height` rows.
struct shape {
    int64_t m, height, tiles;
};

static struct shape shape_of(int64_t m)
{
    const int64_t tiles = mb_ceil_div(m, TILE_ROWS);
    return (struct shape){.m = m, .height = mb_ceil_div(m, tiles), .tiles = tiles};
}

// Tiles 0 to 3 are sums of two tiles of rows by two vectors of columns, 4 and 5 rows, 6 and 7 weights.
static void use_tiles_of(int64_t height)
{
    struct mb_amx_shape shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.row_bytes[i] = 64, shape.rows[i] = i < 6 ? (uint8_t)height : BLOCK / 2;
    mb_amx_use(&shape);
}

// Some blocks of inputs of a strip.
struct span {
    const uint8_t *weights;              // [blocks][BLOCK_BYTES]
    int64_t blocks;                      //
    const uint8_t *rows[2];              // [blocks][tiles][height][ROW_BYTES]: of two tiles
    int64_t row_step;                    // from block to block
    const uint8_t *ahead, *turn, *after; // what is fetched meanwhile; from `turn` on it goes on at `after`
    int64_t pace;                        // bytes a block
};

INLINE void fetch(struct span *span)
{
    if (span->ahead == span->turn) span->ahead = span->after;
    for (int64_t byte = 0; byte < span->pace; byte += 64) __builtin_prefetch(span->ahead + byte, 0, 2);
    span->ahead += span->pace;
}

// Two tiles of rows, or one.
INLINE void multiply(const bool two, struct span *span)
{
    const uint8_t *weights = span->weights, *first = span->rows[0], *second = span->rows[1];
    for (int64_t b = 0; b < span->blocks; b++, weights += BLOCK_BYTES, first += span->row_step) {
        fetch(span);
        _tile_loadd(6, weights, MB_LINE_BYTES);
        _tile_loadd(4, first, ROW_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, weights + 64, MB_LINE_BYTES);
        _tile_dpbf16ps(1, 4, 7);
        if (!two) continue;
        _tile_loadd(5, second, ROW_BYTES);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        second += span->row_step;
    }
}

// Sums of up to two tiles of rows: where they lie, or for the last tile, which may have fewer rows, a copy.
struct sums {
    float *lie[2], *at[2];
    int64_t rows[2];
    _Alignas(64) float copy[TILE_ROWS * MB_COLUMNS];
};

static void find_sums(const struct shape *shape, int64_t t, float *strip, struct sums *sums)
{
    for (int i = 0; i < 2; i++) {
        const int64_t first = (t + i) * shape->height;
        sums->rows[i] = mb_min(shape->height, shape->m - first);
        sums->lie[i] = strip + first * MB_COLUMNS;
        sums->at[i] = sums->rows[i] == shape->height ? sums->lie[i] : sums->copy;
    }
}

INLINE void load_sums(const bool two, struct sums *sums)
{
    for (int i = 0; i <= two; i++) {
        if (sums->at[i] == sums->copy)
            memcpy(sums->copy, sums->lie[i], (size_t)(sums->rows[i] * MB_COLUMNS) * sizeof(float));
    }
    mb_amx_barrier();
    _tile_loadd(0, sums->at[0], MB_LINE_BYTES);
    _tile_loadd(1, sums->at[0] + MB_LANES, MB_LINE_BYTES);
    if (!two) return;
    _tile_loadd(2, sums->at[1], MB_LINE_BYTES);
    _tile_loadd(3, sums->at[1] + MB_LANES, MB_LINE_BYTES);
}

INLINE void store_sums(const bool two, struct sums *sums)
{
    _tile_stored(0, sums->at[0], MB_LINE_BYTES);
    _tile_stored(1, sums->at[0] + MB_LANES, MB_LINE_BYTES);
    if (two) {
        _tile_stored(2, sums->at[1], MB_LINE_BYTES);
        _tile_stored(3, sums->at[1] + MB_LANES, MB_LINE_BYTES);
    }
    mb_amx_barrier();
    for (int i = 0; i <= two; i++) {
        if (sums->at[i] == sums->copy)
            memcpy(sums->lie[i], sums->copy, (size_t)(sums->rows[i] * MB_COLUMNS) * sizeof(float));
    }
}

// sums = sums + scale * chain of a group, which the tiles hold.
INLINE void scale_sums(const bool two, const float *scales, struct sums *sums)
{
    _Alignas(64) float chains[2][TILE_ROWS * MB_COLUMNS];
    _tile_stored(0, chains[0], MB_LINE_BYTES);
    _tile_stored(1, chains[0] + MB_LANES, MB_LINE_BYTES);
    if (two) {
        _tile_stored(2, chains[1], MB_LINE_BYTES);
        _tile_stored(3, chains[1] + MB_LANES, MB_LINE_BYTES);
    }
    mb_amx_barrier();
    for (int i = 0; i <= two; i++) {
        for (int64_t at = 0; at < sums->rows[i] * MB_COLUMNS; at += MB_LANES) {
            const mb_v product = mb_v_mul(mb_v_load(scales + at % MB_COLUMNS), mb_v_load(chains[i] + at));
            mb_v_store(sums->lie[i] + at, mb_v_add(mb_v_load(sums->lie[i] + at), product));
        }
    }
}

// --- chunks ---------------------------------------------------------------------------------------------------------

// A chunk of a strip for all rows.
struct chunk {
    struct span span;
    const float *scales; // [groups][MB_COLUMNS], or NULL
    int64_t group_blocks;
};

INLINE void run_pair(const bool two, const struct chunk *chunk, struct span *span, struct sums *sums)
{
    const int64_t blocks = span->blocks;
    if (!chunk->scales) {
        load_sums(two, sums);
        multiply(two, span);
        store_sums(two, sums);
        return;
    }
    struct span part = *span;
    const float *scales = chunk->scales;
    for (int64_t b = 0; b < blocks; b += chunk->group_blocks, scales += MB_COLUMNS) {
        part.weights = span->weights + b * BLOCK_BYTES;
        part.blocks = mb_min(chunk->group_blocks, blocks - b);
        for (int i = 0; i < 2; i++) part.rows[i] = span->rows[i] + b * span->row_step;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        multiply(two, &part);
        scale_sums(two, scales, sums);
    }
    span->ahead = part.ahead;
}

static void run_strip(const struct shape *shape, const struct chunk *chunk, const uint8_t *rows, float *strip)
{
    struct span span = chunk->span;
    const int64_t tile = shape->height * ROW_BYTES;
    span.row_step = shape->tiles * tile;
    mb_amx_barrier();
    for (int64_t t = 0; t < shape->tiles; t += 2) {
        struct sums sums;
        find_sums(shape, t, strip, &sums);
        span.rows[0] = rows + t * tile;
        span.rows[1] = span.rows[0] + tile;
        if (t + 1 < shape->tiles) {
            run_pair(true, chunk, &span, &sums);
        } else {
            run_pair(false, chunk, &span, &sums);
        }
    }
}

// Inputs [k0, k0 + count) of the rows, [blocks][tiles][height][BLOCK]. Beyond them -0: with a weight of zero the
// product is -0, which changes no sum.
static void prepare_rows(const struct shape *shape, const struct mb_rows *rows, int64_t r0, int64_t k0, int64_t count,
                         uint8_t *to)
{
    const int64_t step = shape->tiles * shape->height * ROW_BYTES, blocks = mb_ceil_div(count, BLOCK);
    for (int64_t r = 0; r < shape->tiles * shape->height; r++, to += ROW_BYTES) {
        const uint16_t *from = (const uint16_t *)rows->row[r0 + mb_min(r, shape->m - 1)] + k0;
        for (int64_t b = 0; b < blocks; b++) {
            uint16_t *block = (uint16_t *)(void *)(to + b * step);
            const int64_t inputs = mb_min(BLOCK, count - b * BLOCK);
            memcpy(block, from + b * BLOCK, (size_t)inputs * 2);
            for (int64_t i = inputs; i < BLOCK; i++) block[i] = 0x8000;
        }
    }
}

// Which inputs are a chunk, and where its codes lie in a strip.
struct walk {
    const struct mb_packing *packing;
    struct mb_fma_layout layout;
    struct shape shape;
    int64_t k0, count, line; // inputs; bytes of lines
    bool direct;             // codes are weights
};

static int64_t chunk_inputs(const struct walk *walk)
{
    const struct mb_packing *packing = walk->packing;
    const bool few = walk->shape.m <= MB_BF16_ROWS_FEW;
    const int64_t most = !few ? CHUNK : walk->direct ? MB_BF16_FEW : CHUNK_EXPANDED;
    const int64_t left = packing->k - walk->k0;
    if (packing->group > most) return mb_min(mb_min(most, left), packing->group - walk->k0 % packing->group);
    return mb_min(packing->group ? most / packing->group * packing->group : most, left);
}

static ptrdiff_t code_bytes(const struct walk *walk, int64_t inputs)
{
    return mb_ceil_div(inputs, walk->layout.line_inputs) * (ptrdiff_t)MB_LINE_BYTES;
}

// What a strip's tiles fetch: its own codes a little ahead and then those `next` has, or the next ones' codes, spread
// over all tiles.
static void plan_fetching(const struct walk *walk, const uint8_t *codes, const uint8_t *next, struct span *span)
{
    const int64_t passes = mb_ceil_div(walk->shape.tiles, 2);
    const ptrdiff_t bytes = code_bytes(walk, walk->count);
    span->turn = NULL;
    if (walk->direct && passes == 1) {
        span->pace = BLOCK_BYTES;
        span->turn = codes + bytes / BLOCK_BYTES * BLOCK_BYTES;
        span->ahead = bytes > AHEAD ? codes + AHEAD : span->turn;
        span->after = next;
        return;
    }
    span->pace = (ptrdiff_t)mb_round_up((size_t)mb_ceil_div(bytes, passes * span->blocks), 64);
    span->ahead = next;
}

// A strip's weights of the chunk as lines of pairs: where they lie, or in the scratch.
static const uint8_t *lines_of(const struct walk *walk, const uint8_t *strip, const uint8_t *codes,
                               const struct mb_fma_scratch *scratch)
{
    const int64_t blocks = mb_ceil_div(walk->count, BLOCK);
    uint8_t *to = (uint8_t *)scratch->weights;
    if (walk->direct) {
        if (walk->count % BLOCK == 0) return codes;
        const size_t bytes = (size_t)code_bytes(walk, walk->count);
        memcpy(to, codes, bytes); // the last block
        memset(to + bytes, 0, (size_t)(blocks * BLOCK_BYTES) - bytes);
        return to;
    }
    const int64_t group = walk->packing->group;
    const uint8_t *factors = strip + walk->layout.factors + (group ? walk->k0 / group : 0) * MB_COLUMNS;
    float *floats = scratch->weights + CHUNK_EXPANDED * MB_COLUMNS / 2;
    mb_amx_pairs(walk->packing, codes, factors, walk->count, to, floats);
    return to;
}

static void run_chunk(const struct walk *walk, const uint8_t *first, int64_t strips, float *sums,
                      const struct mb_fma_scratch *scratch)
{
    const struct mb_packing *packing = walk->packing;
    const bool scaled = walk->layout.chain && !walk->layout.late;
    for (int64_t s = 0; s < strips; s++) {
        const uint8_t *strip = first + (size_t)s * walk->layout.strip_bytes,
                      *codes = strip + code_bytes(walk, walk->k0);
        const uint8_t *next =
            s + 1 < strips ? codes + walk->layout.strip_bytes : first + code_bytes(walk, walk->k0 + walk->count);
        struct chunk chunk = {
            .span = {.weights = lines_of(walk, strip, codes, scratch), .blocks = mb_ceil_div(walk->count, BLOCK)}};
        if (scaled) {
            chunk.scales =
                (const float *)(const void *)(strip + walk->layout.scales) + walk->k0 / packing->group * MB_COLUMNS;
            chunk.group_blocks = mb_ceil_div(packing->group, BLOCK);
        }
        plan_fetching(walk, codes, next, &chunk.span);
        run_strip(&walk->shape, &chunk, (const uint8_t *)scratch->x, sums + s * walk->shape.m * MB_COLUMNS);
    }
}

bool mb_amx_has_tiles(const struct mb_packing *packing)
{
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    const int64_t whole = layout.chain && !layout.late ? BLOCK : 8; // inputs: blocks of a chain, or lines
    return packing->even_odd && (packing->group >= packing->k || packing->group % whole == 0);
}

void mb_amx_bf16x2_sums(const struct mb_packing *packing, const void *packed, int64_t panel, int64_t panels,
                        const struct mb_rows *rows, int64_t r0, int64_t m, const struct mb_fma_scratch *scratch)
{
    struct walk walk = {.packing = packing,
                        .layout = mb_fma_layout_of(packing),
                        .shape = shape_of(m),
                        .direct = packing->format == MB_PACKED_BF16};
    const int64_t strips = panels * packing->parts;
    const uint8_t *first = (const uint8_t *)packed + (size_t)panel * walk.layout.panel_bytes;
    if (m < LEAST_ROWS) {
        mb_avx512_sums(packing, packed, panel, panels, rows, r0, m, false, scratch);
        return;
    }
    const bool own_chains = has_own_chains(packing, &walk.layout);
    float *chains = own_chains ? scratch->chains : scratch->sums;
    memset(scratch->sums, 0, (size_t)(strips * m * MB_COLUMNS) * sizeof(float));
    if (own_chains) memset(chains, 0, (size_t)(strips * m * MB_COLUMNS) * sizeof(float));
    use_tiles_of(walk.shape.height);
    for (; walk.k0 < packing->k; walk.k0 += walk.count) {
        walk.count = chunk_inputs(&walk);
        prepare_rows(&walk.shape, rows, r0, walk.k0, walk.count, (uint8_t *)scratch->x);
        run_chunk(&walk, first, strips, chains, scratch);
        const int64_t end = walk.k0 + walk.count;
        if (walk.layout.late && (end == packing->k || end % walk.layout.chain == 0))
            end_chains(packing, first, strips, walk.k0 / walk.layout.chain, m, chains, scratch->sums);
    }
}
