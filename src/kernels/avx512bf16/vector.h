// SPDX-License-Identifier: Apache-2.0
// Small vector steps that gate_up, project and the table's own functions share: masks, biases, the one NaN, rounding to
// bfloat16 in integers (the conversion instruction would flush denormals).
#ifndef MB_KERNELS_AVX512BF16_VECTOR_H
#define MB_KERNELS_AVX512BF16_VECTOR_H

#include <immintrin.h>

#include "kernels/avx512bf16/layout.h"

MB_INLINE __mmask16 mb_first(int64_t count) { return (__mmask16)(count >= 16 ? 0xffffu : (1u << count) - 1); }

MB_INLINE __m512 mb_add_bias(__m512 value, const float *bias, int64_t n, __mmask16 mask)
{
    return bias ? _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, bias + n)) : value;
}

MB_INLINE __m512 mb_one_nan16(__m512 value)
{
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    return _mm512_mask_mov_ps(value, nan, _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)));
}

MB_INLINE __m256i mb_to_bf16_16(__m512 value)
{
    const __m512i bits = _mm512_castps_si512(value), one = _mm512_set1_epi32(1);
    const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16));
}

#endif
