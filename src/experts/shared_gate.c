// SPDX-License-Identifier: Apache-2.0
// The sigmoid gate of a shared expert.
#include "experts/shared_gate.h"

#include "base/arith.h"
#include "base/context.h"
#include "base/status.h"
#include "config/tensors.h"
#include "kernels/math.h"

struct mb_shared_sigmoid {
    const moeblock_context *context;
    struct mb_packing packing;
    void *packed;
};

moeblock_status mb_shared_gate_load(moeblock_context *context, const moeblock_config *config, moeblock_weights *weights,
                                    int64_t layer, struct mb_shared_sigmoid **out, moeblock_error *error)
{
    const struct mb_kernels *kernels = context->kernels;
    struct mb_matrix matrix;
    *out = NULL;
    MB_TRY(mb_projection_find(config, weights, MB_PROJ_SHARED_SIGMOID, layer, 0, &matrix, error));

    struct mb_shared_sigmoid *gate = mb_alloc_zero(&context->allocator, sizeof *gate);
    if (!gate) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the shared expert's gate: no memory");
    gate->context = context;
    gate->packing = (struct mb_packing){
        .format = mb_format_table[matrix.format].packed, .parts = 1, .n = 1, .k = config->hidden_size};
    const size_t staging_bytes = mb_stage_bytes(&matrix, 0, 1, 0, config->hidden_size);
    void *staging = mb_alloc(&context->allocator, staging_bytes);
    gate->packed = mb_alloc_zero(&context->allocator, kernels->packed_bytes(&gate->packing));
    moeblock_status status;
    if (staging && gate->packed) {
        status = mb_matrix_pack(weights, &matrix, kernels, &gate->packing, gate->packed, 0, 0, 0, 1, 0,
                                config->hidden_size, staging, error);
    } else {
        status = mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the shared expert's gate: no memory for %zu bytes",
                         staging_bytes);
    }
    mb_free(&context->allocator, staging);
    if (status != MOEBLOCK_OK) {
        mb_shared_gate_destroy(gate);
        return status;
    }
    *out = gate;
    return MOEBLOCK_OK;
}

void mb_shared_gate_destroy(struct mb_shared_sigmoid *gate)
{
    if (!gate) return;
    const moeblock_allocator *allocator = &gate->context->allocator;
    mb_free(allocator, gate->packed);
    mb_free(allocator, gate);
}

// Row pointers come first, then the kernel's own scratch.
size_t mb_shared_gate_scratch_bytes(const struct mb_shared_sigmoid *gate, int64_t m)
{
    return mb_round_up((size_t)m * sizeof(void *), 64) + gate->context->kernels->scratch_bytes(&gate->packing, m);
}

void mb_shared_gate_apply(const struct mb_shared_sigmoid *gate, const float *x, int64_t x_stride, int64_t m,
                          float *gates, void *scratch)
{
    const void **rows = scratch;
    for (int64_t i = 0; i < m; i++) rows[i] = x + i * x_stride;
    const struct mb_project_call call = {
        .separate = true,
        .packing = &gate->packing,
        .packed = gate->packed,
        .rows = {rows, m, false},
        .n0 = 0,
        .n1 = 1,
        .out = gates,
        .out_stride = 1,
        .scratch = (char *)scratch + mb_round_up((size_t)m * sizeof(void *), 64),
    };
    gate->context->kernels->project(&call);
    for (int64_t i = 0; i < m; i++) gates[i] = mb_sigmoid(gates[i]);
}
