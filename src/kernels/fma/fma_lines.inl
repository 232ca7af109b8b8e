// SPDX-License-Identifier: Apache-2.0
// How the floats of MB_LANES columns come out of a line of codes. `format` is a constant where these are inlined.

#define MB_INLINE static inline __attribute__((always_inline))

// 2^23, beside which the low bits of a float32 count ones.
#define MB_ONES 0x4b000000u

struct mb_line {
    mb_u codes, words[2]; // words: e4m3 as float16
};

MB_INLINE struct mb_line mb_line_load(const enum mb_packed_format format, const uint8_t *from)
{
    struct mb_line line = {.codes = mb_u_load(from)};
    if (format == MB_PACKED_FP8 || format == MB_PACKED_MXFP8) {
        line.words[0] = mb_u_e4m3(line.codes, 0);
        line.words[1] = mb_u_e4m3(line.codes, 1);
    }
    return line;
}

// The factors of MB_LANES columns (layout.h); integers: 2^23 and the zero point.
MB_INLINE mb_v mb_line_factor(const enum mb_packed_format format, const uint8_t *factors)
{
    switch (format) {
    case MB_PACKED_FP4:
    case MB_PACKED_MXFP8:
        return mb_v_bytes(factors, 23, 0);
    case MB_PACKED_NVFP4:
        return mb_v_bytes(factors, 20, 0);
    case MB_PACKED_INT4:
    case MB_PACKED_INT8:
        return mb_v_bytes(factors, 0, MB_ONES);
    default:
        return mb_v_zero();
    }
}

// Input i of the line, of FP8 times 2^-8. Every operation here is exact (or gives a denormal, which becomes zero).
MB_INLINE mb_v mb_line_value(const enum mb_packed_format format, const struct mb_line *line, const int i, mb_v factor)
{
    switch (format) {
    case MB_PACKED_BF16:
        return i ? mb_v_bf16_high(line->codes) : mb_v_bf16_low(line->codes);
    case MB_PACKED_F16:
        return mb_v_f16(line->codes, i);
    case MB_PACKED_FP8:
        return mb_v_f16(line->words[i / 2], i % 2);
    case MB_PACKED_MXFP8:
        return mb_v_mul(mb_v_f16(line->words[i / 2], i % 2), factor);
    case MB_PACKED_FP4:
        return mb_v_mul(mb_v_e2m1(line->codes, i / 2 + i % 2 * 4, 0.25f), factor);
    case MB_PACKED_NVFP4:
        return mb_v_mul(mb_v_e2m1(line->codes, i, 0x1p116f), factor);
    case MB_PACKED_INT4:
        return mb_v_sub(mb_v_field(line->codes, 4 * (unsigned)i, 15, MB_ONES), factor);
    case MB_PACKED_INT8:
        return mb_v_sub(mb_v_field(line->codes, 8 * (unsigned)i, 255, MB_ONES), factor);
    default:
        return (mb_v)line->codes;
    }
}

MB_INLINE int mb_line_inputs(const enum mb_packed_format format)
{
    static const int inputs[MB_PACKED_FORMATS] = {1, 2, 2, 4, 8, 4, 8, 8, 4};
    return inputs[format];
}

// Whether tiles of the format may scale the chains of groups.
MB_INLINE bool mb_has_scales(const enum mb_packed_format format)
{
    return format == MB_PACKED_F32 || format == MB_PACKED_FP8 || format >= MB_PACKED_INT4;
}
