// SPDX-License-Identifier: Apache-2.0
// Packing for vectors of level `avx512`.
#include "kernels/avx512/vector.h"
#include "kernels/fma/fma_pack.inl"
