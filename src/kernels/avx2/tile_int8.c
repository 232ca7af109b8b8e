// SPDX-License-Identifier: Apache-2.0
// Tiles on INT8 lines, for vectors of level `avx2`.
#include "kernels/avx2/vector.h"
#include "kernels/fma/fma_tile.inl"

MB_TILES(tiles_int8, MB_PACKED_INT8, MB_FUSED)
