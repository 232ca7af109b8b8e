// SPDX-License-Identifier: Apache-2.0
// The activations for vectors of 512 bits: a tile's share of the time is an eighth with those of any machine.
#include "kernels/activation.h"

#include "kernels/avx512bf16/layout.h"

#define MB_KINDS kinds
#define MB_ACTIVATIONS static const struct mb_activation_kind kinds[]
#include "kernels/activation.inl"

void mb_avx512bf16_activate(const struct mb_activation *activation, float *gate, float *up, float *out, int64_t n)
{
    apply_block(activation, gate, up, out, (int)n);
}
