// SPDX-License-Identifier: Apache-2.0
// The CPU backend's buffers and the helpers that its steps share.
#ifndef MB_BACKEND_CPU_CPU_H
#define MB_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "base/arith.h"
#include "kernels/int16.h"

// Columns that one task of the routed or shared experts computes, and tokens of one token-wise task.
enum { MB_TASK_COLUMNS = 64, MB_TASK_TOKENS = 16 };
enum { MB_WIDEST_ROW = 1 << 20 }; // largest hidden or intermediate size of a configuration

// One row for one expert, in the order expert, then row.
struct mb_slot {
    int64_t row;  // among the arrived rows
    int64_t home; // token * k + j at the row's home (ep == 1), else the place in the returned buffer
    float weight; // what multiplies the expert's output (1 when it went to the input)
};

// A unit of work: columns [c0, c1) of one expert's activations (inner), or of all experts' outputs (outer).
struct mb_item {
    bool shared;
    int64_t expert;
    int64_t c0, c1;
};

// All buffers of a pass over up to n tokens (workspace->tokens). `a` is the most rows that can arrive (n, or ep * n
// on a mesh), `s` the most slots. Rows of experts are mb_row_bytes long, elements are mb_element_bytes.
struct mb_buffers {
    char *x_mine, *x_all; // hidden-sharded x: own part and all parts, in x's dtype; tp > 1 only
    float *x;             // [n][H] unrounded
    float *aux;           // [n][H], NULL unless the router or the shared expert reads it
    void *rows;           // [n] rows of H: x for the experts (x itself in F32)
    void *aux_rows;       // [n] rows of H: aux for the shared expert (aux itself in F32)
    void *latent;         // [n] rows of L

    float *logits;  // [n][router width]
    int32_t *ids;   // [n][k]
    float *weights; // [n][k]
    int32_t *order; // [n][k] slots of a token in ascending id: the order of the sum
    uint8_t *seen;  // per worker: one flag per class
    void *carry;    // of a router that counts tokens, through all passes of a forward

    char *send, *receive;               // ep > 1: row records out and in
    int64_t *record_token;              // [sum of records] token of each sent record, by destination
    size_t *send_bytes, *receive_bytes; // [ep]; send_bytes also [tp] for gathers
    int64_t *send_rows, *receive_rows;  // [ep]
    void *out_slots, *returned;         // ep > 1: expert outputs of arrived slots; those of own tokens
    int64_t *return_place;              // [n][k] index of a slot's output in `returned`, -1: none

    const char **arrived_row;      // [a] rows in elements of the routed width
    const int32_t **arrived_ids;   // [a] k ids of each arrived row
    const float **arrived_weights; // [a]
    int64_t *expert_begin;         // [e1 - e0 + 1] first slot of each expert of the range
    struct mb_slot *slot;          // [s]
    const void **slot_row;         // [s] input row of each slot
    void *scaled;                  // [s] rows of D times weights, when weights go to the input
    void *activation;              // [s][I] elements
    void *activation_part;         // [s][own I]; tp > 1
    void *activation_all;          // gathered parts; tp > 1
    void *activation_integers;     // [s] rows of I, INT16 only: elsewhere activations are rows
    const void **activation_row;   // [s]

    const void **token_row;         // [n] rows of the shared expert
    void *shared_activation;        // [n][Is]
    void *shared_part, *shared_all; // tp > 1
    void *shared_integers;          // [n] rows of Is, INT16 only
    const void **shared_row;        // [n]
    float *factors;                 // [n][2] of the routed sum and of the shared expert

    float *routed;                   // [n][own D] routed sums
    float *routed_all, *routed_full; // latent on tp > 1: gathered parts, [n][L]
    float *lifted;                   // [n][own H]: the routed part at the hidden size (routed itself without a latent)
    float *shared;                   // [n][own H]
    char *y_mine, *y_all;            // tp > 1: own columns of y in its dtype, all parts; [n][H] floats each

    struct mb_item *items; // work list of a phase
    size_t scratch_bytes;  // per worker
    char *scratch;         // [workers][scratch_bytes]
};

// Columns of a task of a kind that splits: at least MB_TASK_COLUMNS, in whole granules. An outside kind's granule may
// be any number; beyond the widest row it means whole rows.
static inline int64_t mb_task_columns(const moeblock_expert_class *kind, const void *self)
{
    const int64_t granule = mb_min(mb_max(kind->granule(self), 1), MB_WIDEST_ROW);
    return mb_ceil_div(MB_TASK_COLUMNS, granule) * granule;
}

// The outer phase computes one expert's outputs in tiles: at most so many rows, and columns of a kind that splits, the
// more the fewer the rows; at least those of a task.
enum { MB_OUTER_ROWS = 192, MB_OUTER_COLUMNS = 512 };
static inline int64_t mb_tile_columns(const moeblock_expert_class *kind, const void *self, int64_t rows)
{
    const int64_t task = mb_task_columns(kind, self);
    return mb_max(1, MB_OUTER_ROWS * MB_OUTER_COLUMNS / mb_max(1, mb_min(rows, MB_OUTER_ROWS)) / task) * task;
}

static inline struct mb_buffers *mb_buffers_of(const struct mb_run *run) { return run->workspace->buffers; }

// Whether an id of an arrived row is computed on this rank. Rows from other ranks carry -1 for all other ids.
static inline bool mb_computed_here(const struct mb_run *run, int32_t id)
{
    return id >= 0 && id < mb_all_experts(run->block->config) && run->block->owns[id];
}

// Bytes of an element of the activations as inner leaves them, of a row of `width` inputs of an expert, and of an
// element of an expert's outputs on their way to another rank.
static inline size_t mb_element_bytes(const struct mb_weight_set *set)
{
    return set->compute == MOEBLOCK_COMPUTE_BF16 ? 2 : 4;
}

static inline size_t mb_row_bytes(const struct mb_weight_set *set, int64_t width)
{
    return set->compute == MOEBLOCK_COMPUTE_INT16 ? mb_int16_row_bytes(width) : (size_t)width * mb_element_bytes(set);
}

static inline size_t mb_output_bytes(const struct mb_weight_set *set)
{
    return set->compute == MOEBLOCK_COMPUTE_F32 ? 4 : 2;
}

// Bytes of a row record on its way to another rank: the row, its ids, its weights.
size_t mb_record_bytes(const moeblock_block *block, const struct mb_weight_set *set, int64_t k);
// Bytes that the router carries from pass to pass.
size_t mb_carry_bytes(const moeblock_block *block);
// Columns of the router's logits; 0 when it selects from x alone.
int64_t mb_router_width(const moeblock_block *block);
// Most slots that `rows` arrived rows can have on this rank.
int64_t mb_slots_most(const moeblock_block *block, int64_t rows, int64_t k);

// Runs the task for all indices on the context's team with denormals flushed; the first failure wins. Each call gets an
// error of its own, so that two that fail at once do not mix their sentences.
typedef moeblock_status (*mb_step_task)(struct mb_run *run, int64_t index, int worker, moeblock_error *error);
moeblock_status mb_each(struct mb_run *run, int64_t count, mb_step_task task);
// What `call` of a kind ("router" or "expert") returned, made whole: an outside kind may fail without filling `error`,
// which was empty before the call, or fill it with another code.
moeblock_status mb_kind_status(const char *what, const struct mb_registered *kind, const char *call,
                               moeblock_status status, moeblock_error *error);
static inline char *mb_scratch(const struct mb_run *run, int worker)
{
    const struct mb_buffers *buffers = mb_buffers_of(run);
    return buffers->scratch + (size_t)worker * buffers->scratch_bytes;
}

// Gathers [rows][own columns] of every TP rank into [rows][total]; `all` holds the parts on the way. `element` bytes
// each.
moeblock_status mb_gather_columns(struct mb_run *run, const void *part, int64_t rows, int64_t total, size_t element,
                                  void *all, void *whole, size_t *bytes_per_rank);

// n floats as a row of experts, in BF16 and INT16 (in F32 they are one).
void mb_to_row(const struct mb_run *run, void *row, const float *from, int64_t n);

// work_list.c: the items of a phase; returns how many. Inner ones of the routed experts come first.
int64_t mb_list_inner(struct mb_run *run, bool routed, bool shared, int64_t *routed_items);
int64_t mb_list_outer(struct mb_run *run, bool routed, bool shared);

void mb_run_trace(const struct mb_run *run, const char *what, int64_t a, int64_t b);

// The steps (one file each).
moeblock_status mb_cpu_load(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                            const moeblock_load_options *options, struct mb_weight_set **out, moeblock_error *error);
moeblock_status mb_cpu_size(const moeblock_block *block, enum mb_format format, struct mb_weight_set **out,
                            moeblock_error *error);
void mb_cpu_unload(const moeblock_block *block, struct mb_weight_set *set);
int64_t mb_cpu_chunk_tokens(const moeblock_block *block);
size_t mb_cpu_workspace_bytes(const moeblock_block *block, int64_t tokens, int workers);
void mb_cpu_workspace_place(moeblock_workspace *workspace);
void mb_cpu_begin(struct mb_run *run);
moeblock_status mb_cpu_gather_input(struct mb_run *run);
moeblock_status mb_cpu_route(struct mb_run *run);
moeblock_status mb_cpu_dispatch(struct mb_run *run);
moeblock_status mb_cpu_compute_experts(struct mb_run *run);
moeblock_status mb_cpu_compute_shared(struct mb_run *run);
moeblock_status mb_cpu_combine(struct mb_run *run);
moeblock_status mb_cpu_add_shared(struct mb_run *run);
moeblock_status mb_cpu_norm_output(struct mb_run *run);
moeblock_status mb_cpu_scatter_output(struct mb_run *run);

#endif
