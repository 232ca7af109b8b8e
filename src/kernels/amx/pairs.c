// SPDX-License-Identifier: Apache-2.0
// Codes of a strip as lines of bfloat16 pairs: exact, as all formats' weights have at most eight significant bits. FP8
// and FP4, of which most checkpoints are, are looked up; the others come by way of float32.
#include "kernels/amx/pairs.h"

#include <string.h>

#include "base/float.h"
#include "kernels/avx512bf16/tables.h"
#include "kernels/fma/fma_chains.inl"
#include "kernels/fma/fma_lines.inl"

enum { BLOCK = MB_EVEN_ODD_BLOCK };

// Some inputs of a strip, whole groups or a part of one.
struct run {
    const uint8_t *codes, *factors; // factors [groups][MB_COLUMNS]
    int64_t inputs, group;
    uint8_t *to;
};

// Two vectors of float32 that bfloat16 holds, column by column.
MB_INLINE mb_u join(mb_v even, mb_v odd)
{
    const mb_u low = _mm512_srli_epi32(_mm512_castps_si512(even), 16);
    return _mm512_mask_blend_epi16(0xaaaaaaaau, low, _mm512_castps_si512(odd)); // the upper halves of odd
}

MB_INLINE void expand_lines(const enum mb_packed_format format, const struct run *run)
{
    const uint8_t *line = run->codes, *factors = run->factors;
    uint8_t *to = run->to;
    for (int64_t k0 = 0; k0 < run->inputs; k0 += run->group, factors += MB_COLUMNS) {
        const int64_t k1 = mb_min(k0 + run->group, run->inputs);
        mb_v factor[MB_STRIP_VECTORS];
        for (int v = 0; v < MB_STRIP_VECTORS; v++) factor[v] = mb_line_factor(format, factors + v * MB_LANES);
        for (int64_t k = k0; k < k1; k += mb_line_inputs(format), line += MB_LINE_BYTES) {
            for (int v = 0; v < MB_STRIP_VECTORS; v++) {
                const struct mb_line codes = mb_line_load(format, line + v * MB_LANES * 4);
                for (int i = 0; i < mb_line_inputs(format); i += 2)
                    mb_u_store(to + (size_t)(i / 2) * MB_LINE_BYTES + v * MB_LANES * 4,
                               join(mb_line_value(format, &codes, i, factor[v]),
                                    mb_line_value(format, &codes, i + 1, factor[v])));
            }
            to += (size_t)(mb_line_inputs(format) / 2) * MB_LINE_BYTES;
        }
    }
}

// The e4m3 codes' bits, upper and lower half, by their magnitudes.
static void expand_fp8(const struct run *run)
{
    const mb_u high0 = mb_u_load(mb_fp8_high), high1 = mb_u_load(mb_fp8_high + 64);
    const mb_u low0 = mb_u_load(mb_fp8_low), low1 = mb_u_load(mb_fp8_low + 64);
    // Inputs 0 and 2 of a column are a word of the first half, 1 and 3 one of the second.
    const mb_u columns =
        _mm512_add_epi32(_mm512_set1_epi32(16 << 16),
                         _mm512_mullo_epi32(_mm512_set1_epi32(0x10001),
                                            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
    const mb_u signs = _mm512_set1_epi8((char)0x80), lower = _mm512_set1_epi16(0xff);
    const uint8_t *line = run->codes;
    uint8_t *to = run->to;
    for (int64_t k = 0; k < run->inputs; k += 4, line += MB_LINE_BYTES, to += 2 * MB_LINE_BYTES) {
        for (int v = 0; v < MB_STRIP_VECTORS; v++) {
            const mb_u codes = _mm512_permutexvar_epi16(columns, mb_u_load(line + v * MB_LANES * 4));
            const mb_u low = _mm512_permutex2var_epi8(low0, codes, low1);
            const mb_u high = _mm512_ternarylogic_epi32(_mm512_permutex2var_epi8(high0, codes, high1), codes, signs,
                                                        0xf8); // a | b & c
            const mb_u first = _mm512_ternarylogic_epi32(_mm512_slli_epi16(high, 8), low, lower, 0xf8);
            const mb_u second = _mm512_ternarylogic_epi32(_mm512_srli_epi16(low, 8), lower, high, 0xf2); // a | ~b & c
            mb_u_store(to + v * MB_LANES * 4, first);
            mb_u_store(to + MB_LINE_BYTES + v * MB_LANES * 4, second);
        }
    }
}

// FP4 scales for which a look-up's exponent less their distance from TOP stays an exponent.
enum { FP4_LEAST = 64, FP4_TOP = 190 };

static bool are_moderate_fp4(const struct run *run)
{
    const int64_t count = mb_ceil_div(run->inputs, run->group) * MB_COLUMNS;
    uint8_t immoderate = 0;
    for (int64_t i = 0; i < count; i++) immoderate |= (uint8_t)(run->factors[i] - FP4_LEAST) > FP4_TOP - FP4_LEAST;
    return !immoderate;
}

static void expand_moderate_fp4(const struct run *run)
{
    // Halves of the e2m1 codes' values times 2^(TOP - 127), -0 as 0, twice: look-ups use five bits.
#define E(exponent, half) (short)(((FP4_TOP + (exponent)) << 7) | ((half) << 6))
#define M(exponent, half) (short)(0x8000 | ((FP4_TOP + (exponent)) << 7) | ((half) << 6))
    const __m256i once = _mm256_setr_epi16(0, E(-2, 0), E(-1, 0), E(-1, 1), E(0, 0), E(0, 1), E(1, 0), E(1, 1), 0,
                                           M(-2, 0), M(-1, 0), M(-1, 1), M(0, 0), M(0, 1), M(1, 0), M(1, 1));
#undef E
#undef M
    const mb_u values = _mm512_broadcast_i64x4(once);
    const uint8_t *line = run->codes, *factors = run->factors;
    uint8_t *to = run->to;
    for (int64_t k0 = 0; k0 < run->inputs; k0 += run->group, factors += MB_COLUMNS) {
        const int64_t k1 = mb_min(k0 + run->group, run->inputs);
        mb_u less[MB_STRIP_VECTORS];
        for (int v = 0; v < MB_STRIP_VECTORS; v++) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(factors + v * MB_LANES));
            const mb_u one =
                _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(FP4_TOP), _mm512_cvtepu8_epi32(bytes)), 7);
            less[v] = _mm512_or_si512(_mm512_slli_epi32(one, 16), one);
        }
        for (int64_t k = k0; k < k1; k += 8, line += MB_LINE_BYTES, to += 4 * MB_LINE_BYTES) {
            for (int v = 0; v < MB_STRIP_VECTORS; v++) {
                const mb_u codes = mb_u_load(line + v * MB_LANES * 4);
                for (unsigned pair = 0; pair < 4; pair++)
                    mb_u_store(to + pair * MB_LINE_BYTES + v * MB_LANES * 4,
                               _mm512_subs_epu16(_mm512_permutexvar_epi16(_mm512_srli_epi32(codes, 4 * pair), values),
                                                 less[v]));
            }
        }
    }
}

static void expand_fp4(const struct run *run)
{
    if (are_moderate_fp4(run)) {
        expand_moderate_fp4(run);
    } else {
        expand_lines(MB_PACKED_FP4, run);
    }
}

static void expand_mxfp8(const struct run *run) { expand_lines(MB_PACKED_MXFP8, run); }
static void expand_nvfp4(const struct run *run) { expand_lines(MB_PACKED_NVFP4, run); }
static void expand_int4(const struct run *run) { expand_lines(MB_PACKED_INT4, run); }
static void expand_int8(const struct run *run) { expand_lines(MB_PACKED_INT8, run); }

// Factors that lines cannot read: float32 lines first.
static void expand_rare(const struct mb_packing *packing, const struct run *run, float *floats)
{
    const struct mb_fma_tile tile = {
        .lines = {run->codes}, .factors = {run->factors}, .count = run->inputs, .group = run->group};
    mb_avx512_expand(packing, &tile, true, floats);
    for (int64_t k = 0; k < run->inputs; k += 2, floats += 2 * MB_COLUMNS) {
        for (int v = 0; v < MB_STRIP_VECTORS; v++)
            mb_u_store(run->to + (size_t)(k / 2) * MB_LINE_BYTES + v * MB_LANES * 4,
                       join(mb_v_load(floats + v * MB_LANES), mb_v_load(floats + MB_COLUMNS + v * MB_LANES)));
    }
}

void mb_amx_pairs(const struct mb_packing *packing, const uint8_t *codes, const uint8_t *factors, int64_t count,
                  uint8_t *to, float *floats)
{
    static void (*const calls[MB_PACKED_FORMATS])(const struct run *) = {
        [MB_PACKED_FP8] = expand_fp8,     [MB_PACKED_FP4] = expand_fp4,   [MB_PACKED_MXFP8] = expand_mxfp8,
        [MB_PACKED_NVFP4] = expand_nvfp4, [MB_PACKED_INT4] = expand_int4, [MB_PACKED_INT8] = expand_int8,
    };
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    const int64_t whole = mb_ceil_div(count, layout.line_inputs) * layout.line_inputs;
    const int64_t group = packing->group % layout.line_inputs == 0 ? mb_min(packing->group, whole) : whole;
    const int64_t step = group < MB_CHUNK ? MB_CHUNK / group * group : MB_CHUNK;
    for (int64_t k = 0; k < whole; k += step) {
        const int64_t inputs = mb_min(step, whole - k);
        const struct run run = {.codes = codes + (size_t)(k / layout.line_inputs) * MB_LINE_BYTES,
                                .factors = factors + (group < whole ? k / group * MB_COLUMNS : 0),
                                .inputs = inputs,
                                .group = mb_min(group, inputs),
                                .to = to + (size_t)(k / 2) * MB_LINE_BYTES};
        const int64_t bytes = mb_ceil_div(inputs, run.group) * MB_COLUMNS;
        if (has_rare_factors(packing->format, run.factors, bytes)) {
            expand_rare(packing, &run, floats);
        } else {
            calls[packing->format](&run);
        }
    }
    const size_t done = (size_t)(whole / 2) * MB_LINE_BYTES;
    memset(to + done, 0, (size_t)(mb_ceil_div(count, BLOCK) * BLOCK / 2) * MB_LINE_BYTES - done);
}
