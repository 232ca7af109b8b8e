// SPDX-License-Identifier: Apache-2.0
// A linear map of a description as float32, from whatever a checkpoint stores it in.
#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "config/schema.h"
#include "config/tensors.h"

// Rows whose inputs are in the order of their groups, back in the stored order.
static moeblock_status restore_order(const struct mb_matrix *matrix, const moeblock_allocator *allocator, int64_t rows,
                                     float *values, moeblock_error *error)
{
    const size_t bytes = (size_t)matrix->columns * sizeof *values;
    float *row = mb_alloc(allocator, bytes);
    if (!row)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "tensor '%.300s': no memory to decode it", matrix->codes.name);
    for (int64_t n = 0; n < rows; n++, values += matrix->columns) {
        memcpy(row, values, bytes);
        for (int64_t j = 0; j < matrix->columns; j++) values[matrix->permutation[j]] = row[j];
    }
    mb_free(allocator, row);
    return MOEBLOCK_OK;
}

static moeblock_status decode_ordered(moeblock_weights *weights, const moeblock_allocator *allocator,
                                      struct mb_matrix *matrix, int64_t first, int64_t count, float *out,
                                      moeblock_error *error)
{
    bool sorted;
    int32_t *order = mb_alloc(allocator, (size_t)matrix->columns * sizeof *order);
    if (!order)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "tensor '%.300s': no memory to decode it", matrix->codes.name);
    moeblock_status status = mb_matrix_order(weights, allocator, matrix, order, &sorted, error);
    if (status == MOEBLOCK_OK && !sorted) matrix->permutation = order;
    if (status == MOEBLOCK_OK) status = mb_matrix_decode(weights, allocator, matrix, first, first + count, out, error);
    if (status == MOEBLOCK_OK && !sorted) status = restore_order(matrix, allocator, count, out, error);
    mb_free(allocator, order);
    return status;
}

moeblock_status moeblock_config_decode(const moeblock_config *config, moeblock_weights *weights, const char *projection,
                                       int64_t layer, int64_t expert, int64_t first, int64_t count, float *out,
                                       moeblock_error *error)
{
    struct mb_matrix matrix;
    if (!config || !weights || !projection || (!out && count > 0))
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "decoding a linear map: an argument is NULL");
    const enum mb_projection which = mb_projection_named(projection);
    if (which == MB_PROJECTIONS || !mb_projection_wanted(config, which))
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "decoding a linear map: the configuration has none called '%.80s' (weights.names)", projection);
    MB_TRY(mb_projection_find(config, weights, which, layer, expert, &matrix, error));
    if (first < 0 || count < 0 || first > matrix.rows || count > matrix.rows - first)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "decoding '%.300s': outputs from %" PRId64 ", %" PRId64 " of them, where there are %" PRId64,
                       matrix.codes.name, first, count, matrix.rows);
    if (matrix.order.name) return decode_ordered(weights, &config->allocator, &matrix, first, count, out, error);
    return mb_matrix_decode(weights, &config->allocator, &matrix, first, first + count, out, error);
}
