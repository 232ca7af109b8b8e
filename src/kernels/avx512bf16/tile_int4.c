// SPDX-License-Identifier: Apache-2.0
// Tiles on four-bit integers, decoded in registers: code less zero point, five bits and a sign, is looked up.
#include "kernels/avx512bf16/layout.h"

enum { LINE_PAIRS = 2, LINE_BYTES = 64, GROUPS = 1, SKIP_BYTES = 0 };
#define SCALED true
#define TILES mb_tiles_int4
#define NOTHING_AFTER_BLOCK

struct decoder {
    __m512i values, zeros[4][2];
};
MB_INLINE void start(struct decoder *decoder) { decoder->values = _mm512_loadu_si512(mb_int_values); }
MB_INLINE void enter(struct decoder *decoder, const struct mb_span *span, const int s, const uint8_t *line,
                     int64_t block, const int g)
{
    const uint8_t *zeros = span->factors[s] + block * MB_STRIP;
    (void)line, (void)g;
    MB_UNROLL for (int v = 0; v < 2; v++) decoder->zeros[s][v] = mb_bytes(zeros + 16 * v, 0);
}
MB_INLINE void decode(struct decoder *decoder, const int s, const uint8_t *line, const int h, __m512i *w)
{
    const __m512i codes = _mm512_loadu_si512(line), nibble = _mm512_set1_epi16(15);
    MB_UNROLL for (int v = 0; v < 2; v++)
    {
        const __m512i code = _mm512_and_si512(mb_shift_right(codes, 8 * h + 4 * v), nibble);
        w[v] = _mm512_permutexvar_epi16(_mm512_sub_epi16(code, decoder->zeros[s][v]), decoder->values);
    }
}

#include "kernels/avx512bf16/tile_decoded.inl"
