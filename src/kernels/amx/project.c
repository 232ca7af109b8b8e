// SPDX-License-Identifier: Apache-2.0
// Linear maps of int16 rows, for level `amx`.
#include "kernels/amx/vector.h"
#include "kernels/fma/fma_project.inl"
