// SPDX-License-Identifier: Apache-2.0
// The published number formats, one row each.
#include "weights/format.h"

#include <string.h>

const struct mb_format_info mb_format_table[MB_FORMATS] = {
    [MB_FORMAT_F32] = {"f32", MOEBLOCK_F32, "", NULL, 0, 0, MB_PACKED_F32, true},
    [MB_FORMAT_F16] = {"f16", MOEBLOCK_F16, "", NULL, 0, 0, MB_PACKED_F16, true},
    [MB_FORMAT_BF16] = {"bf16", MOEBLOCK_BF16, "", NULL, 0, 0, MB_PACKED_BF16, false},
    [MB_FORMAT_FP8] = {"fp8", MOEBLOCK_F8_E4M3, "", "_scale_inv", 128, 128, MB_PACKED_FP8, false},
    [MB_FORMAT_MXFP4] = {"mxfp4", MOEBLOCK_U8, "_blocks", "_scales", 1, 32, MB_PACKED_FP4, false},
};

int mb_format_find(const char *name)
{
    for (int i = 0; i < MB_FORMATS; i++)
        if (strcmp(mb_format_table[i].name, name) == 0) return i;
    return -1;
}
