// SPDX-License-Identifier: Apache-2.0
// The element types that safetensors files name, and the size arithmetic of tensors.
#ifndef MB_WEIGHTS_DTYPE_H
#define MB_WEIGHTS_DTYPE_H

#include <stdint.h>

#include "moeblock/tensor.h"

struct mb_dtype_info {
    const char *name;
    moeblock_dtype dtype; // MOEBLOCK_DTYPE_OTHER: known by name, not computed
    uint32_t bits;
};

// Row of the type with this name, NULL when safetensors has no such type.
const struct mb_dtype_info *mb_dtype_find(const char *name);

// Ceilings on what a file may declare: rank is MOEBLOCK_MAX_RANK.
#define MB_DIM_MAX (INT64_C(1) << 48)
#define MB_ELEMENTS_MAX (UINT64_C(1) << 56)

// Checks rank and dims against the ceilings and gives the tensor's bytes, which must be whole. Returns NULL, or what is
// wrong (static text for a message).
const char *mb_tensor_bytes(uint32_t bits, int rank, const int64_t *dims, uint64_t *bytes);

#endif
