// SPDX-License-Identifier: Apache-2.0
// Tiles on F16 lines, for vectors of level `avx2`.
#include "kernels/avx2/vector.h"
#include "kernels/fma/fma_tile.inl"

MB_TILES(tiles_f16, MB_PACKED_F16, MB_FUSED)
