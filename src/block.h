// SPDX-License-Identifier: Apache-2.0
// Inside of the public block: the flow (block.c), the object (block_object.c), calling it (forward.c), workspaces.
#ifndef MB_BLOCK_H
#define MB_BLOCK_H

#include "backend/backend.h"
#include "base/arith.h"

// One pass of the flow over tokens [run->first, run->first + run->n).
moeblock_status mb_block_pass(struct mb_run *run);
// All tokens, in passes of at most `capacity`; *passes says how many. `mine`: what this rank's arguments were worth;
// when not OK there are no passes.
moeblock_status mb_block_walk(struct mb_run *run, int64_t tokens, int64_t capacity, moeblock_status mine,
                              int64_t *passes);

// Most tokens of one pass for a workspace that holds `capacity`.
int64_t mb_block_pass_tokens(const moeblock_config *config, int ep, moeblock_mode mode, int64_t capacity);

// Layer whose tensors the description names: its layer_index, else its first MoE layer, else 0.
int64_t mb_block_layer(const moeblock_config *config);

// The steps of moeblock_block_create, which checks its arguments between them: an empty block (NULL when memory is
// short), and what the description puts into it.
moeblock_block *mb_block_new(moeblock_context *context, moeblock_mesh *mesh, moeblock_compute compute,
                             moeblock_error *error);
moeblock_status mb_block_fill(moeblock_block *block, const moeblock_config *config, moeblock_error *error);

// agreement.c: ranks of a mesh compare what they made and loaded; `mine` is how this rank fared, and its text in
// *error. All return the same. One process: `mine`.
moeblock_status mb_agree_created(moeblock_block *block, moeblock_status mine, moeblock_error *error);
moeblock_status mb_agree_loaded(const moeblock_block *block, moeblock_weights *weights, const struct mb_weight_set *set,
                                moeblock_status mine, moeblock_error *error);

// For tests: told what the flow does.
void mb_block_set_trace(moeblock_block *block, mb_trace trace, void *user);

#endif
