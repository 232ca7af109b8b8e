// SPDX-License-Identifier: Apache-2.0
// Number formats and tensors in the caller's memory.
#ifndef MOEBLOCK_TENSOR_H
#define MOEBLOCK_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "moeblock/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MOEBLOCK_MAX_RANK = 8 };

// Element types as safetensors names them. The numbers are part of the ABI.
typedef enum moeblock_dtype {
    MOEBLOCK_DTYPE_NONE = 0,
    MOEBLOCK_F32 = 1,
    MOEBLOCK_F16 = 2,
    MOEBLOCK_BF16 = 3,
    MOEBLOCK_F64 = 4,
    MOEBLOCK_F8_E4M3 = 5,
    MOEBLOCK_F8_E5M2 = 6,
    MOEBLOCK_F8_E8M0 = 7,
    MOEBLOCK_U8 = 8,
    MOEBLOCK_I8 = 9,
    MOEBLOCK_U16 = 10,
    MOEBLOCK_I16 = 11,
    MOEBLOCK_U32 = 12,
    MOEBLOCK_I32 = 13,
    MOEBLOCK_U64 = 14,
    MOEBLOCK_I64 = 15,
    MOEBLOCK_BOOL = 16,
    MOEBLOCK_DTYPE_OTHER = 17 // a safetensors type that is known by name but not computed
} moeblock_dtype;

// Name as in safetensors ("BF16", "F8_E4M3"); "?" for an unknown value. Static storage.
MOEBLOCK_API const char *moeblock_dtype_name(moeblock_dtype dtype);
// Bytes of one element, 0 when unknown.
MOEBLOCK_API size_t moeblock_dtype_bytes(moeblock_dtype dtype);

// A named, dense, row-major tensor. `data` may have any alignment. Borrowed: the caller keeps name and data alive
// for as long as the call says.
typedef struct moeblock_tensor {
    const char *name;
    moeblock_dtype dtype;
    int rank;
    int64_t dims[MOEBLOCK_MAX_RANK];
    const void *data;
    size_t bytes; // of data; checked against dtype and dims
} moeblock_tensor;

#ifdef __cplusplus
}
#endif
#endif
