// SPDX-License-Identifier: Apache-2.0
// The reduce-scatter of the original, where columns hold partial sums (columns.c): each rank sends every other one the
// columns that are its, and adds what it gets in float32, ranks ascending, its own among them.
#include <inttypes.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"

enum { COLUMNS = 1024 }; // of a widened piece on the stack

// A part of a row as it travels.
static void pack_row(const struct mb_run *run, void *to, const float *from, int64_t n)
{
    if (mb_output_bytes(run->set) == sizeof(uint16_t))
        run->block->context->kernels->to_bf16(to, from, n);
    else
        memcpy(to, from, (size_t)n * sizeof *from);
}

static void add_row(const struct mb_run *run, float *sum, const void *from, int64_t n)
{
    const struct mb_kernels *kernels = run->block->context->kernels;
    if (mb_output_bytes(run->set) != sizeof(uint16_t)) {
        kernels->accumulate(sum, from, 1.0f, n);
        return;
    }
    float wide[COLUMNS];
    for (int64_t c = 0; c < n; c += COLUMNS) {
        const int64_t count = mb_min(COLUMNS, n - c);
        for (int64_t i = 0; i < count; i++) wide[i] = mb_from_bf16(((const uint16_t *)from)[c + i]);
        kernels->accumulate(sum + c, wide, 1.0f, count);
    }
}

// Parts for each rank lie one after the other in y_mine, which is free until y is written.
static moeblock_status pack_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    const struct mb_share *share = &run->block->share;
    const struct mb_buffers *b = mb_buffers_of(run);
    const int64_t hidden = run->block->config->hidden_size, end = mb_min(run->n, (index + 1) * MB_TASK_TOKENS);
    for (int i = 0; i < share->tp; i++) {
        int64_t h0, h1;
        mb_share_columns(share, hidden, i, &h0, &h1);
        char *to = b->y_mine + (size_t)(run->n * h0) * mb_output_bytes(run->set);
        for (int64_t t = index * MB_TASK_TOKENS; i != share->tp_index && t < end; t++)
            pack_row(run, to + (size_t)(t * (h1 - h0)) * mb_output_bytes(run->set), b->lifted + t * hidden + h0,
                     h1 - h0);
    }
    return MOEBLOCK_OK;
}

// Parts from each rank lie as far apart in y_all as the most rows would take.
static char *part_from(const struct mb_run *run, int rank)
{
    const int64_t own = run->block->share.h1 - run->block->share.h0;
    return mb_buffers_of(run)->y_all + (size_t)(rank * run->workspace->tokens * own) * mb_output_bytes(run->set);
}

static moeblock_status add_task(struct mb_run *run, int64_t index, int worker, moeblock_error *error)
{
    (void)worker, (void)error;
    const struct mb_share *share = &run->block->share;
    const struct mb_buffers *b = mb_buffers_of(run);
    const int64_t hidden = run->block->config->hidden_size, own = share->h1 - share->h0;
    const int64_t end = mb_min(run->n, (index + 1) * MB_TASK_TOKENS);
    for (int64_t t = index * MB_TASK_TOKENS; t < end; t++) {
        float *sum = b->finished + t * own;
        memset(sum, 0, (size_t)own * sizeof *sum);
        for (int i = 0; i < share->tp; i++) {
            if (i == share->tp_index)
                run->block->context->kernels->accumulate(sum, b->lifted + t * hidden + share->h0, 1.0f, own);
            else
                add_row(run, sum, part_from(run, i) + (size_t)(t * own) * mb_output_bytes(run->set), own);
        }
    }
    return MOEBLOCK_OK;
}

static moeblock_status exchange_parts(struct mb_run *run)
{
    const struct mb_share *share = &run->block->share;
    const struct mb_buffers *b = mb_buffers_of(run);
    const size_t element = mb_output_bytes(run->set), own = (size_t)(share->h1 - share->h0) * element;
    struct mb_exchange *exchange = mb_exchange_begin(run->block->mesh, share->tp_axis, MOEBLOCK_TRAFFIC_SUMS);
    size_t given = 0;
    for (int i = 0; i < share->tp; i++) {
        struct mb_peer *peer = &exchange->peers[i];
        int64_t h0, h1;
        mb_share_columns(share, run->block->config->hidden_size, i, &h0, &h1);
        if (i == share->tp_index) continue;
        peer->send = b->y_mine + (size_t)(run->n * h0) * element;
        peer->send_rows = run->n;
        peer->send_bytes = (size_t)(run->n * (h1 - h0)) * element;
        peer->receive = part_from(run, i);
        peer->capacity = (size_t)run->workspace->tokens * own;
        given += peer->send_bytes;
    }
    mb_run_trace_mesh(run, "reduce_scatter", share->tp_axis, given);
    MB_TRY(mb_run_start(run, exchange));
    MB_TRY(mb_run_finish(run, exchange));
    for (int i = 0; i < share->tp && !mb_run_failed(run); i++) {
        const struct mb_peer *peer = &exchange->peers[i];
        if (i != share->tp_index && (peer->received != (size_t)run->n * own || peer->rows != run->n))
            return mb_run_uneven(run, i, peer->rows, run->n);
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_cpu_reduce_sums(struct mb_run *run)
{
    const int64_t tiles = mb_ceil_div(run->n, MB_TASK_TOKENS);
    if (!run->set->columns.sums) return MOEBLOCK_OK;
    MB_TRY(mb_each(run, tiles, pack_task));
    MB_TRY(exchange_parts(run));
    return mb_each(run, tiles, add_task);
}
