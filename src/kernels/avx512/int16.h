// SPDX-License-Identifier: Apache-2.0
// Integers in vectors of level `avx512`, and of `avx512vnni`, whose dot product is one instruction.
#ifndef MB_KERNELS_AVX512_INT16_H
#define MB_KERNELS_AVX512_INT16_H

#include "kernels/avx512/vector.h"

// Twice the values of the e2m1 codes, twice, since look-ups use five bits.
struct mb_int16_table {
    __m512i values;
};
static inline struct mb_int16_table mb_int16_table_load(void)
{
    const __m256i once = _mm256_setr_epi16(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    return (struct mb_int16_table){_mm512_broadcast_i64x4(once)};
}

struct mb_int16_line {
    mb_u codes;
};
static inline struct mb_int16_line mb_int16_line_load(struct mb_int16_table table, const uint8_t *from)
{
    (void)table;
    return (struct mb_int16_line){mb_u_load(from)};
}

// Pair `pair` (0 to 3) of a line's inputs.
static inline mb_u mb_int16_pair(struct mb_int16_table table, struct mb_int16_line line, int pair)
{
    return _mm512_permutexvar_epi16(_mm512_srli_epi32(line.codes, (unsigned)(4 * pair)), table.values);
}

// As text: gcc 12 would move the intrinsics' sums to other registers and to the stack.
static inline mb_u mb_int16_dot(mb_u sum, mb_u a, mb_u b)
{
#if defined(__AVX512VNNI__)
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#else
    mb_u products;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sum), "=&v"(products) : "v"(a), "v"(b));
#endif
    return sum;
}

// The same of *a in all lanes, which two instructions would each want in a register.
static inline mb_u mb_int16_dot_at(mb_u sum, const int32_t *a, mb_u b)
{
#if defined(__AVX512VNNI__)
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(b), "m"(*a));
    return sum;
#else
    return mb_int16_dot(sum, _mm512_set1_epi32(*a), b);
#endif
}

static inline mb_u mb_u_zero(void) { return _mm512_setzero_si512(); }
static inline mb_u mb_u_add(mb_u a, mb_u b) { return _mm512_add_epi32(a, b); }
static inline mb_u mb_u_all(const int32_t *from) { return _mm512_set1_epi32(*from); }
static inline mb_v mb_u_to_float(mb_u v) { return _mm512_cvtepi32_ps(v); }

#endif
