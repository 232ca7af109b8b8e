// SPDX-License-Identifier: Apache-2.0
// First step: x from the caller's array to float rows and expert rows, through an all-gather when it came
// hidden-sharded; then the latent projection where there is one.
#include <string.h>

#include "backend/array.h"
#include "backend/cpu/cpu.h"
#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"

static moeblock_status gather_shards(struct mb_run *run)
{
    const moeblock_block *block = run->block;
    const moeblock_array *x = &run->input->x;
    struct mb_buffers *b = mb_buffers_of(run);
    const size_t element = moeblock_dtype_bytes(x->dtype);
    const size_t own = (size_t)(block->share.h1 - block->share.h0) * element;
    for (int64_t t = 0; t < run->n; t++) memcpy(b->x_mine + (size_t)t * own, mb_array_row(x, run->first + t), own);
    // Travels in x's own dtype. x_all receives the parts; x_mine, no longer needed, then holds whole rows.
    return mb_gather_columns(run, &(struct mb_gather){MOEBLOCK_TRAFFIC_INPUT, b->x_mine, run->n, run->workspace->tokens,
                                                      block->config->hidden_size, element, b->x_all, b->x_mine});
}

// The second tensor of token t: floats, and elements where the shared expert reads it.
static void convert_aux(struct mb_run *run, int64_t t)
{
    const moeblock_config *config = run->block->config;
    const moeblock_array *aux = &run->input->aux;
    const int64_t hidden = config->hidden_size;
    struct mb_buffers *b = mb_buffers_of(run);
    float *row = b->aux + t * hidden;
    mb_to_floats(row, mb_array_row(aux, run->first + t), aux->dtype, hidden);
    if (config->shared_enabled && config->shared_input == MB_INPUT_AUX && run->set->compute != MOEBLOCK_COMPUTE_F32)
        mb_to_row(run, (char *)b->aux_rows + (size_t)t * mb_row_bytes(run->set, hidden), row, hidden);
}

// Tokens [begin, end) of the chunk: float rows, the second tensor, expert rows, latent rows.
static moeblock_status convert_tokens(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)error;
    const moeblock_config *config = run->block->config;
    const struct mb_weight_set *set = run->set;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t hidden = config->hidden_size;
    const int64_t begin = index * MB_TASK_TOKENS, end = mb_min(run->n, begin + MB_TASK_TOKENS);
    const moeblock_array *x = &run->input->x;
    const size_t whole_row = (size_t)hidden * moeblock_dtype_bytes(x->dtype);
    const size_t row_bytes = mb_row_bytes(set, hidden);
    const void *latent_in[MB_TASK_TOKENS];
    for (int64_t t = begin; t < end; t++) {
        const void *from =
            run->sharding == MOEBLOCK_SHARDED ? b->x_mine + (size_t)t * whole_row : mb_array_row(x, run->first + t);
        float *row = b->x + t * hidden;
        mb_to_floats(row, from, x->dtype, hidden);
        if (b->aux && !run->given_ids) convert_aux(run, t);
        char *expert_row = (char *)b->rows + (size_t)t * row_bytes;
        if (set->compute != MOEBLOCK_COMPUTE_F32) mb_to_row(run, expert_row, row, hidden);
        latent_in[t - begin] = expert_row;
    }
    if (set->latent) {
        char *out = (char *)b->latent + (size_t)begin * mb_row_bytes(set, config->latent_size);
        mb_latent_down(set->latent, latent_in, end - begin, out, mb_scratch(run, worker));
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_cpu_gather_input(struct mb_run *run)
{
    if (run->sharding == MOEBLOCK_SHARDED) MB_TRY(gather_shards(run));
    return mb_each(run, mb_ceil_div(run->n, MB_TASK_TOKENS), convert_tokens);
}
