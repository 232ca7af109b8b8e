// SPDX-License-Identifier: Apache-2.0
// The caller's arrays.
#include "backend/array.h"

#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"

static bool is_dense(const moeblock_array *array)
{
    for (int i = 0; i < array->rank; i++)
        if (array->strides[i]) return false;
    return true;
}

// Elements from the first to behind the last, at most 2^56: no offset inside can overflow.
static moeblock_status check_reach(const moeblock_array *array, const char *name, moeblock_error *error)
{
    uint64_t reach = 1, step;
    for (int i = 0; i < array->rank; i++)
        if (!mb_mul_u64((uint64_t)array->dims[i] - 1, (uint64_t)array->strides[i], &step) ||
            !mb_add_u64(reach, step, &reach) || reach > (uint64_t)1 << 56)
            return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                           "checking %s: dimension %d of %" PRId64 " with stride %" PRId64
                           " reaches more than 2^56 elements",
                           name, i, array->dims[i], array->strides[i]);
    return MOEBLOCK_OK;
}

moeblock_status mb_array_check(const moeblock_array *array, const char *name, int64_t *tokens, moeblock_error *error)
{
    *tokens = 0;
    if (array->dtype != MOEBLOCK_F32 && array->dtype != MOEBLOCK_F16 && array->dtype != MOEBLOCK_BF16)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "checking %s: dtype %s, expected F32, F16 or BF16", name,
                       moeblock_dtype_name(array->dtype));
    if (array->rank < 1 || array->rank > MOEBLOCK_MAX_RANK)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "checking %s: rank %d, expected 1 to %d", name, array->rank,
                       MOEBLOCK_MAX_RANK);
    uint64_t count = 1, elements = 0;
    for (int i = 0; i < array->rank; i++) {
        if (array->dims[i] < 0)
            return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "checking %s: dimension %d is %" PRId64 ", expected >= 0",
                           name, i, array->dims[i]);
        if (i + 1 < array->rank && !mb_mul_u64(count, (uint64_t)array->dims[i], &count)) count = UINT64_MAX;
    }
    if (!mb_mul_u64(count, (uint64_t)array->dims[array->rank - 1], &elements) || elements > (uint64_t)1 << 56)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "checking %s: more than 2^56 elements", name);
    if (!is_dense(array) && array->strides[array->rank - 1] != 1)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "checking %s: the last dimension has stride %" PRId64 ", expected 1 (contiguous)", name,
                       array->strides[array->rank - 1]);
    for (int i = 0; i < array->rank; i++)
        if (array->strides[i] < 0)
            return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "checking %s: stride %d is %" PRId64 ", expected >= 0",
                           name, i, array->strides[i]);
    if (!array->data && elements > 0)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "checking %s: data is NULL but the array has %" PRIu64 " elements", name, elements);
    if (elements > 0) MB_TRY(check_reach(array, name, error));
    *tokens = (int64_t)count;
    return MOEBLOCK_OK;
}

// Smallest stride first: each step must lead behind everything before it.
bool mb_array_rows_apart(const moeblock_array *array)
{
    const int last = array->rank - 1;
    int order[MOEBLOCK_MAX_RANK], count = 0;
    if (is_dense(array)) return true;
    for (int i = 0; i < last; i++) {
        if (array->dims[i] == 0) return true; // there are no rows
        if (array->dims[i] == 1) continue;
        int at = count++;
        for (; at > 0 && array->strides[order[at - 1]] > array->strides[i]; at--) order[at] = order[at - 1];
        order[at] = i;
    }
    int64_t reach = array->dims[last];
    for (int i = 0; i < count; i++) {
        if (array->strides[order[i]] < reach) return false;
        reach += array->strides[order[i]] * (array->dims[order[i]] - 1);
    }
    return true;
}

// Where strides are used, arrays may lie between each other's rows; that is the caller's affair.
bool mb_array_overlaps(const moeblock_array *a, const moeblock_array *b, int64_t tokens)
{
    const uint64_t a_row = (uint64_t)a->dims[a->rank - 1] * moeblock_dtype_bytes(a->dtype);
    const uint64_t b_row = (uint64_t)b->dims[b->rank - 1] * moeblock_dtype_bytes(b->dtype);
    const uint64_t from_a = (uintptr_t)a->data, from_b = (uintptr_t)b->data;
    if (!is_dense(a) || !is_dense(b) || (from_a == from_b && a_row == b_row)) return false;
    return from_a < from_b ? from_b - from_a < (uint64_t)tokens * a_row : from_a - from_b < (uint64_t)tokens * b_row;
}

void *mb_array_row(const moeblock_array *array, int64_t t)
{
    const int last = array->rank - 1;
    int64_t offset = 0;
    if (is_dense(array)) {
        offset = t * array->dims[last];
    } else {
        for (int i = last - 1; i >= 0; i--) {
            offset += t % array->dims[i] * array->strides[i];
            t /= array->dims[i];
        }
    }
    return (char *)array->data + offset * (int64_t)moeblock_dtype_bytes(array->dtype);
}

void mb_to_floats(float *to, const void *from, moeblock_dtype dtype, int64_t n)
{
    const unsigned char *bytes = from;
    uint16_t half;
    if (dtype == MOEBLOCK_F32) {
        memmove(to, from, (size_t)n * sizeof *to);
    } else if (dtype == MOEBLOCK_BF16) {
        for (int64_t i = 0; i < n; i++) memcpy(&half, bytes + 2 * i, 2), to[i] = mb_from_bf16(half);
    } else {
        for (int64_t i = 0; i < n; i++) memcpy(&half, bytes + 2 * i, 2), to[i] = mb_from_f16(half);
    }
}

void mb_from_floats(void *to, const float *from, moeblock_dtype dtype, int64_t n)
{
    unsigned char *bytes = to;
    if (dtype == MOEBLOCK_F32) {
        memmove(to, from, (size_t)n * sizeof *from);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        const uint16_t half = dtype == MOEBLOCK_BF16 ? mb_to_bf16(from[i]) : mb_to_f16(from[i]);
        memcpy(bytes + 2 * i, &half, 2);
    }
}
