// SPDX-License-Identifier: Apache-2.0
// Fifth step: each token's routed sum at its home, in ascending id, then null experts, output bias, latent up
// projection and the scale on the routed output. Without expert parallelism the outer phase has summed already.
#include <inttypes.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"

enum { COLUMNS = 1024 }; // of a widened piece on the stack

// Where the sum of row `r` at hand lies on its way; -1: it asked nothing of this rank. Arrived rows lie in their order,
// own rows where their first slot here has its place.
static int64_t place_of_sum(const struct mb_run *run, int64_t r)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    const int own = run->block->share.ep_index;
    if (b->outputs == b->out_slots) return r;
    for (int64_t i = r * run->k; i < (r + 1) * run->k; i++)
        if (b->return_place[i] >= 0 && mb_share_rank(run->block, b->ids[i]) == own)
            return b->return_place[i] - b->place_begin[own];
    return -1;
}

static moeblock_status round_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    const struct mb_buffers *b = mb_buffers_of(run);
    const int64_t own = run->set->columns.d1 - run->set->columns.d0;
    const int64_t end = mb_min(run->arrived, (index + 1) * MB_TASK_TOKENS);
    for (int64_t r = index * MB_TASK_TOKENS; r < end; r++) {
        const int64_t place = place_of_sum(run, r);
        if (place < 0) continue;
        if (mb_output_bytes(run->set) == sizeof(uint16_t))
            run->block->context->kernels->to_bf16((uint16_t *)b->outputs + place * own, b->sums + r * own, own);
        else
            memcpy((float *)b->outputs + place * own, b->sums + r * own, (size_t)own * sizeof(float));
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_round_sums(struct mb_run *run)
{
    return mb_each(run, mb_ceil_div(run->arrived, MB_TASK_TOKENS), round_task);
}

// Outputs travel back between the same pairs of ranks, in the order in which the rows asked for them. Where all ranks
// hold the same tokens each tells all others what its own experts gave.
static moeblock_status return_outputs(struct mb_run *run)
{
    const moeblock_block *block = run->block;
    const struct mb_share *share = &block->share;
    const struct mb_columns *columns = &run->set->columns;
    struct mb_buffers *b = mb_buffers_of(run);
    const size_t one = (size_t)(columns->d1 - columns->d0) * mb_output_bytes(run->set);
    struct mb_exchange *exchange = mb_exchange_begin(block->mesh, share->ep_axis, MOEBLOCK_TRAFFIC_COMBINE);
    if (run->algorithm == MB_TWOLEVEL && mb_relay_group(share->ep) > 1)
        mb_exchange_relay(exchange, b->relay_first, b->relay_second, b->relay);
    const bool replicated = block->config->replicated_batch;
    const int64_t *place = b->place_begin;
    const char *out = b->out_slots;
    size_t given = 0;
    if (mb_sums_there(block)) MB_TRY(mb_round_sums(run));
    for (int i = 0; i < share->ep; i++) {
        struct mb_peer *peer = &exchange->peers[i];
        if (i == share->ep_index) continue;
        peer->send = replicated ? (const char *)b->returned + (size_t)place[share->ep_index] * one : out;
        peer->send_rows = replicated ? place[share->ep_index + 1] - place[share->ep_index] : b->returns[i];
        peer->send_bytes = (size_t)peer->send_rows * one;
        peer->receive = (char *)b->returned + (size_t)place[i] * one;
        peer->capacity = (size_t)(place[i + 1] - place[i]) * one;
        if (!replicated) out += peer->send_bytes;
        given += peer->send_bytes;
    }
    mb_run_trace_mesh(run, "all_to_all", share->ep_axis, given);
    MB_TRY(mb_run_start(run, exchange));
    MB_TRY(mb_run_finish(run, exchange));
    for (int i = 0; i < share->ep && !mb_run_failed(run); i++) {
        const struct mb_peer *peer = &exchange->peers[i];
        if (i == share->ep_index || peer->received == peer->capacity) continue;
        moeblock_error error;
        mb_fail(&error, MOEBLOCK_MISMATCH,
                "combining: rank %d of axis %d returned %" PRId64 " outputs, expected %" PRId64 "%s", i, share->ep_axis,
                peer->rows, place[i + 1] - place[i],
                replicated ? "; with replicated_batch_mode all rows of the mesh must hold the same tokens" : "");
        MB_TRY(mb_run_fail(run, &error));
    }
    return MOEBLOCK_OK;
}

static void add_returned(struct mb_run *run, float *sum, int64_t place, float weight)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    const int64_t own = run->set->columns.d1 - run->set->columns.d0;
    const struct mb_kernels *kernels = run->block->context->kernels;
    if (run->set->compute == MOEBLOCK_COMPUTE_F32) {
        kernels->accumulate(sum, (const float *)b->returned + place * own, weight, own);
        return;
    }
    const uint16_t *from = (const uint16_t *)b->returned + place * own;
    float wide[COLUMNS];
    for (int64_t c = 0; c < own; c += COLUMNS) {
        const int64_t n = mb_min(COLUMNS, own - c);
        for (int64_t i = 0; i < n; i++) wide[i] = mb_from_bf16(from[c + i]);
        kernels->accumulate(sum + c, wide, weight, n);
    }
}

// What each rank summed for a token, ranks ascending.
static void add_sums(struct mb_run *run, int64_t t, float *sum)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    for (int before = -1, rank;; before = rank) {
        int64_t place = -1;
        rank = run->block->share.ep;
        for (int64_t i = t * run->k; i < (t + 1) * run->k; i++) {
            const int owner = b->return_place[i] < 0 ? -1 : mb_share_rank(run->block, b->ids[i]);
            if (owner <= before || owner >= rank) continue;
            rank = owner;
            place = b->return_place[i];
        }
        if (place < 0) return;
        add_returned(run, sum, place, 1.0f);
    }
}

// A token's slots in ascending id; null experts have the largest ids and come last. What is no sum over k, they and the
// output bias, is added by the column that owns y's: `owned` begins there.
static void sum_slots(struct mb_run *run, int64_t t, float *sum, float *owned)
{
    const moeblock_config *config = run->block->config;
    const struct mb_share *share = &run->block->share;
    const struct mb_buffers *b = mb_buffers_of(run);
    const bool on_input = config->router.apply_weight == MB_APPLY_INPUT, sums = mb_sums_there(run->block);
    if (sums) add_sums(run, t, sum);
    for (int64_t j = 0; j < run->k; j++) {
        const int64_t slot = t * run->k + b->order[t * run->k + j];
        const int32_t id = b->ids[slot];
        if (id >= mb_all_experts(config)) {
            if (config->router.null_kind == MB_NULL_IDENTITY)
                run->block->context->kernels->accumulate(owned, b->x + t * config->hidden_size + share->h0,
                                                         b->weights[slot], share->h1 - share->h0);
        } else if (id >= 0 && share->ep > 1 && !sums) {
            add_returned(run, sum, b->return_place[slot], on_input ? 1.0f : b->weights[slot]);
        }
    }
}

static moeblock_status sum_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    const moeblock_config *config = run->block->config;
    const struct mb_share *share = &run->block->share;
    const struct mb_columns *columns = &run->set->columns;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t d0 = columns->sums ? share->h0 : columns->d0, d1 = columns->sums ? share->h1 : columns->d1;
    const int64_t own = columns->d1 - columns->d0, end = mb_min(run->n, (index + 1) * MB_TASK_TOKENS);
    const bool scales = config->router.scale_on == MB_SCALE_OUTPUT && !run->given_ids;
    const float scale = (float)config->router.scale;
    for (int64_t t = index * MB_TASK_TOKENS; t < end; t++) {
        float *sum = b->routed + t * own, *owned = sum + (d0 - columns->d0);
        if (share->ep > 1 || !config->routed_enabled) memset(sum, 0, (size_t)own * sizeof *sum);
        if (config->routed_enabled && (share->ep > 1 || config->router.null_experts)) sum_slots(run, t, sum, owned);
        for (int64_t c = 0; scales && c < own; c++) sum[c] *= scale;
        for (int64_t c = d0; run->set->output_bias && c < d1; c++) owned[c - d0] += run->set->output_bias[c];
    }
    return MOEBLOCK_OK;
}

static moeblock_status lift_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)error;
    const moeblock_config *config = run->block->config;
    const struct mb_share *share = &run->block->share;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t own = share->h1 - share->h0, first = index * MB_TASK_TOKENS;
    const int64_t count = mb_min(MB_TASK_TOKENS, run->n - first);
    if (run->set->latent)
        mb_latent_up(run->set->latent, b->routed_full + first * config->latent_size, count, share->h0, share->h1,
                     b->lifted + first * own, own, mb_scratch(run, worker));
    return MOEBLOCK_OK;
}

moeblock_status mb_cpu_combine(struct mb_run *run)
{
    const moeblock_block *block = run->block;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t tiles = mb_ceil_div(run->n, MB_TASK_TOKENS);
    if (block->share.ep > 1 && block->config->routed_enabled) MB_TRY(return_outputs(run));
    MB_TRY(mb_each(run, tiles, sum_task));
    // A latent's norm needs whole rows.
    if (run->set->latent && block->share.tp > 1)
        MB_TRY(mb_gather_columns(run, &(struct mb_gather){MOEBLOCK_TRAFFIC_WHOLE_ROWS, b->routed, run->n,
                                                          run->workspace->tokens, block->config->latent_size,
                                                          sizeof(float), b->routed_all, b->routed_full}));
    return mb_each(run, tiles, lift_task);
}
