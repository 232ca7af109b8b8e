// SPDX-License-Identifier: Apache-2.0
// Level `avx512bf16`: its packing and what its files share. A panel is two strips of 32 outputs: the gate and the up
// strip of 32 outputs, or 64 outputs of a single part. A strip is one sequential stream of lines; 16-bit lane 2c + h of
// a line belongs to column c and, of the pair of inputs k, k + 1, to k + 1 for h = 0 and to k for h = 1: the dot
// instruction adds the product of the high halves first, so that its sums are chains over ascending k.
//   BF16:             128 bytes a pair: columns 0..15, then 16..31
//   FP8, MXFP8, INT8: 64 bytes a pair
//   NVFP4, INT4:      64 bytes two pairs: nibbles of a lane are columns 0..15 and 16..31 of the first pair, of the
//   second FP4:              the same in blocks of 64 inputs: 16 lines, then 2 x 32 bytes 252 - exponent
// Behind the codes of all formats but BF16 and FP4 lie the groups' factors, 32 bytes a group, and their scales: one
// float32 a group where all 32 columns agree (else a mark), and behind those 32 a group, the first 64 bytes alone where
// all are bfloat16. Factors:
//   MXFP8  246 - exponent, modulo 256
//   NVFP4  the magnitude of the e4m3 factor with five bits for the exponent, 10 more than its own; its sign is in the
//          codes
//   INT4/8 the zero point
//
// Packing settles what the tiles could not decode. MXFP8: a group with a NaN code has exponent 255, code 0x7f is -0,
// and a weight that float32 holds as a denormal, which counts as zero everywhere, is zero. FP4: the same. NVFP4:
// weights whose factor is zero are zero; a NaN factor is 255. Inputs beyond k have codes that mean zero.
#ifndef MB_KERNELS_AVX512BF16_LAYOUT_H
#define MB_KERNELS_AVX512BF16_LAYOUT_H

#include <immintrin.h>

#include "base/arith.h"
#include "kernels/avx512bf16/tables.h"
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
    MB_FP4_BLOCK = 64,
    MB_FP4_BLOCK_BYTES = 17 * 64,
    // Exponents above make infinities, which the fast decoding cannot, and so do NVFP4's NaN factors.
    MB_FP4_TOP = 252,
    MB_MXFP8_TOP = 246,
    MB_NVFP4_TOP = 254,
    MB_AHEAD = 2048 // bytes that expansion fetches ahead
};
// NaNs that stand for "the columns' scales differ", as float32 or, in half the room, as bfloat16
#define MB_MIXED_SCALES 0xffffffffu
#define MB_BF16_SCALES 0xfffffffeu

struct mb_strip_layout {
    int64_t pairs;
    int64_t line_pairs, line_bytes;
    int64_t group_pairs; // of a factor or a scale; all where there is one group or none
    int64_t chunk_pairs; // walked at a time: whole groups, or parts of the only one
    bool late;           // the scale of the whole row is applied behind the tiles
    size_t factors;      // offsets of the groups' factors,
    size_t scales;       // of their scales
    size_t full;         // and of the columns' scales
    size_t strip_bytes;
};

// Whether a matrix is computed here: groups are whole lines and end with chunks. Those that are no multiple of 8 have
// other arithmetic on float32 rows, level `generic`'s, at all levels.
static inline bool mb_has_tiles(const struct mb_packing *packing)
{
    const enum mb_packed_format format = packing->format;
    if (packing->int16 || packing->even_odd || format == MB_PACKED_F32 || format == MB_PACKED_F16) return false;
    return packing->group >= packing->k || (packing->group <= MB_CHUNK && packing->group % 8 == 0);
}

static inline struct mb_strip_layout mb_strip_layout_of(const struct mb_packing *packing)
{
    const struct mb_packed_info info = mb_packed_info_of(packing->format);
    struct mb_strip_layout layout = {.pairs = mb_ceil_div(packing->k, 2), .line_pairs = 1, .line_bytes = 64};
    if (packing->format == MB_PACKED_BF16) layout.line_bytes = 128;
    if (info.code_bits == 4) layout.line_pairs = 2;
    const bool one = !packing->group || packing->group >= packing->k;
    layout.group_pairs = one ? mb_max(layout.pairs, 1) : packing->group / 2;
    layout.chunk_pairs = one ? MB_CHUNK_PAIRS : MB_CHUNK_PAIRS / layout.group_pairs * layout.group_pairs;
    layout.strip_bytes = (size_t)(mb_ceil_div(layout.pairs, layout.line_pairs) * layout.line_bytes);
    if (packing->format == MB_PACKED_FP4) {
        layout.group_pairs = MB_FP4_BLOCK / 2;
        layout.chunk_pairs = MB_CHUNK_PAIRS;
        layout.strip_bytes = (size_t)mb_ceil_div(packing->k, MB_FP4_BLOCK) * MB_FP4_BLOCK_BYTES;
        return layout;
    }
    layout.late = info.scaled && mb_packed_chain(packing) >= packing->k;
    const size_t groups = (size_t)mb_ceil_div(layout.pairs, layout.group_pairs), chains = layout.late ? 1 : groups;
    layout.factors = layout.strip_bytes;
    layout.scales = layout.factors + (info.factors ? mb_round_up(groups * MB_STRIP, 64) : 0);
    layout.full = layout.scales + (info.scaled ? mb_round_up(chains * sizeof(float), 64) : 0);
    layout.strip_bytes = layout.full + (info.scaled ? chains * MB_STRIP * sizeof(float) : 0);
    return layout;
}

// Outputs of a panel.
static inline int64_t mb_panel_columns(const struct mb_packing *packing) { return MB_PANEL / packing->parts; }

// Part of the strips of a tile: the weights of one chunk where the tile reads them, and the rows they meet. Strips 0
// and 1 are a panel (or strip 0 either of it), 2 and 3 the next.
struct mb_span {
    const uint8_t *weights[4]; // of each strip
    int64_t pairs;
    int64_t group_pairs;       // at most `pairs`; FP4: of a block
    const uint32_t *x;         // row r at x + r * MB_X_STRIDE, pairs turned; float32 rows: r * 2 * MB_X_STRIDE
    float *sums;               // [rows][MB_PANEL]
    int64_t panel_sums;        // floats from a panel's sums to the next panel's
    const uint8_t *end;        // few rows: of the codes of strip 0
    const uint8_t *after;      // few rows: of what is read behind them, strip 0; NULL: nothing
    ptrdiff_t stride;          // few rows: from a strip to the one that is read behind it
    int64_t group, groups;     // few rows: the first one here of all of a strip
    const uint8_t *next;       // many rows: a line to fetch with each line read
    const uint8_t *factors[4]; // of the groups, MB_STRIP bytes each
    const float *scales[4];    // of the groups; NULL where tiles scale no chains
    const float *full[4];      // of the columns
    bool zen4;                 // what the processor is, see set_reaches
    __m512i *top;              // the largest factor of MXFP8, NVFP4 and FP4 (252 - exponent) so far
};

MB_INLINE __m512 mb_dot(__m512 sum, __m512i x, __m512i weights)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)weights);
}
MB_INLINE __m512i mb_pair(const uint32_t *x) { return _mm512_set1_epi32((int32_t)*x); }

MB_INLINE uint32_t mb_scale_bits(const struct mb_span *span, int s, int64_t g)
{
    uint32_t bits;
    __builtin_memcpy(&bits, span->scales[s] + g, sizeof bits);
    return bits;
}
MB_INLINE bool mb_scales_differ(const struct mb_span *span, int s, int64_t g)
{
    return mb_scale_bits(span, s, g) >= MB_BF16_SCALES;
}

// Scales of columns [16 v, 16 v + 16) of strip s for group g.
MB_INLINE __m512 mb_scale(const struct mb_span *span, int s, int64_t g, int v)
{
    const uint32_t bits = mb_scale_bits(span, s, g);
    const float *full = span->full[s] + g * MB_STRIP;
    if (bits == MB_MIXED_SCALES) return _mm512_loadu_ps(full + 16 * v);
    if (bits == MB_BF16_SCALES) {
        const __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)(full + 8 * v));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    }
    return _mm512_castsi512_ps(_mm512_set1_epi32((int32_t)bits));
}

// Codes to bf16 pairs (tables.c).
struct mb_e4m3_tables {
    __m512i high[2], low[2]; // bytes of the bf16 of 128 magnitudes
};
extern const uint8_t mb_mxfp8_high[128], mb_mxfp8_low[128]; // times 2^(MB_MXFP8_TOP - 127), 127 is zero
extern const uint16_t mb_fp4_values[32];                    // times 2^(MB_FP4_TOP - 127)
extern const uint16_t mb_nvfp4_values[32];                  // the same, with ones below a fraction
extern const uint16_t mb_int_values[32];                    // of five-bit integers with a sign

MB_INLINE struct mb_e4m3_tables mb_e4m3_load(const uint8_t *high, const uint8_t *low)
{
    return (struct mb_e4m3_tables){{_mm512_loadu_si512(high), _mm512_loadu_si512(high + 64)},
                                   {_mm512_loadu_si512(low), _mm512_loadu_si512(low + 64)}};
}
MB_INLINE void mb_e4m3_decode(const struct mb_e4m3_tables *t, const uint8_t *line, __m512i *w)
{
    const __m512i q = _mm512_loadu_si512(line);
    const __m512i magnitude = _mm512_permutex2var_epi8(t->high[0], q, t->high[1]);
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, q, _mm512_set1_epi8((char)0x80), 0xf8);
    const __m512i low = _mm512_permutex2var_epi8(t->low[0], q, t->low[1]);
    w[0] = _mm512_unpacklo_epi8(low, high);
    w[1] = _mm512_unpackhi_epi8(low, high);
}

// Shifts of constants, whatever type the compiler's own function wants for them.
typedef uint16_t mb_lanes16 __attribute__((vector_size(64)));
MB_INLINE __m512i mb_shift_right(__m512i lanes, int bits) { return (__m512i)((mb_lanes16)lanes >> bits); }

// 16 bytes, each in both halves of a lane, from bit `shift` on.
extern const uint8_t mb_byte_places[64];
MB_INLINE __m512i mb_bytes(const uint8_t *bytes, const int shift)
{
    const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)bytes));
    return (__m512i)((mb_lanes16)_mm512_shuffle_epi8(all, _mm512_loadu_si512(mb_byte_places)) << shift);
}

// The sign bits of nibble j of each lane to the bf16 that expansion stored.
MB_INLINE void mb_add_signs(__m512i codes, const int j, uint8_t *at)
{
    const __m512i signs = _mm512_slli_epi16(mb_shift_right(codes, 4 * j), 12), old = _mm512_loadu_si512(at);
    _mm512_storeu_si512(at, _mm512_ternarylogic_epi32(old, signs, _mm512_set1_epi16((short)0x8000), 0xf8));
}

// A strip's largest factor of a group so far.
MB_INLINE void mb_note_factors(const struct mb_span *span, const uint8_t *factors)
{
    const __m256i own = _mm256_loadu_si256((const __m256i *)(const void *)factors);
    *span->top = _mm512_max_epu8(*span->top, _mm512_zextsi256_si512(own));
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
    // A chunk of strip 0 as bf16 pairs, 128 bytes each, exact for every code and factor; NULL where they are stored so.
    // The tiles that decode in registers take -0 for 0, which only shows where a sum has become -0 by underflow; what
    // bf16 rows meet must do the same, whatever their number. `signed_zeros`: for float32 rows.
    void (*expand)(const struct mb_span *span, bool signed_zeros, uint8_t *to);
};
extern const struct mb_tiles mb_tiles_bf16, mb_tiles_fp8, mb_tiles_fp4, mb_tiles_mxfp8, mb_tiles_nvfp4, mb_tiles_int4,
    mb_tiles_int8;
// float32 rows on bf16 pairs: [scaled][products and sums rounded separately].
extern const mb_tile mb_tiles_f32[2][2][MB_WIDE_ROWS + 1];

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
