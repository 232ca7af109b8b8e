// SPDX-License-Identifier: Apache-2.0
// What runs a block. block.c walks the flow; a backend supplies each step for one kind of machine. `cpu` is the first.
// Also here: the state that the steps share, namely the block, its loaded weights and one run of the flow over a chunk.
#ifndef MB_BACKEND_BACKEND_H
#define MB_BACKEND_BACKEND_H

#include <stdatomic.h>

#include "base/context.h"
#include "config/config.h"
#include "experts/expert.h"
#include "experts/shared_gate.h"
#include "kernels/kernels.h"
#include "mesh/algorithm.h"
#include "mesh/mesh.h"
#include "mesh/placement.h"
#include "moeblock/block.h"
#include "routers/router.h"
#include "weights/format.h"

// What this rank owns, from the mesh and the configuration (share.c).
struct mb_share {
    int tp, tp_index, tp_axis; // ranks that split columns, this rank's place; 1 when tensor parallelism is off
    int ep, ep_index, ep_axis; // ranks that split experts
    int64_t e0, e1;            // range that holds every routed expert owned
    int64_t owned;             // of them; all of the range with contiguous placement
    int64_t h0, h1;            // columns of the hidden size: of sharded x and of y
};

// What this rank computes of its experts, from the form in which tensor-parallel ranks work together
// (cpu/columns.c).
struct mb_columns {
    bool sums;              // partial sums of all outputs, over its part of k; else whole outputs of its columns
    char why[200];          // the form, and why
    int64_t i0, i1, s0, s1; // columns of the routed and of the shared intermediate
    int64_t d0, d1;         // columns of the routed output (the latent width where there is one)
    int64_t h0, h1;         // columns of the shared output
};

// What of a weight set is there: all of it, the router, or sizes without any weights.
enum mb_loaded { MB_LOADED_ALL, MB_LOADED_ROUTER, MB_LOADED_SIZES };

// Everything that a load makes. A failed load leaves the block's earlier set alone.
struct mb_weight_set {
    uint64_t serial; // differs from load to load and block to block, so that an old workspace is noticed
    enum mb_loaded loaded;
    moeblock_compute compute;
    const char *format;
    struct mb_columns columns;
    void *router, *routed, *shared; // objects of the kinds below; NULL where the description has none
    struct mb_latent *latent;
    struct mb_shared_factors *shared_gate; // or mixing coefficients
    float *output_bias;                    // [routed output width]
    float *out_norm;                       // [hidden], NULL: none
    float *output_scale;                   // [hidden] less 1, NULL: none
    size_t packed_bytes, expert_packed_bytes;
};

// Told, for tests, what the flow does: the name of a step or work list and up to two counts.
typedef void (*mb_trace)(void *user, const char *what, int64_t a, int64_t b);

struct moeblock_block {
    moeblock_context *context;
    moeblock_config *config;
    moeblock_mesh *mesh; // NULL: one process
    const struct mb_backend *backend;
    moeblock_compute requested;
    // AUTO, on a mesh when it is the best for every rank: instead of BF16 where all weights have integers, and else.
    bool may_be_int16, may_be_bf16x2;
    bool rounds_apart; // a rank of the mesh does not fuse multiply and add: in F32 compute none does
    const struct mb_registered *router_kind, *routed_kind, *shared_kind; // NULL where there is none
    struct mb_share share;
    struct mb_placement_table placement; // EP ranks that hold each routed expert
    uint8_t *owns;                       // [experts of both banks] whether this rank holds it
    int64_t routed_width;                // width of rows into and out of the routed experts: latent_size or hidden_size
    struct mb_weight_set *set;           // NULL before load
    mb_trace trace;
    void *trace_user;
};

struct moeblock_workspace {
    const moeblock_block *block;
    uint64_t serial; // of the weight set it was made for
    int64_t tokens;  // most tokens of one pass
    int workers;
    moeblock_allocator allocator;
    void *memory;
    bool owned;
    void *buffers; // the backend's, inside memory
};

// One pass of the flow over tokens [first, first + n) of this rank.
struct mb_run {
    const moeblock_block *block;
    const struct mb_weight_set *set;
    moeblock_workspace *workspace;
    const moeblock_forward_input *input;
    const moeblock_forward_output *output;
    moeblock_sharding sharding; // of x and y
    bool route_only;            // stops behind the router
    int64_t first, n;
    int64_t longest;          // the most tokens of a pass of any rank
    int64_t k;                // slots per token
    int64_t state_width;      // of the router's state; 0: none
    const int32_t *given_ids; // ids and weights from outside ([T, k]); NULL: the router decides
    const float *given_weights;
    int64_t arrived;        // rows that this rank's experts compute on: own tokens, or what dispatch brought
    int64_t slots;          // (row, expert) pairs among them
    int64_t active_experts; // sums over the passes, for the statistics
    double router_seconds, experts_seconds;
    enum mb_algorithm algorithm;    // of this pass; never AUTO
    struct mb_exchange *travelling; // dispatched rows on their way; NULL: none
    _Atomic int failed;             // the first failure's status
    int origin;                     // rank whose failure that is
    moeblock_error *error;          // its text when it is this rank's, never NULL
};

// Whether experts' ranks sum what a row gets there and return one row.
static inline bool mb_sums_there(const moeblock_block *block)
{
    return block->share.ep > 1 && block->config->reproducible == MB_REPRODUCIBLE_BATCH;
}

static inline bool mb_run_failed(const struct mb_run *run)
{
    return atomic_load_explicit(&run->failed, memory_order_relaxed) != MOEBLOCK_OK;
}

// The steps, in the order of block.c. Each returns a status and fills run->error.
struct mb_backend {
    const char *name;
    moeblock_status (*load)(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                            const moeblock_load_options *options, struct mb_weight_set **out, moeblock_error *error);
    // A set with the sizes that a load of experts in `format` would have, and without weights.
    moeblock_status (*size)(const moeblock_block *block, enum mb_format format, struct mb_weight_set **out,
                            moeblock_error *error);
    void (*unload)(const moeblock_block *block, struct mb_weight_set *set);
    int64_t (*chunk_tokens)(const moeblock_block *block);
    // What decides how rows travel in passes of `tokens` tokens, of any rank.
    void (*travel)(const moeblock_block *block, const struct mb_weight_set *set, int64_t tokens, struct mb_travel *out);
    // Bytes for passes of up to `tokens` tokens with `workers` workers, and the same memory laid out.
    size_t (*workspace_bytes)(const moeblock_block *block, int64_t tokens, int workers);
    void (*workspace_place)(moeblock_workspace *workspace);

    void (*begin)(struct mb_run *run); // before the first pass of a forward
    moeblock_status (*gather_input)(struct mb_run *run);
    moeblock_status (*route)(struct mb_run *run);
    moeblock_status (*dispatch)(struct mb_run *run);
    moeblock_status (*compute_experts)(struct mb_run *run);
    moeblock_status (*receive)(struct mb_run *run);
    moeblock_status (*compute_received)(struct mb_run *run);
    moeblock_status (*compute_shared)(struct mb_run *run);
    moeblock_status (*combine)(struct mb_run *run);
    moeblock_status (*add_shared)(struct mb_run *run);
    moeblock_status (*reduce_sums)(struct mb_run *run);
    moeblock_status (*norm_output)(struct mb_run *run);
    moeblock_status (*scatter_output)(struct mb_run *run);
};

extern const struct mb_backend mb_backend_cpu;

// needs.c: NOT_FOUND with all that is missing of what a kind from outside says it needs. `error` is not NULL.
moeblock_status mb_router_needs(const struct mb_registered *kind, const void *self, moeblock_weights *weights,
                                int64_t layer, moeblock_error *error);
moeblock_status mb_expert_needs(const struct mb_registered *kind, const void *self, moeblock_weights *weights,
                                int64_t layer, moeblock_error *error);

static inline bool mb_set_rounds_apart(const moeblock_block *block, const struct mb_weight_set *set)
{
    return block->rounds_apart && set->compute == MOEBLOCK_COMPUTE_F32;
}

// The kernel level of a set's experts and latent projections. What is computed beside them has the same bits at all.
static inline const struct mb_kernels *mb_set_kernels(const moeblock_block *block, const struct mb_weight_set *set)
{
    const struct mb_kernels *const level = block->context->kernels;
    return mb_set_rounds_apart(block, set) ? mb_kernels_apart(level) : level;
}

// share.c
moeblock_status mb_share_make(const moeblock_config *config, const moeblock_mesh *mesh, struct mb_share *out,
                              moeblock_error *error);
// Fills the block's placement and `owns`, and the experts of its share.
moeblock_status mb_share_place(moeblock_block *block, moeblock_error *error);
// EP rank that computes class `id` for this rank's own tokens; -1 for null experts and empty slots. Where all ranks
// hold the same tokens they agree on one of several copies.
static inline int mb_share_rank(const moeblock_block *block, int32_t id)
{
    const int home = block->config->replicated_batch ? 0 : block->share.ep_index;
    return id >= 0 && id < mb_all_experts(block->config) ? mb_placement_rank(&block->placement, id, home) : -1;
}
// Columns of axis rank `index` when `total` columns are split over the TP ranks.
void mb_share_columns(const struct mb_share *share, int64_t total, int index, int64_t *begin, int64_t *end);

#endif
