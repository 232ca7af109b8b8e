// SPDX-License-Identifier: Apache-2.0
// Packing for vectors of level `avx2`.
#include "kernels/avx2/vector.h"
#include "kernels/fma/fma_pack.inl"
