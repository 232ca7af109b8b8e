// SPDX-License-Identifier: Apache-2.0
// The sigmoid gate of a shared expert, and the softmax coefficients of routed sum and shared expert: a linear map to
// one or two logits a token.
#include "experts/shared_gate.h"

#include <math.h>

#include "base/arith.h"
#include "base/context.h"
#include "base/status.h"
#include "config/tensors.h"
#include "kernels/math.h"

struct mb_shared_factors {
    const moeblock_context *context;
    struct mb_packing packing; // n is 1 (gate) or 2 (coefficients)
    void *packed;
    float bias[2]; // coefficients only
};

static bool has_coefficients(const struct mb_shared_factors *gate) { return gate->packing.n == 2; }

static moeblock_status pack(struct mb_shared_factors *gate, moeblock_weights *weights, const struct mb_matrix *matrix,
                            moeblock_error *error)
{
    const moeblock_allocator *allocator = &gate->context->allocator;
    const struct mb_kernels *kernels = gate->context->kernels;
    const size_t staging_bytes = mb_stage_bytes(matrix, 0, matrix->rows, 0, matrix->columns);
    void *staging = mb_alloc(allocator, staging_bytes);
    gate->packed = mb_alloc_zero(allocator, kernels->packed_bytes(&gate->packing));
    moeblock_status status;
    if (staging && gate->packed) {
        const struct mb_target target = {.kernels = kernels, .packing = &gate->packing, .packed = gate->packed};
        status = mb_matrix_pack(weights, matrix, &target, 0, matrix->rows, 0, matrix->columns, staging, error);
    } else {
        status = mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the shared expert's gate: no memory for %zu bytes",
                         staging_bytes);
    }
    mb_free(allocator, staging);
    return status;
}

moeblock_status mb_shared_gate_load(moeblock_context *context, const moeblock_config *config, moeblock_weights *weights,
                                    int64_t layer, struct mb_shared_factors **out, moeblock_error *error)
{
    *out = NULL;
    const bool coefficients = mb_role_wanted(config, MB_ROLE_MIX_COEFFICIENT);
    if (!coefficients && !mb_role_wanted(config, MB_ROLE_SHARED_SIGMOID)) return MOEBLOCK_OK;
    const enum mb_projection projection = coefficients ? MB_PROJ_MIX_COEFFICIENT : MB_PROJ_SHARED_SIGMOID;
    struct mb_matrix matrix;
    MB_TRY(mb_projection_find(config, weights, projection, layer, 0, &matrix, error));
    MB_TRY(mb_matrix_check_order(weights, &context->allocator, &matrix, error));

    struct mb_shared_factors *gate = mb_alloc_zero(&context->allocator, sizeof *gate);
    if (!gate) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the shared expert's gate: no memory");
    const struct mb_format_info *format = &mb_format_table[matrix.format];
    gate->context = context;
    gate->packing = (struct mb_packing){
        .format = format->packed, .parts = 1, .n = matrix.rows, .k = matrix.columns, .group = mb_matrix_group(&matrix)};
    moeblock_status status = pack(gate, weights, &matrix, error);
    if (status == MOEBLOCK_OK && coefficients)
        status = mb_projection_bias(config, weights, projection, layer, 0, 2, gate->bias, error);
    if (status != MOEBLOCK_OK) {
        mb_shared_gate_destroy(gate);
        return status;
    }
    *out = gate;
    return MOEBLOCK_OK;
}

void mb_shared_gate_destroy(struct mb_shared_factors *gate)
{
    if (!gate) return;
    const moeblock_allocator *allocator = &gate->context->allocator;
    mb_free(allocator, gate->packed);
    mb_free(allocator, gate);
}

// Row pointers come first, then the kernel's own scratch.
size_t mb_shared_gate_scratch_bytes(const struct mb_shared_factors *gate, int64_t m)
{
    return mb_round_up((size_t)m * sizeof(void *), 64) + gate->context->kernels->scratch_bytes(&gate->packing, m);
}

// The maximum is subtracted first, so that exp cannot overflow.
static void softmax_of_two(float *values)
{
    float maximum = -INFINITY;
    for (int i = 0; i < 2; i++)
        if (values[i] > maximum) maximum = values[i];
    const float first = mb_exp(values[0] - maximum), second = mb_exp(values[1] - maximum);
    values[0] = first / (first + second);
    values[1] = second / (first + second);
}

void mb_shared_gate_apply(const struct mb_shared_factors *gate, const float *x, int64_t x_stride, int64_t m,
                          float *factors, void *scratch)
{
    const bool coefficients = has_coefficients(gate);
    const void **rows = scratch;
    for (int64_t i = 0; i < m; i++) rows[i] = x + i * x_stride;
    const struct mb_project_call call = {
        .separate = true,
        .packing = &gate->packing,
        .packed = gate->packed,
        .rows = {.row = rows, .m = m},
        .n0 = 0,
        .n1 = gate->packing.n,
        .bias = coefficients ? gate->bias : NULL,
        .out = coefficients ? factors : factors + 1,
        .out_stride = 2,
        .scratch = (char *)scratch + mb_round_up((size_t)m * sizeof(void *), 64),
    };
    gate->context->kernels->project(&call);
    for (int64_t i = 0; i < m; i++) {
        float *pair = factors + 2 * i;
        if (coefficients) {
            softmax_of_two(pair);
        } else {
            pair[0] = 1.0f;
            pair[1] = mb_sigmoid(pair[1]);
        }
    }
}
