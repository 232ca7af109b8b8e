// SPDX-License-Identifier: Apache-2.0
// The block again, in plain scalar C, readable top to bottom: the oracle of the working path and of every kernel.
#ifndef MB_REFERENCE_H
#define MB_REFERENCE_H

#include "config/config.h"
#include "moeblock/block.h"

// Computes y [T, H] (float32), ids and weights [T, k] (each may be NULL) from x [T, H] (and aux, NULL or [T, H]) with
// the stored tensors of `layer`. Bytes equal to the block in BF16 compute at every level, and in F32 compute at levels
// ref and generic.
moeblock_status mb_reference(moeblock_context *context, const moeblock_config *config, moeblock_weights *weights,
                             int64_t layer, moeblock_compute compute, const float *x, const float *aux, int64_t tokens,
                             float *y, int32_t *ids, float *route_weights, moeblock_error *error);

#endif
