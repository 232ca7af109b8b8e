// SPDX-License-Identifier: Apache-2.0
// npy arrays, versions 1 to 3, C order, little-endian: what the command line reads and writes.
#ifndef MB_WEIGHTS_NPY_H
#define MB_WEIGHTS_NPY_H

#include "base/file.h"
#include "moeblock/tensor.h"

struct mb_npy {
    moeblock_dtype dtype; // F16, F32, F64, I8..I64, U8..U64, BOOL; bfloat16 arrays saved as '<V2' or '|V2' are BF16
    int rank;
    int64_t dims[MOEBLOCK_MAX_RANK];
    int64_t count; // elements
    void *data;    // mb_alloc memory
};

// Errors: NOT_FOUND, INVALID_FILE, UNSUPPORTED (Fortran order, big-endian, object arrays, by name), LIMIT, IO.
moeblock_status mb_npy_read(const moeblock_allocator *allocator, const char *path, struct mb_npy *out,
                            moeblock_error *error);
void mb_npy_free(const moeblock_allocator *allocator, struct mb_npy *array);
// Writes version 1 atomically.
moeblock_status mb_npy_write(const char *path, moeblock_dtype dtype, int rank, const int64_t *dims, const void *data,
                             moeblock_error *error);
// Element i as a double.
double mb_npy_value(const struct mb_npy *array, int64_t i);

#endif
