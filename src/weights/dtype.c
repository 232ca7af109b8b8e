// SPDX-License-Identifier: Apache-2.0
// The 22 element types of safetensors, one row each.
#include "weights/dtype.h"

#include <string.h>

#include "base/arith.h"

static const struct mb_dtype_info dtypes[] = {
    {"F32", MOEBLOCK_F32, 32},
    {"F16", MOEBLOCK_F16, 16},
    {"BF16", MOEBLOCK_BF16, 16},
    {"F64", MOEBLOCK_F64, 64},
    {"F8_E4M3", MOEBLOCK_F8_E4M3, 8},
    {"F8_E5M2", MOEBLOCK_F8_E5M2, 8},
    {"F8_E8M0", MOEBLOCK_F8_E8M0, 8},
    {"U8", MOEBLOCK_U8, 8},
    {"I8", MOEBLOCK_I8, 8},
    {"U16", MOEBLOCK_U16, 16},
    {"I16", MOEBLOCK_I16, 16},
    {"U32", MOEBLOCK_U32, 32},
    {"I32", MOEBLOCK_I32, 32},
    {"U64", MOEBLOCK_U64, 64},
    {"I64", MOEBLOCK_I64, 64},
    {"BOOL", MOEBLOCK_BOOL, 8},
    {"F4", MOEBLOCK_DTYPE_OTHER, 4},
    {"F6_E2M3", MOEBLOCK_DTYPE_OTHER, 6},
    {"F6_E3M2", MOEBLOCK_DTYPE_OTHER, 6},
    {"F8_E4M3FNUZ", MOEBLOCK_DTYPE_OTHER, 8},
    {"F8_E5M2FNUZ", MOEBLOCK_DTYPE_OTHER, 8},
    {"C64", MOEBLOCK_DTYPE_OTHER, 64},
};

enum { DTYPES = sizeof dtypes / sizeof dtypes[0] };

const struct mb_dtype_info *mb_dtype_find(const char *name)
{
    for (int i = 0; i < DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0) return &dtypes[i];
    return NULL;
}

static const struct mb_dtype_info *computed(moeblock_dtype dtype)
{
    if (dtype == MOEBLOCK_DTYPE_OTHER) return NULL;
    for (int i = 0; i < DTYPES; i++)
        if (dtypes[i].dtype == dtype) return &dtypes[i];
    return NULL;
}

const char *moeblock_dtype_name(moeblock_dtype dtype)
{
    const struct mb_dtype_info *info = computed(dtype);
    return info ? info->name : "?";
}

size_t moeblock_dtype_bytes(moeblock_dtype dtype)
{
    const struct mb_dtype_info *info = computed(dtype);
    return info ? info->bits / 8 : 0;
}

const char *mb_tensor_bytes(uint32_t bits, int rank, const int64_t *dims, uint64_t *bytes)
{
    if (rank < 0 || rank > MOEBLOCK_MAX_RANK) return "the rank is not between 0 and 8";
    uint64_t elements = 1;
    for (int i = 0; i < rank; i++) {
        if (dims[i] < 0 || dims[i] > MB_DIM_MAX) return "a dimension is not between 0 and 2^48";
        if (!mb_mul_u64(elements, (uint64_t)dims[i], &elements) || elements > MB_ELEMENTS_MAX)
            return "the dimensions multiply to more than 2^56 elements";
    }
    const uint64_t total_bits = elements * bits; // at most 2^62
    if (total_bits % 8) return "the elements do not fill whole bytes";
    *bytes = total_bits / 8;
    return NULL;
}
