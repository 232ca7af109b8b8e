// SPDX-License-Identifier: Apache-2.0
// Level `avx512bf16`: its packing and what its files share. A panel is two strips of 32 outputs: the gate and the up
// strip of 32 outputs, or 64 outputs of a single part. A strip is one sequential stream of lines; 16-bit lane 2c + h of
// a line belongs to column c and, of the pair of inputs k, k + 1, to k + 1 for h = 0 and to k for h = 1: the dot
// instruction adds the product of the high halves first, so that its sums are chains over ascending k.
//   BF16: 128 bytes a pair: columns 0..15, then 16..31
//   FP8:  64 bytes a pair; then the scales: one float32 a group where all 32 columns agree (else a mark), and behind
//         those 32 a group
//   FP4:  blocks of 64 inputs: 16 lines of 64 bytes, each 32 columns x 4 inputs (nibbles of a lane: columns 0..15 and
//         16..31 of the first pair, of the second), then 2 x 32 bytes 252 - exponent
#ifndef MB_KERNELS_AVX512BF16_LAYOUT_H
#define MB_KERNELS_AVX512BF16_LAYOUT_H

#include <immintrin.h>

#include "base/arith.h"
#include "kernels/kernels.h"

#if defined(__clang__)
#define MB_UNROLL _Pragma("clang loop unroll(full)")
#else
#define MB_UNROLL _Pragma("GCC unroll 16")
#endif
#define MB_INLINE static inline __attribute__((always_inline))

enum {
    MB_STRIP = 32,
    MB_PANEL = 64,
    MB_CHUNK = 1024, // inputs walked at a time: a panel's part of them stays in the second-level cache
    MB_CHUNK_PAIRS = MB_CHUNK / 2,
    MB_X_STRIDE = MB_CHUNK_PAIRS + 16, // pairs between rows of scratch; the offset spreads them over cache sets
    MB_ROWS = 192,                     // rows that share a chunk
    MB_FP8_PAIRS = 64,                 // a group of 128 inputs
    MB_FP4_BLOCK = 64,
    MB_FP4_BLOCK_BYTES = 17 * 64,
    MB_FP4_TOP = 252, // exponents above make infinities, which the fast decoding cannot
    MB_AHEAD = 2048   // bytes that expansion fetches ahead
};
#define MB_MIXED_SCALES 0xffffffffu // a NaN that stands for "the columns' scales differ"

struct mb_strip_layout {
    int64_t pairs, groups;
    size_t scales; // FP8: offset of the groups' scales
    size_t full;   // FP8: offset of the columns' scales
    size_t strip_bytes;
};

static inline struct mb_strip_layout mb_strip_layout_of(const struct mb_packing *packing)
{
    struct mb_strip_layout layout = {.pairs = mb_ceil_div(packing->k, 2)};
    const size_t pairs = (size_t)layout.pairs;
    if (packing->format == MB_PACKED_BF16) {
        layout.strip_bytes = pairs * 128;
    } else if (packing->format == MB_PACKED_FP8) {
        layout.groups = mb_ceil_div(packing->k, 2 * MB_FP8_PAIRS);
        layout.scales = pairs * 64;
        layout.full = layout.scales + mb_round_up((size_t)layout.groups * sizeof(float), 64);
        layout.strip_bytes = layout.full + (size_t)layout.groups * MB_STRIP * sizeof(float);
    } else {
        layout.groups = mb_ceil_div(packing->k, 32);
        layout.strip_bytes = (size_t)mb_ceil_div(packing->k, MB_FP4_BLOCK) * MB_FP4_BLOCK_BYTES;
    }
    return layout;
}

// Outputs of a panel.
static inline int64_t mb_panel_columns(const struct mb_packing *packing) { return MB_PANEL / packing->parts; }

// Part of the strips of a tile: the weights of one chunk where the tile reads them, and the rows they meet. Strips 0
// and 1 are a panel (or strip 0 either of it), 2 and 3 the next.
struct mb_span {
    const uint8_t *weights[4]; // of each strip
    int64_t pairs;
    const uint32_t *x;      // row r at x + r * MB_X_STRIDE, pairs turned; float32 rows: r * 2 * MB_X_STRIDE
    float *sums;            // [rows][MB_PANEL]
    int64_t panel_sums;     // floats from a panel's sums to the next panel's
    const uint8_t *next;    // many rows: a line to fetch with each line read
    const float *scales[4]; // FP8: of the groups
    const float *full[4];   // FP8: of the columns
    __m512i *top;           // FP4: largest 252 - exponent so far, modulo 256
};

MB_INLINE __m512 mb_dot(__m512 sum, __m512i x, __m512i weights)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)weights);
}
MB_INLINE __m512i mb_pair(const uint32_t *x) { return _mm512_set1_epi32((int32_t)*x); }

// Scales of columns [16 v, 16 v + 16) of strip s for group g.
MB_INLINE __m512 mb_scale(const struct mb_span *span, int s, int64_t g, int v)
{
    const float scale = span->scales[s][g];
    uint32_t bits;
    __builtin_memcpy(&bits, &scale, sizeof bits);
    if (bits == MB_MIXED_SCALES) return _mm512_loadu_ps(span->full[s] + g * MB_STRIP + 16 * v);
    return _mm512_set1_ps(scale);
}

// Codes to bf16 pairs.
struct mb_fp8_tables {
    __m512i high[2], low[2]; // bytes of the bf16 of the 128 magnitudes
};
extern const uint8_t mb_fp8_high[128], mb_fp8_low[128];
extern const uint16_t mb_fp4_values[32];

MB_INLINE struct mb_fp8_tables mb_fp8_tables_load(void)
{
    return (struct mb_fp8_tables){{_mm512_loadu_si512(mb_fp8_high), _mm512_loadu_si512(mb_fp8_high + 64)},
                                  {_mm512_loadu_si512(mb_fp8_low), _mm512_loadu_si512(mb_fp8_low + 64)}};
}
MB_INLINE void mb_fp8_decode(const struct mb_fp8_tables *t, const uint8_t *line, __m512i *w0, __m512i *w1)
{
    const __m512i q = _mm512_loadu_si512(line);
    const __m512i magnitude = _mm512_permutex2var_epi8(t->high[0], q, t->high[1]);
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, q, _mm512_set1_epi8((char)0x80), 0xf8);
    const __m512i low = _mm512_permutex2var_epi8(t->low[0], q, t->low[1]);
    *w0 = _mm512_unpacklo_epi8(low, high);
    *w1 = _mm512_unpackhi_epi8(low, high);
}

// Exponent steps of columns [16 v, 16 v + 16) for group g of a block, in both halves of each lane, at bit 7.
MB_INLINE __m512i mb_fp4_steps(const uint8_t *line, int g, int v)
{
    const __m512i bytes =
        _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(line + 32 * g + 16 * v)));
    return _mm512_or_si512(_mm512_slli_epi32(bytes, 7), _mm512_slli_epi32(bytes, 23));
}
// Shifts of constants, whatever type the compiler's own function wants for them.
typedef uint16_t mb_lanes16 __attribute__((vector_size(64)));
MB_INLINE __m512i mb_shift_right(__m512i lanes, int bits) { return (__m512i)((mb_lanes16)lanes >> bits); }

MB_INLINE __m512i mb_fp4_decode(__m512i codes, __m512i values, __m512i steps)
{
    return _mm512_subs_epu16(_mm512_permutexvar_epi16(codes, values), steps);
}

// Tiles: sums of some rows and one, two or four strips; all continue the chains in `sums`, FP8 ones with group chains
// of their own. Few rows: the fewer, the more strips, for enough independent chains; codes come from memory, and tiles
// fetch them ahead. Many: tiles fetch what comes after the present chunk into the second-level cache.
typedef void (*mb_tile)(const struct mb_span *span);
enum { MB_TILE_ROWS = 12, MB_WIDE_ROWS = 6, MB_SHAPES = 3, MB_FOUR_STRIPS_ROWS = 2 };
struct mb_tiles {
    mb_tile few[MB_SHAPES][MB_TILE_ROWS + 1]; // of 1 << shape strips
    int wide_rows;                            // rows that take two strips at a time
    mb_tile many[MB_TILE_ROWS + 1];
    int many_strips, many_rows;
    int line_pairs; // pairs in a line
};
extern const struct mb_tiles mb_tiles_bf16, mb_tiles_fp8, mb_tiles_fp4;
// float32 rows on bf16 pairs: [scaled][products and sums rounded separately].
extern const mb_tile mb_tiles_f32[2][2][MB_WIDE_ROWS + 1];

// expand.c: a chunk of a strip as bf16 pairs, 128 bytes each.
void mb_expand_fp8(const uint8_t *codes, int64_t pairs, uint8_t *to);
// Any exponents; blocks are whole. The tiles that decode in registers take -0 for 0, which only shows where a sum has
// become -0 by underflow; what bf16 rows meet must do the same, whatever their number.
void mb_expand_fp4(const uint8_t *blocks, int64_t pairs, bool signed_zeros, uint8_t *to);

// panel.c: what gate_up and project have in common: sums of panels [p0, p1) for all rows, given to `finish` row block
// by row block.
struct mb_walk {
    const struct mb_packing *packing;
    const void *packed;
    const struct mb_rows *rows;
    int64_t p0, p1;
    bool separate;
    void *scratch;
    void (*finish)(const void *call, int64_t panel, int64_t r0, int64_t m, const float *sums);
    const void *call;
};
void mb_walk_panels(const struct mb_walk *walk);
size_t mb_walk_scratch(const struct mb_packing *packing, int64_t m);

size_t mb_avx512bf16_packed_bytes(const struct mb_packing *packing);
void mb_avx512bf16_pack(const struct mb_packing *packing, void *packed, const struct mb_piece *piece);
// mb_activation_apply in wide vectors; may change gate and up, which do not overlap out.
void mb_avx512bf16_activate(const struct mb_activation *activation, float *gate, float *up, float *out, int64_t n);
void mb_avx512bf16_gate_up(const struct mb_gate_up_call *call);
void mb_avx512bf16_project(const struct mb_project_call *call);

#endif
