// SPDX-License-Identifier: Apache-2.0
// Every code of every number format against arithmetic in double; encoders against a search for the nearest value.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/float.h"
#include "cmocka.h"
#include "weights/format.h"

// A float as its definition has it: sign, exponent field and fraction of given widths, no special values.
static double defined(uint32_t code, int exponent_bits, int fraction_bits, int bias)
{
    const uint32_t fraction = code & ((1u << fraction_bits) - 1);
    const int exponent = (int)((code >> fraction_bits) & ((1u << exponent_bits) - 1));
    const double unit = ldexp(1.0, -fraction_bits);
    const double magnitude =
        exponent ? ldexp(1.0 + fraction * unit, exponent - bias) : ldexp(fraction * unit, 1 - bias);
    return (code >> (exponent_bits + fraction_bits)) & 1 ? -magnitude : magnitude;
}

static void assert_same(float found, double expected, uint32_t code)
{
    if ((double)found != expected || !signbit(found) != !signbit(expected))
        fail_msg("code 0x%x is %a, expected %a", (unsigned)code, (double)found, expected);
}

static void bf16_codes(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        const float value = mb_from_bf16((uint16_t)code);
        const uint32_t exponent = (code >> 7) & 255, fraction = code & 127;
        if (exponent == 255 && fraction)
            assert_true(isnan(value));
        else if (exponent == 255)
            assert_same(value, code & 0x8000 ? -HUGE_VAL : HUGE_VAL, code);
        else
            assert_same(value, defined(code, 8, 7, 127), code);
        if (!isnan(value)) assert_int_equal(mb_to_bf16(value), code);
        if (isnan(value)) assert_true(isnan(mb_from_bf16(mb_to_bf16(value))));
    }
}

static void f16_codes(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        const float value = mb_from_f16((uint16_t)code);
        const uint32_t exponent = (code >> 10) & 31, fraction = code & 1023;
        if (exponent == 31 && fraction)
            assert_true(isnan(value));
        else if (exponent == 31)
            assert_same(value, code & 0x8000 ? -HUGE_VAL : HUGE_VAL, code);
        else
            assert_same(value, defined(code, 5, 10, 15), code);
        if (!isnan(value)) assert_int_equal(mb_to_f16(value), code);
        if (isnan(value)) assert_true(isnan(mb_from_f16(mb_to_f16(value))));
    }
}

static void e4m3_codes(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++) {
        const float value = mb_from_e4m3((uint8_t)code);
        if ((code & 0x7f) == 0x7f) {
            assert_true(isnan(value));
            assert_int_equal(mb_to_e4m3(value) & 0x7f, 0x7f);
        } else {
            assert_same(value, defined(code, 4, 3, 7), code);
            assert_int_equal(mb_to_e4m3(value), code);
        }
    }
    assert_same(mb_from_e4m3(0x7e), 448.0, 0x7e);
}

static void e8m0_codes(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 255; code++)
        assert_same(mb_from_e8m0((uint8_t)code), ldexp(1.0, (int)code - 127), code);
    assert_true(isnan(mb_from_e8m0(255)));
}

static void fp4_codes(void **state)
{
    (void)state;
    static const double values[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};
    for (uint32_t scale = 0; scale < 256; scale++)
        for (uint32_t code = 0; code < 16; code++) {
            const float value = mb_from_fp4((uint8_t)code, (uint8_t)scale);
            if (scale == 255) {
                assert_true(isnan(value));
                continue;
            }
            double expected = ldexp(values[code & 7], (int)scale - 127);
            if (expected > (double)3.4028234663852886e38f) expected = HUGE_VAL; // 4 and 6 times 2^127, 2^126
            assert_same(value, code & 8 ? -expected : expected, scale << 4 | code);
        }
}

// The non-negative finite values of a format in ascending order are its codes 0, 1, 2, ...
struct narrow {
    double (*value)(uint32_t code);
    uint32_t (*encode)(float value);
    uint32_t top;   // code of the largest finite value
    bool saturates; // else what rounds beyond it is the code top + 1, infinity
};

static double bf16_value(uint32_t code) { return defined(code, 8, 7, 127); }
static double f16_value(uint32_t code) { return defined(code, 5, 10, 15); }
static double e4m3_value(uint32_t code) { return defined(code, 4, 3, 7); }
static uint32_t encode_bf16(float value) { return mb_to_bf16(value); }
static uint32_t encode_f16(float value) { return mb_to_f16(value); }
static uint32_t encode_e4m3(float value) { return mb_to_e4m3(value); }

// The nearest code by bisection in double, ties to the even code. Beyond the top the next value of the same spacing
// decides: half way to it and further is infinity.
static uint32_t nearest(const struct narrow *format, double value)
{
    uint32_t low = 0, high = format->top + 1;
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        if (format->value(middle) <= value)
            low = middle;
        else
            high = middle;
    }
    const double below = format->value(low);
    const double above = low == format->top ? 2 * below - format->value(low - 1) : format->value(low + 1);
    const double up = above - value, down = value - below;
    const uint32_t code = up < down || (up == down && (low & 1)) ? low + 1 : low;
    return format->saturates && code > format->top ? format->top : code;
}

static const struct narrow narrows[] = {
    {bf16_value, encode_bf16, 0x7f7f, false},
    {f16_value, encode_f16, 0x7bff, false},
    {e4m3_value, encode_e4m3, 0x7e, true},
};

static void assert_nearest(const struct narrow *format, float value)
{
    const uint32_t sign = format->top > 255 ? 0x8000 : 0x80;
    const uint32_t expected = nearest(format, (double)value);
    if (format->encode(value) != expected || format->encode(-value) != (expected | sign))
        fail_msg("%a encodes to 0x%x, expected 0x%x", (double)value, (unsigned)format->encode(value),
                 (unsigned)expected);
}

// At every code, half way to the next, and one float below and above both.
static void mxfp8_codes(void **state)
{
    (void)state;
    for (uint32_t scale = 0; scale < 256; scale++)
        for (uint32_t code = 0; code < 256; code++) {
            const float value = mb_from_mxfp8((uint8_t)code, (uint8_t)scale);
            if (scale == 255 || (code & 0x7f) == 0x7f) {
                assert_true(isnan(value));
                continue;
            }
            double expected = ldexp(defined(code, 4, 3, 7), (int)scale - 127);
            if (fabs(expected) > (double)3.4028234663852886e38f) expected = expected < 0 ? -HUGE_VAL : HUGE_VAL;
            assert_same(value, expected, scale << 8 | code);
        }
}

static void encoders_round_to_nearest_even(void **state)
{
    (void)state;
    for (size_t f = 0; f < sizeof narrows / sizeof narrows[0]; f++)
        for (uint32_t code = 0; code < narrows[f].top; code++) {
            const double here = narrows[f].value(code), next = narrows[f].value(code + 1);
            const float points[] = {(float)here, (float)((here + next) / 2)};
            for (int i = 0; i < 2; i++) {
                assert_nearest(&narrows[f], points[i]);
                assert_nearest(&narrows[f], nextafterf(points[i], INFINITY));
                if (points[i] > 0) assert_nearest(&narrows[f], nextafterf(points[i], 0));
            }
        }
}

static void encoders_on_random_floats(void **state)
{
    (void)state;
    uint32_t random = 12345;
    for (int i = 0; i < 300000; i++) {
        random = random * 1664525u + 1013904223u;
        const float value = mb_float((random >> 1) & 0x7fffffffu);
        if (!isfinite(value)) continue;
        for (size_t f = 0; f < sizeof narrows / sizeof narrows[0]; f++) assert_nearest(&narrows[f], value);
    }
}

static void encoders_at_the_ends(void **state)
{
    (void)state;
    const float largest = 3.4028234663852886e38f;
    assert_int_equal(mb_to_bf16(largest), 0x7f80);
    assert_int_equal(mb_to_bf16(-INFINITY), 0xff80);
    assert_int_equal(mb_to_f16(65519.996f), 0x7bff);
    assert_int_equal(mb_to_f16(65520.0f), 0x7c00);
    assert_int_equal(mb_to_f16(-largest), 0xfc00);
    assert_int_equal(mb_to_f16(INFINITY), 0x7c00);
    assert_int_equal(mb_to_e4m3(464.0f), 0x7e);
    assert_int_equal(mb_to_e4m3(largest), 0x7e);
    assert_int_equal(mb_to_e4m3(-INFINITY), 0xfe);
    assert_int_equal(mb_to_e4m3(-NAN) & 0x7f, 0x7f);
    assert_true(isnan(mb_from_f16(mb_to_f16(mb_float(0x7f800001u))))); // a NaN whose kept bits are zero
    assert_true(isnan(mb_from_bf16(mb_to_bf16(mb_float(0xff800001u)))));
}

static void the_table(void **state)
{
    (void)state;
    for (int i = 0; i < MB_FORMATS; i++) {
        assert_int_equal(mb_format_find(mb_format_table[i].name), i); // no name twice
        assert_true(moeblock_dtype_bytes(mb_format_table[i].dtype) > 0);
        assert_int_equal(mb_format_table[i].scale_suffix != NULL, mb_format_table[i].column_tile > 0);
    }
    assert_int_equal(mb_format_find("gguf"), -1);
    assert_int_equal(mb_format_find(""), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_codes),
        cmocka_unit_test(f16_codes),
        cmocka_unit_test(e4m3_codes),
        cmocka_unit_test(e8m0_codes),
        cmocka_unit_test(fp4_codes),
        cmocka_unit_test(mxfp8_codes),
        cmocka_unit_test(encoders_round_to_nearest_even),
        cmocka_unit_test(encoders_on_random_floats),
        cmocka_unit_test(encoders_at_the_ends),
        cmocka_unit_test(the_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
