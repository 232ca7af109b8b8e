// SPDX-License-Identifier: Apache-2.0
// The sigmoid gate of a shared expert (qwen2_moe): g = sigmoid(x w), in fp32 from the unrounded x.
#ifndef MB_EXPERTS_SHARED_GATE_H
#define MB_EXPERTS_SHARED_GATE_H

#include "config/config.h"
#include "moeblock/weights.h"

struct mb_shared_sigmoid;

moeblock_status mb_shared_gate_load(moeblock_context *context, const moeblock_config *config, moeblock_weights *weights,
                                    int64_t layer, struct mb_shared_sigmoid **out, moeblock_error *error);
void mb_shared_gate_destroy(struct mb_shared_sigmoid *gate);
size_t mb_shared_gate_scratch_bytes(const struct mb_shared_sigmoid *gate, int64_t m);
// gates[i] from row x + i * x_stride; m at most what the scratch was asked for.
void mb_shared_gate_apply(const struct mb_shared_sigmoid *gate, const float *x, int64_t x_stride, int64_t m,
                          float *gates, void *scratch);

#endif
