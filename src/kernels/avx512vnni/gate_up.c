// SPDX-License-Identifier: Apache-2.0
// Gate and up of int16 rows, for level `avx512vnni`.
#include "kernels/avx512vnni/vector.h"
#include "kernels/fma/fma_gate_up.inl"
