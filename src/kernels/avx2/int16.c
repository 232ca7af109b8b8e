// SPDX-License-Identifier: Apache-2.0
// Sums of int16 rows, for vectors of level `avx2`.
#include "kernels/avx2/int16.h"

#include "kernels/fma/fma_int16.inl"
