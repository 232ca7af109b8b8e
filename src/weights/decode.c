// SPDX-License-Identifier: Apache-2.0
// Stored weights as float32: code times scale, each exact or rounded once. For the reference, biases, small tensors.
#include "base/arith.h"
#include "base/float.h"
#include "base/memory.h"
#include "base/status.h"
#include "weights/format.h"
#include "weights/matrix_load.h"

enum { CHUNK_BYTES = 1 << 20, COLUMN_STEP = 128 };

static float code_value(const struct mb_matrix *matrix, const struct mb_loaded *loaded, int64_t n, int64_t k)
{
    const ptrdiff_t i = (ptrdiff_t)n * loaded->row_stride + (ptrdiff_t)k * loaded->column_stride;
    const struct mb_format_info *format = &mb_format_table[matrix->format];
    const int64_t group = mb_matrix_group(matrix);
    const ptrdiff_t at = (ptrdiff_t)n * loaded->scale_stride + (group ? k / group : 0);
    const uint8_t *bytes = loaded->codes;
    const bool nibbles = mb_packed_info_of(format->packed).code_bits == 4;
    const uint8_t nibble = nibbles ? bytes[n * loaded->row_stride + k / 2] >> (k % 2 * 4) & 15 : 0;
    switch (format->packed) {
    case MB_PACKED_F32:
        return ((const float *)loaded->codes)[i];
    case MB_PACKED_F16:
        return mb_from_f16(((const uint16_t *)loaded->codes)[i]);
    case MB_PACKED_BF16:
        return mb_from_bf16(((const uint16_t *)loaded->codes)[i]);
    case MB_PACKED_FP8:
        return mb_from_e4m3(bytes[i]) * loaded->scales[at];
    case MB_PACKED_FP4:
        return mb_from_fp4(nibble, loaded->exponents[at]);
    case MB_PACKED_MXFP8:
        return mb_from_mxfp8(bytes[i], loaded->exponents[at]);
    case MB_PACKED_NVFP4:
        return mb_from_e2m1(nibble) * mb_from_e4m3(loaded->exponents[at]) * loaded->total;
    case MB_PACKED_INT4:
        return (float)(nibble - loaded->zeros[at]) * loaded->scales[at];
    case MB_PACKED_INT8:
        return (float)(bytes[i] - loaded->zeros[at]) * loaded->scales[at];
    default:
        return 0;
    }
}

// Chunks as large as the storage order allows within CHUNK_BYTES: whole rows, or whole columns of outputs. Codes that
// must be unpacked come all at once.
static struct mb_rectangle chunk_shape(const struct mb_matrix *matrix, int64_t rows)
{
    const int64_t code_bits = mb_code_bits(matrix);
    struct mb_rectangle shape = {.n1 = rows, .k1 = matrix->columns};
    if (mb_needs_unpack(matrix)) return shape;
    if (mb_output_major(matrix))
        shape.n1 = mb_min(rows, mb_max(1, CHUNK_BYTES * 8 / (matrix->columns * code_bits)));
    else
        shape.k1 = mb_min(matrix->columns, mb_max(1, CHUNK_BYTES * 8 / (rows * code_bits * COLUMN_STEP)) * COLUMN_STEP);
    return shape;
}

static size_t load_bytes(const struct mb_matrix *matrix, const struct mb_rectangle *r)
{
    return mb_round_up(mb_load_bytes(matrix, r), MB_STAGING_ALIGNMENT);
}

static moeblock_status decode_chunk(moeblock_weights *weights, const struct mb_matrix *matrix,
                                    const struct mb_rectangle *r, void *staging, float *out, moeblock_error *error)
{
    struct mb_loaded loaded;
    MB_TRY(mb_load(weights, matrix, r, staging, &loaded, error));
    if (mb_needs_unpack(matrix)) mb_unpack(matrix, r, &loaded, (uint8_t *)staging + load_bytes(matrix, r));
    for (int64_t n = 0; n < r->n1 - r->n0; n++)
        for (int64_t k = 0; k < r->k1 - r->k0; k++) out[n * matrix->columns + k] = code_value(matrix, &loaded, n, k);
    return MOEBLOCK_OK;
}

moeblock_status mb_matrix_decode(moeblock_weights *weights, const moeblock_allocator *allocator,
                                 const struct mb_matrix *matrix, int64_t n0, int64_t n1, float *out,
                                 moeblock_error *error)
{
    if (n0 >= n1 || matrix->columns < 1) return MOEBLOCK_OK;
    const struct mb_rectangle shape = chunk_shape(matrix, n1 - n0);
    const struct mb_rectangle largest = {n0, n0 + shape.n1, 0, shape.k1};
    void *staging = mb_alloc(allocator, load_bytes(matrix, &largest) + mb_unpack_bytes(matrix, &largest));
    if (!staging)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "tensor '%.300s': no memory to decode it", matrix->codes.name);
    moeblock_status status = MOEBLOCK_OK;
    for (int64_t n = n0; n < n1 && status == MOEBLOCK_OK; n += shape.n1)
        for (int64_t k = 0; k < matrix->columns && status == MOEBLOCK_OK; k += shape.k1) {
            const struct mb_rectangle chunk = {n, mb_min(n1, n + shape.n1), k, mb_min(matrix->columns, k + shape.k1)};
            status = decode_chunk(weights, matrix, &chunk, staging, out + (n - n0) * matrix->columns + k, error);
        }
    mb_free(allocator, staging);
    return status;
}

static void widen(moeblock_dtype dtype, const void *raw, int64_t count, float *out)
{
    const uint16_t *half = raw;
    for (int64_t i = 0; i < count; i++) out[i] = dtype == MOEBLOCK_F16 ? mb_from_f16(half[i]) : mb_from_bf16(half[i]);
}

moeblock_status mb_read_floats(moeblock_weights *weights, const moeblock_allocator *allocator,
                               const moeblock_tensor_info *tensor, uint64_t first, int64_t count, float *out,
                               moeblock_error *error)
{
    const uint64_t element = moeblock_dtype_bytes(tensor->dtype);
    if (tensor->dtype != MOEBLOCK_F32 && tensor->dtype != MOEBLOCK_F16 && tensor->dtype != MOEBLOCK_BF16)
        return mb_fail(error, MOEBLOCK_UNSUPPORTED, "tensor '%.300s' has dtype %s, expected F32, F16 or BF16",
                       tensor->name, tensor->dtype_name ? tensor->dtype_name : moeblock_dtype_name(tensor->dtype));
    if (count < 0 || first > UINT64_MAX / element || (uint64_t)count > SIZE_MAX / element)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "tensor '%.300s': the range of elements is too large",
                       tensor->name);
    const size_t bytes = (size_t)count * element;
    if (tensor->dtype == MOEBLOCK_F32)
        return moeblock_weights_read(weights, tensor, first * element, bytes, out, error);
    void *raw = mb_alloc(allocator, bytes);
    if (!raw)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "tensor '%.300s': no memory to read %zu bytes", tensor->name,
                       bytes);
    const moeblock_status status = moeblock_weights_read(weights, tensor, first * element, bytes, raw, error);
    if (status == MOEBLOCK_OK) widen(tensor->dtype, raw, count, out);
    mb_free(allocator, raw);
    return status;
}
