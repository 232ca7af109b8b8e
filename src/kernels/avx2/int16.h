// SPDX-License-Identifier: Apache-2.0
// Integers in vectors of level `avx2`.
#ifndef MB_KERNELS_AVX2_INT16_H
#define MB_KERNELS_AVX2_INT16_H

#include "kernels/avx2/vector.h"

// Twice the values of the e2m1 codes.
struct mb_int16_table {
    __m256i values;
};
static inline struct mb_int16_table mb_int16_table_load(void)
{
    const __m128i once = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    return (struct mb_int16_table){_mm256_broadcastsi128_si256(once)};
}

// A line's integers as bytes: pairs 0 and 2, then 1 and 3, each pair's in the lower or in the upper bytes of 16 bits.
struct mb_int16_line {
    __m256i values[2];
};
static inline struct mb_int16_line mb_int16_line_load(struct mb_int16_table table, const uint8_t *from)
{
    const mb_u codes = mb_u_load(from), nibble = _mm256_set1_epi8(15);
    const mb_u low = _mm256_and_si256(codes, nibble), high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble);
    return (struct mb_int16_line){{_mm256_shuffle_epi8(table.values, low), _mm256_shuffle_epi8(table.values, high)}};
}

// Pair `pair` (0 to 3) of a line's inputs.
static inline mb_u mb_int16_pair(struct mb_int16_table table, struct mb_int16_line line, int pair)
{
    (void)table;
    const mb_u bytes = line.values[pair % 2];
    return _mm256_srai_epi16(pair < 2 ? _mm256_slli_epi16(bytes, 8) : bytes, 8);
}

// As text: gcc 12 would move the intrinsics' sums to other registers and to the stack.
static inline mb_u mb_int16_dot(mb_u sum, mb_u a, mb_u b)
{
    mb_u products;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(a), "x"(b));
    return sum;
}

static inline mb_u mb_int16_dot_at(mb_u sum, const int32_t *a, mb_u b)
{
    return mb_int16_dot(sum, _mm256_set1_epi32(*a), b);
}

static inline mb_u mb_u_zero(void) { return _mm256_setzero_si256(); }
static inline mb_u mb_u_add(mb_u a, mb_u b) { return _mm256_add_epi32(a, b); }
static inline mb_u mb_u_all(const int32_t *from) { return _mm256_set1_epi32(*from); }
static inline mb_v mb_u_to_float(mb_u v) { return _mm256_cvtepi32_ps(v); }

#endif
