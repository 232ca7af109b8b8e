// SPDX-License-Identifier: Apache-2.0
// Loads and applies a router's linear map.
#include "routers/linear.h"

#include "base/arith.h"
#include "base/context.h"
#include "base/status.h"

enum { PIECE_BYTES = 8 << 20 };

// Packs the weight some rows at a time.
static moeblock_status pack_pieces(struct mb_router_linear *linear, moeblock_weights *weights,
                                   const struct mb_matrix *matrix, moeblock_error *error)
{
    const struct mb_kernels *kernels = linear->context->kernels;
    const int64_t count = mb_matrix_pieces(matrix, &linear->packing, kernels->granule, PIECE_BYTES);
    int64_t n0, n1, k0, k1;
    size_t staging_bytes = 0;
    for (int64_t i = 0; i < count; i++) {
        mb_matrix_piece(matrix, &linear->packing, kernels->granule, PIECE_BYTES, i, &n0, &n1, &k0, &k1);
        const size_t bytes = mb_stage_bytes(matrix, n0, n1, k0, k1);
        staging_bytes = bytes > staging_bytes ? bytes : staging_bytes;
    }
    void *staging = mb_alloc(&linear->context->allocator, staging_bytes);
    if (!staging)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the router: no memory for %zu bytes", staging_bytes);
    const struct mb_target target = {.kernels = kernels, .packing = &linear->packing, .packed = linear->packed};
    moeblock_status status = MOEBLOCK_OK;
    for (int64_t i = 0; i < count && status == MOEBLOCK_OK; i++) {
        mb_matrix_piece(matrix, &linear->packing, kernels->granule, PIECE_BYTES, i, &n0, &n1, &k0, &k1);
        status = mb_matrix_pack(weights, matrix, &target, n0, n1, k0, k1, staging, error);
    }
    mb_free(&linear->context->allocator, staging);
    return status;
}

moeblock_status mb_router_linear_load(struct mb_router_linear *linear, const moeblock_context *context,
                                      const moeblock_config *config, moeblock_weights *weights,
                                      enum mb_projection projection, int64_t layer, bool has_bias,
                                      moeblock_error *error)
{
    struct mb_matrix matrix;
    *linear = (struct mb_router_linear){.context = context};
    MB_TRY(mb_projection_find(config, weights, projection, layer, 0, &matrix, error));
    MB_TRY(mb_matrix_check_order(weights, &context->allocator, &matrix, error));
    const struct mb_format_info *format = &mb_format_table[matrix.format];
    linear->stored = matrix.codes.dtype;
    linear->packing = (struct mb_packing){
        .format = format->packed, .parts = 1, .n = matrix.rows, .k = matrix.columns, .group = mb_matrix_group(&matrix)};
    const size_t bytes = context->kernels->packed_bytes(&linear->packing);
    linear->packed = mb_alloc_zero(&context->allocator, bytes);
    if (linear->packed && has_bias)
        linear->bias = mb_alloc(&context->allocator, (size_t)matrix.rows * sizeof *linear->bias);
    if (!linear->packed || (has_bias && !linear->bias))
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the router: no memory for %zu bytes", bytes);
    MB_TRY(pack_pieces(linear, weights, &matrix, error));
    if (!has_bias) return MOEBLOCK_OK;
    return mb_projection_bias(config, weights, projection, layer, 0, matrix.rows, linear->bias, error);
}

struct mb_router_linear mb_router_linear_sized(const moeblock_context *context, int64_t outputs, int64_t inputs)
{
    return (struct mb_router_linear){.context = context,
                                     .packing = {.format = MB_PACKED_BF16, .parts = 1, .n = outputs, .k = inputs}};
}

void mb_router_linear_free(struct mb_router_linear *linear)
{
    if (!linear->context) return;
    mb_free(&linear->context->allocator, linear->packed);
    mb_free(&linear->context->allocator, linear->bias);
}

size_t mb_router_linear_scratch(const struct mb_router_linear *linear, int64_t m)
{
    return linear->context->kernels->scratch_bytes(&linear->packing, m);
}

void mb_router_linear_apply(const struct mb_router_linear *linear, const void *const *rows, int64_t m, int64_t c0,
                            int64_t c1, float *out, int64_t stride, void *scratch)
{
    const struct mb_project_call call = {
        .separate = true,
        .packing = &linear->packing,
        .packed = linear->packed,
        .rows = {.row = rows, .m = m},
        .n0 = c0,
        .n1 = c1,
        .bias = linear->bias,
        .out = out,
        .out_stride = stride,
        .scratch = scratch,
    };
    linear->context->kernels->project(&call);
}

void *mb_carve(void *base, size_t *offset, int64_t count, size_t size)
{
    void *memory = base ? (char *)base + *offset : NULL;
    *offset += mb_round_up((size_t)count * size, 64);
    return memory;
}
