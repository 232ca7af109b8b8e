// SPDX-License-Identifier: Apache-2.0
// Level `amx`: level `avx512vnni` with products of tiles for int16 rows and in BF16X2 compute.
#include "kernels/amx/vector.h"

#define OTHERS mb_kernels_avx512vnni
#define TABLE mb_kernels_amx
#define NAME "amx"
#define FEATURES MB_CPU_LEVEL_AMX
#define IS_OWN(call) ((call)->rows.int16 || mb_amx_has_tiles((call)->packing))

#include "kernels/fma/fma_own_level.inl"
