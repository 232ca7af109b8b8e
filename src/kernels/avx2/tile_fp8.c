// SPDX-License-Identifier: Apache-2.0
// Tiles on FP8 lines, for vectors of level `avx2`.
#include "kernels/avx2/vector.h"
#include "kernels/fma/fma_tile.inl"

MB_TILES(tiles_fp8, MB_PACKED_FP8, MB_FUSED)
