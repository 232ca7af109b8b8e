// SPDX-License-Identifier: Apache-2.0
// The choice of tiles, for vectors of level `avx2`.
#include "kernels/avx2/vector.h"
#include "kernels/fma/fma_sums.inl"
