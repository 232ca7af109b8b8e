// SPDX-License-Identifier: Apache-2.0
// Level `avx512vnni`: level `avx512` with an integer dot product for int16 rows.
#include "kernels/avx512vnni/vector.h"

#define OTHERS mb_kernels_avx512
#define TABLE mb_kernels_avx512vnni
#define NAME "avx512vnni"
#define FEATURES MB_CPU_LEVEL_AVX512VNNI
#define IS_OWN(call) ((call)->rows.int16)

#include "kernels/fma/fma_own_level.inl"
