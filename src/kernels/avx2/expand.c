// SPDX-License-Identifier: Apache-2.0
// Codes to float32 lines, for vectors of level `avx2`.
#include "kernels/avx2/vector.h"
#include "kernels/fma/fma_expand.inl"
