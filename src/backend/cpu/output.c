// SPDX-License-Identifier: Apache-2.0
// Last steps: routed + shared, partial sums of the columns added, one rounding to y's dtype, and y back in the form in
// which x came: own columns when it was hidden-sharded, gathered otherwise.
#include <string.h>

#include "backend/array.h"
#include "backend/cpu/cpu.h"
#include "base/arith.h"
#include "base/status.h"

// What routed + shared is multiplied by.
static const float mix_factor[] = {
    [MB_MIX_SUM] = 1.0f, [MB_MIX_AVERAGE] = 0.5f, [MB_MIX_SUM_OVER_SQRT2] = 0.707106781f, [MB_MIX_SOFTMAX_COEF] = 1.0f};

static moeblock_status shared_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)error;
    const moeblock_config *config = run->block->config;
    const struct mb_columns *columns = &run->set->columns;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t own = columns->h1 - columns->h0, first = index * MB_TASK_TOKENS;
    const int64_t count = mb_min(MB_TASK_TOKENS, run->n - first);
    for (int64_t i = 2 * first; i < 2 * (first + count); i++) b->factors[i] = 1.0f;
    if (run->set->shared_gate)
        mb_shared_gate_apply(run->set->shared_gate, b->x + first * config->hidden_size, config->hidden_size, count,
                             b->factors + 2 * first, mb_scratch(run, worker));
    for (int64_t t = first; t < first + count; t++) {
        float *sum = b->lifted + t * own;
        for (int64_t i = 0; config->mix == MB_MIX_SOFTMAX_COEF && i < own; i++) sum[i] *= b->factors[2 * t];
        run->block->context->kernels->accumulate(sum, b->shared + t * own, b->factors[2 * t + 1], own);
        for (int64_t i = 0; mix_factor[config->mix] != 1.0f && i < own; i++) sum[i] *= mix_factor[config->mix];
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_cpu_add_shared(struct mb_run *run)
{
    if (!run->set->shared || run->given_ids) return MOEBLOCK_OK;
    return mb_each(run, mb_ceil_div(run->n, MB_TASK_TOKENS), shared_task);
}

// Whether the columns of y are gathered: x was replicated, and so is y.
static bool gathers(const struct mb_run *run)
{
    return run->block->share.tp > 1 && run->sharding == MOEBLOCK_REPLICATED;
}

// Converts own columns: straight into y, or packed for the mesh.
static moeblock_status convert_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    const struct mb_share *share = &run->block->share;
    const moeblock_array *y = &run->output->y;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t own = share->h1 - share->h0, end = mb_min(run->n, (index + 1) * MB_TASK_TOKENS);
    const size_t row = (size_t)own * moeblock_dtype_bytes(y->dtype);
    for (int64_t t = index * MB_TASK_TOKENS; t < end; t++) {
        void *to = gathers(run) ? b->y_mine + (size_t)t * row : mb_array_row(y, run->first + t);
        mb_from_floats(to, b->finished + t * own, y->dtype, own);
    }
    return MOEBLOCK_OK;
}

// Finished columns have exactly one owner each, who holds them already.
moeblock_status mb_cpu_scatter_output(struct mb_run *run)
{
    const struct mb_share *share = &run->block->share;
    const moeblock_array *y = &run->output->y;
    struct mb_buffers *b = mb_buffers_of(run);
    const size_t element = moeblock_dtype_bytes(y->dtype);
    const int64_t hidden = run->block->config->hidden_size;
    MB_TRY(mb_each(run, mb_ceil_div(run->n, MB_TASK_TOKENS), convert_task));
    if (run->sharding == MOEBLOCK_SHARDED && !run->set->columns.sums)
        mb_run_trace_mesh(run, "reduce_scatter", share->tp_axis, (size_t)(run->n * (share->h1 - share->h0)) * element);
    if (!gathers(run)) return MOEBLOCK_OK;
    MB_TRY(mb_gather_columns(run, &(struct mb_gather){MOEBLOCK_TRAFFIC_OUTPUT, b->y_mine, run->n,
                                                      run->workspace->tokens, hidden, element, b->y_all, b->y_mine}));
    const size_t row = (size_t)hidden * element;
    for (int64_t t = 0; t < run->n && !mb_run_failed(run); t++)
        memcpy(mb_array_row(y, run->first + t), b->y_mine + (size_t)t * row, row);
    return MOEBLOCK_OK;
}
