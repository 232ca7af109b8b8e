// SPDX-License-Identifier: Apache-2.0
// Vectors of level `amx`: those of `avx512`. Its own products are of bf16 rows in BF16X2 compute and of many int16
// rows; fewer, and what tiles cannot hold, are `avx512vnni`'s.
#ifndef MB_KERNELS_AMX_VECTOR_H
#define MB_KERNELS_AMX_VECTOR_H

#define MB_LEVEL(name) mb_amx_##name
#define mb_amx_activate mb_avx512_activate
#define mb_amx_scratch_of mb_avx512_scratch_of

#include "kernels/avx512/vector.h"

// Whether the packing's products in BF16X2 compute are of tiles.
bool mb_amx_has_tiles(const struct mb_packing *packing);
void mb_amx_bf16x2_sums(const struct mb_packing *packing, const void *packed, int64_t panel, int64_t panels,
                        const struct mb_rows *rows, int64_t r0, int64_t m, const struct mb_fma_scratch *scratch);

#define mb_amx_sums(packing, packed, panel, panels, rows, r0, m, separate, scratch)                                    \
    ((rows)->int16 ? mb_amx_int16_sums : mb_amx_bf16x2_sums)(packing, packed, panel, panels, rows, r0, m, scratch)

void mb_avx512_sums(const struct mb_packing *packing, const void *packed, int64_t panel, int64_t panels,
                    const struct mb_rows *rows, int64_t r0, int64_t m, bool separate,
                    const struct mb_fma_scratch *scratch);
void mb_avx512_expand(const struct mb_packing *packing, const struct mb_fma_tile *tile, bool rare, float *to);
void mb_avx512vnni_int16_sums(const struct mb_packing *packing, const void *packed, int64_t panel, int64_t panels,
                              const struct mb_rows *rows, int64_t r0, int64_t m, const struct mb_fma_scratch *scratch);

#endif
