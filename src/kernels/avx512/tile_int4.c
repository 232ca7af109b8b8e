// SPDX-License-Identifier: Apache-2.0
// Tiles on INT4 lines, for vectors of level `avx512`.
#include "kernels/avx512/vector.h"
#include "kernels/fma/fma_tile.inl"

MB_TILES(tiles_int4, MB_PACKED_INT4, MB_FUSED)
