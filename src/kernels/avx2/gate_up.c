// SPDX-License-Identifier: Apache-2.0
// Gate and up together, for vectors of level `avx2`.
#include "kernels/avx2/vector.h"
#include "kernels/fma/fma_gate_up.inl"
