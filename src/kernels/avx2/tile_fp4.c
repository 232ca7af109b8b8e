// SPDX-License-Identifier: Apache-2.0
// Tiles on FP4 lines, for vectors of level `avx2`.
#include "kernels/avx2/vector.h"
#include "kernels/fma/fma_tile.inl"

MB_TILES(tiles_fp4, MB_PACKED_FP4, MB_FUSED)
