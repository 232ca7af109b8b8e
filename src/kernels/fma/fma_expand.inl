// SPDX-License-Identifier: Apache-2.0
// A chunk of a strip's codes to float32 lines, once for many rows.
#include "kernels/fma/fma_lines.inl"

MB_INLINE void mb_expand(const enum mb_packed_format format, const struct mb_fma_tile *tile, float *to)
{
    const uint8_t *line = tile->lines[0];
    for (int64_t k0 = 0; k0 < tile->count; k0 += tile->group) {
        const int64_t k1 = mb_min(k0 + tile->group, tile->count);
        mb_v powers[MB_STRIP_VECTORS] = {mb_v_zero(), mb_v_zero()};
        for (int v = 0; format == MB_PACKED_FP4 && v < MB_STRIP_VECTORS; v++)
            powers[v] = mb_v_power(tile->exponents[0] + k0 / tile->group * MB_COLUMNS + v * MB_LANES);
        for (int64_t k = k0; k < k1; k += mb_line_inputs(format), line += MB_LINE_BYTES) {
            for (int v = 0; v < MB_STRIP_VECTORS; v++) {
                const uint8_t *from = line + (size_t)v * MB_LANES * 4;
                __builtin_prefetch(from + 2048);
                const struct mb_line codes = mb_line_load(format, from);
                for (int i = 0; i < mb_line_inputs(format); i++)
                    mb_v_store(to + (k + i) * MB_COLUMNS + v * MB_LANES, mb_line_value(format, &codes, i, powers[v]));
            }
        }
    }
}

static void expand_f16(const struct mb_fma_tile *tile, float *to) { mb_expand(MB_PACKED_F16, tile, to); }
static void expand_bf16(const struct mb_fma_tile *tile, float *to) { mb_expand(MB_PACKED_BF16, tile, to); }
static void expand_fp8(const struct mb_fma_tile *tile, float *to) { mb_expand(MB_PACKED_FP8, tile, to); }
static void expand_fp4(const struct mb_fma_tile *tile, float *to) { mb_expand(MB_PACKED_FP4, tile, to); }

void MB_LEVEL(expand)(const struct mb_packing *packing, const struct mb_fma_tile *tile, float *to)
{
    static void (*const calls[MB_PACKED_FORMATS])(const struct mb_fma_tile *, float *) = {
        [MB_PACKED_F16] = expand_f16,
        [MB_PACKED_BF16] = expand_bf16,
        [MB_PACKED_FP8] = expand_fp8,
        [MB_PACKED_FP4] = expand_fp4,
    };
    calls[packing->format](tile, to);
}
