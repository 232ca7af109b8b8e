// SPDX-License-Identifier: Apache-2.0
// Tiles on NVFP4 lines, for vectors of level `avx2`.
#include "kernels/avx2/vector.h"
#include "kernels/fma/fma_tile.inl"

MB_TILES(tiles_nvfp4, MB_PACKED_NVFP4, MB_FUSED)
