// SPDX-License-Identifier: Apache-2.0
// Second step: ids and weights of every token, from the router or from the caller, checked before anything is indexed
// by them.
#include <inttypes.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/arith.h"
#include "base/status.h"

static const moeblock_router_class *router_of(const struct mb_run *run) { return run->block->router_kind->class_copy; }

static moeblock_router_input input_at(const struct mb_run *run, int64_t first, int64_t count, void *scratch)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    const int64_t hidden = run->block->config->hidden_size, token = run->first + first;
    const moeblock_forward_input *in = run->input;
    return (moeblock_router_input){
        .struct_size = sizeof(moeblock_router_input),
        .tokens = count,
        .x = b->x + first * hidden,
        .x_stride = hidden,
        .aux = run->block->config->router.input == MB_INPUT_AUX ? b->aux + first * hidden : NULL,
        .aux_stride = hidden,
        .token_ids = in->token_ids ? in->token_ids + token : NULL,
        .token_types = in->token_types ? in->token_types + token : NULL,
        .scratch = scratch,
        .first = token,
        .seq_lens = in->seq_lens,
        .n_seq = in->n_seq,
        .state = in->router_state ? in->router_state + token * run->state_width : NULL,
        .state_out = run->output->router_state ? run->output->router_state + token * run->state_width : NULL,
    };
}

// Logits of a tile of tokens x a range of columns; a decode batch is cut over columns, a long one over tokens too.
static moeblock_status logits_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    const moeblock_router_class *router = router_of(run);
    const int64_t width = mb_router_width(run->block), ranges = mb_ceil_div(width, MB_TASK_COLUMNS);
    const int64_t first = index / ranges * MB_TASK_TOKENS, c0 = index % ranges * MB_TASK_COLUMNS;
    const int64_t count = mb_min(MB_TASK_TOKENS, run->n - first);
    const moeblock_router_input in = input_at(run, first, count, mb_scratch(run, worker));
    float *out = mb_buffers_of(run)->logits + first * width;
    const moeblock_status status =
        router->logits(run->set->router, &in, c0, mb_min(width, c0 + MB_TASK_COLUMNS), out, width, error);
    return mb_kind_status("router", run->block->router_kind, "logits", status, error);
}

// Ids must be distinct classes; -1 is an empty slot.
static moeblock_status check_ids(const struct mb_run *run, const int32_t *ids, int64_t token, uint8_t *seen,
                                 moeblock_error *error)
{
    const int64_t classes = mb_all_classes(run->block->config);
    const bool outside = run->given_ids != NULL;
    moeblock_status status = MOEBLOCK_OK;
    int64_t j = 0;
    for (; j < run->k; j++) {
        if (ids[j] == -1) continue;
        if (ids[j] < 0 || ids[j] >= classes || seen[ids[j]]) break;
        seen[ids[j]] = 1;
    }
    if (j < run->k) {
        const char *who = outside ? "given ids" : run->block->router_kind->name;
        const bool again = ids[j] >= 0 && ids[j] < classes;
        status = mb_fail(error, outside ? MOEBLOCK_INVALID_ARGUMENT : MOEBLOCK_INTERNAL,
                         "routing token %" PRId64 ": %s gave id %" PRId32 " in slot %" PRId64
                         "%s, expected distinct ids in [0, %" PRId64 ")",
                         run->first + token, who, ids[j], j, again ? " a second time" : "", classes);
    }
    for (int64_t i = 0; i < j; i++)
        if (ids[i] >= 0) seen[ids[i]] = 0;
    return status;
}

// Slots in ascending id, by Shell's sort: k may be anything up to the number of classes.
static void sort_slots(const int32_t *ids, int64_t k, int32_t *order)
{
    static const int64_t gaps[] = {701, 301, 132, 57, 23, 10, 4, 1};
    for (int64_t j = 0; j < k; j++) order[j] = (int32_t)j;
    for (size_t g = 0; g < sizeof gaps / sizeof *gaps; g++) {
        for (int64_t i = gaps[g]; i < k; i++) {
            const int32_t moving = order[i];
            int64_t at = i;
            for (; at >= gaps[g] && ids[order[at - gaps[g]]] > ids[moving]; at -= gaps[g])
                order[at] = order[at - gaps[g]];
            order[at] = moving;
        }
    }
}

static moeblock_status select_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t first = index * MB_TASK_TOKENS, count = mb_min(MB_TASK_TOKENS, run->n - first), k = run->k;
    int32_t *ids = b->ids + first * k;
    float *weights = b->weights + first * k;
    if (run->given_ids) {
        memcpy(ids, run->given_ids + (run->first + first) * k, (size_t)(count * k) * sizeof *ids);
        memcpy(weights, run->given_weights + (run->first + first) * k, (size_t)(count * k) * sizeof *weights);
    } else {
        const moeblock_router_class *router = router_of(run);
        const int64_t width = mb_router_width(run->block);
        const moeblock_router_input in = input_at(run, first, count, mb_scratch(run, worker));
        const moeblock_status status =
            router->select(run->set->router, &in, b->logits + first * width, width, ids, weights, error);
        MB_TRY(mb_kind_status("router", run->block->router_kind, "select", status, error));
    }
    uint8_t *seen = b->seen + worker * mb_all_classes(run->block->config);
    for (int64_t t = 0; t < count; t++) MB_TRY(check_ids(run, ids + t * k, first + t, seen, error));
    return MOEBLOCK_OK;
}

// Routers that count tokens see them in order; -1 may take the place of an id.
static moeblock_status settle(struct mb_run *run)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    const moeblock_router_class *router = router_of(run);
    if (!router->settle) return MOEBLOCK_OK;
    moeblock_error reason = {MOEBLOCK_OK, ""};
    const moeblock_router_input in = input_at(run, 0, run->n, b->order); // which is filled after it
    const moeblock_status status = router->settle(run->set->router, &in, b->carry, b->ids, b->weights, &reason);
    const moeblock_status whole = mb_kind_status("router", run->block->router_kind, "settle", status, &reason);
    if (whole != MOEBLOCK_OK && run->error) *run->error = reason;
    return whole;
}

static moeblock_status order_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t end = mb_min(run->n, (index + 1) * MB_TASK_TOKENS), k = run->k;
    for (int64_t t = index * MB_TASK_TOKENS; t < end; t++) sort_slots(b->ids + t * k, k, b->order + t * k);
    return MOEBLOCK_OK;
}

// The k choices of each token; what a second bank adds behind them is not reported.
static void publish(const struct mb_run *run)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    const moeblock_forward_output *out = run->output;
    const int64_t k = run->given_ids ? run->k : run->block->config->num_experts_per_tok;
    for (int64_t t = 0; t < run->n; t++) {
        const int64_t from = t * run->k, to = (run->first + t) * k;
        if (out->ids) memcpy(out->ids + to, b->ids + from, (size_t)k * sizeof *b->ids);
        if (out->weights) memcpy(out->weights + to, b->weights + from, (size_t)k * sizeof *b->weights);
    }
    if (!out->stats || !out->stats->expert_load) return;
    for (int64_t i = 0; i < run->n * run->k; i++)
        if (b->ids[i] >= 0 && b->ids[i] < run->block->config->num_experts) out->stats->expert_load[b->ids[i]]++;
}

moeblock_status mb_cpu_route(struct mb_run *run)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const moeblock_config *config = run->block->config;
    if (!config->routed_enabled && !run->given_ids) {
        for (int64_t i = 0; i < run->n * run->k; i++) b->ids[i] = -1, b->weights[i] = 0;
        publish(run);
        return MOEBLOCK_OK;
    }
    memset(b->seen, 0, (size_t)(run->workspace->workers * mb_all_classes(config)));
    const int64_t tiles = mb_ceil_div(run->n, MB_TASK_TOKENS);
    if (!run->given_ids) {
        const int64_t width = mb_router_width(run->block);
        if (width) MB_TRY(mb_each(run, tiles * mb_ceil_div(width, MB_TASK_COLUMNS), logits_task));
    }
    MB_TRY(mb_each(run, tiles, select_task));
    if (!run->given_ids) MB_TRY(settle(run));
    MB_TRY(mb_each(run, tiles, order_task));
    publish(run);
    return MOEBLOCK_OK;
}
