// SPDX-License-Identifier: Apache-2.0
// Fifth step: each token's routed sum at its home, in ascending id, then null experts, output bias, latent up
// projection and the scale on the routed output. Without expert parallelism the outer phase has summed already.
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"

enum { COLUMNS = 1024 }; // of a widened piece on the stack

// Outputs travel back along the same pairs of ranks, in the order in which the slots were announced.
static moeblock_status return_outputs(struct mb_run *run)
{
    const moeblock_block *block = run->block;
    const struct mb_share *share = &block->share;
    struct mb_buffers *b = mb_buffers_of(run);
    const size_t one = (size_t)(share->d1 - share->d0) * mb_output_bytes(run->set);
    int64_t row = 0, record = 0;
    for (int i = 0; i < share->ep; i++) {
        int64_t out = 0, back = 0;
        for (int64_t r = 0; r < b->receive_rows[i]; r++, row++)
            for (int64_t j = 0; j < run->k; j++) out += mb_computed_here(run, b->arrived_ids[row][j]);
        for (int64_t r = 0; r < b->send_rows[i]; r++, record++)
            for (int64_t j = 0; j < run->k; j++)
                back += mb_share_rank(block, b->ids[b->record_token[record] * run->k + j]) == i;
        b->send_bytes[i] = (size_t)out * one;
        b->receive_bytes[i] = (size_t)back * one;
    }
    return block->mesh->all_to_all(block->mesh->user, share->ep_axis, b->out_slots, b->send_bytes, b->returned,
                                   b->receive_bytes, run->error);
}

static void add_returned(struct mb_run *run, float *sum, int64_t place, float weight)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    const int64_t own = run->block->share.d1 - run->block->share.d0;
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

// A token's slots in ascending id; null experts have the largest ids and come last.
static void sum_slots(struct mb_run *run, int64_t t, float *sum)
{
    const moeblock_config *config = run->block->config;
    const struct mb_share *share = &run->block->share;
    const struct mb_buffers *b = mb_buffers_of(run);
    const bool on_input = config->router.apply_weight == MB_APPLY_INPUT;
    for (int64_t j = 0; j < run->k; j++) {
        const int64_t slot = t * run->k + b->order[t * run->k + j];
        const int32_t id = b->ids[slot];
        if (id >= mb_all_experts(config)) {
            if (config->router.null_kind == MB_NULL_IDENTITY)
                run->block->context->kernels->accumulate(sum, b->x + t * config->hidden_size + share->h0,
                                                         b->weights[slot], share->h1 - share->h0);
        } else if (id >= 0 && share->ep > 1) {
            add_returned(run, sum, b->return_place[slot], on_input ? 1.0f : b->weights[slot]);
        }
    }
}

static moeblock_status sum_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    const moeblock_config *config = run->block->config;
    const struct mb_share *share = &run->block->share;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t own = share->d1 - share->d0, end = mb_min(run->n, (index + 1) * MB_TASK_TOKENS);
    const bool scales = config->router.scale_on == MB_SCALE_OUTPUT && !run->given_ids;
    const float scale = (float)config->router.scale;
    for (int64_t t = index * MB_TASK_TOKENS; t < end; t++) {
        float *sum = b->routed + t * own;
        if (share->ep > 1 || !config->routed_enabled) memset(sum, 0, (size_t)own * sizeof *sum);
        if (config->routed_enabled && (share->ep > 1 || config->router.null_experts)) sum_slots(run, t, sum);
        for (int64_t c = 0; scales && c < own; c++) sum[c] *= scale;
        for (int64_t c = 0; run->set->output_bias && c < own; c++) sum[c] += run->set->output_bias[share->d0 + c];
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
        MB_TRY(mb_gather_columns(run, b->routed, run->n, block->config->latent_size, sizeof(float), b->routed_all,
                                 b->routed_full, b->send_bytes));
    return mb_each(run, tiles, lift_task);
}
