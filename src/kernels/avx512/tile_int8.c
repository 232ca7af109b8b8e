// SPDX-License-Identifier: Apache-2.0
// Tiles on INT8 lines, for vectors of level `avx512`.
#include "kernels/avx512/vector.h"
#include "kernels/fma/fma_tile.inl"

MB_TILES(tiles_int8, MB_PACKED_INT8, MB_FUSED)
