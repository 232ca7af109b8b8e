// SPDX-License-Identifier: Apache-2.0
// Bodies of math.h, so that compilers inline and vectorise them: no branches, no table, no library call, no fused
// multiply-add; only + - * / and integer work in a fixed order. No intermediate result is denormal for |x| above 1e-36
// (log: for any x), so the bits do not depend on the flush mode there. Polynomials: Chebyshev interpolants,
// coefficients rounded to float32. tests/unit/test_math.c holds the largest errors.
#ifndef MB_KERNELS_MATH_INLINE_H
#define MB_KERNELS_MATH_INLINE_H

#include "base/float.h"

#define MB_INFINITY_BITS 0x7f800000u
#define MB_NAN_BITS 0x7fc00000u

// a where the condition holds, else b, by masks: compilers keep it free of branches whatever their trapping rules.
static inline float mb_pick(int condition, float a, float b)
{
    const uint32_t mask = (uint32_t)-condition;
    return mb_float((mb_bits(a) & mask) | (mb_bits(b) & ~mask));
}

static inline float mb_magnitude(float x) { return mb_float(mb_bits(x) & 0x7fffffffu); }
static inline float mb_with_sign(float magnitude, float sign)
{
    return mb_float(mb_bits(magnitude) | (mb_bits(sign) & 0x80000000u));
}

// x = n ln 2 + r with |r| <= 0.347; exp(r) = 1 + (r + r^2 q(r)); then times 2^n in two exact steps, since 2^128 is no
// float32. n ln 2 is subtracted in two parts, the first with 16 significant bits so that its product is exact.
static inline float mb_exp_body(float x)
{
    const float high = 88.7228317f, low = -87.33654f, round_bits = 12582912.0f; // 1.5 * 2^23
    const float c = mb_pick(x < low, low, mb_pick(x > high, high, x));
    const float shifted = c * 1.44269502f + round_bits;
    const float n = shifted - round_bits;
    const float r = (c - n * 0.693145752f) - n * 1.42860677e-6f;
    float q = 0.00019891269f;
    q = q * r + 0.00139339f;
    q = q * r + 0.00833331048f;
    q = q * r + 0.041666463f;
    q = q * r + 0.166666672f;
    q = q * r + 0.5f;
    const float e = 1.0f + (r + r * r * q);
    const uint32_t power = mb_bits(shifted) - 0x4b400000u + 256; // n + 256: positive, so that halving is a shift
    const uint32_t half = power >> 1;
    const float scaled = e * mb_float((half - 1) << 23) * mb_float((power - half - 1) << 23);
    return mb_pick(x < low, 0.0f, mb_pick(x > high, mb_float(MB_INFINITY_BITS), scaled));
}

// x = 2^n m with m in [sqrt(1/2), sqrt(2)); log m = f - f^2/2 + f^3 p(f), f = m - 1. Denormal x are scaled as integers.
static inline float mb_log_body(float x)
{
    const uint32_t bits = mb_bits(x);
    const uint32_t tiny = (uint32_t) - (int32_t)(bits < 0x00800000u);
    const uint32_t scaled = mb_bits((float)(int32_t)(bits & 0x007fffffu)); // of a denormal: x * 2^149
    const uint32_t normal = (tiny & scaled) | (~tiny & bits);
    const uint32_t offset = normal - 0x3f3504f3u; // sqrt(1/2)
    const int32_t n = ((int32_t)offset >> 23) - (int32_t)(tiny & 149u);
    const float f = mb_float((offset & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float p = 0.0698070228f;
    p = p * f - 0.114945464f;
    p = p * f + 0.116890714f;
    p = p * f - 0.124240376f;
    p = p * f + 0.142485514f;
    p = p * f - 0.166678503f;
    p = p * f + 0.200007305f;
    p = p * f - 0.24999997f;
    p = p * f + 0.333333313f;
    const float square = f * f, e = (float)n;
    const float tail = f * square * p + e * 1.42860677e-6f;
    const float value = e * 0.693145752f + (f + (tail - 0.5f * square));
    const float infinity = mb_float(MB_INFINITY_BITS);
    const float finite = mb_pick(bits == MB_INFINITY_BITS, infinity, value);
    const float positive = mb_pick(bits > MB_INFINITY_BITS, mb_float(MB_NAN_BITS), finite); // NaN, or negative
    return mb_pick((bits & 0x7fffffffu) == 0, -infinity, positive);
}

// With e = exp(-|x|), which cannot overflow: 1 / (1 + e), and e / (1 + e) for negative x.
static inline float mb_sigmoid_body(float x)
{
    const float e = mb_exp_body(-mb_magnitude(x));
    const float over = mb_pick(x < 0.0f, e, 1.0f);
    return over / (1.0f + e);
}

// |x| < 0.625: x + x^3 p(x^2); beyond: 1 - 2 / (exp(2 |x|) + 1), which is 1 from |x| = 9.02 on.
static inline float mb_tanh_body(float x)
{
    const float t = mb_magnitude(x);
    const float s = t * t;
    float p = 0.00229274482f;
    p = p * s - 0.00834394526f;
    p = p * s + 0.0217689183f;
    p = p * s - 0.0539592579f;
    p = p * s + 0.133333042f;
    p = p * s - 0.333333343f;
    const float near = t + t * (s * p);
    const float far = 1.0f - 2.0f / (mb_exp_body(2.0f * mb_pick(t > 10.0f, 10.0f, t)) + 1.0f);
    return mb_with_sign(mb_pick(t < 0.625f, near, far), x);
}

// |x| < 1: x + x p(x^2); beyond: 1 - exp(-q(|x|)) with q fitted to -log(erfc) on [1, 4].
static inline float mb_erf_body(float x)
{
    const float t = mb_magnitude(x);
    const float s = t * t;
    float p = 7.87587487e-05f;
    p = p * s - 0.00080168643f;
    p = p * s + 0.00518908724f;
    p = p * s - 0.0268542115f;
    p = p * s + 0.112835944f;
    p = p * s - 0.37612626f;
    p = p * s + 0.128379166f;
    const float near = t + t * p;
    const float u = mb_pick(t > 4.0f, 4.0f, t);
    float q = -1.6371514e-06f;
    q = q * u + 4.60580413e-05f;
    q = q * u - 0.00059680565f;
    q = q * u + 0.0047595962f;
    q = q * u - 0.0264211353f;
    q = q * u + 0.110080086f;
    q = q * u + 0.631826043f;
    q = q * u + 1.13023341f;
    q = q * u - 0.00032013806f;
    const float far = 1.0f - mb_exp_body(-q);
    return mb_with_sign(mb_pick(t < 1.0f, near, far), x);
}

// max(x, 0) + log1p(e), e = exp(-|x|); log1p(e) = log(1 + e) plus what rounding 1 + e lost, over 1 + e.
static inline float mb_softplus_body(float x)
{
    const float e = mb_exp_body(-mb_magnitude(x));
    const float sum = 1.0f + e;
    const float lost = e - (sum - 1.0f);
    return mb_pick(x < 0.0f, 0.0f, x) + (mb_log_body(sum) + lost / sum);
}

// Results leave the kernels with one NaN, so that operand order and platform do not show in its bits.
static inline float mb_one_nan(float x) { return mb_pick(x == x, x, mb_float(MB_NAN_BITS)); }

#endif
