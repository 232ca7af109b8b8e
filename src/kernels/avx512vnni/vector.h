// SPDX-License-Identifier: Apache-2.0
// Vectors of level `avx512vnni`: those of `avx512`. Its own products are of int16 rows; what has none comes from there.
#ifndef MB_KERNELS_AVX512VNNI_VECTOR_H
#define MB_KERNELS_AVX512VNNI_VECTOR_H

#define MB_LEVEL(name) mb_avx512vnni_##name
#define mb_avx512vnni_activate mb_avx512_activate
#define mb_avx512vnni_scratch_of mb_avx512_scratch_of

#include "kernels/avx512/int16.h"

#define mb_avx512vnni_sums(packing, packed, panel, panels, rows, r0, m, separate, scratch)                             \
    mb_avx512vnni_int16_sums(packing, packed, panel, panels, rows, r0, m, scratch)

#endif
