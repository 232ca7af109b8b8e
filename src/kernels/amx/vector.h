// SPDX-License-Identifier: Apache-2.0
// Vectors of level `amx`: those of `avx512`. Its own products are of many int16 rows; fewer, and what tiles cannot
// hold, are `avx512vnni`'s.
#ifndef MB_KERNELS_AMX_VECTOR_H
#define MB_KERNELS_AMX_VECTOR_H

#define MB_LEVEL(name) mb_amx_##name
#define mb_amx_activate mb_avx512_activate
#define mb_amx_scratch_of mb_avx512_scratch_of

#include "kernels/avx512/vector.h"

#define mb_amx_sums(packing, packed, panel, panels, rows, r0, m, separate, scratch)                                    \
    mb_amx_int16_sums(packing, packed, panel, panels, rows, r0, m, scratch)

void mb_avx512vnni_int16_sums(const struct mb_packing *packing, const void *packed, int64_t panel, int64_t panels,
                              const struct mb_rows *rows, int64_t r0, int64_t m, const struct mb_fma_scratch *scratch);

#endif
