// SPDX-License-Identifier: Apache-2.0
// The CPU backend's table, and the helpers that its steps share.
#include "backend/cpu/cpu.h"

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
    .workspace_bytes = mb_cpu_workspace_bytes,
    .workspace_place = mb_cpu_workspace_place,
    .begin = mb_cpu_begin,
    .gather_input = mb_cpu_gather_input,
    .route = mb_cpu_route,
    .dispatch = mb_cpu_dispatch,
    .compute_experts = mb_cpu_compute_experts,
    .compute_shared = mb_cpu_compute_shared,
    .combine = mb_cpu_combine,
    .add_shared = mb_cpu_add_shared,
    .norm_output = mb_cpu_norm_output,
    .scatter_output = mb_cpu_scatter_output,
};

void mb_cpu_begin(struct mb_run *run)
{
    const size_t bytes = mb_carry_bytes(run->block);
    if (bytes) memset(mb_buffers_of(run)->carry, 0, bytes);
}

size_t mb_record_bytes(const moeblock_block *block, const struct mb_weight_set *set, int64_t k)
{
    const size_t row = mb_row_bytes(set, block->routed_width);
    return mb_round_up(row, 8) + mb_round_up((size_t)k * (sizeof(int32_t) + sizeof(float)), 8);
}

int64_t mb_slots_most(const moeblock_block *block, int64_t rows, int64_t k)
{
    return rows * mb_min(k, block->share.owned);
}

struct each {
    struct mb_run *run;
    mb_step_task task;
};

static void each_task(void *argument, int64_t index, int worker)
{
    const struct each *each = argument;
    struct mb_run *run = each->run;
    if (atomic_load_explicit(&run->failed, memory_order_relaxed) != MOEBLOCK_OK) return;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const uint64_t mode = mb_flush_begin();
    const moeblock_status status = each->task(run, index, worker, &error);
    mb_flush_end(mode);
    int none = MOEBLOCK_OK;
    if (status == MOEBLOCK_OK || !atomic_compare_exchange_strong(&run->failed, &none, (int)status)) return;
    if (run->error) *run->error = error;
}

moeblock_status mb_each(struct mb_run *run, int64_t count, mb_step_task task)
{
    struct each each = {run, task};
    mb_parallel(run->block->context, count, each_task, &each);
    return (moeblock_status)atomic_load(&run->failed);
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

moeblock_status mb_gather_columns(struct mb_run *run, const void *part, int64_t rows, int64_t total, size_t element,
                                  void *all, void *whole, size_t *bytes_per_rank)
{
    const struct mb_share *share = &run->block->share;
    const moeblock_mesh *mesh = run->block->mesh;
    int64_t begin, end;
    for (int i = 0; i < share->tp; i++) {
        mb_share_columns(share, total, i, &begin, &end);
        bytes_per_rank[i] = (size_t)(rows * (end - begin)) * element;
    }
    MB_TRY(mesh->all_gather(mesh->user, share->tp_axis, part, bytes_per_rank, all, run->error));
    const char *from = all;
    for (int i = 0; i < share->tp; i++) {
        mb_share_columns(share, total, i, &begin, &end);
        const size_t run_bytes = (size_t)(end - begin) * element;
        for (int64_t r = 0; r < rows; r++, from += run_bytes)
            memcpy((char *)whole + (size_t)(r * total + begin) * element, from, run_bytes);
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
