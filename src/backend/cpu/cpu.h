// SPDX-License-Identifier: Apache-2.0
// The CPU backend's buffers and the helpers that its steps share.
#ifndef MB_BACKEND_CPU_CPU_H
#define MB_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "base/arith.h"
#include "config/tensors.h"
#include "kernels/int16.h"

// Columns that one task of the routed or shared experts computes, and tokens of one token-wise task.
enum { MB_TASK_COLUMNS = 64, MB_TASK_TOKENS = 16 };
enum { MB_WIDEST_ROW = 1 << 20 }; // largest hidden or intermediate size of a configuration

// One row for one expert, in the order expert, then row.
struct mb_slot {
    int64_t row;  // among the arrived rows
    int64_t home; // place among the outputs, in the order in which its row asked
    float weight; // what multiplies the expert's output (1 when it went to the input)
};

// What a row asks of one expert.
struct mb_choice {
    int32_t id;
    float weight;
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

    // ep > 1: a parcel to each other rank, from each other rank (parcel_most bytes apart), and the outputs of its slots
    // on their way home.
    char *send, *receive;
    size_t parcel_most;
    char *relay; // the two stages of MB_TWOLEVEL; the most bytes of a message of each
    size_t relay_first, relay_second;
    int64_t *returns;           // [ep] rows that each rank gets back for what it sent
    void *out_slots, *returned; // outputs of arrived slots; of the slots of own tokens, by rank of the expert
    int64_t *place_begin;       // [ep + 1] first output of each rank in `returned`
    int64_t *return_place;      // [n][k] a slot's output in `returned`, -1: none
    float *sums;                // MB_REPRODUCIBLE_BATCH: [rows at hand][own D] what each row gets here
    void *outputs;              // where the slots at hand deliver: `out_slots`, or this rank's part of `returned`

    struct mb_choice *own_pairs;      // [n][min(k, owned)]
    const char **arrived_row;         // [a] rows in elements of the routed width
    struct mb_choice **arrived_pairs; // [a] what each arrived row asks of this rank's experts
    int32_t *arrived_count;           // [a] how many
    int64_t *expert_begin;            // [e1 - e0 + 1] first slot of each expert of the range
    int64_t slots_most;               // s
    struct mb_slot *slot;             // [s]
    const void **slot_row;            // [s] input row of each slot
    void *scaled;                     // [s] rows of D times weights, when weights go to the input
    void *activation;                 // [s][I] elements
    void *activation_part;            // [s][own I]; tp > 1
    void *activation_all;             // gathered parts; tp > 1
    void *activation_integers;        // [s] rows of I, INT16 only: elsewhere activations are rows
    const void **activation_row;      // [s]

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
    float *finished;                 // [n][y's own H]: lifted itself, unless that holds partial sums of all of H
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

// Whether this rank computes an expert.
static inline bool mb_computed_here(const struct mb_run *run, int32_t id)
{
    return id >= 0 && id < mb_all_experts(run->block->config) && run->block->owns[id];
}

// Bytes of an element of the activations as inner leaves them, of a row of `width` inputs of an expert, and of an
// element of an expert's outputs on their way to another rank.
static inline size_t mb_element_bytes(const struct mb_weight_set *set)
{
    return mb_has_bf16_rows(set->compute) ? 2 : 4;
}

static inline size_t mb_row_bytes(const struct mb_weight_set *set, int64_t width)
{
    return set->compute == MOEBLOCK_COMPUTE_INT16 ? mb_int16_row_bytes(width) : (size_t)width * mb_element_bytes(set);
}

static inline size_t mb_output_bytes(const struct mb_weight_set *set)
{
    return set->compute == MOEBLOCK_COMPUTE_F32 ? 4 : 2;
}

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

// Gathers [rows][own columns] of every TP rank into [rows][total] elements at `whole`, which may be `part`; `all` holds
// the parts on the way and has room for `most` rows.
struct mb_gather {
    moeblock_traffic_step step;
    const void *part;
    int64_t rows, most, total;
    size_t element;
    void *all, *whole;
};
moeblock_status mb_gather_columns(struct mb_run *run, const struct mb_gather *gather);

// A failure of this rank on a mesh is no reason to leave the flow: the run goes on without computing, its headers tell
// the others, and all of them return the same error at the end. mb_run_fail keeps the first failure and returns OK on a
// mesh that lives, the failure's status otherwise.
moeblock_status mb_run_fail(struct mb_run *run, const moeblock_error *error);
// An exchange with the run's status in its headers; what others report becomes the run's failure.
moeblock_status mb_run_start(struct mb_run *run, struct mb_exchange *exchange);
moeblock_status mb_run_finish(struct mb_run *run, struct mb_exchange *exchange);
// Fails the run: rank `index` of the TP axis has other rows than this one.
moeblock_status mb_run_uneven(struct mb_run *run, int index, int64_t found, int64_t expected);
void mb_run_trace_mesh(const struct mb_run *run, const char *what, int axis, size_t bytes);

// n floats as a row of experts, in BF16 and INT16 (in F32 they are one).
void mb_to_row(const struct mb_run *run, void *row, const float *from, int64_t n);

// work_list.c: the items of a phase; returns how many. Inner ones of the routed experts come first.
int64_t mb_list_inner(struct mb_run *run, bool routed, bool shared, int64_t *routed_items);
int64_t mb_list_outer(struct mb_run *run, bool routed, bool shared);

// combine.c, where ranks sum (mb_sums_there): the sums of the rows at hand become what travels, at b->outputs.
moeblock_status mb_round_sums(struct mb_run *run);

void mb_run_trace(const struct mb_run *run, const char *what, int64_t a, int64_t b);

// load.c: a linear map of the first expert, by which all ranks go as one process does, or of this rank's first where it
// was given its own alone.
moeblock_status mb_find_stored(const moeblock_block *block, moeblock_weights *weights, enum mb_projection map,
                               int64_t layer, struct mb_matrix *out, moeblock_error *error);

// columns.c: what each tensor-parallel rank computes, for what is stored, and for a format that it would be stored in.
moeblock_status mb_columns_stored(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                                  struct mb_weight_set *set, moeblock_error *error);
moeblock_status mb_columns_sized(const moeblock_block *block, enum mb_format format, struct mb_weight_set *set,
                                 moeblock_error *error);

// The steps (one file each).
moeblock_status mb_cpu_load(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                            const moeblock_load_options *options, struct mb_weight_set **out, moeblock_error *error);
moeblock_status mb_cpu_size(const moeblock_block *block, enum mb_format format, struct mb_weight_set **out,
                            moeblock_error *error);
void mb_cpu_unload(const moeblock_block *block, struct mb_weight_set *set);
int64_t mb_cpu_chunk_tokens(const moeblock_block *block);
void mb_cpu_travel(const moeblock_block *block, const struct mb_weight_set *set, int64_t tokens, struct mb_travel *out);
size_t mb_cpu_workspace_bytes(const moeblock_block *block, int64_t tokens, int workers);
void mb_cpu_workspace_place(moeblock_workspace *workspace);
void mb_cpu_begin(struct mb_run *run);
moeblock_status mb_cpu_gather_input(struct mb_run *run);
moeblock_status mb_cpu_route(struct mb_run *run);
moeblock_status mb_cpu_dispatch(struct mb_run *run);
moeblock_status mb_cpu_compute_experts(struct mb_run *run);
moeblock_status mb_cpu_receive(struct mb_run *run);
moeblock_status mb_cpu_compute_received(struct mb_run *run);
moeblock_status mb_cpu_compute_shared(struct mb_run *run);
moeblock_status mb_cpu_combine(struct mb_run *run);
moeblock_status mb_cpu_add_shared(struct mb_run *run);
moeblock_status mb_cpu_reduce_sums(struct mb_run *run);
moeblock_status mb_cpu_norm_output(struct mb_run *run);
moeblock_status mb_cpu_scatter_output(struct mb_run *run);

#endif
