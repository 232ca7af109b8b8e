// SPDX-License-Identifier: Apache-2.0
// The block again, in plain scalar C, readable top to bottom: the oracle of the working path and of every kernel.
#ifndef MB_REFERENCE_H
#define MB_REFERENCE_H

#include "config/config.h"
#include "moeblock/block.h"

// What the block reads; all but x may be NULL. router_state_out [T, state_size] is written unless NULL.
struct mb_reference_input {
    const float *x, *aux; // [T, H]
    const int64_t *token_ids;
    const int32_t *token_types;
    const int64_t *seq_lens;
    int64_t n_seq;
    const float *router_state;
    float *router_state_out;
};

// Computes y [T, H] (float32), ids and weights [T, k] (each may be NULL) from x [T, H] (and aux, NULL or [T, H]) with
// the stored tensors of `layer` and the further inputs of a forward call. Bytes equal to the block in BF16 compute at
// every level, and in F32 compute at levels ref and generic.
moeblock_status mb_reference(moeblock_context *context, const moeblock_config *config, moeblock_weights *weights,
                             int64_t layer, moeblock_compute compute, const struct mb_reference_input *input,
                             int64_t tokens, float *y, int32_t *ids, float *route_weights, moeblock_error *error);

#endif
