// SPDX-License-Identifier: Apache-2.0
// Tiles on FP4 codes, decoded in registers: the code's bf16 at the largest plain exponent, less the steps down to its
// own, one saturating subtraction that leaves zeros zero. Exponents above that come out wrong; the tile reports the
// largest it met, and the panel is then computed anew on expanded weights.
#include <string.h>

#include "base/float.h"
#include "kernels/avx512bf16/layout.h"

enum { LINE_PAIRS = 2, LINE_BYTES = 64, GROUPS = 2, SKIP_BYTES = 64 };
#define SCALED false
#define TILES mb_tiles_fp4

struct decoder {
    __m512i values, steps[4][2];
};
MB_INLINE void start(struct decoder *decoder) { decoder->values = _mm512_loadu_si512(mb_fp4_values); }
MB_INLINE void enter(struct decoder *decoder, const struct mb_span *span, const int s, const uint8_t *line,
                     int64_t block, const int g)
{
    const uint8_t *steps = line + 1024 - g * 512;
    (void)block;
    if (g == 0) *span->top = _mm512_max_epu8(*span->top, _mm512_loadu_si512(steps));
    MB_UNROLL for (int v = 0; v < 2; v++) decoder->steps[s][v] = mb_bytes(steps + 32 * g + 16 * v, 7);
}
MB_INLINE void decode(struct decoder *decoder, const int s, const uint8_t *line, const int h, __m512i *w)
{
    const __m512i codes = _mm512_loadu_si512(line);
    MB_UNROLL for (int v = 0; v < 2; v++)
    {
        const __m512i value = _mm512_permutexvar_epi16(mb_shift_right(codes, 8 * h + 4 * v), decoder->values);
        w[v] = _mm512_subs_epu16(value, decoder->steps[s][v]);
    }
}

// Exponents from 253 on are infinities and NaN.
MB_INLINE void after_block(const struct mb_span *span, const uint8_t *lines, int64_t block, int64_t pairs,
                           bool signed_zeros, uint8_t *to)
{
    (void)span, (void)block;
    for (int64_t i = 0; i < pairs && signed_zeros; i += LINE_PAIRS) {
        const __m512i codes = _mm512_loadu_si512(lines + i / LINE_PAIRS * LINE_BYTES);
        MB_UNROLL for (int j = 0; j < 4; j++) mb_add_signs(codes, j, to + i * 128 + 64 * j);
    }
    const __mmask64 high = _mm512_cmpgt_epu8_mask(_mm512_loadu_si512(lines + 1024), _mm512_set1_epi8((char)MB_FP4_TOP));
    if (!high) return;
    for (int64_t i = 0; i < pairs * MB_STRIP * 2; i++) {
        const int64_t pair = i / (2 * MB_STRIP), column = i / 2 % MB_STRIP, half = i % 2;
        const uint8_t *lane = lines + pair / 2 * 64 + (column % 16 * 2 + half) * 2;
        const int nibble = (int)(pair % 2 * 2 + column / 16);
        const uint8_t code = (uint8_t)(lane[nibble / 2] >> (nibble % 2 * 4) & 15);
        const uint8_t exponent = (uint8_t)(MB_FP4_TOP - lines[1024 + pair / 16 * MB_STRIP + column]);
        const uint16_t value = (uint16_t)(mb_bits(mb_from_fp4(code & 7 || signed_zeros ? code : 0, exponent)) >> 16);
        memcpy(to + i * 2, &value, sizeof value);
    }
}

#include "kernels/avx512bf16/tile_decoded.inl"
