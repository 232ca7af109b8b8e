// SPDX-License-Identifier: Apache-2.0
// Tiles of BF16X2 compute of level `avx2`.
#include "kernels/avx2/vector.h"
#include "kernels/fma/fma_even_odd.inl"
