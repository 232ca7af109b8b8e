// SPDX-License-Identifier: Apache-2.0
// Plain linear maps, for vectors of level `avx2`.
#include "kernels/avx2/vector.h"
#include "kernels/fma/fma_project.inl"
