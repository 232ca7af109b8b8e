// SPDX-License-Identifier: Apache-2.0
// Vectors of level `avx512`: sixteen float32, and how they come out of lines of codes.
#ifndef MB_KERNELS_AVX512_VECTOR_H
#define MB_KERNELS_AVX512_VECTOR_H

#include <immintrin.h>

#define MB_LANES 16
#define MB_TILE_ROWS 12 // rows of a tile of one strip: 24 sums, and room for weights and a row's value
#define MB_SHAPE_ROWS                                                                                                  \
    {                                                                                                                  \
        MB_TILE_ROWS, 3, 1                                                                                             \
    }
// By format; where both ways met on an Intel server core, which has the fewest execution units for the work.
#define MB_ROWS_IN_REGISTERS                                                                                           \
    {                                                                                                                  \
        INT64_MAX, 48, 72, 12, 12, 12, 12, 36, 36                                                                      \
    }
#if !defined(MB_LEVEL) // level `avx512vnni` has the same vectors
#define MB_LEVEL(name) mb_avx512_##name
#endif

#include "kernels/fma/layout.h"

typedef __m512 mb_v;
typedef __m512i mb_u; // sixteen uint32

static inline mb_v mb_v_zero(void) { return _mm512_setzero_ps(); }
static inline mb_v mb_v_all(float value) { return _mm512_set1_ps(value); }
static inline mb_v mb_v_load(const float *from) { return _mm512_loadu_ps(from); }
static inline void mb_v_store(float *to, mb_v v) { _mm512_storeu_ps(to, v); }
static inline mb_v mb_v_add(mb_v a, mb_v b) { return _mm512_add_ps(a, b); }
static inline mb_v mb_v_sub(mb_v a, mb_v b) { return _mm512_sub_ps(a, b); }
static inline mb_v mb_v_mul(mb_v a, mb_v b) { return _mm512_mul_ps(a, b); }
static inline mb_v mb_v_fma(mb_v a, mb_v b, mb_v c) { return _mm512_fmadd_ps(a, b, c); }
// a * *b + c. As text: compilers load what they see twice into a register.
static inline mb_v mb_v_fma_at(mb_v a, const float *b, mb_v c)
{
    __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(c) : "v"(a), "m"(*b));
    return c;
}

static inline mb_u mb_u_load(const void *from) { return _mm512_loadu_si512(from); }
static inline void mb_u_store(void *to, mb_u v) { _mm512_storeu_si512(to, v); }

// Two bfloat16 a lane: the lower and the upper one.
static inline mb_v mb_v_bf16_low(mb_u pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
static inline mb_v mb_v_bf16_high(mb_u pairs)
{
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u)));
}

// Half 0 or 1 of 32 float16. The conversion reads denormals whatever the mode.
static inline mb_v mb_v_f16(mb_u halves, int half)
{
    return _mm512_cvtph_ps(half ? _mm512_extracti64x4_epi64(halves, 1) : _mm512_castsi512_si256(halves));
}

// e4m3 codes in the lower (0) or upper (1) bytes of 32 words to float16 of value * 2^-8.
static inline mb_u mb_u_e4m3(mb_u bytes, int upper)
{
    const mb_u codes = upper ? bytes : _mm512_slli_epi16(bytes, 8);
    return _mm512_and_si512(_mm512_srai_epi16(codes, 1), _mm512_set1_epi16((short)0xbf80));
}

// The value of e2m1 code `nibble` of each lane, in units of which code 1 (a half) is `u`.
static inline mb_v mb_v_e2m1(mb_u nibbles, int nibble, const float u)
{
    const mb_v values = _mm512_setr_ps(0, u, 2 * u, 3 * u, 4 * u, 6 * u, 8 * u, 12 * u, -0.0f, -u, -2 * u, -3 * u,
                                       -4 * u, -6 * u, -8 * u, -12 * u);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, (unsigned)(4 * nibble)), values);
}

// MB_LANES bytes, each in the bits of a lane from `shift` on, beside those of `bits`.
static inline mb_v mb_v_bytes(const uint8_t *bytes, unsigned shift, uint32_t bits)
{
    const mb_u lanes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)bytes));
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_slli_epi32(lanes, shift), _mm512_set1_epi32((int32_t)bits)));
}

// Some bits of each lane, beside those of `bits`.
static inline mb_v mb_v_field(mb_u lanes, unsigned shift, uint32_t mask, uint32_t bits)
{
    const mb_u field = _mm512_srli_epi32(lanes, shift), other = _mm512_set1_epi32((int32_t)bits);
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(field, _mm512_set1_epi32((int32_t)mask), other, 0xea)); // field & mask | other
}

// For packing: first the lower words of all lanes, then the upper ones.
static inline mb_u mb_u_split_words(mb_u v)
{
    const mb_u lane = _mm512_shuffle_epi8(
        v, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)));
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), lane);
}

// For packing: the two middle bytes of each lane change places.
static inline mb_u mb_u_swap_middle(mb_u v)
{
    return _mm512_shuffle_epi8(
        v, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15)));
}

typedef uint32_t mb_lanes __attribute__((vector_size(64)));
#define MB_INTERLEAVE_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define MB_INTERLEAVE_HIGH(a, b)                                                                                       \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
enum { MB_TRANSPOSE_STEPS = 4 };

#endif
