// SPDX-License-Identifier: Apache-2.0
// What the whole output passes through: the norm (axk1), RMSNorm of routed + shared times a stored weight, in float32.
// It takes whole rows, so ranks that hold columns gather them first; each keeps its own. Then a factor of each channel
// (intern_s2_mobius).
#include <math.h>

#include "backend/cpu/cpu.h"
#include "base/arith.h"
#include "base/status.h"
#include "kernels/math_inline.h"

// Whole rows: gathered in y_mine, which is free until y is written.
static const float *whole_rows(const struct mb_run *run)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    return run->block->share.tp > 1 ? (const float *)(const void *)b->y_mine : b->finished;
}

static moeblock_status norm_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    const moeblock_config *config = run->block->config;
    const struct mb_share *share = &run->block->share;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t hidden = config->hidden_size, own = share->h1 - share->h0;
    const int64_t end = mb_min(run->n, (index + 1) * MB_TASK_TOKENS);
    for (int64_t t = index * MB_TASK_TOKENS; t < end; t++) {
        const float *row = whole_rows(run) + t * hidden;
        float sum = 0.0f;
        for (int64_t i = 0; i < hidden; i++) sum = sum + row[i] * row[i];
        const float scale = 1.0f / sqrtf(sum / (float)hidden + (float)config->rms_norm_eps);
        float *out = b->finished + t * own;
        for (int64_t c = 0; c < own; c++)
            out[c] = mb_one_nan(row[share->h0 + c] * scale * run->set->out_norm[share->h0 + c]);
    }
    return MOEBLOCK_OK;
}

static moeblock_status scale_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    const struct mb_share *share = &run->block->share;
    const int64_t own = share->h1 - share->h0, end = mb_min(run->n, (index + 1) * MB_TASK_TOKENS);
    const float *factor = run->set->output_scale + share->h0;
    for (int64_t t = index * MB_TASK_TOKENS; t < end; t++) {
        float *row = mb_buffers_of(run)->finished + t * own;
        for (int64_t c = 0; c < own; c++) row[c] = mb_one_nan(row[c] * (1.0f + factor[c]));
    }
    return MOEBLOCK_OK;
}

static moeblock_status norm(struct mb_run *run)
{
    struct mb_buffers *b = mb_buffers_of(run);
    if (run->block->share.tp > 1)
        MB_TRY(mb_gather_columns(run, &(struct mb_gather){MOEBLOCK_TRAFFIC_WHOLE_ROWS, b->finished, run->n,
                                                          run->workspace->tokens, run->block->config->hidden_size,
                                                          sizeof(float), b->y_all, b->y_mine}));
    return mb_each(run, mb_ceil_div(run->n, MB_TASK_TOKENS), norm_task);
}

moeblock_status mb_cpu_norm_output(struct mb_run *run)
{
    if (run->given_ids) return MOEBLOCK_OK;
    if (run->set->out_norm) MB_TRY(norm(run));
    return run->set->output_scale ? mb_each(run, mb_ceil_div(run->n, MB_TASK_TOKENS), scale_task) : MOEBLOCK_OK;
}
