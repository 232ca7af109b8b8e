// SPDX-License-Identifier: Apache-2.0
// The block: create from a configuration and a mesh, load weights, forward, destroy.
#ifndef MOEBLOCK_BLOCK_H
#define MOEBLOCK_BLOCK_H

#include "moeblock/config.h"
#include "moeblock/expert.h"
#include "moeblock/mesh.h"
#include "moeblock/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moeblock_block moeblock_block;
typedef struct moeblock_workspace moeblock_workspace;

// The same numbers in both modes. Prefill obeys the configuration's chunk sizes, decode ignores them.
typedef enum moeblock_mode { MOEBLOCK_PREFILL = 1, MOEBLOCK_DECODE = 2 } moeblock_mode;

typedef struct moeblock_block_options {
    uint32_t struct_size;
    moeblock_compute compute;
} moeblock_block_options;

// Makes a block without weights. `config` is copied, `mesh` (NULL: one process) is borrowed for the block's life,
// `options` may be NULL. On a mesh every rank makes the block with the same configuration.
// Errors: INVALID_ARGUMENT, INVALID_CONFIG (also an unknown router or expert type), OUT_OF_MEMORY.
MOEBLOCK_API moeblock_status moeblock_block_create(moeblock_context *context, const moeblock_config *config,
                                                   moeblock_mesh *mesh, const moeblock_block_options *options,
                                                   moeblock_block **out, moeblock_error *error);
MOEBLOCK_API void moeblock_block_destroy(moeblock_block **block);

typedef struct moeblock_load_options {
    uint32_t struct_size;
    // Called now and then from one thread at a time; returning non-zero cancels the load (CANCELLED).
    int (*progress)(void *user, uint64_t bytes_done, uint64_t bytes_total);
    void *user;
    int router_only; // non-zero: reads the router's tensors alone; the block can then route, not run
} moeblock_load_options;

// Loads the layer's tensors: from an opened checkpoint, from a path (NULL: the configuration's weight_path), or from
// tensors in the caller's memory, whose names may be full ("model.layers.3.mlp.gate.weight"), start at "mlp." or
// be bare ("gate.weight"). Data is copied into the kernels' own packing; nothing is borrowed afterwards.
// A failed load leaves earlier weights in force. Must not run at the same time as forward on the same block.
// Errors: NOT_FOUND and INVALID_FILE name the tensor, what was found and what was expected; UNSUPPORTED, IO,
// OUT_OF_MEMORY, CANCELLED. Peak memory: the packed weights + one expert + 64 MiB.
MOEBLOCK_API moeblock_status moeblock_block_load(moeblock_block *block, moeblock_weights *weights,
                                                 const moeblock_load_options *options, moeblock_error *error);
MOEBLOCK_API moeblock_status moeblock_block_load_files(moeblock_block *block, const char *path,
                                                       const moeblock_load_options *options, moeblock_error *error);
MOEBLOCK_API moeblock_status moeblock_block_load_weights(moeblock_block *block, const moeblock_tensor *tensors,
                                                         size_t count, moeblock_error *error);

typedef struct moeblock_block_info {
    uint32_t struct_size;
    moeblock_compute compute;   // after load: what AUTO became
    const char *format;         // of the routed experts as stored: "f32", "f16", "bf16", "fp8", "mxfp4"; "" before load
    size_t packed_bytes;        // of the expert, shared and latent weights held
    size_t expert_packed_bytes; // of one routed expert, as packed
    int64_t chunk_tokens;       // most tokens that one pass takes
    const char *level; // kernel level of the experts; "" before load. The context's, but for what docs/numerics.md
                       // says of float32 compute on a mesh of unlike machines
} moeblock_block_info;

MOEBLOCK_API void moeblock_block_get_info(const moeblock_block *block, moeblock_block_info *out);

// Bytes that forward needs for up to `tokens` tokens on this rank. Bounded: beyond chunk_tokens it does not grow.
MOEBLOCK_API size_t moeblock_workspace_bytes(const moeblock_block *block, int64_t tokens);

// Makes a workspace for up to `tokens` tokens, in `memory` (64-byte aligned, at least moeblock_workspace_bytes; it
// must outlive the workspace) or, when NULL, in memory of the context's allocator. One workspace serves one forward
// at a time; any number may be used at once on one block. Errors: WRONG_STATE before load.
MOEBLOCK_API moeblock_status moeblock_workspace_create(const moeblock_block *block, int64_t tokens, void *memory,
                                                       size_t bytes, moeblock_workspace **out, moeblock_error *error);
MOEBLOCK_API void moeblock_workspace_destroy(moeblock_workspace **workspace);

// An array of the caller's: rank 1 to 8, the last dimension is the hidden one and is contiguous; strides are in
// elements, all zero meaning dense. dtype F32, F16 or BF16.
typedef struct moeblock_array {
    moeblock_dtype dtype;
    int rank;
    int64_t dims[MOEBLOCK_MAX_RANK];
    int64_t strides[MOEBLOCK_MAX_RANK];
    void *data;
} moeblock_array;

typedef struct moeblock_forward_input {
    uint32_t struct_size;
    moeblock_mode mode;
    moeblock_array x;   // [..., H], or [..., H / C] when hidden-sharded
    moeblock_array aux; // second tensor for a router or shared expert that reads one; data NULL: none. Always [..., H]
    const int64_t *token_ids;   // [T] or NULL
    const int32_t *token_types; // [T] or NULL
    const int64_t *seq_lens;    // [n_seq] lengths of the sequences that the rows are, or NULL: one sequence
    int64_t n_seq;
    const float *router_state; // [T, state_size] from the block before, for routers that carry a state; else NULL
} moeblock_forward_input;

typedef struct moeblock_forward_stats {
    uint32_t struct_size;
    int64_t tokens, slots, chunks;
    int64_t active_experts; // experts with at least one row, summed over the chunks
    int64_t *expert_load;   // NULL, or [num_experts] counts that forward adds to
    double router_seconds, experts_seconds,
        total_seconds; // experts_seconds: dispatch to the sum, shared expert included
} moeblock_forward_stats;

typedef struct moeblock_forward_output {
    uint32_t struct_size;
    moeblock_array y; // shape and sharding of x; dtype F32, F16 or BF16
    // NULL or [T, k]: slots in descending weight, ties by lower id. Experts of a second bank are numbered behind those
    // of the first, null experts behind both; -1: the expert was full and dropped the token (weight 0).
    int32_t *ids;
    float *weights;                // NULL or [T, k]: as they multiply the expert, before any scale on the routed output
    float *router_state;           // NULL or [T, state_size] for the next block's router
    moeblock_forward_stats *stats; // NULL or filled
} moeblock_forward_output;

// Runs the block. y may be x, else they lie apart. Allocates nothing. T = 0 is fine. On a mesh every rank calls it.
// Errors: WRONG_STATE (no weights), INVALID_ARGUMENT (shapes, dtypes, mode, a workspace too small or of another
// block), and what a mesh or an outside router reports. After an error y's content is unspecified; nothing else
// changes.
MOEBLOCK_API moeblock_status moeblock_block_forward(const moeblock_block *block, moeblock_workspace *workspace,
                                                    const moeblock_forward_input *input,
                                                    const moeblock_forward_output *output, moeblock_error *error);

// The router alone: fills ids, weights and stats->expert_load of `output`; y is not looked at. Needs a workspace like
// forward, and works after a load of the router only.
MOEBLOCK_API moeblock_status moeblock_block_route(const moeblock_block *block, moeblock_workspace *workspace,
                                                  const moeblock_forward_input *input,
                                                  const moeblock_forward_output *output, moeblock_error *error);

// The common case: x and y float32 [tokens, H].
MOEBLOCK_API moeblock_status moeblock_forward(const moeblock_block *block, moeblock_workspace *workspace,
                                              const float *x, int64_t tokens, moeblock_mode mode, float *y,
                                              moeblock_error *error);

// The routed experts alone on given ids and weights [tokens, k] (id -1: an empty slot): no router, no shared
// expert, no scale on the routed output, no norm of the output. `k` need not be the configuration's.
MOEBLOCK_API moeblock_status moeblock_block_forward_experts(const moeblock_block *block, moeblock_workspace *workspace,
                                                            const moeblock_array *x, const int32_t *ids,
                                                            const float *weights, int64_t k, moeblock_array *y,
                                                            moeblock_error *error);

#ifdef __cplusplus
}
#endif
#endif
