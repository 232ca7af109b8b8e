// SPDX-License-Identifier: Apache-2.0
// Tiles on F32 lines and on expanded codes, for vectors of level `avx512`.
#include "kernels/avx512/vector.h"
#include "kernels/fma/fma_tile.inl"

MB_TILES(tiles_f32, MB_PACKED_F32, MB_FUSED)
