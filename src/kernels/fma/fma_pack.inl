// SPDX-License-Identifier: Apache-2.0
// Packing: four bytes of a column, whatever the format, are one unit, and a strip is the transposition of its columns'
// units; in vectors where the source holds a column's codes side by side.
#include <string.h>

#include "base/float.h"

size_t MB_LEVEL(packed_bytes)(const struct mb_packing *packing)
{
    return mb_fma_layout_of(packing).panel_bytes * (size_t)mb_ceil_div(packing->n, MB_COLUMNS);
}

// One piece's part of one strip: codes of input k0, column 0 at `from`, strides in bytes.
struct strip {
    enum mb_packed_format format;
    bool int16;
    uint8_t *lines; // at input k0
    const uint8_t *from;
    ptrdiff_t row_stride, column_stride;
    int64_t columns, count; // as many as exist
    const uint8_t *factors; // exponent, e4m3 factor or zero point (column, group) at column * scale_stride + group
    ptrdiff_t scale_stride;
    int64_t group;
};

// The last step of f16, e4m3 and FP4: inputs apart (layout.h). FP4: the two middle nibbles of each half change places,
// then the two middle bytes.
static inline mb_u arrange(enum mb_packed_format format, mb_u units)
{
    if (format == MB_PACKED_FP4) {
        const mb_lanes lanes = (mb_lanes)units, middle = (lanes ^ lanes >> 4) & 0x00f000f0u;
        return mb_u_swap_middle((mb_u)(lanes ^ middle ^ middle << 4));
    }
    if (format == MB_PACKED_FP8 || format == MB_PACKED_MXFP8) return mb_u_split_words(mb_u_swap_middle(units));
    return format == MB_PACKED_F16 ? mb_u_split_words(units) : units;
}

// Units [0, MB_LANES) of MB_LANES columns to lines. Seen as one array, a unit's index is (column, unit); interleaving
// the first half with the second moves the top bit of the index to the bottom.
static void transpose(enum mb_packed_format format, uint8_t *to, const uint8_t *from, ptrdiff_t row_stride)
{
    mb_lanes v[MB_LANES], w[MB_LANES];
    for (int c = 0; c < MB_LANES; c++) memcpy(&v[c], from + c * row_stride, sizeof v[c]);
    for (int step = 0; step < MB_TRANSPOSE_STEPS; step++) {
        for (int c = 0; c < MB_LANES / 2; c++) {
            w[2 * c] = MB_INTERLEAVE_LOW(v[c], v[c + MB_LANES / 2]);
            w[2 * c + 1] = MB_INTERLEAVE_HIGH(v[c], v[c + MB_LANES / 2]);
        }
        memcpy(v, w, sizeof v);
    }
    for (int u = 0; u < MB_LANES; u++) mb_u_store(to + (size_t)u * MB_LINE_BYTES, arrange(format, (mb_u)v[u]));
}

// A code of four bits with what layout.h settles, given its factor.
static uint32_t settled(const struct strip *s, uint32_t code, uint8_t factor)
{
    static const uint8_t doubled[16] = {0, 2, 4, 5, 6, 6, 6, 6, 8, 10, 12, 13, 14, 14, 14, 14};
    if (s->format == MB_PACKED_NVFP4) return code ^ (factor >> 4 & 8u);
    if (s->format != MB_PACKED_FP4) return code;
    return factor == 255 ? 0 : factor == 254 && !s->int16 ? doubled[code] : code;
}

// Code (c, k) of a column that lies in memory as published, in the lowest bits.
static uint32_t code_of(const struct strip *s, size_t bits, int64_t c, int64_t k)
{
    const uint8_t *at = s->from + c * s->row_stride;
    uint32_t code = 0;
    if (bits == 4) return settled(s, at[k / 2] >> (k % 2 * 4) & 15, s->factors[c * s->scale_stride + k / s->group]);
    memcpy(&code, at + k * s->column_stride, bits / 8);
    return code;
}

// One line, code by code. Inputs beyond the last have the codes of zero.
static void pack_line(const struct strip *s, int64_t line_inputs, int64_t k, uint8_t *to)
{
    uint32_t units[MB_COLUMNS] = {0};
    const size_t bits = 32 / (size_t)line_inputs;
    const bool integers = s->format == MB_PACKED_INT4 || s->format == MB_PACKED_INT8;
    for (int64_t i = 0; i < line_inputs; i++) {
        for (int64_t c = 0; c < s->columns; c++) {
            uint32_t code = 0;
            if (k + i < s->count)
                code = code_of(s, bits, c, k + i);
            else if (integers)
                code = s->factors[c * s->scale_stride + k / s->group];
            units[c] |= code << (bits * (size_t)i);
        }
    }
    for (int v = 0; v < MB_STRIP_VECTORS; v++)
        mb_u_store(to + v * MB_LANES * 4, arrange(s->format, mb_u_load(units + v * MB_LANES)));
}

// A whole line whose inputs' columns lie side by side, as in input-major sources. `size` is constant where inlined.
static inline __attribute__((always_inline)) void pack_across(const struct strip *s, const size_t size, int64_t k,
                                                              uint8_t *to)
{
    uint32_t units[MB_COLUMNS] = {0};
    for (size_t i = 0; i < 4 / size; i++) {
        const uint8_t *from = s->from + (k + (int64_t)i) * s->column_stride;
        for (size_t c = 0; c < MB_COLUMNS; c++) {
            uint32_t code = 0;
            memcpy(&code, from + c * size, size);
            units[c] |= code << (8 * size * i);
        }
    }
    for (int v = 0; v < MB_STRIP_VECTORS; v++)
        mb_u_store(to + v * MB_LANES * 4, arrange(s->format, mb_u_load(units + v * MB_LANES)));
}

// Whether factors change codes (see `settled`).
static bool has_rare_factors(const struct strip *s)
{
    const uint8_t least = s->format == MB_PACKED_FP4 ? 254 : 128;
    bool rare = false;
    if (s->format == MB_PACKED_INT4) return false;
    for (int64_t c = 0; c < s->columns; c++) {
        const uint8_t *factors = s->factors + c * s->scale_stride;
        for (int64_t g = 0; g < mb_ceil_div(s->count, s->group); g++) rare |= factors[g] >= least;
    }
    return rare;
}

static void pack_strip(const struct strip *s, int64_t line_inputs)
{
    const bool nibbles = line_inputs == 8, full = s->columns == MB_COLUMNS;
    const size_t size = nibbles ? 1 : 4 / (size_t)line_inputs;
    const bool along = nibbles ? !has_rare_factors(s) : s->column_stride == (ptrdiff_t)size;
    const bool across = !nibbles && s->row_stride == (ptrdiff_t)size;
    int64_t k = 0;
    uint8_t *to = s->lines;
    for (; full && along && k + MB_LANES * line_inputs <= s->count; k += MB_LANES * line_inputs) {
        for (int v = 0; v < MB_STRIP_VECTORS; v++) {
            const uint8_t *from = s->from + v * MB_LANES * s->row_stride + k / line_inputs * 4;
            transpose(s->format, to + v * MB_LANES * 4, from, s->row_stride);
        }
        to += MB_LANES * MB_LINE_BYTES;
    }
    for (; full && across && k + line_inputs <= s->count; k += line_inputs, to += MB_LINE_BYTES) {
        if (size == 1) pack_across(s, 1, k, to);
        if (size == 2) pack_across(s, 2, k, to);
        if (size == 4) pack_across(s, 4, k, to);
    }
    for (; k < s->count; k += line_inputs, to += MB_LINE_BYTES) pack_line(s, line_inputs, k, to);
}

// Whether codes [k0, k1) of a column of e4m3 codes hold a NaN.
static bool has_nan(const struct strip *s, int64_t c, int64_t k0, int64_t k1)
{
    const uint8_t *codes = s->from + c * s->row_stride;
    uint8_t nan = 0;
    if (s->column_stride == 1) {
        for (int64_t k = k0; k < k1; k++) nan |= (codes[k] & 0x7f) == 0x7f;
    } else {
        for (int64_t k = k0; k < k1; k++) nan |= (codes[k * s->column_stride] & 0x7f) == 0x7f;
    }
    return nan;
}

// Which columns of e4m3 codes [k0, k1) hold a NaN.
static void find_nans(const struct strip *s, int64_t k0, int64_t k1, bool nan[MB_COLUMNS])
{
    uint8_t found[MB_COLUMNS] = {0};
    if (s->columns == MB_COLUMNS && s->row_stride == 1) { // columns side by side
        for (int64_t k = k0; k < k1; k++) {
            const uint8_t *line = s->from + k * s->column_stride;
            for (int c = 0; c < MB_COLUMNS; c++) found[c] |= (line[c] & 0x7f) == 0x7f;
        }
    } else {
        for (int64_t c = 0; c < s->columns; c++) found[c] = has_nan(s, c, k0, k1);
    }
    for (int c = 0; c < MB_COLUMNS; c++) nan[c] = found[c];
}

// Scales as they come; FP8: NaN where a group of codes has one, whichever of the group's pieces it is in. `inside`: an
// earlier piece began the first group.
static void pack_scales(const struct strip *s, const float *scales, bool inside, uint8_t *to)
{
    for (int64_t g = 0; g < mb_ceil_div(s->count, s->group); g++) {
        float line[MB_COLUMNS] = {0};
        const int64_t k0 = g * s->group, k1 = mb_min(k0 + s->group, s->count);
        const bool begun = inside && g == 0;
        bool nan[MB_COLUMNS] = {false};
        if (begun) memcpy(line, to, sizeof line);
        if (s->format == MB_PACKED_FP8) find_nans(s, k0, k1, nan);
        for (int64_t c = 0; c < s->columns; c++)
            if (nan[c] || !begun) line[c] = nan[c] ? mb_float(0x7fc00000u) : scales[c * s->scale_stride + g];
        memcpy(to + (size_t)g * sizeof line, line, sizeof line);
    }
}

// A factor as layout.h has it.
static uint8_t factor_of(const struct strip *s, uint8_t factor, bool nan)
{
    const uint32_t bits = mb_bits(mb_from_e4m3(factor & 0x7f));
    switch (s->format) {
    case MB_PACKED_FP4:
        return factor >= 254 || s->int16 ? factor : (uint8_t)(factor + 1); // 254 was settled in the codes: 253
    case MB_PACKED_MXFP8:
        return (uint8_t)((nan ? 255 : factor) + 8);
    case MB_PACKED_NVFP4:
        return (factor & 0x7f) == 0x7f ? 255 : bits ? (uint8_t)((bits >> 20) - (117 << 3)) : 0;
    default:
        return factor;
    }
}

static void pack_factors(const struct strip *s, uint8_t *to)
{
    for (int64_t g = 0; g < mb_ceil_div(s->count, s->group); g++) {
        const int64_t k0 = g * s->group, k1 = mb_min(k0 + s->group, s->count);
        for (int64_t c = 0; c < MB_COLUMNS; c++) {
            const bool exists = c < s->columns;
            const bool nan = s->format == MB_PACKED_MXFP8 && exists && has_nan(s, c, k0, k1);
            to[g * MB_COLUMNS + c] = factor_of(s, exists ? s->factors[c * s->scale_stride + g] : 0, nan);
        }
    }
}

void MB_LEVEL(pack)(const struct mb_packing *packing, void *packed, const struct mb_piece *piece)
{
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    const struct mb_packed_info info = mb_packed_info_of(packing->format);
    const ptrdiff_t size = info.code_bits < 8 ? 1 : (ptrdiff_t)info.code_bits / 8;
    const int64_t g0 = packing->group ? piece->k0 / packing->group : 0;
    for (int64_t n = piece->n0; n < piece->n1; n += MB_COLUMNS) {
        uint8_t *strip = (uint8_t *)packed + (size_t)(n / MB_COLUMNS) * layout.panel_bytes +
                         (size_t)piece->part * layout.strip_bytes;
        float *scales = (float *)(void *)(strip + layout.scales);
        struct strip s = {.format = packing->format,
                          .int16 = packing->int16,
                          .lines = strip + (size_t)(piece->k0 / layout.line_inputs) * MB_LINE_BYTES,
                          .from = (const uint8_t *)piece->codes + (n - piece->n0) * piece->row_stride * size,
                          .row_stride = piece->row_stride * size,
                          .column_stride = piece->column_stride * size,
                          .columns = mb_min(MB_COLUMNS, piece->n1 - n),
                          .count = piece->k1 - piece->k0,
                          .scale_stride = piece->scale_stride,
                          .group = packing->group};
        const ptrdiff_t scale_row = (n - piece->n0) * piece->scale_stride;
        if (info.factors) s.factors = (piece->zeros ? piece->zeros : piece->exponents) + scale_row;
        pack_strip(&s, layout.line_inputs);
        if (info.factors) pack_factors(&s, strip + layout.factors + g0 * MB_COLUMNS);
        if (packing->format == MB_PACKED_NVFP4 && piece->k0 == 0) {
            for (int c = 0; c < MB_COLUMNS; c++) scales[c] = piece->total;
        } else if (info.scaled && packing->format != MB_PACKED_NVFP4) {
            const bool inside = piece->k0 % packing->group != 0;
            pack_scales(&s, piece->scales + scale_row, inside, (uint8_t *)(scales + g0 * MB_COLUMNS));
        }
    }
}
