// SPDX-License-Identifier: Apache-2.0
// Tiles on eight-bit integers, decoded in registers: beside 2^23 code and zero point count ones of a float32; their
// exact difference has at most eight significant bits, so that its upper half is the bf16.
#include "kernels/avx512bf16/layout.h"

enum { LINE_PAIRS = 1, LINE_BYTES = 64, GROUPS = 1, SKIP_BYTES = 0 };
#define SCALED true
#define TILES mb_tiles_int8
#define NOTHING_AFTER_BLOCK

struct decoder {
    __m512i places[2][2], ones; // where the bytes of inputs k and k + 1 of a vector are
    __m512 zeros[4][2];
};
MB_INLINE void start(struct decoder *decoder)
{
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i quarter = _mm512_slli_epi32(_mm512_srli_epi32(lanes, 2), 4); // see pack.c
    const __m512i of_quarter = _mm512_slli_epi32(_mm512_and_si512(lanes, _mm512_set1_epi32(3)), 1);
    MB_UNROLL for (int v = 0; v < 2; v++)
    {
        MB_UNROLL for (int h = 0; h < 2; h++) decoder->places[v][h] =
            _mm512_add_epi32(_mm512_add_epi32(quarter, of_quarter), _mm512_set1_epi32(8 * v + 1 - h));
    }
    decoder->ones = _mm512_set1_epi32(0x4b000000);
}
MB_INLINE void enter(struct decoder *decoder, const struct mb_span *span, const int s, const uint8_t *line,
                     int64_t block, const int g)
{
    const uint8_t *zeros = span->factors[s] + block * MB_STRIP;
    (void)line, (void)g;
    MB_UNROLL for (int v = 0; v < 2; v++)
    {
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(zeros + 16 * v)));
        decoder->zeros[s][v] = _mm512_castsi512_ps(_mm512_or_si512(bytes, decoder->ones));
    }
}
MB_INLINE void decode(struct decoder *decoder, const int s, const uint8_t *line, const int h, __m512i *w)
{
    const __m512i codes = _mm512_loadu_si512(line);
    (void)h;
    MB_UNROLL for (int v = 0; v < 2; v++)
    {
        __m512i value[2];
        MB_UNROLL for (int i = 0; i < 2; i++)
        {
            const __m512i count =
                _mm512_mask_permutexvar_epi8(decoder->ones, 0x1111111111111111ull, decoder->places[v][i], codes);
            value[i] = _mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(count), decoder->zeros[s][v]));
        }
        w[v] = _mm512_mask_blend_epi16(0x55555555u, value[0], _mm512_srli_epi32(value[1], 16));
    }
}

#include "kernels/avx512bf16/tile_decoded.inl"
