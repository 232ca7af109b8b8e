// SPDX-License-Identifier: Apache-2.0
// Tiles on NVFP4 codes, decoded in registers as FP4's: the code's bf16 at FP4's largest exponent, less the steps down
// to its product with the factor. Where the code has a fraction, that is 1.5, the product's bits are somewhat more: the
// table has ones below the fraction, of which the columns' masks leave as much.
#include <string.h>

#include "kernels/avx512bf16/layout.h"

enum { LINE_PAIRS = 2, LINE_BYTES = 64, GROUPS = 1, SKIP_BYTES = 0 };
#define SCALED false
#define TILES mb_tiles_nvfp4

struct decoder {
    __m512i values, steps[4][2], masks[4][2];
};

// By the factor's lowest bits, of which three are its fraction m: what 1.5 adds to the bits of the bf16 of (8 + m) / 8,
// less the 64 that the code's fraction is, beside the bits above the ones.
#define MORE(m) (0xffe0 | (((m) <= 2 ? 64 + 8 * (m) : 96 - 4 * (m)) - 64))
#define EIGHT MORE(0), MORE(1), MORE(2), MORE(3), MORE(4), MORE(5), MORE(6), MORE(7)
static const uint16_t more[32] = {EIGHT, EIGHT, EIGHT, EIGHT};

MB_INLINE void start(struct decoder *decoder) { decoder->values = _mm512_loadu_si512(mb_nvfp4_values); }
MB_INLINE void enter(struct decoder *decoder, const struct mb_span *span, const int s, const uint8_t *line,
                     int64_t block, const int g)
{
    const uint8_t *factors = span->factors[s] + block * MB_STRIP;
    const __m512i top = _mm512_set1_epi16((MB_FP4_TOP - 117) << 7);
    (void)line, (void)g;
    mb_note_factors(span, factors);
    MB_UNROLL for (int v = 0; v < 2; v++)
    {
        const __m512i factor = mb_bytes(factors + 16 * v, 0);
        decoder->steps[s][v] = _mm512_sub_epi16(top, _mm512_slli_epi16(factor, 4));
        decoder->masks[s][v] = _mm512_permutexvar_epi16(factor, _mm512_loadu_si512(more));
    }
}
MB_INLINE void decode(struct decoder *decoder, const int s, const uint8_t *line, const int h, __m512i *w)
{
    const __m512i codes = _mm512_loadu_si512(line);
    MB_UNROLL for (int v = 0; v < 2; v++)
    {
        const __m512i value = _mm512_permutexvar_epi16(mb_shift_right(codes, 8 * h + 4 * v), decoder->values);
        w[v] = _mm512_subs_epu16(_mm512_and_si512(value, decoder->masks[s][v]), decoder->steps[s][v]);
    }
}

MB_INLINE void after_block(const struct mb_span *span, const uint8_t *lines, int64_t block, int64_t pairs,
                           bool signed_zeros, uint8_t *to)
{
    const uint8_t *factors = span->factors[0] + block * MB_STRIP;
    for (int64_t i = 0; i < pairs && signed_zeros; i += LINE_PAIRS) {
        const __m512i codes = _mm512_loadu_si512(lines + i / LINE_PAIRS * LINE_BYTES);
        MB_UNROLL for (int j = 0; j < 4; j++) mb_add_signs(codes, j, to + i * 128 + 64 * j);
    }
    for (int64_t c = 0; c < MB_STRIP; c++) {
        if (factors[c] <= MB_NVFP4_TOP) continue;
        const uint32_t nan = 0x7fc07fc0u;
        for (int64_t i = 0; i < pairs; i++) memcpy(to + i * 128 + c * 4, &nan, sizeof nan);
    }
}

#include "kernels/avx512bf16/tile_decoded.inl"
