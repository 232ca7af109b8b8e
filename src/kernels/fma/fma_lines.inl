// SPDX-License-Identifier: Apache-2.0
// How the floats of MB_LANES columns come out of a line of codes. `format` is a constant where these are inlined.

#define MB_INLINE static inline __attribute__((always_inline))

struct mb_line {
    mb_u codes, words[2]; // words: FP8 as float16
};

MB_INLINE struct mb_line mb_line_load(const enum mb_packed_format format, const uint8_t *from)
{
    struct mb_line line = {.codes = mb_u_load(from)};
    if (format == MB_PACKED_FP8) {
        line.words[0] = mb_u_e4m3(line.codes, 0);
        line.words[1] = mb_u_e4m3(line.codes, 1);
    }
    return line;
}

// Input i of the line; `power` is FP4's scale, doubled. Every product here is exact (or a denormal that becomes zero).
MB_INLINE mb_v mb_line_value(const enum mb_packed_format format, const struct mb_line *line, const int i, mb_v power)
{
    switch (format) {
    case MB_PACKED_BF16:
        return i ? mb_v_bf16_high(line->codes) : mb_v_bf16_low(line->codes);
    case MB_PACKED_F16:
        return mb_v_f16(line->codes, i);
    case MB_PACKED_FP8:
        return mb_v_mul(mb_v_f16(line->words[i / 2], i % 2), mb_v_all(256));
    case MB_PACKED_FP4:
        return mb_v_mul(mb_v_e2m1(line->codes, i / 2 + i % 2 * 4), power);
    default:
        return (mb_v)line->codes;
    }
}

MB_INLINE int mb_line_inputs(const enum mb_packed_format format)
{
    return format == MB_PACKED_F32 ? 1 : format == MB_PACKED_FP8 ? 4 : format == MB_PACKED_FP4 ? 8 : 2;
}
