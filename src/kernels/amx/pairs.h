// SPDX-License-Identifier: Apache-2.0
// Codes of a strip as lines of bfloat16 pairs.
#ifndef MB_KERNELS_AMX_PAIRS_H
#define MB_KERNELS_AMX_PAIRS_H

#include "kernels/amx/vector.h"

// `count` inputs of a strip's codes as whole blocks of lines of pairs [16][MB_COLUMNS], zeros beyond; without float32
// scales. The inputs begin with a group, or are of one. `floats`: memory for MB_CHUNK lines of float32.
void mb_amx_pairs(const struct mb_packing *packing, const uint8_t *codes, const uint8_t *factors, int64_t count,
                  uint8_t *to, float *floats);

#endif
