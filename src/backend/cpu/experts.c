// SPDX-License-Identifier: Apache-2.0
// Fourth step, two phases with the mesh's gather of activations between them: inner (rows -> activations) over a work
// list of (expert, columns), outer (activations -> outputs) by output columns, each task walking the experts in
// ascending order, so that a token's sum has one order whoever computes it. Where columns add partial sums nothing is
// gathered: outer takes this rank's activations to all outputs. The shared expert stands in the same work
// lists when the description says parallel_with_moe.
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"

static const moeblock_expert_class *routed_of(const struct mb_run *run) { return run->block->routed_kind->class_copy; }
static const moeblock_expert_class *shared_of(const struct mb_run *run) { return run->block->shared_kind->class_copy; }

// Weight on the input: rows become bf16(w * bf16(x)) (float32 in F32, scales times w in INT16), and the output's weight
// 1.
static moeblock_status scale_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t width = run->block->routed_width, end = mb_min(run->slots, (index + 1) * MB_TASK_TOKENS);
    for (int64_t s = index * MB_TASK_TOKENS; s < end; s++) {
        const float weight = b->slot[s].weight;
        if (mb_has_bf16_rows(run->set->compute)) {
            const uint16_t *from = b->slot_row[s];
            uint16_t *to = (uint16_t *)b->scaled + s * width;
            for (int64_t i = 0; i < width; i++) to[i] = mb_to_bf16(weight * mb_from_bf16(from[i]));
            b->slot_row[s] = to;
        } else if (run->set->compute == MOEBLOCK_COMPUTE_INT16) {
            char *to = (char *)b->scaled + (size_t)s * mb_int16_row_bytes(width);
            mb_int16_weigh(to, b->slot_row[s], width, weight);
            b->slot_row[s] = to;
        } else {
            const float *from = b->slot_row[s];
            float *to = (float *)b->scaled + s * width;
            for (int64_t i = 0; i < width; i++) to[i] = weight * from[i];
            b->slot_row[s] = to;
        }
        b->slot[s].weight = 1.0f;
    }
    return MOEBLOCK_OK;
}

// Whether columns exchange activations of the routed or the shared experts.
static bool gathers(const struct mb_run *run, bool shared)
{
    return run->block->share.tp > 1 && !run->set->columns.sums && (shared || routed_of(run)->splits);
}

// Activations of a row that outer reads: this rank's where its sums are partial, else all of them.
static int64_t outer_width(const struct mb_run *run, bool shared)
{
    const moeblock_config *config = run->block->config;
    const struct mb_columns *columns = &run->set->columns;
    if (columns->sums) return shared ? columns->s1 - columns->s0 : columns->i1 - columns->i0;
    return shared ? config->shared.intermediate_size : config->routed.intermediate_size;
}

// Where inner writes: straight to what outer reads, or to this rank's part when columns are gathered afterwards.
static void *activations(const struct mb_run *run, bool shared, int64_t row, int64_t column, int64_t *stride)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    const struct mb_columns *columns = &run->set->columns;
    const bool part = gathers(run, shared);
    const int64_t c0 = shared ? columns->s0 : columns->i0, c1 = shared ? columns->s1 : columns->i1;
    char *base =
        part ? (shared ? b->shared_part : b->activation_part) : (shared ? b->shared_activation : b->activation);
    *stride = part ? c1 - c0 : outer_width(run, shared);
    return base + (size_t)(row * *stride + column - (part || columns->sums ? c0 : 0)) * mb_element_bytes(run->set);
}

static moeblock_status inner_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const struct mb_item item = b->items[index];
    moeblock_expert_call call = {.struct_size = sizeof call,
                                 .expert = item.expert,
                                 .c0 = item.c0,
                                 .c1 = item.c1,
                                 .scratch = mb_scratch(run, worker)};
    moeblock_status status;
    if (item.shared) {
        call.m = run->n;
        call.rows = b->token_row;
        call.out = activations(run, true, 0, item.c0, &call.out_stride);
        status = shared_of(run)->inner(run->set->shared, &call, error);
    } else {
        const int64_t *begin = b->expert_begin + (item.expert - run->block->share.e0);
        call.m = begin[1] - begin[0];
        call.rows = b->slot_row + begin[0];
        call.out = activations(run, false, begin[0], item.c0, &call.out_stride);
        status = routed_of(run)->inner(run->set->routed, &call, error);
    }
    return mb_kind_status("expert", item.shared ? run->block->shared_kind : run->block->routed_kind, "inner", status,
                          error);
}

static moeblock_status gather_activations(struct mb_run *run, bool routed, bool shared)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const moeblock_config *config = run->block->config;
    const size_t element = mb_element_bytes(run->set);
    if (routed && gathers(run, false))
        MB_TRY(mb_gather_columns(run, &(struct mb_gather){MOEBLOCK_TRAFFIC_ACTIVATIONS, b->activation_part, run->slots,
                                                          b->slots_most, config->routed.intermediate_size, element,
                                                          b->activation_all, b->activation}));
    if (shared && gathers(run, true))
        MB_TRY(mb_gather_columns(run, &(struct mb_gather){MOEBLOCK_TRAFFIC_ACTIVATIONS, b->shared_part, run->n,
                                                          run->workspace->tokens, config->shared.intermediate_size,
                                                          element, b->shared_all, b->shared_activation}));
    const size_t routed_bytes = (size_t)outer_width(run, false) * element;
    const size_t shared_bytes = (size_t)outer_width(run, true) * element;
    for (int64_t s = 0; routed && s < run->slots; s++)
        b->activation_row[s] = (const char *)b->activation + (size_t)s * routed_bytes;
    for (int64_t t = 0; shared && t < run->n; t++)
        b->shared_row[t] = (const char *)b->shared_activation + (size_t)t * shared_bytes;
    return MOEBLOCK_OK;
}

// Gathered activations `row` of tasks' rows become integers.
static void to_integers(const struct mb_run *run, int64_t index, int64_t rows, int64_t width, const void **row,
                        char *integers)
{
    const int64_t end = mb_min(rows, (index + 1) * MB_TASK_TOKENS);
    for (int64_t i = index * MB_TASK_TOKENS; i < end; i++) {
        char *to = integers + (size_t)i * mb_int16_row_bytes(width);
        mb_to_row(run, to, row[i], width);
        row[i] = to;
    }
}

static moeblock_status routed_integers_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t width = outer_width(run, false);
    to_integers(run, index, run->slots, width, b->activation_row, b->activation_integers);
    return MOEBLOCK_OK;
}

static moeblock_status shared_integers_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t width = outer_width(run, true);
    to_integers(run, index, run->n, width, b->shared_row, b->shared_integers);
    return MOEBLOCK_OK;
}

// Where outputs are summed at once: the tokens' sums, or on a mesh the sums of the rows at hand.
static float *sums_of(const struct mb_run *run)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    return run->block->share.ep == 1 ? b->routed : b->sums;
}

// Adds a tile of one expert's outputs to the tokens' sums, or stores it for its way home.
static void deliver(struct mb_run *run, int64_t s0, int64_t m, const float *tile, int64_t stride, int64_t c0,
                    int64_t c1)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const struct mb_share *share = &run->block->share;
    const struct mb_columns *columns = &run->set->columns;
    const struct mb_kernels *kernels = run->block->context->kernels;
    const int64_t own = columns->d1 - columns->d0, at = c0 - columns->d0, n = c1 - c0;
    for (int64_t i = 0; i < m; i++) {
        const struct mb_slot *slot = b->slot + s0 + i;
        const float *out = tile + i * stride;
        if (share->ep == 1 || mb_sums_there(run->block)) {
            kernels->accumulate(sums_of(run) + slot->row * own + at, out, slot->weight, n);
        } else if (mb_output_bytes(run->set) == sizeof(uint16_t)) {
            kernels->to_bf16((uint16_t *)b->outputs + slot->home * own + at, out, n);
        } else {
            memcpy((float *)b->outputs + slot->home * own + at, out, (size_t)n * sizeof *out);
        }
    }
}

// Columns [c0, c1) of one expert's outputs for its rows [s0, s0 + m), added to the sums.
static moeblock_status expert_columns(struct mb_run *run, int64_t e, int64_t s0, int64_t m, int64_t c0, int64_t c1,
                                      int worker, moeblock_error *error)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const moeblock_expert_class *kind = routed_of(run);
    // A kind that computes whole rows only gives them all; this rank keeps its columns.
    const int64_t k0 = kind->splits ? c0 : 0, k1 = kind->splits ? c1 : run->block->routed_width;
    float *tile = (float *)(void *)mb_scratch(run, worker);
    const moeblock_expert_call call = {
        .struct_size = sizeof call,
        .expert = e,
        .m = m,
        .rows = run->block->config->routed.intermediate_size ? b->activation_row + s0 : b->slot_row + s0,
        .c0 = k0,
        .c1 = k1,
        .out = tile,
        .out_stride = k1 - k0,
        .scratch = (char *)tile + mb_round_up((size_t)(m * (k1 - k0)) * sizeof(float), 64),
    };
    const moeblock_status status = kind->outer(run->set->routed, &call, error);
    MB_TRY(mb_kind_status("expert", run->block->routed_kind, "outer", status, error));
    deliver(run, s0, m, tile + (c0 - k0), k1 - k0, c0, c1);
    return MOEBLOCK_OK;
}

// Columns [c0, c1) of all experts' outputs, experts ascending, in tiles of bounded size.
static moeblock_status routed_columns(struct mb_run *run, int64_t c0, int64_t c1, int worker, moeblock_error *error)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const struct mb_share *share = &run->block->share;
    const struct mb_columns *columns = &run->set->columns;
    const int64_t own = columns->d1 - columns->d0;
    const int64_t summed = share->ep == 1 ? run->n : mb_sums_there(run->block) ? run->arrived : 0;
    for (int64_t t = 0; t < summed; t++)
        memset(sums_of(run) + t * own + (c0 - columns->d0), 0, (size_t)(c1 - c0) * sizeof(float));
    int64_t most = 1; // rows of any expert
    for (int64_t e = share->e0; e < share->e1; e++)
        most = mb_max(most, b->expert_begin[e - share->e0 + 1] - b->expert_begin[e - share->e0]);
    const int64_t step = mb_tile_columns(routed_of(run), run->set->routed, most);
    for (int64_t c = c0, next; c < c1; c = next) {
        next = routed_of(run)->splits ? mb_min(c1, c + step) : c1;
        for (int64_t e = share->e0; e < share->e1; e++) {
            const int64_t s0 = b->expert_begin[e - share->e0], m = b->expert_begin[e - share->e0 + 1] - s0;
            int64_t blocks = mb_ceil_div(m, MB_OUTER_ROWS);
            for (int64_t r = 0, rows; r < m; r += rows, blocks--) {
                rows = mb_ceil_div(m - r, blocks);
                MB_TRY(expert_columns(run, e, s0 + r, rows, c, next, worker, error));
            }
        }
    }
    return MOEBLOCK_OK;
}

static moeblock_status shared_columns(struct mb_run *run, int64_t c0, int64_t c1, int worker, moeblock_error *error)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const struct mb_columns *columns = &run->set->columns;
    const int64_t own = columns->h1 - columns->h0;
    const moeblock_expert_call call = {
        .struct_size = sizeof call,
        .m = run->n,
        .rows = b->shared_row,
        .c0 = c0,
        .c1 = c1,
        .out = b->shared + (c0 - columns->h0),
        .out_stride = own,
        .scratch = mb_scratch(run, worker),
    };
    const moeblock_status status = shared_of(run)->outer(run->set->shared, &call, error);
    return mb_kind_status("expert", run->block->shared_kind, "outer", status, error);
}

static moeblock_status outer_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    const struct mb_item item = mb_buffers_of(run)->items[index];
    return item.shared ? shared_columns(run, item.c0, item.c1, worker, error)
                       : routed_columns(run, item.c0, item.c1, worker, error);
}

// Both phases for the routed experts, the shared expert, or both in the same work lists.
static moeblock_status run_phases(struct mb_run *run, bool routed, bool shared)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const size_t row = mb_row_bytes(run->set, run->block->config->hidden_size);
    const char *rows = run->block->config->shared_input == MB_INPUT_AUX ? b->aux_rows : b->rows;
    for (int64_t t = 0; shared && t < run->n; t++) b->token_row[t] = rows + (size_t)t * row;
    int64_t routed_items;
    const int64_t items = mb_list_inner(run, routed, shared, &routed_items);
    mb_run_trace(run, "inner", routed_items, items - routed_items);
    MB_TRY(mb_each(run, items, inner_task));
    MB_TRY(gather_activations(run, routed, shared));
    const bool int16 = run->set->compute == MOEBLOCK_COMPUTE_INT16;
    if (int16 && routed) MB_TRY(mb_each(run, mb_ceil_div(run->slots, MB_TASK_TOKENS), routed_integers_task));
    if (int16 && shared) MB_TRY(mb_each(run, mb_ceil_div(run->n, MB_TASK_TOKENS), shared_integers_task));
    return mb_each(run, mb_list_outer(run, routed, shared), outer_task);
}

static bool runs_shared(const struct mb_run *run) { return run->set->shared && !run->given_ids; }

static moeblock_status compute_slots(struct mb_run *run, bool shared)
{
    if (run->block->config->router.apply_weight == MB_APPLY_INPUT)
        MB_TRY(mb_each(run, mb_ceil_div(run->slots, MB_TASK_TOKENS), scale_task));
    return run_phases(run, true, shared);
}

moeblock_status mb_cpu_compute_experts(struct mb_run *run)
{
    const moeblock_config *config = run->block->config;
    return config->routed_enabled ? compute_slots(run, runs_shared(run) && config->parallel_with_moe) : MOEBLOCK_OK;
}

moeblock_status mb_cpu_compute_received(struct mb_run *run)
{
    return run->block->config->routed_enabled && run->block->share.ep > 1 ? compute_slots(run, false) : MOEBLOCK_OK;
}

moeblock_status mb_cpu_compute_shared(struct mb_run *run)
{
    const moeblock_config *config = run->block->config;
    if (!runs_shared(run) || (config->routed_enabled && config->parallel_with_moe)) return MOEBLOCK_OK;
    return run_phases(run, false, true);
}
