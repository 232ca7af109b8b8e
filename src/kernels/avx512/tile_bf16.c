// SPDX-License-Identifier: Apache-2.0
// Tiles on BF16 lines, for vectors of level `avx512`.
#include "kernels/avx512/vector.h"
#include "kernels/fma/fma_tile.inl"

MB_TILES(tiles_bf16, MB_PACKED_BF16, MB_FUSED)
