// SPDX-License-Identifier: Apache-2.0
// Sums of int16 rows, multiplied and added in one instruction.
#include "kernels/avx512vnni/vector.h"
#include "kernels/fma/fma_int16.inl"
