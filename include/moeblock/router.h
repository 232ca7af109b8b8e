// SPDX-License-Identifier: Apache-2.0
// The router interface: every built-in router uses it, and so does one that a program registers under a name.
#ifndef MOEBLOCK_ROUTER_H
#define MOEBLOCK_ROUTER_H

#include "moeblock/config.h"
#include "moeblock/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

// What a router is made for. Everything is borrowed for the duration of create, `context` and `config` for the
// router's life.
typedef struct moeblock_router_build {
    uint32_t struct_size;
    const moeblock_context *context;
    const moeblock_config *config;
    const char *config_json; // the object at router.config, "{}" when absent
    int64_t hidden, experts, top_k;
    int64_t second_experts; // of a second bank, with ids from `experts` on; 0: none
    int64_t slots;          // places for ids and weights of a token: top_k, and those that the second bank has
} moeblock_router_build;

// A run of tokens to route. x is float32 [tokens, hidden] with x_stride floats from row to row; token_ids and
// token_types are NULL when the caller gave none, else they start at the same token as x. aux, the second tensor, is
// there when router.config.input is "aux" and NULL otherwise.
typedef struct moeblock_router_input {
    uint32_t struct_size;
    int64_t tokens;
    const float *x;
    int64_t x_stride;
    const float *aux;
    int64_t aux_stride;
    const int64_t *token_ids;
    const int32_t *token_types;
    void *scratch;           // scratch_bytes(self) bytes, 64-byte aligned, of this call alone
    int64_t first;           // of these tokens among all of the forward call
    const int64_t *seq_lens; // [n_seq] lengths of the sequences that all tokens of the call are; NULL: one sequence
    int64_t n_seq;
    const float *state; // [tokens][state_width] that the block before handed on; NULL: none was given
    float *state_out;   // [tokens][state_width] for the block after; select fills it
} moeblock_router_input;

// A tensor that a router or expert kind needs. Loading looks for all of them before the kind reads any, and names all
// that are missing in one error; dtype and dims are for tools that write such a checkpoint.
typedef struct moeblock_tensor_need {
    char name[256];       // full name in the checkpoint
    moeblock_dtype dtype; // what a writer writes; MOEBLOCK_DTYPE_NONE: the checkpoint's float format
    int rank;
    int64_t dims[MOEBLOCK_MAX_RANK];
} moeblock_tensor_need;

// The calls of a router kind: create, destroy and select must be there, the others may be NULL (no tensors, no logits,
// no scratch). Calls on one `self` after load may come from several threads at once.
typedef struct moeblock_router_class {
    uint32_t struct_size;
    // Makes a router. Errors: INVALID_CONFIG for what config_json holds.
    moeblock_status (*create)(void *user, const moeblock_router_build *build, void **self, moeblock_error *error);
    void (*destroy)(void *self);
    // The i-th tensor it needs for `layer` (i from 0); returns 0 past the last one, else 1. Called after create.
    int (*need)(const void *self, int64_t layer, int i, moeblock_tensor_need *out);
    // Reads its tensors. Called once.
    moeblock_status (*load)(void *self, moeblock_weights *weights, int64_t layer, moeblock_error *error);
    // Width of the logits that `logits` computes; 0, or a NULL `logits`, when select works from x alone.
    int64_t (*width)(const void *self);
    size_t (*scratch_bytes)(const void *self);
    // Logits of columns [c0, c1): out[t * stride + c] for the absolute column c. Ranges of one token may be
    // computed by different threads.
    moeblock_status (*logits)(const void *self, const moeblock_router_input *input, int64_t c0, int64_t c1, float *out,
                              int64_t stride, moeblock_error *error);
    // Writes ids [tokens, slots] and weights [tokens, slots]. Every row must hold distinct ids in [0, experts + second
    // bank + null experts), or -1 for a slot that stays empty, for any input; the first top_k are those that forward
    // reports. The block checks this and fails with INTERNAL naming the router when it is not so.
    moeblock_status (*select)(const void *self, const moeblock_router_input *input, const float *logits, int64_t stride,
                              int32_t *ids, float *weights, moeblock_error *error);
    // Width of the state that the router takes from the block before and hands to the block after; 0 or NULL: none.
    int64_t (*state_width)(const void *self);
    // For routers whose choice depends on the tokens before: bytes that are carried through one forward call (0 or
    // NULL: none), zero at its start, and a call after select that sees the tokens one after the other, whatever the
    // chunks are. It may change weights, and set ids to -1. input->scratch is int32 [tokens * slots].
    size_t (*carry_bytes)(const void *self);
    moeblock_status (*settle)(const void *self, const moeblock_router_input *input, void *carry, int32_t *ids,
                              float *weights, moeblock_error *error);
    // Nonzero: each call of settle must see whole sequences. The block then passes no sequence in parts, and a sequence
    // (all tokens of a call without seq_lens) of more tokens than the workspace holds is an error. NULL: 0.
    int (*whole_sequences)(const void *self);
} moeblock_router_class;

// Registers a router kind under `name`, which {"router": {"type": name}} then selects. The class is copied; `user`
// is handed to create. Errors: INVALID_ARGUMENT (empty or taken name, missing call).
MOEBLOCK_API moeblock_status moeblock_register_router(moeblock_context *context, const char *name,
                                                      const moeblock_router_class *router, void *user,
                                                      moeblock_error *error);

#ifdef __cplusplus
}
#endif
#endif
