// SPDX-License-Identifier: Apache-2.0
// Linear maps of int16 rows, for level `avx512vnni`.
#include "kernels/avx512vnni/vector.h"
#include "kernels/fma/fma_project.inl"
