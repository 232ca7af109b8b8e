// SPDX-License-Identifier: Apache-2.0
// Level `amx`: level `avx512vnni` with products of tiles for int16 rows.
#include "kernels/amx/vector.h"

#define OTHERS mb_kernels_avx512vnni
#define TABLE mb_kernels_amx
#define NAME "amx"
#define FEATURES MB_CPU_LEVEL_AMX

#include "kernels/fma/fma_int16_level.inl"
