// SPDX-License-Identifier: Apache-2.0
// Tiles on MXFP8 codes, decoded in registers: the code's bf16 at the largest plain exponent, less the steps down to its
// own, as FP4's. Larger exponents come out wrong: see tile_fp4.c.
#include <string.h>

#include "base/float.h"
#include "kernels/avx512bf16/layout.h"

enum { LINE_PAIRS = 1, LINE_BYTES = 64, GROUPS = 1, SKIP_BYTES = 0 };
#define SCALED false
#define TILES mb_tiles_mxfp8

struct decoder {
    struct mb_e4m3_tables tables;
    __m512i steps[4][2];
};
MB_INLINE void start(struct decoder *decoder) { decoder->tables = mb_e4m3_load(mb_mxfp8_high, mb_mxfp8_low); }
MB_INLINE void enter(struct decoder *decoder, const struct mb_span *span, const int s, const uint8_t *line,
                     int64_t block, const int g)
{
    const uint8_t *steps = span->factors[s] + block * MB_STRIP;
    (void)line, (void)g;
    mb_note_factors(span, steps);
    MB_UNROLL for (int v = 0; v < 2; v++) decoder->steps[s][v] = mb_bytes(steps + 16 * v, 7);
}
MB_INLINE void decode(struct decoder *decoder, const int s, const uint8_t *line, const int h, __m512i *w)
{
    (void)h;
    mb_e4m3_decode(&decoder->tables, line, w);
    MB_UNROLL for (int v = 0; v < 2; v++) w[v] = _mm512_subs_epu16(w[v], decoder->steps[s][v]);
}

// Pairs of an output whose exponent the tiles cannot decode.
static void expand_column(const uint8_t *lines, uint8_t steps, int64_t column, int64_t pairs, uint8_t *to)
{
    const int64_t first = column % 16 / 4 * 16 + column / 16 * 8 + column % 4 * 2; // in a line, of input k + 1
    for (int64_t i = 0; i < 2 * pairs; i++) {
        const uint8_t code = lines[i / 2 * 64 + first + i % 2], exponent = (uint8_t)(MB_MXFP8_TOP - steps);
        const uint16_t value = (uint16_t)(mb_bits(mb_from_mxfp8(code, exponent)) >> 16);
        const uint16_t zero = exponent == 255 ? value : 0;
        memcpy(to + i / 2 * 128 + column / 16 * 64 + column % 16 * 4 + i % 2 * 2, code == 127 ? &zero : &value, 2);
    }
}

MB_INLINE void after_block(const struct mb_span *span, const uint8_t *lines, int64_t block, int64_t pairs,
                           bool signed_zeros, uint8_t *to)
{
    const uint8_t *steps = span->factors[0] + block * MB_STRIP;
    for (int64_t c = 0; c < MB_STRIP; c++)
        if (steps[c] > MB_MXFP8_TOP) expand_column(lines, steps[c], c, pairs, to);
    for (int64_t i = 0; i < pairs && signed_zeros; i++) {
        const __mmask64 minus = _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(lines + 64 * i), _mm512_set1_epi8(127));
        const __m512i signs = _mm512_maskz_set1_epi8(minus, (char)0x80), zero = _mm512_setzero_si512();
        uint8_t *pair = to + i * 128;
        _mm512_storeu_si512(pair, _mm512_or_si512(_mm512_loadu_si512(pair), _mm512_unpacklo_epi8(zero, signs)));
        pair += 64;
        _mm512_storeu_si512(pair, _mm512_or_si512(_mm512_loadu_si512(pair), _mm512_unpackhi_epi8(zero, signs)));
    }
}

#include "kernels/avx512bf16/tile_decoded.inl"
