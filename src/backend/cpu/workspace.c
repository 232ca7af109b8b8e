// SPDX-License-Identifier: Apache-2.0
// Sizes and places of all buffers of a pass: one function that both measures (base NULL) and lays out.
#include "backend/cpu/cpu.h"
#include "base/arith.h"

// The workspace of one pass is kept below this, but a pass takes at least LEAST_CHUNK tokens and at most MOST_CHUNK.
enum { LEAST_CHUNK = 16, MOST_CHUNK = 4096 };
static const size_t workspace_target = (size_t)256 << 20;

struct cursor {
    char *base;
    size_t used;
};

// The next `count` elements of `bytes` bytes, 64-byte aligned.
static void *take(struct cursor *cursor, int64_t count, size_t bytes)
{
    void *at = cursor->base ? cursor->base + cursor->used : NULL;
    cursor->used += mb_round_up((size_t)mb_max(count, 0) * bytes, 64);
    return at;
}

static void take_input(struct cursor *c, struct mb_buffers *b, const moeblock_block *block, int64_t n)
{
    const moeblock_config *config = block->config;
    const int64_t hidden = config->hidden_size, k = mb_all_slots(config);
    const size_t row = mb_row_bytes(block->set, hidden);
    const bool sharding = block->share.tp > 1, f32 = block->set->compute == MOEBLOCK_COMPUTE_F32;
    b->x_mine = take(c, sharding ? n * hidden : 0, sizeof(float));
    b->x_all = take(c, sharding ? n * hidden : 0, sizeof(float));
    b->x = take(c, n * hidden, sizeof(float));
    b->aux = mb_reads_aux(config) ? take(c, n * hidden, sizeof(float)) : NULL;
    b->rows = f32 ? (void *)b->x : take(c, n, row);
    const bool shared_aux = config->shared_enabled && config->shared_input == MB_INPUT_AUX;
    b->aux_rows = f32 ? (void *)b->aux : take(c, shared_aux ? n : 0, row);
    b->latent = take(c, n, mb_row_bytes(block->set, config->latent_size));
    b->ids = take(c, n * k, sizeof *b->ids);
    b->weights = take(c, n * k, sizeof *b->weights);
    b->order = take(c, n * k, sizeof *b->order);
}

int64_t mb_router_width(const moeblock_block *block)
{
    if (!block->router_kind) return 0;
    const moeblock_router_class *router = block->router_kind->class_copy;
    return router->logits ? mb_max(router->width(block->set->router), 0) : 0;
}

size_t mb_carry_bytes(const moeblock_block *block)
{
    if (!block->router_kind) return 0;
    const moeblock_router_class *router = block->router_kind->class_copy;
    return router->carry_bytes ? router->carry_bytes(block->set->router) : 0;
}

static void take_router(struct cursor *c, struct mb_buffers *b, const moeblock_block *block, int64_t n, int workers)
{
    b->logits = take(c, n * mb_router_width(block), sizeof(float));
    b->seen = take(c, workers * mb_all_classes(block->config), 1);
    b->carry = take(c, 1, mb_carry_bytes(block));
}

// The two stages of an exchange: the most that a rank sends to all ranks of one place in their groups, and that a group
// sends to one rank, in dispatch and in combine.
static void take_relay(struct cursor *c, struct mb_buffers *b, const moeblock_block *block, int64_t n, size_t row)
{
    const struct mb_columns *columns = &block->set->columns;
    const int ep = block->share.ep, group = mb_relay_group(ep);
    const enum mb_algorithm algorithm = block->config->algorithm;
    if (group == 1 || (algorithm != MB_TWOLEVEL && algorithm != MB_ALGORITHM_AUTO)) return;
    const int64_t k = mb_all_slots(block->config), groups = ep / group;
    const size_t output = (size_t)(columns->d1 - columns->d0) * mb_output_bytes(block->set);
    const size_t pairs = (size_t)(n * k) * sizeof(struct mb_choice);
    const size_t out = (size_t)(n * mb_min(k, groups)) * row + pairs + (size_t)groups * sizeof(int32_t);
    const size_t in = (size_t)group * ((size_t)n * row + pairs + sizeof(int32_t));
    b->relay_first = (size_t)mb_max((int64_t)out, (int64_t)((size_t)(groups * n * k) * output));
    b->relay_second = (size_t)mb_max((int64_t)in, (int64_t)((size_t)(n * k) * output));
    b->relay = take(c, (int64_t)mb_relay_bytes(ep, b->relay_first, b->relay_second), 1);
}

// Parcels to and from other ranks, only with expert parallelism. With ids from outside k may be any number: fewer
// tokens then, so that there are never more pairs, nor more rows than pairs.
static void take_exchange(struct cursor *c, struct mb_buffers *b, const moeblock_block *block, int64_t n)
{
    const int64_t ep = block->share.ep, k = mb_all_slots(block->config);
    if (ep == 1 || !block->set->routed) return;
    const struct mb_columns *columns = &block->set->columns;
    const int64_t own_columns = columns->d1 - columns->d0;
    const size_t output = mb_output_bytes(block->set);
    const size_t row = mb_row_bytes(block->set, block->routed_width) + sizeof(int32_t);
    const size_t sent = (size_t)(n * mb_min(k, ep - 1)) * row + (size_t)(n * k) * sizeof(struct mb_choice);
    // Rows that go to all ranks have all their pairs.
    const int64_t pairs = block->config->algorithm == MB_ALLGATHER ? n * k : mb_slots_most(block, n, k);
    b->parcel_most = mb_round_up((size_t)n * row + (size_t)pairs * sizeof(struct mb_choice) + 64, 64);
    b->send = take(c, (int64_t)sent + 128 * ep, 1);
    b->receive = take(c, ep, b->parcel_most);
    take_relay(c, b, block, n, row);
    b->returns = take(c, ep, sizeof *b->returns);
    b->place_begin = take(c, ep + 1, sizeof *b->place_begin);
    b->out_slots = take(c, mb_slots_most(block, (ep - 1) * n, k) * own_columns, output);
    b->returned = take(c, n * k * own_columns, output);
    b->sums = take(c, mb_sums_there(block) ? mb_max(1, ep - 1) * n * own_columns : 0, sizeof *b->sums);
    b->return_place = take(c, n * k, sizeof *b->return_place);
}

static void take_routed(struct cursor *c, struct mb_buffers *b, const moeblock_block *block, int64_t n)
{
    const moeblock_config *config = block->config;
    const struct mb_share *share = &block->share;
    const struct mb_columns *columns = &block->set->columns;
    if (!block->set->routed) return;
    const size_t element = mb_element_bytes(block->set);
    const int64_t arrive = share->ep * n, k = mb_all_slots(config);
    const int64_t slots = mb_slots_most(block, arrive, k);
    const int64_t inner = columns->sums ? columns->i1 - columns->i0 : config->routed.intermediate_size;
    const moeblock_expert_class *kind = block->routed_kind->class_copy;
    const bool gathered = share->tp > 1 && kind->splits && !columns->sums,
               int16 = block->set->compute == MOEBLOCK_COMPUTE_INT16;
    b->own_pairs = take(c, mb_slots_most(block, n, k), sizeof *b->own_pairs);
    b->arrived_row = take(c, arrive, sizeof *b->arrived_row);
    b->arrived_pairs = take(c, arrive, sizeof *b->arrived_pairs);
    b->arrived_count = take(c, arrive, sizeof *b->arrived_count);
    b->expert_begin = take(c, share->e1 - share->e0 + 1, sizeof *b->expert_begin);
    b->slots_most = slots;
    b->slot = take(c, slots, sizeof *b->slot);
    b->slot_row = take(c, slots, sizeof *b->slot_row);
    b->scaled = take(c, config->router.apply_weight == MB_APPLY_INPUT ? slots : 0,
                     mb_row_bytes(block->set, block->routed_width));
    b->activation = take(c, slots * inner, element);
    b->activation_part = take(c, gathered ? slots * (columns->i1 - columns->i0) : 0, element);
    b->activation_all = take(c, gathered ? slots * inner : 0, element);
    b->activation_integers = take(c, int16 ? slots : 0, mb_row_bytes(block->set, inner));
    b->activation_row = take(c, slots, sizeof *b->activation_row);
}

static void take_sums(struct cursor *c, struct mb_buffers *b, const moeblock_block *block, int64_t n)
{
    const int64_t latent = block->config->latent_size;
    const struct mb_share *share = &block->share;
    const struct mb_columns *columns = &block->set->columns;
    const bool gathers = latent && share->tp > 1;
    b->routed = take(c, n * (columns->d1 - columns->d0), sizeof(float));
    b->routed_all = take(c, gathers ? n * latent : 0, sizeof(float));
    b->routed_full = gathers ? take(c, n * latent, sizeof(float)) : b->routed;
    b->lifted = latent ? take(c, n * (share->h1 - share->h0), sizeof(float)) : b->routed;
    b->finished = columns->sums ? take(c, n * (share->h1 - share->h0), sizeof(float)) : b->lifted;
}

static void take_shared(struct cursor *c, struct mb_buffers *b, const moeblock_block *block, int64_t n)
{
    const moeblock_config *config = block->config;
    const struct mb_columns *columns = &block->set->columns;
    if (!block->set->shared) return;
    const size_t element = mb_element_bytes(block->set);
    const bool gathers = block->share.tp > 1 && !columns->sums;
    const int64_t inner = columns->sums ? columns->s1 - columns->s0 : config->shared.intermediate_size;
    const bool int16 = block->set->compute == MOEBLOCK_COMPUTE_INT16;
    b->token_row = take(c, n, sizeof *b->token_row);
    b->shared_activation = take(c, n * inner, element);
    b->shared_part = take(c, gathers ? n * (columns->s1 - columns->s0) : 0, element);
    b->shared_all = take(c, gathers ? n * inner : 0, element);
    b->shared_integers = take(c, int16 ? n : 0, mb_row_bytes(block->set, inner));
    b->shared_row = take(c, n, sizeof *b->shared_row);
    b->factors = take(c, 2 * n, sizeof(float));
    b->shared = take(c, n * (columns->h1 - columns->h0), sizeof(float));
}

// The longer of the two work lists: inner has columns of every expert, outer those of the output.
static int64_t items_most(const moeblock_block *block)
{
    const struct mb_share *share = &block->share;
    const struct mb_columns *columns = &block->set->columns;
    const int64_t routed = (share->e1 - share->e0) * (mb_ceil_div(columns->i1 - columns->i0, MB_TASK_COLUMNS) + 1);
    const int64_t inner = routed + mb_ceil_div(columns->s1 - columns->s0, MB_TASK_COLUMNS) + 1;
    const int64_t outer = mb_ceil_div(columns->d1 - columns->d0, MB_TASK_COLUMNS) +
                          mb_ceil_div(columns->h1 - columns->h0, MB_TASK_COLUMNS);
    return mb_max(inner, mb_max(outer, 2));
}

// What one worker needs at a time: a kernel's scratch and, beside it, a tile of outputs.
static size_t scratch_of_worker(const moeblock_block *block, int64_t n)
{
    const struct mb_weight_set *set = block->set;
    const int64_t rows = block->share.ep * n;
    size_t most = 0;
    if (set->routed) {
        const moeblock_expert_class *kind = block->routed_kind->class_copy;
        const int64_t own = set->columns.d1 - set->columns.d0;
        const int64_t tile_rows = mb_min(rows, MB_OUTER_ROWS);
        size_t floats = (size_t)(tile_rows * block->routed_width);
        // Of m rows a tile has at most this many floats, whatever m is.
        if (kind->splits) {
            const int64_t task = mb_task_columns(kind, set->routed);
            floats = (size_t)mb_min(tile_rows * own, mb_max(MB_OUTER_ROWS * MB_OUTER_COLUMNS, tile_rows * task));
        }
        const size_t need = kind->scratch_bytes(set->routed, rows) + floats * sizeof(float) + 128;
        most = need > most ? need : most;
    }
    if (set->shared) {
        const moeblock_expert_class *kind = block->shared_kind->class_copy;
        const size_t need = kind->scratch_bytes(set->shared, n) + 64;
        most = need > most ? need : most;
    }
    if (block->router_kind) {
        const size_t need = ((const moeblock_router_class *)block->router_kind->class_copy)->scratch_bytes(set->router);
        most = need > most ? need : most;
    }
    if (set->latent) {
        const size_t need = mb_latent_scratch_bytes(set->latent, MB_TASK_TOKENS);
        most = need > most ? need : most;
    }
    if (set->shared_gate) {
        const size_t need = mb_shared_gate_scratch_bytes(set->shared_gate, MB_TASK_TOKENS);
        most = need > most ? need : most;
    }
    return mb_round_up(most, 64);
}

static size_t layout(const moeblock_block *block, int64_t n, int workers, char *base, struct mb_buffers *b)
{
    struct cursor c = {base, 0};
    take(&c, 1, sizeof *b);
    take_input(&c, b, block, n);
    take_router(&c, b, block, n, workers);
    take_exchange(&c, b, block, n);
    take_routed(&c, b, block, n);
    take_sums(&c, b, block, n);
    take_shared(&c, b, block, n);
    const bool gathers_y = block->share.tp > 1;
    b->y_mine = take(&c, gathers_y ? n * block->config->hidden_size : 0, sizeof(float));
    // Of partial sums every column sends as many of this rank's.
    const int64_t parts = block->share.tp * mb_ceil_div(block->config->hidden_size, block->share.tp);
    b->y_all = take(&c, gathers_y ? n * parts : 0, sizeof(float));
    b->items = take(&c, items_most(block), sizeof *b->items);
    b->scratch_bytes = scratch_of_worker(block, n);
    b->scratch = take(&c, workers, b->scratch_bytes);
    return c.used;
}

int64_t mb_cpu_chunk_tokens(const moeblock_block *block)
{
    struct mb_buffers unused = {0};
    const size_t fixed = layout(block, 0, 1, NULL, &unused), some = layout(block, 1024, 1, NULL, &unused);
    const size_t per_token = (some - fixed) / 1024 + 1;
    const int64_t fit = (int64_t)(workspace_target / per_token);
    return mb_max(LEAST_CHUNK, mb_min(MOST_CHUNK, fit));
}

size_t mb_cpu_workspace_bytes(const moeblock_block *block, int64_t tokens, int workers)
{
    struct mb_buffers unused = {0};
    return layout(block, tokens, workers, NULL, &unused);
}

void mb_cpu_workspace_place(moeblock_workspace *workspace)
{
    struct mb_buffers *buffers = workspace->memory;
    *buffers = (struct mb_buffers){0};
    layout(workspace->block, workspace->tokens, workspace->workers, workspace->memory, buffers);
    workspace->buffers = buffers;
}
