// SPDX-License-Identifier: Apache-2.0
// The table that gives a token's experts by its id (moe-families 1.7, the hash layers of deepseek_v4): integers
// [vocabulary, k], checked when they are read, so that routing can rely on every row.
#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "config/roles.h"

enum { ROWS_AT_ONCE = 1024 };

// Ids of a row in ascending order, since weights are summed in that order.
static void sort_row(int32_t *ids, int64_t k)
{
    for (int64_t i = 1; i < k; i++)
        for (int64_t j = i; j > 0 && ids[j - 1] > ids[j]; j--) {
            const int32_t lower = ids[j];
            ids[j] = ids[j - 1];
            ids[j - 1] = lower;
        }
}

static moeblock_status take_row(const moeblock_config *config, const moeblock_tensor_info *tensor, const void *stored,
                                int64_t at, int64_t row, int32_t *out, moeblock_error *error)
{
    const int64_t k = config->num_experts_per_tok;
    for (int64_t j = 0; j < k; j++) {
        const int64_t id =
            tensor->dtype == MOEBLOCK_I64 ? ((const int64_t *)stored)[at + j] : ((const int32_t *)stored)[at + j];
        if (id < 0 || id >= config->num_experts)
            return mb_fail(error, MOEBLOCK_INVALID_FILE,
                           "tensor '%.300s': token id %" PRId64 " has expert %" PRId64 ", expected 0 to %" PRId64,
                           tensor->name, row, id, config->num_experts - 1);
        out[j] = (int32_t)id;
    }
    sort_row(out, k);
    for (int64_t j = 1; j < k; j++)
        if (out[j] == out[j - 1])
            return mb_fail(error, MOEBLOCK_INVALID_FILE,
                           "tensor '%.300s': token id %" PRId64 " has expert %" PRId32 " twice, expected %" PRId64
                           " different ones",
                           tensor->name, row, out[j], k);
    return MOEBLOCK_OK;
}

moeblock_status mb_token_table(const moeblock_config *config, moeblock_weights *weights, int64_t layer, int32_t *out,
                               moeblock_error *error)
{
    const int64_t rows = config->router.table_size, k = config->num_experts_per_tok;
    moeblock_tensor_info tensor;
    MB_TRY(mb_role_find(config, weights, MB_ROLE_TOKEN_TABLE, "", layer, 0, &tensor, error));
    if (tensor.dtype != MOEBLOCK_I64 && tensor.dtype != MOEBLOCK_I32)
        return mb_fail(error, MOEBLOCK_UNSUPPORTED, "tensor '%.300s' has dtype %.32s, expected I64 or I32", tensor.name,
                       tensor.dtype_name);
    if (tensor.rank != 2 || tensor.dims[0] != rows || tensor.dims[1] != k)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "tensor '%.300s' has %d dimensions, [%" PRId64 ", %" PRId64 "], the configuration expects "
                       "[%" PRId64 ", %" PRId64 "]",
                       tensor.name, tensor.rank, tensor.dims[0], tensor.dims[1], rows, k);
    const size_t row_bytes = (size_t)k * moeblock_dtype_bytes(tensor.dtype);
    int32_t *row = out ? NULL : mb_alloc(&config->allocator, (size_t)k * sizeof *row); // only looked at
    void *stored = mb_alloc(&config->allocator, ROWS_AT_ONCE * row_bytes);
    if (!stored || (!out && !row)) {
        mb_free(&config->allocator, stored);
        mb_free(&config->allocator, row);
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "tensor '%.300s': no memory to read it", tensor.name);
    }
    moeblock_status status = MOEBLOCK_OK;
    for (int64_t first = 0; status == MOEBLOCK_OK && first < rows; first += ROWS_AT_ONCE) {
        const int64_t count = rows - first < ROWS_AT_ONCE ? rows - first : ROWS_AT_ONCE;
        status = moeblock_weights_read(weights, &tensor, (uint64_t)first * row_bytes, (size_t)count * row_bytes, stored,
                                       error);
        for (int64_t r = 0; status == MOEBLOCK_OK && r < count; r++)
            status = take_row(config, &tensor, stored, r * k, first + r, out ? out + (first + r) * k : row, error);
    }
    mb_free(&config->allocator, stored);
    mb_free(&config->allocator, row);
    return status;
}
