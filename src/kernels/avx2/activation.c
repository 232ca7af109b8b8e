// SPDX-License-Identifier: Apache-2.0
// The activations, for vectors of level `avx2`.
#include "kernels/activation.h"

#include "kernels/avx2/vector.h"

#define MB_KINDS kinds
#define MB_ACTIVATIONS static const struct mb_activation_kind kinds[]
#include "kernels/activation.inl"

void MB_LEVEL(activate)(const struct mb_activation *activation, const float *gate, const float *up, float *out,
                        int64_t n)
{
    apply_activation(activation, gate, up, out, n);
}
