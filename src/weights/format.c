// SPDX-License-Identifier: Apache-2.0
// The published number formats, one row each.
#include "weights/format.h"

#include <string.h>

#include "base/arith.h"

#define FP8(NAME, SUFFIX, ROWS, COLUMNS, SCALES)                                                                       \
    {                                                                                                                  \
        .name = NAME, .dtype = MOEBLOCK_F8_E4M3, .codes_suffix = "", .scale_suffix = SUFFIX, .row_tile = ROWS,         \
        .column_tile = COLUMNS, .packed = MB_PACKED_FP8, .scales = SCALES                                              \
    }
#define MXFP8(NAME, SUFFIX)                                                                                            \
    {                                                                                                                  \
        .name = NAME, .dtype = MOEBLOCK_F8_E4M3, .codes_suffix = "", .scale_suffix = SUFFIX, .row_tile = 1,            \
        .column_tile = 32, .packed = MB_PACKED_MXFP8, .scales = MB_SCALE_E8M0                                          \
    }
#define MXFP4(NAME, CODES, SUFFIX, ORDER)                                                                              \
    {                                                                                                                  \
        .name = NAME, .dtype = MOEBLOCK_U8, .codes_suffix = CODES, .scale_suffix = SUFFIX, .row_tile = 1,              \
        .column_tile = 32, .packed = MB_PACKED_FP4, .order = ORDER, .scales = MB_SCALE_E8M0, .also = MOEBLOCK_I8       \
    }
#define NVFP4(NAME, CODES, TOTAL, DIVIDES)                                                                             \
    {                                                                                                                  \
        .name = NAME, .dtype = MOEBLOCK_U8, .codes_suffix = CODES, .scale_suffix = "_scale", .row_tile = 1,            \
        .column_tile = 16, .packed = MB_PACKED_NVFP4, .order = MB_CODES_NIBBLES, .scales = MB_SCALE_E4M3,              \
        .suffix = {[MB_PART_TOTAL] = TOTAL}, .divides = DIVIDES                                                        \
    }
#define PACK_QUANTIZED(NAME, PACKED, GROUP, ZEROS, NO_ZEROS)                                                           \
    {                                                                                                                  \
        .name = NAME, .dtype = MOEBLOCK_I32, .codes_suffix = "_packed", .scale_suffix = "_scale", .row_tile = 1,       \
        .column_tile = GROUP, .packed = PACKED, .order = MB_CODES_WORDS, .scales = MB_SCALE_FLOATS,                    \
        .suffix = {[MB_PART_ZEROS] = ZEROS, [MB_PART_ORDER] = "_g_idx", [MB_PART_SHAPE] = "_shape"},                   \
        .absent = NO_ZEROS, .any_group = true, .order_optional = true                                                  \
    }
#define FLOATS(NAME, TYPE, PACKED, F32)                                                                                \
    {                                                                                                                  \
        .name = NAME, .dtype = TYPE, .codes_suffix = "", .packed = PACKED, .f32_compute = F32, .oriented = true        \
    }
#define GPTQ(NAME, PACKED, OFFSET)                                                                                     \
    {                                                                                                                  \
        .name = NAME, .dtype = MOEBLOCK_I32, .codes_suffix = ".qweight", .scale_suffix = ".scales", .row_tile = 1,     \
        .column_tile = 128, .packed = PACKED, .order = MB_CODES_WORDS_DOWN, .scales = MB_SCALE_FLOATS,                 \
        .suffix = {[MB_PART_ZEROS] = ".qzeros", [MB_PART_ORDER] = ".g_idx"}, .any_group = true, .zero_offset = OFFSET, \
        .told = true                                                                                                   \
    }

const struct mb_format_info mb_format_table[MB_FORMATS] = {
    [MB_FORMAT_F32] = FLOATS("f32", MOEBLOCK_F32, MB_PACKED_F32, true),
    [MB_FORMAT_F16] = FLOATS("f16", MOEBLOCK_F16, MB_PACKED_F16, true),
    [MB_FORMAT_BF16] = FLOATS("bf16", MOEBLOCK_BF16, MB_PACKED_BF16, false),
    [MB_FORMAT_FP8] = FP8("fp8", "_scale_inv", 128, 128, MB_SCALE_FLOATS_OR_E8M0),
    [MB_FORMAT_FP8_TENSOR] = FP8("fp8_tensor", "_scale_inv", MB_WHOLE, MB_WHOLE, MB_SCALE_FLOATS),
    [MB_FORMAT_V4_FP8] = FP8("v4_fp8", ".scale", 128, 128, MB_SCALE_FLOATS_OR_E8M0),
    [MB_FORMAT_FBGEMM_FP8] = {.name = "fbgemm_fp8",
                              .dtype = MOEBLOCK_F8_E4M3,
                              .codes_suffix = "",
                              .scale_suffix = "_scale",
                              .row_tile = 1,
                              .column_tile = MB_WHOLE,
                              .packed = MB_PACKED_FP8,
                              .scales = MB_SCALE_FLOATS,
                              .oriented = true,
                              .down_scales_upright = true,
                              .same_output_major = true},
    [MB_FORMAT_CT_FP8] = FP8("ct_fp8", "_scale", 1, MB_WHOLE, MB_SCALE_FLOATS),
    [MB_FORMAT_CT_FP8_BLOCK] = FP8("ct_fp8_block", "_scale", 128, 128, MB_SCALE_FLOATS),
    [MB_FORMAT_CT_FP8_TENSOR] = FP8("ct_fp8_tensor", "_scale", MB_WHOLE, MB_WHOLE, MB_SCALE_FLOATS),
    [MB_FORMAT_MODELOPT_FP8] = {.name = "modelopt_fp8",
                                .dtype = MOEBLOCK_F8_E4M3,
                                .codes_suffix = "",
                                .scale_suffix = "_weight_scale",
                                .row_tile = MB_WHOLE,
                                .column_tile = MB_WHOLE,
                                .packed = MB_PACKED_FP8,
                                .scales = MB_SCALE_FLOATS,
                                .oriented = true},
    [MB_FORMAT_MXFP8] = MXFP8("mxfp8", "_scale_inv"),
    [MB_FORMAT_CT_MXFP8] = MXFP8("ct_mxfp8", "_scale"),
    [MB_FORMAT_MXFP4] = MXFP4("mxfp4", "_blocks", "_scales", MB_CODES_BLOCKS),
    [MB_FORMAT_CT_MXFP4] = MXFP4("ct_mxfp4", "_packed", "_scale", MB_CODES_NIBBLES),
    [MB_FORMAT_V4_FP4] = MXFP4("v4_fp4", "", ".scale", MB_CODES_NIBBLES),
    [MB_FORMAT_NVFP4] = NVFP4("nvfp4", "", "_scale_2", false),
    [MB_FORMAT_MODELOPT_NVFP4] = {.name = "modelopt_nvfp4",
                                  .dtype = MOEBLOCK_U8,
                                  .codes_suffix = "",
                                  .scale_suffix = "_weight_scale",
                                  .row_tile = 1,
                                  .column_tile = 16,
                                  .packed = MB_PACKED_NVFP4,
                                  .order = MB_CODES_NIBBLES,
                                  .scales = MB_SCALE_E4M3,
                                  .suffix = {[MB_PART_TOTAL] = "_weight_scale_2"},
                                  .oriented = true},
    [MB_FORMAT_CT_NVFP4] = NVFP4("ct_nvfp4", "_packed", "_global_scale", true),
    [MB_FORMAT_CT_INT4] = PACK_QUANTIZED("ct_int4", MB_PACKED_INT4, 32, NULL, "_zero_point"),
    [MB_FORMAT_CT_INT4_ASYM] = PACK_QUANTIZED("ct_int4_asym", MB_PACKED_INT4, 128, "_zero_point", NULL),
    [MB_FORMAT_CT_INT8] = PACK_QUANTIZED("ct_int8", MB_PACKED_INT8, MB_WHOLE, NULL, "_zero_point"),
    [MB_FORMAT_CT_INT8_ASYM] = PACK_QUANTIZED("ct_int8_asym", MB_PACKED_INT8, 128, "_zero_point", NULL),
    [MB_FORMAT_AWQ] = {.name = "awq",
                       .dtype = MOEBLOCK_I32,
                       .codes_suffix = ".qweight",
                       .scale_suffix = ".scales",
                       .row_tile = 1,
                       .column_tile = 128,
                       .packed = MB_PACKED_INT4,
                       .order = MB_CODES_WORDS_ACROSS,
                       .scales = MB_SCALE_FLOATS,
                       .suffix = {[MB_PART_ZEROS] = ".qzeros"},
                       .any_group = true},
    [MB_FORMAT_GPTQ] = GPTQ("gptq", MB_PACKED_INT4, 1),
    [MB_FORMAT_GPTQ_V2] = GPTQ("gptq_v2", MB_PACKED_INT4, 0),
    [MB_FORMAT_GPTQ_INT8] = GPTQ("gptq_int8", MB_PACKED_INT8, 1),
    [MB_FORMAT_GPTQ_V2_INT8] = GPTQ("gptq_v2_int8", MB_PACKED_INT8, 0),
};

int mb_format_find(const char *name)
{
    for (int i = 0; i < MB_FORMATS; i++)
        if (strcmp(mb_format_table[i].name, name) == 0) return i;
    return -1;
}

const char *mb_format_suffix(enum mb_format format, enum mb_part part)
{
    const struct mb_format_info *info = &mb_format_table[format];
    if (part == MB_PART_CODES) return info->codes_suffix;
    return part == MB_PART_SCALES ? info->scale_suffix : info->suffix[part];
}

int64_t mb_format_word_codes(enum mb_format format)
{
    const struct mb_format_info *info = &mb_format_table[format];
    return info->order < MB_CODES_WORDS ? 1 : 32 / (int64_t)mb_packed_info_of(info->packed).code_bits;
}

int64_t mb_format_group(enum mb_format format, int64_t columns)
{
    const int64_t tile = mb_format_table[format].column_tile;
    return tile == MB_WHOLE ? columns : tile;
}

int mb_format_dims(enum mb_format format, enum mb_part part, int64_t rows, int64_t columns, int64_t group,
                   int64_t dims[MOEBLOCK_MAX_RANK])
{
    const struct mb_format_info *info = &mb_format_table[format];
    const int64_t codes = mb_format_word_codes(format);
    const bool down = info->order == MB_CODES_WORDS_DOWN || info->order == MB_CODES_WORDS_ACROSS;
    int64_t outer = rows, inner = columns; // as in output-major storage
    switch (part) {
    case MB_PART_CODES:
        if (info->order == MB_CODES_BLOCKS) {
            dims[0] = rows, dims[1] = mb_ceil_div(columns, 32), dims[2] = 16;
            return 3;
        }
        if (info->order == MB_CODES_NIBBLES) inner = mb_ceil_div(columns, 2);
        if (info->order == MB_CODES_WORDS_ACROSS) outer = mb_ceil_div(rows, codes);
        if (info->order == MB_CODES_WORDS || info->order == MB_CODES_WORDS_DOWN) inner = mb_ceil_div(columns, codes);
        break;
    case MB_PART_SCALES:
        outer = mb_ceil_div(rows, info->row_tile);
        inner = mb_ceil_div(columns, group);
        break;
    case MB_PART_ZEROS:
        outer = mb_ceil_div(rows, codes);
        inner = mb_ceil_div(columns, group);
        break;
    case MB_PART_ORDER:
        dims[0] = columns;
        return 1;
    default:
        dims[0] = part == MB_PART_SHAPE ? 2 : 1;
        return 1;
    }
    if (part == MB_PART_SCALES && info->row_tile == MB_WHOLE) {
        dims[0] = 1;
        return 1;
    }
    dims[0] = down ? inner : outer;
    dims[1] = down ? outer : inner;
    return 2;
}

int64_t mb_matrix_group(const struct mb_matrix *matrix)
{
    return matrix->group ? matrix->group : mb_format_table[matrix->format].column_tile;
}
