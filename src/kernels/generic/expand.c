// SPDX-License-Identifier: Apache-2.0
// Codes of a panel to float32. Exact, by integer work, tables or arithmetic on normal numbers only, so that the
// flush mode cannot change a weight here (a denormal weight then counts as zero in the product, at every level).
#include <string.h>

#include "base/float.h"
#include "kernels/generic/layout.h"

enum { COLUMNS = MB_GENERIC_COLUMNS };

// Value of e4m3 code c without sign: fraction * 2^-9, or (8 + fraction) * 2^(exponent - 10).
#define E4M3_MAGNITUDE(c) ((float)(((c)&0x78) ? (8 + ((c)&7)) << (((c) >> 3) & 15) : ((c)&7) * 2) * (1.0f / 1024))
#define E4M3(c) (((c)&0x7f) == 0x7f ? __builtin_nanf("") : (c)&0x80 ? -E4M3_MAGNITUDE(c) : E4M3_MAGNITUDE(c))
#define E4M3_4(c) E4M3(c), E4M3((c) + 1), E4M3((c) + 2), E4M3((c) + 3)
#define E4M3_16(c) E4M3_4(c), E4M3_4((c) + 4), E4M3_4((c) + 8), E4M3_4((c) + 12)
#define E4M3_64(c) E4M3_16(c), E4M3_16((c) + 16), E4M3_16((c) + 32), E4M3_16((c) + 48)
static const float e4m3_values[256] = {E4M3_64(0), E4M3_64(64), E4M3_64(128), E4M3_64(192)};

// The two e2m1 values of a byte, low nibble first.
#define E2M1_MAGNITUDE(c) ((float)(((c)&6) ? (2 + ((c)&1)) << (((c) >> 1) & 3) : ((c)&1) * 2) * 0.25f)
#define E2M1(c) ((c)&8 ? -E2M1_MAGNITUDE(c) : E2M1_MAGNITUDE(c))
#define E2M1_PAIR(b)                                                                                                   \
    {                                                                                                                  \
        E2M1((b)&15), E2M1((b) >> 4)                                                                                   \
    }
#define E2M1_4(b) E2M1_PAIR(b), E2M1_PAIR((b) + 1), E2M1_PAIR((b) + 2), E2M1_PAIR((b) + 3)
#define E2M1_16(b) E2M1_4(b), E2M1_4((b) + 4), E2M1_4((b) + 8), E2M1_4((b) + 12)
#define E2M1_64(b) E2M1_16(b), E2M1_16((b) + 16), E2M1_16((b) + 32), E2M1_16((b) + 48)
static const float e2m1_values[256][2] = {E2M1_64(0), E2M1_64(64), E2M1_64(128), E2M1_64(192)};

static void expand_f16(const uint8_t *codes, int64_t values, float *to)
{
    for (int64_t i = 0; i < values; i++) {
        uint16_t code;
        memcpy(&code, codes + 2 * i, sizeof code);
        const uint32_t magnitude = code & 0x7fffu, sign = (uint32_t)(code & 0x8000u) << 16;
        const uint32_t denormal = (uint32_t) - (int32_t)(magnitude < 0x0400u);
        const uint32_t special = (uint32_t) - (int32_t)(magnitude >= 0x7c00u);
        // A denormal is read as (1 + fraction) * 2^-14, and 2^-14 taken off again.
        const uint32_t bits = (magnitude << 13) + (112u << 23) + (denormal & (1u << 23)) + (special & (112u << 23));
        to[i] = mb_float(sign | mb_bits(mb_float(bits) - mb_float(denormal & (113u << 23))));
    }
}

static void expand_bf16(const uint8_t *codes, int64_t values, float *to)
{
    for (int64_t i = 0; i < values; i++) {
        uint16_t code;
        memcpy(&code, codes + 2 * i, sizeof code);
        to[i] = mb_from_bf16(code);
    }
}

// Eight codes at a time from one register, so that loads of codes do not compete with look-ups.
static void expand_fp8(const uint8_t *codes, int64_t lines, float *to)
{
    for (int64_t i = 0; i < lines * COLUMNS; i += 8) {
        uint64_t eight;
        memcpy(&eight, codes + i, sizeof eight);
        for (int j = 0; j < 8; j += 2) {
            const uint64_t low = mb_bits(e4m3_values[eight >> (8 * j) & 255]);
            const uint64_t high = mb_bits(e4m3_values[eight >> (8 * j + 8) & 255]);
            const uint64_t pair = low | high << 32;
            memcpy(to + i + j, &pair, sizeof pair);
        }
    }
}

// Up to a group of lines with the same 16 exponents, all in [2, 252]: a product with 2^(e - 127) is then exact and
// normal.
static void expand_fp4_plain(const uint8_t *codes, const uint8_t *exponents, int64_t lines, float *to)
{
    float scales[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) scales[c] = mb_float((uint32_t)exponents[c] << 23);
    for (int64_t k = 0; k < lines; k++) {
        uint64_t eight;
        memcpy(&eight, codes + k * 8, sizeof eight);
        for (int b = 0; b < 8; b++)
            memcpy(to + k * COLUMNS + 2 * b, e2m1_values[eight >> (8 * b) & 255], 2 * sizeof(float));
    }
    for (int64_t k = 0; k < lines; k++) {
        for (int c = 0; c < COLUMNS; c += 4) {
            float *four = to + k * COLUMNS + c;
            mb_store4(four, mb_load4(four) * mb_load4(scales + c));
        }
    }
}

// Any exponents. No sane checkpoint has those beyond the plain ones.
static void expand_fp4(const uint8_t *codes, const uint8_t *exponents, int64_t lines, float *to)
{
    bool plain = true;
    for (int c = 0; c < COLUMNS; c++) plain = plain && exponents[c] >= 2 && exponents[c] <= 252;
    if (plain) {
        expand_fp4_plain(codes, exponents, lines, to);
        return;
    }
    for (int64_t i = 0; i < lines * COLUMNS; i++) {
        const uint8_t code = (uint8_t)((codes[i / 2] >> (i % 2 * 4)) & 15);
        to[i] = mb_from_fp4(code, exponents[i % COLUMNS]);
    }
}

// Up to a group of lines of eight-bit codes with the same 16 exponents.
static void expand_mxfp8(const uint8_t *codes, const uint8_t *exponents, int64_t lines, float *to)
{
    float scales[COLUMNS];
    bool plain = true; // all scales and products are normal numbers, or zero
    for (int c = 0; c < COLUMNS; c++) {
        plain = plain && exponents[c] >= 10 && exponents[c] <= 246;
        scales[c] = mb_float((uint32_t)exponents[c] << 23);
    }
    for (int64_t i = 0; !plain && i < lines * COLUMNS; i++) to[i] = mb_from_mxfp8(codes[i], exponents[i % COLUMNS]);
    if (!plain) return;
    expand_fp8(codes, lines, to);
    for (int64_t i = 0; i < lines * COLUMNS; i += 4)
        mb_store4(to + i, mb_load4(to + i) * mb_load4(scales + i % COLUMNS));
}

static void expand_nvfp4(const uint8_t *codes, const uint8_t *factors, int64_t lines, float *to)
{
    float scales[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) scales[c] = e4m3_values[factors[c]];
    for (int64_t i = 0; i < lines * 8; i++) memcpy(to + 2 * i, e2m1_values[codes[i]], 2 * sizeof(float));
    for (int64_t i = 0; i < lines * COLUMNS; i += 4)
        mb_store4(to + i, mb_load4(to + i) * mb_load4(scales + i % COLUMNS));
}

static void expand_int4(const uint8_t *codes, const uint8_t *zeros, int64_t lines, float *to)
{
    for (int64_t i = 0; i < lines * COLUMNS; i++)
        to[i] = (float)((codes[i / 2] >> (i % 2 * 4) & 15) - zeros[i % COLUMNS]);
}

static void expand_int8(const uint8_t *codes, const uint8_t *zeros, int64_t lines, float *to)
{
    for (int64_t i = 0; i < lines * COLUMNS; i++) to[i] = (float)(codes[i] - zeros[i % COLUMNS]);
}

// Group by group, for formats with factors.
static void expand_groups(const struct mb_packing *packing, const struct mb_generic_layout *layout, const uint8_t *part,
                          int64_t k0, int64_t count, float *to)
{
    typedef void (*expander)(const uint8_t *codes, const uint8_t *factors, int64_t lines, float *to);
    static const expander expanders[MB_PACKED_FORMATS] = {[MB_PACKED_FP4] = expand_fp4,
                                                          [MB_PACKED_MXFP8] = expand_mxfp8,
                                                          [MB_PACKED_NVFP4] = expand_nvfp4,
                                                          [MB_PACKED_INT4] = expand_int4,
                                                          [MB_PACKED_INT8] = expand_int8};
    for (int64_t k = 0; k < count; k += packing->group) {
        const uint8_t *codes = part + (size_t)(k0 + k) * layout->line_bytes;
        const uint8_t *factors = part + layout->factors + (k0 + k) / packing->group * COLUMNS;
        expanders[packing->format](codes, factors, mb_min(packing->group, count - k), to + k * COLUMNS);
    }
}

const float *mb_generic_expand(const struct mb_packing *packing, const struct mb_generic_layout *layout,
                               const uint8_t *part, int64_t k0, int64_t count, float *to)
{
    const uint8_t *codes = part + (size_t)k0 * layout->line_bytes;
    switch (packing->format) {
    case MB_PACKED_F32:
        return (const float *)(const void *)codes;
    case MB_PACKED_F16:
        expand_f16(codes, count * COLUMNS, to);
        break;
    case MB_PACKED_BF16:
        expand_bf16(codes, count * COLUMNS, to);
        break;
    case MB_PACKED_FP8:
        expand_fp8(codes, count, to);
        break;
    default:
        expand_groups(packing, layout, part, k0, count, to);
    }
    return to;
}
