// SPDX-License-Identifier: Apache-2.0
// The choice of tiles, for vectors of level `avx512`.
#include "kernels/avx512/vector.h"
#include "kernels/fma/fma_sums.inl"
