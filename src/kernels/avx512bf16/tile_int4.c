// SPDX-License-Identifier: Apache-2.0
// Tiles on four-bit integers, decoded in registers: code less zero point, five bits and a sign, is looked up.
#include "kernels/avx512bf16/layout.h"

enum { LINE_PAIRS = 2, LINE_BYTES = 64, GROUPS = 1, SKIP_BYTES = 0 };
#define SCALED true
#define TILES mb_tiles_int4
#define NOTHING_AFTER_BLOCK

// The low nibbles of a lane's two bytes are of one column, and so are the high ones: bytes lose their zero point, and
// the low five bits of a lane are what look-ups see.
struct decoder {
    __m512i values, zeros[4][2]; // zero points in both bytes of a lane
};
MB_INLINE void start(struct decoder *decoder) { decoder->values = _mm512_loadu_si512(mb_int_values); }
MB_INLINE void enter(struct decoder *decoder, const struct mb_span *span, const int s, const uint8_t *line,
                     int64_t block, const int g)
{
    const uint8_t *zeros = span->factors[s] + block * MB_STRIP;
    (void)line, (void)g;
    MB_UNROLL for (int v = 0; v < 2; v++)
    {
        decoder->zeros[s][v] = _mm512_or_si512(mb_bytes(zeros + 16 * v, 0), mb_bytes(zeros + 16 * v, 8));
    }
}
MB_INLINE void decode(struct decoder *decoder, const int s, const uint8_t *line, const int h, __m512i *w)
{
    const __m512i codes = _mm512_loadu_si512(line), nibbles = _mm512_set1_epi8(15);
    MB_UNROLL for (int v = 0; v < 2; v++)
    {
        const __m512i both = _mm512_and_si512(mb_shift_right(codes, 4 * v), nibbles);
        const __m512i index = mb_shift_right(_mm512_sub_epi8(both, decoder->zeros[s][v]), 8 * h);
        w[v] = _mm512_permutexvar_epi16(index, decoder->values);
    }
}

#include "kernels/avx512bf16/tile_decoded.inl"
