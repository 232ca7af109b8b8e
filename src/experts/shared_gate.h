// SPDX-License-Identifier: Apache-2.0
// What a token's x makes of routed sum and shared expert, in fp32 from the unrounded x: the sigmoid gate of a shared
// expert (qwen2_moe), {1, sigmoid(x w)}, or the coefficients of both (klear), softmax(x C^T + b).
#ifndef MB_EXPERTS_SHARED_GATE_H
#define MB_EXPERTS_SHARED_GATE_H

#include "config/config.h"
#include "moeblock/weights.h"

struct mb_shared_factors;

// NULL object where the description has neither.
moeblock_status mb_shared_gate_load(moeblock_context *context, const moeblock_config *config, moeblock_weights *weights,
                                    int64_t layer, struct mb_shared_factors **out, moeblock_error *error);
void mb_shared_gate_destroy(struct mb_shared_factors *gate);
size_t mb_shared_gate_scratch_bytes(const struct mb_shared_factors *gate, int64_t m);
// factors[2 * i] of the routed sum and factors[2 * i + 1] of the shared expert, from row x + i * x_stride; m at most
// what the scratch was asked for.
void mb_shared_gate_apply(const struct mb_shared_factors *gate, const float *x, int64_t x_stride, int64_t m,
                          float *factors, void *scratch);

#endif
