// SPDX-License-Identifier: Apache-2.0
// Gate and up of int16 rows, for level `amx`.
#include "kernels/amx/vector.h"
#include "kernels/fma/fma_gate_up.inl"
