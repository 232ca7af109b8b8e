// SPDX-License-Identifier: Apache-2.0
// Number formats as bit patterns: bfloat16, float16, float8 e4m3, e8m0 and e2m1, to and from float32. Every
// conversion is exact or rounds to nearest even. Integer operations only where denormals occur, so that the results do
// not depend on the flush-to-zero mode.
#ifndef MB_BASE_FLOAT_H
#define MB_BASE_FLOAT_H

#include <stdint.h>
#include <string.h>

static inline float mb_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t mb_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float mb_from_bf16(uint16_t h) { return mb_float((uint32_t)h << 16); }

// NaN stays NaN (quiet, its sign kept); overflow rounds to infinity.
static inline uint16_t mb_to_bf16(float value)
{
    const uint32_t bits = mb_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x0040u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float mb_round_bf16(float value) { return mb_from_bf16(mb_to_bf16(value)); }

static inline float mb_from_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u;
    uint32_t fraction = h & 0x3ffu;
    if (exponent == 31) return mb_float(sign | 0x7f800000u | fraction << 13);
    if (exponent) return mb_float(sign | (exponent + 112) << 23 | fraction << 13);
    if (!fraction) return mb_float(sign);
    uint32_t shift = 0; // denormal: normalise
    while (!(fraction & 0x400u)) {
        fraction <<= 1;
        shift++;
    }
    return mb_float(sign | (113 - shift) << 23 | (fraction & 0x3ffu) << 13);
}

static inline uint16_t mb_to_f16(float value)
{
    const uint32_t bits = mb_bits(value);
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); // rounds to 65536 or beyond
    if (magnitude >= 0x38800000u) {                                  // normal in f16
        const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
        return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
    }
    if (magnitude < 0x33000000u) return sign; // below half of the smallest denormal
    const uint32_t shift = 126 - (magnitude >> 23);
    const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t half = 1u << (shift - 1), kept = significand >> shift;
    const uint32_t rest = significand & ((1u << shift) - 1);
    return (uint16_t)(sign | (kept + (rest > half || (rest == half && (kept & 1)))));
}

// e4m3fn: bias 7, no infinities, S.1111.111 is NaN, largest 448.
static inline float mb_from_e4m3(uint8_t code)
{
    const uint32_t sign = (uint32_t)(code & 0x80u) << 24;
    const uint32_t exponent = (code >> 3) & 15u, fraction = code & 7u;
    if (exponent == 15 && fraction == 7) return mb_float(sign | 0x7fc00000u);
    if (exponent) return mb_float(sign | (exponent + 120) << 23 | fraction << 20);
    if (!fraction) return mb_float(sign);
    const uint32_t shift = fraction >= 4 ? 0 : fraction >= 2 ? 1 : 2; // denormal: fraction * 2^-9
    return mb_float(sign | (120 - shift) << 23 | ((fraction << (shift + 1)) & 7u) << 20);
}

// Nearest even; beyond 448 saturates; NaN stays NaN.
static inline uint8_t mb_to_e4m3(float value)
{
    const uint32_t bits = mb_bits(value);
    const uint8_t sign = (uint8_t)((bits >> 24) & 0x80u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint8_t)(sign | 0x7fu);
    if (magnitude >= 0x43e00000u) return (uint8_t)(sign | 0x7eu); // 448
    if (magnitude >= 0x3c800000u) {                               // 2^-6, the smallest normal
        const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
        return (uint8_t)(sign | ((rounded - (120u << 23)) >> 20));
    }
    if (magnitude < 0x3a800000u) return sign; // below 2^-10
    const uint32_t shift = 141 - (magnitude >> 23);
    const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t half = 1u << (shift - 1), kept = significand >> shift;
    const uint32_t rest = significand & ((1u << shift) - 1);
    return (uint8_t)(sign | (kept + (rest > half || (rest == half && (kept & 1)))));
}

// e8m0: 2^(code - 127), 255 is NaN. Code 0 is a float32 denormal.
static inline float mb_from_e8m0(uint8_t code)
{
    if (code == 255) return mb_float(0x7fc00000u);
    return mb_float(code ? (uint32_t)code << 23 : 0x00400000u);
}

// An e2m1 code (0 .5 1 1.5 2 3 4 6 and the negatives, bit 3 the sign) times 2^(scale - 127), exact where float32
// can hold it, denormals included.
static inline float mb_from_fp4(uint8_t code, uint8_t scale)
{
    const uint32_t sign = (uint32_t)(code & 8u) << 28;
    const uint32_t magnitude = code & 7u;
    if (scale == 255) return mb_float(sign | 0x7fc00000u);
    if (!magnitude) return mb_float(sign);
    // value = (1 or 1.5) * 2^power * 2^(scale - 127); code 1 is 0.5 = 1 * 2^-1
    const int power = magnitude == 1 ? -1 : (int)(magnitude >> 1) - 1;
    const uint32_t fraction = magnitude > 1 && (magnitude & 1) ? 0x400000u : 0;
    const int exponent = (int)scale + power;
    if (exponent >= 255) return mb_float(sign | 0x7f800000u);
    if (exponent >= 1) return mb_float(sign | (uint32_t)exponent << 23 | fraction);
    return mb_float(sign | (0x800000u | fraction) >> (1 - exponent)); // denormal; the shift is at most 2, so exact
}

static inline float mb_from_e2m1(uint8_t code) { return mb_from_fp4(code, 127); }

// An e4m3 code times 2^(scale - 127), exact where float32 can hold it, denormals included.
static inline float mb_from_mxfp8(uint8_t code, uint8_t scale)
{
    const uint32_t bits = mb_bits(mb_from_e4m3(code)), sign = bits & 0x80000000u;
    if (scale == 255 || (code & 0x7fu) == 0x7fu) return mb_float(sign | 0x7fc00000u);
    if (!(code & 0x7fu)) return mb_float(sign);
    const int exponent = (int)(bits >> 23 & 255u) + (int)scale - 127;
    const uint32_t fraction = bits & 0x7fffffu;
    if (exponent >= 255) return mb_float(sign | 0x7f800000u);
    if (exponent >= 1) return mb_float(sign | (uint32_t)exponent << 23 | fraction);
    return mb_float(sign | (0x800000u | fraction) >> (1 - exponent)); // denormal; four bits are left, so exact
}

#endif
