// SPDX-License-Identifier: Apache-2.0
// The CPU backend's table, and the helpers that its steps share.
#include "backend/cpu/cpu.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "base/arith.h"
#include "base/fpmode.h"
#include "base/status.h"

const struct mb_backend mb_backend_cpu = {
    .name = "cpu",
    .load = mb_cpu_load,
    .size = mb_cpu_size,
    .unload = mb_cpu_unload,
    .chunk_tokens = mb_cpu_chunk_tokens,
    .travel = mb_cpu_travel,
    .workspace_bytes = mb_cpu_workspace_bytes,
    .workspace_place = mb_cpu_workspace_place,
    .begin = mb_cpu_begin,
    .gather_input = mb_cpu_gather_input,
    .route = mb_cpu_route,
    .dispatch = mb_cpu_dispatch,
    .compute_experts = mb_cpu_compute_experts,
    .receive = mb_cpu_receive,
    .compute_received = mb_cpu_compute_received,
    .compute_shared = mb_cpu_compute_shared,
    .combine = mb_cpu_combine,
    .add_shared = mb_cpu_add_shared,
    .reduce_sums = mb_cpu_reduce_sums,
    .norm_output = mb_cpu_norm_output,
    .scatter_output = mb_cpu_scatter_output,
};

void mb_cpu_begin(struct mb_run *run)
{
    const size_t bytes = mb_carry_bytes(run->block);
    struct mb_travel travel;
    if (bytes) memset(mb_buffers_of(run)->carry, 0, bytes);
    mb_cpu_travel(run->block, run->set, run->longest, &travel);
    run->algorithm = mb_travel_choose(run->block->config->algorithm, &travel);
}

// The same for all ranks: of columns that differ by one the wider.
void mb_cpu_travel(const moeblock_block *block, const struct mb_weight_set *set, int64_t tokens, struct mb_travel *out)
{
    const moeblock_mesh *mesh = block->mesh;
    *out = (struct mb_travel){
        .ranks = block->share.ep,
        .tokens = tokens,
        .experts = mb_max(1, mb_all_experts(block->config)),
        .k = mb_min(mb_all_slots(block->config), mb_max(1, mb_all_experts(block->config))),
        .row = mb_row_bytes(set, block->routed_width),
        .output =
            (size_t)mb_ceil_div(block->routed_width, set->columns.sums ? 1 : block->share.tp) * mb_output_bytes(set),
        .sums = mb_sums_there(block),
        .same_tokens = block->config->replicated_batch,
    };
    mb_travel_rates(!mesh || mesh->transport.node_size == mesh->size, out);
}

int64_t mb_slots_most(const moeblock_block *block, int64_t rows, int64_t k)
{
    return rows * mb_min(k, block->share.owned);
}

struct each {
    struct mb_run *run;
    mb_step_task task;
    pthread_t caller;
};

// Only the thread that called the block talks to the mesh: between its tasks it moves what is under way.
static void poke(const struct each *each)
{
    struct mb_run *run = each->run;
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (!run->travelling || !pthread_equal(pthread_self(), each->caller)) return;
    if (mb_exchange_poke(run->travelling, &error) != MOEBLOCK_OK) mb_run_fail(run, &error);
}

// Whether the flow goes on: on a mesh that lives, always.
static moeblock_status stay(const struct mb_run *run)
{
    const moeblock_mesh *mesh = run->block->mesh;
    return mesh && !mesh->dead ? MOEBLOCK_OK : (moeblock_status)atomic_load(&run->failed);
}

moeblock_status mb_run_fail(struct mb_run *run, const moeblock_error *error)
{
    int none = MOEBLOCK_OK;
    if (atomic_compare_exchange_strong(&run->failed, &none, (int)error->code)) *run->error = *error;
    return stay(run);
}

static void each_task(void *argument, int64_t index, int worker)
{
    const struct each *each = argument;
    struct mb_run *run = each->run;
    if (mb_run_failed(run)) return;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const uint64_t mode = mb_flush_begin();
    error.code = each->task(run, index, worker, &error);
    mb_flush_end(mode);
    if (error.code != MOEBLOCK_OK) mb_run_fail(run, &error);
    poke(each);
}

moeblock_status mb_each(struct mb_run *run, int64_t count, mb_step_task task)
{
    struct each each = {run, task, pthread_self()};
    mb_parallel(run->block->context, count, each_task, &each);
    return stay(run);
}

moeblock_status mb_run_start(struct mb_run *run, struct mb_exchange *exchange)
{
    return mb_exchange_start(exchange, (moeblock_status)atomic_load(&run->failed), run->origin, run->error);
}

moeblock_status mb_run_finish(struct mb_run *run, struct mb_exchange *exchange)
{
    MB_TRY(mb_exchange_finish(exchange, run->error));
    if (exchange->status == MOEBLOCK_OK || mb_run_failed(run)) return MOEBLOCK_OK;
    atomic_store(&run->failed, (int)exchange->status);
    run->origin = exchange->origin;
    return MOEBLOCK_OK;
}

void mb_run_trace_mesh(const struct mb_run *run, const char *what, int axis, size_t bytes)
{
    const moeblock_mesh *mesh = run->block->mesh;
    if (mesh && mesh->trace) mesh->trace(mesh->trace_user, what, axis, bytes);
}

moeblock_status mb_kind_status(const char *what, const struct mb_registered *kind, const char *call,
                               moeblock_status status, moeblock_error *error)
{
    if (status == MOEBLOCK_OK) return status;
    if (!error->message[0])
        return mb_fail(error, status, "%s kind \"%s\" failed in %s with %s and gave no reason", what, kind->name, call,
                       moeblock_status_name(status));
    error->code = status;
    return status;
}

moeblock_status mb_run_uneven(struct mb_run *run, int index, int64_t found, int64_t expected)
{
    moeblock_error error;
    mb_fail(&error, MOEBLOCK_MISMATCH,
            "exchanging columns: rank %d of axis %d has %" PRId64 " rows, this rank %" PRId64
            "; all tensor-parallel ranks must hold the same tokens",
            index, run->block->share.tp_axis, found, expected);
    return mb_run_fail(run, &error);
}

moeblock_status mb_gather_columns(struct mb_run *run, const struct mb_gather *g)
{
    const struct mb_share *share = &run->block->share;
    struct mb_exchange *exchange = mb_exchange_begin(run->block->mesh, share->tp_axis, g->step);
    int64_t begin, end;
    mb_share_columns(share, g->total, share->tp_index, &begin, &end);
    const size_t own = (size_t)(end - begin) * g->element;
    // Room for the most rows of each rank, so that one that has other rows than this one can be told.
    for (int i = 0; i < share->tp; i++) {
        struct mb_peer *peer = &exchange->peers[i];
        mb_share_columns(share, g->total, i, &begin, &end);
        peer->send = g->part;
        peer->send_bytes = (size_t)g->rows * own;
        peer->send_rows = g->rows;
        peer->receive = (char *)g->all + (size_t)(g->most * begin) * g->element;
        peer->capacity = (size_t)(g->most * (end - begin)) * g->element;
    }
    memcpy(exchange->peers[share->tp_index].receive, g->part, mb_run_failed(run) ? 0 : (size_t)g->rows * own);
    mb_run_trace_mesh(run, "all_gather", share->tp_axis, (size_t)g->rows * own);
    MB_TRY(mb_run_start(run, exchange));
    MB_TRY(mb_run_finish(run, exchange));
    for (int i = 0; i < share->tp && !mb_run_failed(run); i++) {
        const struct mb_peer *peer = &exchange->peers[i];
        mb_share_columns(share, g->total, i, &begin, &end);
        const size_t bytes = (size_t)(end - begin) * g->element;
        if (i != share->tp_index && (peer->received != (size_t)g->rows * bytes || peer->rows != g->rows))
            return mb_run_uneven(run, i, peer->rows, g->rows);
        const char *from = peer->receive;
        for (int64_t r = 0; r < g->rows; r++, from += bytes)
            memcpy((char *)g->whole + (size_t)(r * g->total + begin) * g->element, from, bytes);
    }
    return MOEBLOCK_OK;
}

void mb_to_row(const struct mb_run *run, void *row, const float *from, int64_t n)
{
    const struct mb_kernels *kernels = run->block->context->kernels;
    if (run->set->compute == MOEBLOCK_COMPUTE_INT16) {
        kernels->to_int16(row, from, n);
    } else {
        kernels->to_bf16(row, from, n);
    }
}

void mb_run_trace(const struct mb_run *run, const char *what, int64_t a, int64_t b)
{
    if (run->block->trace) run->block->trace(run->block->trace_user, what, a, b);
}
