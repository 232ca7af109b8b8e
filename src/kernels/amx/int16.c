// SPDX-License-Identifier: Apache-2.0
// Sums of many int16 rows as products of bfloat16 tiles. A row's integer times its scale is a bfloat16 of its first
// eight bits and one of the others; a weight's integer times its scale is a bfloat16. All products, and all their sums
// over a group in any order, are then multiples of the two scales' product below 2^24 times it: float32 holds them
// exactly, and the tile's sum is what the definition adds. Scales that are no powers of two, or whose products could
// leave float32's range, go the way of `avx512vnni`.
#include "kernels/int16.h"

#include <string.h>

#include "base/float.h"
#include "kernels/amx/tiles.h"
#include "kernels/amx/vector.h"

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))

enum {
    GROUP = MB_INT16_GROUP,
    GROUPS = MB_CHUNK / GROUP, // of a chunk
    PAIRS = GROUP / 2,
    LINE_INPUTS = 8,
    LINE_PAIRS = LINE_INPUTS / 2,
    GROUP_LINES = GROUP / LINE_INPUTS,
    GROUP_BYTES = GROUP_LINES * MB_COLUMNS * 4,
    TILE_ROWS = 16,
    TILE_BYTES = TILE_ROWS * 64, // of weights: 16 pairs of inputs, 16 columns
    ROW_BYTES = 2 * 64,          // of a row and group: first bits, other bits
    LEAST_ROWS = 24,             // fewer go the way of `avx512vnni`
};
_Static_assert(GROUPS *ROW_BYTES <= MB_X_STRIDE * sizeof(float), "row of scratch");
_Static_assert(MB_STRIP_VECTORS *GROUPS *TILE_BYTES <= MB_CHUNK * MB_COLUMNS * sizeof(float), "strip of scratch");

// --- tiles ----------------------------------------------------------------------------------------------------------

// Tiles 0 and 1 are the rows' first and other bits, 2 weights, 3 and 4 sums.
static void use_tiles_of(int64_t rows)
{
    struct mb_amx_shape shape = {.palette = 1};
    for (int i = 0; i < 5; i++) shape.row_bytes[i] = 64, shape.rows[i] = i == 2 ? PAIRS : (uint8_t)rows;
    mb_amx_use(&shape);
}

// Operands of a group's products for up to 16 rows and 16 columns.
struct product {
    const uint8_t *rows, *weights;
};

// Two functions, as the number of a tile is part of its instructions.
INLINE void multiply_even(struct product p)
{
    _tile_loadd(2, p.weights, 64);
    _tile_loadd(0, p.rows, ROW_BYTES);
    _tile_loadd(1, p.rows + 64, ROW_BYTES);
    _tile_zero(3);
    _tile_dpbf16ps(3, 0, 2);
    _tile_dpbf16ps(3, 1, 2);
}

INLINE void multiply_odd(struct product p)
{
    _tile_loadd(2, p.weights, 64);
    _tile_loadd(0, p.rows, ROW_BYTES);
    _tile_loadd(1, p.rows + 64, ROW_BYTES);
    _tile_zero(4);
    _tile_dpbf16ps(4, 0, 2);
    _tile_dpbf16ps(4, 1, 2);
}

// Rows x 32 columns of one strip continue their sums over a chunk of groups.
struct block {
    const uint8_t *rows, *weights; // [groups][m][ROW_BYTES], [vectors][groups][TILE_BYTES]
    int64_t row_group;             // bytes between the rows' groups
    int64_t groups;
    float *sums;         // [rows][MB_COLUMNS]
    const uint8_t *next; // codes to fetch meanwhile, `pace` bytes a group and 16 columns
    int64_t pace;
};
typedef void (*block_call)(const struct block *block);

// The operands of group g. What comes next of the codes is fetched meanwhile.
INLINE struct product product_of(const struct block *block, int v, int64_t g)
{
    const struct product product = {.rows = block->rows + g * block->row_group,
                                    .weights = block->weights + (v * GROUPS + g) * TILE_BYTES};
    const uint8_t *next = block->next + (v * block->groups + g) * block->pace;
    for (int64_t byte = 0; byte < block->pace; byte += 64) __builtin_prefetch(next + byte, 0, 2);
    return product;
}

INLINE void add_tile(const int rows, mb_v sums[TILE_ROWS], float (*tile)[MB_LANES])
{
    UNROLL
    for (int r = 0; r < rows; r++) sums[r] = mb_v_add(sums[r], mb_v_load(tile[r]));
}

// Sums of 16 columns stay in registers. A group's products are stored while the next ones are computed, and added
// after that.
INLINE void run_block(const int rows, const struct block *block)
{
    _Alignas(64) float even[TILE_ROWS][MB_LANES], odd[TILE_ROWS][MB_LANES];
    const int64_t groups = block->groups;
    for (int v = 0; v < MB_STRIP_VECTORS; v++) {
        mb_v sums[TILE_ROWS];
        UNROLL
        for (int r = 0; r < rows; r++) sums[r] = mb_v_load(block->sums + r * MB_COLUMNS + v * MB_LANES);
        multiply_even(product_of(block, v, 0));
        for (int64_t g = 1; g < groups; g += 2) {
            multiply_odd(product_of(block, v, g));
            if (g > 1) add_tile(rows, sums, odd);
            _tile_stored(3, even, 64);
            if (g + 1 < groups) multiply_even(product_of(block, v, g + 1));
            add_tile(rows, sums, even);
            _tile_stored(4, odd, 64);
        }
        if (groups > 1) add_tile(rows, sums, odd);
        if (groups % 2) {
            _tile_stored(3, even, 64);
            add_tile(rows, sums, even);
        }
        UNROLL
        for (int r = 0; r < rows; r++) mb_v_store(block->sums + r * MB_COLUMNS + v * MB_LANES, sums[r]);
    }
}

#define BLOCK(ROWS)                                                                                                    \
    static void block_##ROWS(const struct block *block) { run_block(ROWS, block); }
BLOCK(1)
BLOCK(2)
BLOCK(3)
BLOCK(4)
BLOCK(5)
BLOCK(6)
BLOCK(7)
BLOCK(8)
BLOCK(9)
BLOCK(10)
BLOCK(11)
BLOCK(12)
BLOCK(13)
BLOCK(14)
BLOCK(15)
BLOCK(16)
static const block_call blocks[TILE_ROWS] = {block_1,  block_2,  block_3,  block_4,  block_5,  block_6,
                                             block_7,  block_8,  block_9,  block_10, block_11, block_12,
                                             block_13, block_14, block_15, block_16};

// --- operands -------------------------------------------------------------------------------------------------------

// A group of a row: integers times `scale`, as bfloat16 of the first eight bits and of what they leave.
INLINE void split_group(const int16_t *integers, float scale, uint8_t *to)
{
    const __m512i odd_words = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29,
                                               27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    mb_u first[2], other[2];
    UNROLL
    for (int i = 0; i < 2; i++) {
        const __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)(integers + i * MB_LANES));
        const mb_v value = mb_v_mul(mb_v_all(scale), _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(half)));
        first[i] = _mm512_castps_si512(value);
        other[i] = _mm512_castps_si512(mb_v_sub(value, mb_v_bf16_high(first[i])));
    }
    mb_u_store(to, _mm512_permutex2var_epi16(first[0], odd_words, first[1]));
    mb_u_store(to + 64, _mm512_permutex2var_epi16(other[0], odd_words, other[1]));
}

static void split_rows(const struct mb_packing *packing, const struct mb_rows *rows, int64_t r0, int64_t m, int64_t g0,
                       int64_t groups, uint8_t *to)
{
    for (int64_t r = 0; r < m; r++, to += ROW_BYTES) {
        const char *row = rows->row[r0 + r];
        const float *scales = (const float *)(const void *)(row + mb_int16_scales_at(packing->k)) + g0;
        const int16_t *integers = (const int16_t *)(const void *)row + g0 * GROUP;
        for (int64_t g = 0; g < groups; g++) split_group(integers + g * GROUP, scales[g], to + g * m * ROW_BYTES);
    }
}

// Pairs of 16 columns of a group's weights, zeros beyond its lines. What their scale is less than 1 leaves the
// exponents, and zero stays zero; so does everything with exponent 0, a denormal scale.
INLINE void expand_group(const uint8_t *from, int64_t lines, const uint8_t *exponents, uint8_t *to)
{
    // Bits of 0, 1, 2, 3, 4, 6, 8, 12 and their negatives, -0 as 0, twice: look-ups use five bits.
    const __m256i once = _mm256_setr_epi16(0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40c0, 0x4100, 0x4140, 0, -0x4080,
                                           -0x4000, -0x3fc0, -0x3f80, -0x3f40, -0x3f00, -0x3ec0);
    const mb_u values = _mm512_broadcast_i64x4(once);
    const mb_u bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)exponents));
    const mb_u less = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(127), bytes), 7);
    const mb_u both = _mm512_or_si512(_mm512_slli_epi32(less, 16), less);
    const mb_u lower = _mm512_mask_set1_epi32(both, _mm512_testn_epi32_mask(bytes, bytes), -1);
    for (int64_t i = 0; i < lines; i++, from += MB_COLUMNS * 4) {
        const mb_u codes = mb_u_load(from);
        UNROLL
        for (int pair = 0; pair < LINE_PAIRS; pair++, to += 64) {
            const mb_u weights = _mm512_permutexvar_epi16(_mm512_srli_epi32(codes, (unsigned)(4 * pair)), values);
            mb_u_store(to, _mm512_subs_epu16(weights, lower));
        }
    }
    memset(to, 0, (size_t)(GROUP_LINES - lines) * LINE_PAIRS * 64);
}

// A chunk of a strip: `lines` lines of codes, [vectors][groups][TILE_BYTES].
static void expand(const uint8_t *from, int64_t lines, const uint8_t *exponents, int64_t groups, uint8_t *to)
{
    for (int64_t g = 0; g < groups; g++, from += GROUP_BYTES, exponents += MB_COLUMNS) {
        const int64_t count = mb_min(GROUP_LINES, lines - g * GROUP_LINES);
        for (int v = 0; v < MB_STRIP_VECTORS; v++)
            expand_group(from + v * MB_LANES * 4, count, exponents + v * MB_LANES, to + (v * GROUPS + g) * TILE_BYTES);
    }
}

// --- which products tiles can hold ----------------------------------------------------------------------------------

// Exponent fields of scales, least and largest; of zeros none.
struct range {
    int least, largest;
};

static void widen(struct range *range, int exponent)
{
    if (exponent < range->least) range->least = exponent;
    if (exponent > range->largest) range->largest = exponent;
}

// 255 where a scale is no power of two.
static struct range range_of_rows(const struct mb_packing *packing, const struct mb_rows *rows, int64_t r0, int64_t m)
{
    struct range range = {255, 0};
    const int64_t groups = mb_int16_groups(packing->k);
    for (int64_t r = r0; r < r0 + m; r++) {
        const char *scales = (const char *)rows->row[r] + mb_int16_scales_at(packing->k);
        uint32_t least = 255u << 23, largest = 0, fractions = 0;
        for (int64_t g = 0; g < groups; g++) {
            uint32_t bits;
            memcpy(&bits, scales + (size_t)g * sizeof bits, sizeof bits);
            const uint32_t some = bits ? bits : 255u << 23;
            least = some < least ? some : least;
            largest = bits > largest ? bits : largest; // a sign makes it large
            fractions |= bits & 0x807fffffu;
        }
        if (fractions) largest = 255u << 23;
        if (largest) widen(&range, (int)(least >> 23)), widen(&range, (int)(largest >> 23));
    }
    return range;
}

static struct range range_of_strips(const struct mb_packing *packing, const uint8_t *first, int64_t strips)
{
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    const int64_t count = mb_packed_groups(packing) * MB_COLUMNS;
    uint8_t least = 254, largest = 0; // least of exponent - 1: zeros come last
    for (int64_t s = 0; s < strips; s++, first += layout.strip_bytes) {
        const uint8_t *exponents = first + layout.factors;
        for (int64_t i = 0; i < count; i++) {
            const uint8_t before = (uint8_t)(exponents[i] - 1);
            least = before < least ? before : least;
            largest = exponents[i] > largest ? exponents[i] : largest;
        }
    }
    return (struct range){least + 1, largest};
}

// No weights' scale is above 1, no sum of integers (below 2^24) times both scales leaves float32's range, and the least
// product is no denormal.
static bool fits(struct range rows, struct range weights)
{
    return rows.largest < 255 && weights.largest <= 127 && rows.largest + weights.largest <= 357 &&
           rows.least + weights.least >= 128;
}

// --- sums -----------------------------------------------------------------------------------------------------------

// All rows of a chunk of one strip, in tiles of nearly equal height.
static void run_strip(struct block block, int64_t m)
{
    const int64_t tiles = mb_ceil_div(m, TILE_ROWS);
    block.pace = mb_ceil_div(GROUP_BYTES, tiles * MB_STRIP_VECTORS);
    for (int64_t t = 0, r = 0, height, before = 0; t < tiles; t++, r += height, before = height) {
        height = mb_ceil_div(m - r, tiles - t);
        if (height != before) use_tiles_of(height);
        blocks[height - 1](&block);
        block.rows += height * ROW_BYTES;
        block.sums += height * MB_COLUMNS;
        block.next += block.groups * MB_STRIP_VECTORS * block.pace;
    }
}

void mb_amx_int16_sums(const struct mb_packing *packing, const void *packed, int64_t panel, int64_t panels,
                       const struct mb_rows *rows, int64_t r0, int64_t m, const struct mb_fma_scratch *scratch)
{
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    const int64_t strips = panels * packing->parts, all = mb_packed_groups(packing);
    const uint8_t *first = (const uint8_t *)packed + (size_t)panel * layout.panel_bytes;
    if (m < LEAST_ROWS || !fits(range_of_rows(packing, rows, r0, m), range_of_strips(packing, first, strips))) {
        mb_avx512vnni_int16_sums(packing, packed, panel, panels, rows, r0, m, scratch);
        return;
    }
    uint8_t *x = (uint8_t *)scratch->x, *weights = (uint8_t *)scratch->weights;
    memset(scratch->sums, 0, (size_t)(strips * m * MB_COLUMNS) * sizeof(float));
    for (int64_t g0 = 0; g0 < all; g0 += GROUPS) {
        const int64_t groups = mb_min(GROUPS, all - g0);
        const int64_t lines = mb_min(groups * GROUP_LINES, mb_ceil_div(packing->k, LINE_INPUTS) - g0 * GROUP_LINES);
        const uint8_t *first_next = first + (size_t)(g0 + groups) * GROUP_BYTES; // after the last strip
        split_rows(packing, rows, r0, m, g0, groups, x);
        for (int64_t s = 0; s < strips; s++) {
            const uint8_t *strip = first + (size_t)s * layout.strip_bytes;
            const uint8_t *codes = strip + (size_t)g0 * GROUP_BYTES;
            expand(codes, lines, strip + layout.factors + (size_t)(g0 * MB_COLUMNS), groups, weights);
            mb_amx_barrier();
            run_strip((struct block){.rows = x,
                                     .weights = weights,
                                     .row_group = m * ROW_BYTES,
                                     .groups = groups,
                                     .sums = scratch->sums + s * m * MB_COLUMNS,
                                     .next = s + 1 < strips ? codes + layout.strip_bytes : first_next},
                      m);
        }
    }
    _tile_release();
}
