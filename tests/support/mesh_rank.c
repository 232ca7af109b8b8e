// SPDX-License-Identifier: Apache-2.0
// A rank's part of a golden case.
#include "support/mesh_rank.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"

void rank_open(const struct scenario *scenario, moeblock_mesh *mesh, int64_t tokens, struct rank_objects *out)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    const moeblock_context_options threads = {.struct_size = sizeof threads,
                                              .threads = scenario->threads ? scenario->threads : 1};
    const moeblock_config_options options = {.struct_size = sizeof options,
                                             .layer = scenario->golden->layer,
                                             .set = scenario->set,
                                             .n_set = scenario->n_set};
    const moeblock_block_options compute = {.struct_size = sizeof compute, .compute = scenario->compute};
    moeblock_status status = moeblock_context_create(&threads, &out->context, &error);
    if (status == MOEBLOCK_OK)
        status = moeblock_config_open(out->context, scenario->golden->folder, &options, &out->config, &error);
    if (status == MOEBLOCK_OK)
        status = moeblock_block_create(out->context, out->config, mesh, &compute, &out->block, &error);
    if (status == MOEBLOCK_OK) status = moeblock_block_load_files(out->block, scenario->golden->folder, NULL, &error);
    if (status == MOEBLOCK_OK) status = moeblock_workspace_create(out->block, tokens, NULL, 0, &out->workspace, &error);
    if (status != MOEBLOCK_OK) fail_msg("rank %d,%d: %s", mesh->row, mesh->column, error.message);
}

void rank_close(struct rank_objects *rank)
{
    moeblock_workspace_destroy(&rank->workspace);
    moeblock_block_destroy(&rank->block);
    moeblock_config_destroy(&rank->config);
    moeblock_context_destroy(&rank->context);
}

// x columns [h0, h1) of tokens [t0, t1), dense.
static float *slice(const float *from, int64_t hidden, int64_t t0, int64_t t1, int64_t h0, int64_t h1)
{
    float *out = calloc((size_t)((t1 - t0) * (h1 - h0) + 1), sizeof *out);
    for (int64_t t = t0; t < t1; t++)
        memcpy(out + (t - t0) * (h1 - h0), from + t * hidden + h0, (size_t)(h1 - h0) * sizeof *out);
    return out;
}

static double relative_rms(const float *found, const float *expected, int64_t count)
{
    double error = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        const double difference = (double)found[i] - (double)expected[i];
        error += difference * difference;
        size += (double)expected[i] * (double)expected[i];
    }
    return size > 0 ? sqrt(error / size) : error;
}

void rank_forward(const struct scenario *scenario, moeblock_mesh *mesh, const struct rank_objects *rank)
{
    const struct golden_case *golden = scenario->golden;
    int64_t t0 = 0, t1 = golden->tokens, h0 = 0, h1 = golden->hidden;
    const int ep = scenario->swapped ? mesh->columns : mesh->rows, tp = scenario->swapped ? mesh->rows : mesh->columns;
    const int ep_index = scenario->swapped ? mesh->column : mesh->row;
    // A router that counts the tokens of a sequence needs them on one rank.
    if (scenario->all_tokens_on_row_0 || golden->inputs.seq_lens)
        t1 = ep_index == 0 ? golden->tokens : 0;
    else
        mb_split(golden->tokens, ep, ep_index, &t0, &t1);
    if (scenario->sharded) mb_split(golden->hidden, tp, scenario->swapped ? mesh->row : mesh->column, &h0, &h1);
    float *x = slice(golden->x.data, golden->hidden, t0, t1, h0, h1);
    float *aux = golden->aux.data ? slice(golden->aux.data, golden->hidden, t0, t1, 0, golden->hidden) : NULL;
    float *want = slice(scenario->single->y, golden->hidden, t0, t1, h0, h1);
    float *y = calloc((size_t)((t1 - t0) * (h1 - h0) + 1), sizeof *y);
    int32_t *ids = calloc((size_t)((t1 - t0) * golden->k + 1), sizeof *ids);
    moeblock_forward_input in = {.struct_size = sizeof in,
                                 .mode = scenario->mode,
                                 .x = {.dtype = MOEBLOCK_F32, .rank = 3, .dims = {1, t1 - t0, h1 - h0}, .data = x}};
    const struct mb_reference_input *more = &golden->inputs;
    const int64_t state = golden->state.data ? golden->state.count / golden->tokens : 0;
    in.token_ids = more->token_ids ? more->token_ids + t0 : NULL;
    in.token_types = more->token_types ? more->token_types + t0 : NULL;
    in.seq_lens = t1 > t0 ? more->seq_lens : NULL;
    in.n_seq = in.seq_lens ? more->n_seq : 0;
    in.router_state = more->router_state ? more->router_state + t0 * state : NULL;
    float *state_out = state ? calloc((size_t)((t1 - t0) * state + 1), sizeof *state_out) : NULL;
    in.aux = in.x;
    in.aux.dims[2] = golden->hidden;
    in.aux.data = aux;
    moeblock_forward_output out = {.struct_size = sizeof out, .y = in.x, .ids = ids, .router_state = state_out};
    out.y.data = y;
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (moeblock_block_forward(rank->block, rank->workspace, &in, &out, &error) != MOEBLOCK_OK)
        fail_msg("%s on %d x %d: %s", golden->name, mesh->rows, mesh->columns, error.message);
    // Where x is not sharded every rank of the tensor axis has the same rows: one lays them down.
    const bool first_column = (scenario->swapped ? mesh->row : mesh->column) == 0;
    const bool lays = scenario->y && (scenario->sharded || scenario->y_is_own || first_column);
    for (int64_t t = t0; lays && t < t1; t++)
        memcpy(scenario->y + t * golden->hidden + h0, y + (t - t0) * (h1 - h0), (size_t)(h1 - h0) * sizeof *y);
    const double apart = relative_rms(y, want, (t1 - t0) * (h1 - h0));
    if (scenario->tolerance > 0 && !(apart <= scenario->tolerance))
        fail_msg("%s on %d x %d: rank %d,%d is %g from one process, expected at most %g", golden->name, mesh->rows,
                 mesh->columns, mesh->row, mesh->column, apart, scenario->tolerance);
    if (scenario->tolerance == 0 && memcmp(y, want, (size_t)((t1 - t0) * (h1 - h0)) * sizeof *y))
        fail_msg("%s on %d x %d: rank %d,%d has other bytes than one process", golden->name, mesh->rows, mesh->columns,
                 mesh->row, mesh->column);
    assert_memory_equal(ids, scenario->single->ids + t0 * golden->k, (size_t)((t1 - t0) * golden->k) * sizeof *ids);
    free(x);
    free(aux);
    free(want);
    free(y);
    if (state)
        assert_memory_equal(state_out, scenario->single->state + t0 * state,
                            (size_t)((t1 - t0) * state) * sizeof *state_out);
    free(state_out);
    free(ids);
}

void rank_body(void *argument, moeblock_mesh *mesh)
{
    const struct scenario *scenario = argument;
    struct rank_objects rank;
    rank_open(scenario, mesh, scenario->golden->tokens, &rank);
    rank_forward(scenario, mesh, &rank);
    rank_close(&rank);
}
