// SPDX-License-Identifier: Apache-2.0
// Gate and up together, for vectors of level `avx512`.
#include "kernels/avx512/vector.h"
#include "kernels/fma/fma_gate_up.inl"
