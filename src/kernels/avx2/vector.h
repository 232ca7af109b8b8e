// SPDX-License-Identifier: Apache-2.0
// Vectors of level `avx2`: eight float32, and how they come out of lines of codes.
#ifndef MB_KERNELS_AVX2_VECTOR_H
#define MB_KERNELS_AVX2_VECTOR_H

#include <immintrin.h>

#define MB_LANES 8
#define MB_TILE_ROWS 6 // rows of a tile of one strip: 12 sums, and room for weights and a row's value
#define MB_SHAPE_ROWS                                                                                                  \
    {                                                                                                                  \
        MB_TILE_ROWS, 2, 1                                                                                             \
    }
// By format; codes that take many steps to become floats run out of registers early.
#define MB_ROWS_IN_REGISTERS                                                                                           \
    {                                                                                                                  \
        INT64_MAX, INT64_MAX, INT64_MAX, 4, 4, 4, 4, 6, 6                                                              \
    }
#define MB_LEVEL(name) mb_avx2_##name

#include "kernels/fma/layout.h"

typedef __m256 mb_v;
typedef __m256i mb_u; // eight uint32

static inline mb_v mb_v_zero(void) { return _mm256_setzero_ps(); }
static inline mb_v mb_v_all(float value) { return _mm256_set1_ps(value); }
static inline mb_v mb_v_load(const float *from) { return _mm256_loadu_ps(from); }
static inline void mb_v_store(float *to, mb_v v) { _mm256_storeu_ps(to, v); }
static inline mb_v mb_v_add(mb_v a, mb_v b) { return _mm256_add_ps(a, b); }
static inline mb_v mb_v_sub(mb_v a, mb_v b) { return _mm256_sub_ps(a, b); }
static inline mb_v mb_v_mul(mb_v a, mb_v b) { return _mm256_mul_ps(a, b); }
static inline mb_v mb_v_fma(mb_v a, mb_v b, mb_v c) { return _mm256_fmadd_ps(a, b, c); }
static inline mb_v mb_v_fma_at(mb_v a, const float *b, mb_v c) { return mb_v_fma(a, mb_v_all(*b), c); }

static inline mb_u mb_u_load(const void *from) { return _mm256_loadu_si256((const __m256i *)from); }
static inline void mb_u_store(void *to, mb_u v) { _mm256_storeu_si256((__m256i *)to, v); }

// Two bfloat16 a lane: the lower and the upper one.
static inline mb_v mb_v_bf16_low(mb_u pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
static inline mb_v mb_v_bf16_high(mb_u pairs)
{
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000u)));
}

// Half 0 or 1 of 16 float16. The conversion reads denormals whatever the mode.
static inline mb_v mb_v_f16(mb_u halves, int half)
{
    return _mm256_cvtph_ps(half ? _mm256_extracti128_si256(halves, 1) : _mm256_castsi256_si128(halves));
}

// e4m3 codes in the lower (0) or upper (1) bytes of 16 words to float16 of value * 2^-8.
static inline mb_u mb_u_e4m3(mb_u bytes, int upper)
{
    const mb_u codes = upper ? bytes : _mm256_slli_epi16(bytes, 8);
    return _mm256_and_si256(_mm256_srai_epi16(codes, 1), _mm256_set1_epi16((short)0xbf80));
}

// The value of e2m1 code `nibble` of each lane, in units of which code 1 (a half) is `u`.
static inline mb_v mb_v_e2m1(mb_u nibbles, int nibble, const float u)
{
    const mb_v values = _mm256_setr_ps(0, u, 2 * u, 3 * u, 4 * u, 6 * u, 8 * u, 12 * u);
    const mb_v magnitude = _mm256_permutevar8x32_ps(values, _mm256_srli_epi32(nibbles, 4 * nibble));
    const mb_u sign = _mm256_and_si256(_mm256_slli_epi32(nibbles, 28 - 4 * nibble), _mm256_set1_epi32(INT32_MIN));
    return _mm256_or_ps(magnitude, _mm256_castsi256_ps(sign));
}

// MB_LANES bytes, each in the bits of a lane from `shift` on, beside those of `bits`.
static inline mb_v mb_v_bytes(const uint8_t *bytes, unsigned shift, uint32_t bits)
{
    const mb_u lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)bytes));
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_slli_epi32(lanes, (int)shift), _mm256_set1_epi32((int32_t)bits)));
}

// Some bits of each lane, beside those of `bits`.
static inline mb_v mb_v_field(mb_u lanes, unsigned shift, uint32_t mask, uint32_t bits)
{
    const mb_u field = _mm256_and_si256(_mm256_srli_epi32(lanes, (int)shift), _mm256_set1_epi32((int32_t)mask));
    return _mm256_castsi256_ps(_mm256_or_si256(field, _mm256_set1_epi32((int32_t)bits)));
}

// For packing: first the lower words of all lanes, then the upper ones.
static inline mb_u mb_u_split_words(mb_u v)
{
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(order)), 0xd8);
}

// For packing: the two middle bytes of each lane change places.
static inline mb_u mb_u_swap_middle(mb_u v)
{
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(order));
}

typedef uint32_t mb_lanes __attribute__((vector_size(32)));
#define MB_INTERLEAVE_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define MB_INTERLEAVE_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
enum { MB_TRANSPOSE_STEPS = 3 };

#endif
