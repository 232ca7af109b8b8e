// SPDX-License-Identifier: Apache-2.0
// Codes to float32 lines, for vectors of level `avx512`.
#include "kernels/avx512/vector.h"
#include "kernels/fma/fma_expand.inl"
