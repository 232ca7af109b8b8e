// SPDX-License-Identifier: Apache-2.0
// A chunk of a strip's codes to float32 lines, once for many rows.
#include "base/float.h"
#include "kernels/fma/fma_lines.inl"

// Factors of a group as two floats, so that every exponent has its place, and NaN.
static void any_factors(enum mb_packed_format format, const uint8_t *bytes, float *first, float *second)
{
    for (int c = 0; c < MB_COLUMNS; c++) {
        const uint32_t exponent = (uint32_t)(uint8_t)(bytes[c] - 8), half = exponent / 2; // MXFP8
        const bool mxfp8 = format == MB_PACKED_MXFP8, nan = (mxfp8 ? exponent : bytes[c]) == 255;
        first[c] = mb_float(mxfp8 ? (half + 72) << 23 : (uint32_t)bytes[c] << 20);
        second[c] = nan ? mb_float(0x7fc00000u) : mxfp8 ? mb_float((exponent - half + 63) << 23) : 1;
    }
}

MB_INLINE void mb_expand(const enum mb_packed_format format, const bool rare, const struct mb_fma_tile *tile, float *to)
{
    const uint8_t *line = tile->lines[0];
    for (int64_t k0 = 0, g = 0; k0 < tile->count; k0 += tile->group, g++) {
        const int64_t k1 = mb_min(k0 + tile->group, tile->count);
        const uint8_t *bytes = tile->factors[0] + g * MB_COLUMNS;
        float first[MB_COLUMNS] = {0}, second[MB_COLUMNS] = {0};
        if (rare) any_factors(format, bytes, first, second);
        mb_v factors[MB_STRIP_VECTORS];
        for (int v = 0; v < MB_STRIP_VECTORS; v++)
            factors[v] = rare ? mb_v_load(first + v * MB_LANES) : mb_line_factor(format, bytes + v * MB_LANES);
        for (int64_t k = k0; k < k1; k += mb_line_inputs(format), line += MB_LINE_BYTES) {
            for (int v = 0; v < MB_STRIP_VECTORS; v++) {
                const uint8_t *from = line + (size_t)v * MB_LANES * 4;
                const struct mb_line codes = mb_line_load(format, from);
                for (int i = 0; i < mb_line_inputs(format); i++) {
                    mb_v value = mb_line_value(format, &codes, i, factors[v]);
                    if (format == MB_PACKED_FP8) value = mb_v_mul(value, mb_v_all(256));
                    mb_v_store(to + (k + i) * MB_COLUMNS + v * MB_LANES,
                               rare ? mb_v_mul(value, mb_v_load(second + v * MB_LANES)) : value);
                }
            }
        }
    }
}

#define EXPAND(NAME, FORMAT, RARE)                                                                                     \
    static void NAME(const struct mb_fma_tile *tile, float *to) { mb_expand(FORMAT, RARE, tile, to); }

EXPAND(expand_f16, MB_PACKED_F16, false)
EXPAND(expand_bf16, MB_PACKED_BF16, false)
EXPAND(expand_fp8, MB_PACKED_FP8, false)
EXPAND(expand_fp4, MB_PACKED_FP4, false)
EXPAND(expand_mxfp8, MB_PACKED_MXFP8, false)
EXPAND(expand_nvfp4, MB_PACKED_NVFP4, false)
EXPAND(expand_int4, MB_PACKED_INT4, false)
EXPAND(expand_int8, MB_PACKED_INT8, false)
EXPAND(expand_rare_mxfp8, MB_PACKED_MXFP8, true)
EXPAND(expand_rare_nvfp4, MB_PACKED_NVFP4, true)

void MB_LEVEL(expand)(const struct mb_packing *packing, const struct mb_fma_tile *tile, bool rare, float *to)
{
    typedef void (*call)(const struct mb_fma_tile *, float *);
    static const call calls[MB_PACKED_FORMATS][2] = {
        [MB_PACKED_F16] = {expand_f16},
        [MB_PACKED_BF16] = {expand_bf16},
        [MB_PACKED_FP8] = {expand_fp8},
        [MB_PACKED_FP4] = {expand_fp4},
        [MB_PACKED_MXFP8] = {expand_mxfp8, expand_rare_mxfp8},
        [MB_PACKED_NVFP4] = {expand_nvfp4, expand_rare_nvfp4},
        [MB_PACKED_INT4] = {expand_int4},
        [MB_PACKED_INT8] = {expand_int8},
    };
    calls[packing->format][rare](tile, to);
}
