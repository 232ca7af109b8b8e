// SPDX-License-Identifier: Apache-2.0
// Plain linear maps, for vectors of level `avx512`.
#include "kernels/avx512/vector.h"
#include "kernels/fma/fma_project.inl"
