// SPDX-License-Identifier: Apache-2.0
// Tiles that round products and sums separately, for calls whose bytes agree at every level.
#include "kernels/avx512/vector.h"
#include "kernels/fma/fma_tile.inl"

MB_TILES(tiles_f32_separate, MB_PACKED_F32, MB_SEPARATE)
