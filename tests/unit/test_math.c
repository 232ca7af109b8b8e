// SPDX-License-Identifier: Apache-2.0
// exp, log, sigmoid, tanh, erf and softplus against the C library in double: largest error in units of the last place
// over a sweep of the whole float32 range, special values, and the same bits whatever the flush mode.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/float.h"
#include "base/fpmode.h"
#include "cmocka.h"
#include "kernels/math.h"

static double sigmoid_double(double x) { return 1.0 / (1.0 + exp(-x)); }
static double softplus_double(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }

struct function {
    const char *name;
    float (*ours)(float);
    double (*exact)(double);
    double first, last; // range of the sweep
    double ulps;        // largest error allowed
};

static const struct function functions[] = {
    {"exp", mb_exp, exp, -87.336, 88.722, 1.0},
    {"log", mb_log, log, 1e-45, 3.4e38, 1.0},
    {"sigmoid", mb_sigmoid, sigmoid_double, -87.336, 100, 2.5},
    {"tanh", mb_tanh, tanh, -100, 100, 2.0},
    {"erf", mb_erf, erf, -10, 10, 2.0},
    {"softplus", mb_softplus, softplus_double, -87.336, 1e6, 2.5},
};

// Distance from the exact value in units of the last place of the float32 nearest to it.
static double error_in_ulps(float ours, double exact)
{
    const float nearest = (float)exact;
    if (ours == nearest) return fabs(exact) < 1.2e-38 ? 0 : fabs((double)ours - exact) / ldexp(1, ilogb(exact) - 23);
    return fabs((double)ours - exact) / ldexp(1, ilogb(exact) - 23);
}

// Largest error over every step-th bit pattern in [first, last), where f is tested.
static double largest_error(const struct function *f, uint64_t first, uint64_t last, uint64_t step)
{
    double worst = 0;
    for (uint64_t bits = first; bits < last; bits += step) {
        const float x = mb_float((uint32_t)bits);
        if (!((double)x >= f->first && (double)x <= f->last)) continue;
        if (fabs((double)x) < 1.2e-38 && f->ours != mb_log) continue;
        const double error = error_in_ulps(f->ours(x), f->exact((double)x));
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

static void test_accuracy(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        const double worst = largest_error(&functions[i], 0, 0x100000000u, 1777);
        printf("%-8s largest error %.3f ulp\n", functions[i].name, worst);
        assert_true(worst <= functions[i].ulps);
    }
}

// A finer sweep where the formulas change: the ends of the polynomials' ranges.
static void test_accuracy_near_one(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        for (uint64_t sign = 0; sign <= 0x80000000u; sign += 0x80000000u) {
            const double worst = largest_error(&functions[i], sign | mb_bits(0.125f), sign | mb_bits(12.0f), 29);
            printf("%-8s largest error %.3f ulp near one\n", functions[i].name, worst);
            assert_true(worst <= functions[i].ulps);
        }
    }
}

static void test_special_values(void **state)
{
    (void)state;
    const float infinity = mb_float(0x7f800000u), nan = mb_float(0x7fc00000u);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) assert_true(isnan(functions[i].ours(nan)));
    assert_true(mb_exp(0.0f) == 1.0f && mb_exp(-0.0f) == 1.0f);
    assert_true(mb_exp(infinity) == infinity && mb_exp(88.73f) == infinity && mb_exp(88.7228f) < infinity);
    assert_true(mb_exp(-infinity) == 0.0f && mb_exp(-87.337f) == 0.0f && mb_exp(-87.3365f) > 0.0f);
    assert_true(mb_log(1.0f) == 0.0f && mb_log(infinity) == infinity);
    assert_true(mb_log(0.0f) == -infinity && mb_log(-0.0f) == -infinity);
    assert_true(isnan(mb_log(-1.0f)) && isnan(mb_log(-infinity)));
    assert_true(mb_sigmoid(0.0f) == 0.5f && mb_sigmoid(infinity) == 1.0f && mb_sigmoid(-infinity) == 0.0f);
    assert_true(mb_tanh(infinity) == 1.0f && mb_tanh(-infinity) == -1.0f && mb_tanh(9.1f) == 1.0f);
    assert_int_equal(mb_bits(mb_tanh(-0.0f)), 0x80000000u);
    assert_true(mb_erf(infinity) == 1.0f && mb_erf(-infinity) == -1.0f && mb_erf(4.0f) == 1.0f);
    assert_int_equal(mb_bits(mb_erf(-0.0f)), 0x80000000u);
    assert_true(mb_softplus(infinity) == infinity && mb_softplus(-infinity) == 0.0f);
}

// Above the smallest inputs no result passes through a denormal that the flush mode could take away.
static void test_flush_mode_does_not_matter(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        for (uint64_t pattern = 0; pattern < 0x100000000u; pattern += 7919) {
            const volatile float x = mb_float((uint32_t)pattern);
            if (fabs((double)x) < 1e-36 && functions[i].ours != mb_log) continue;
            const uint32_t kept = mb_bits(functions[i].ours(x));
            const uint64_t saved = mb_flush_begin();
            const uint32_t flushed = mb_bits(functions[i].ours(x));
            mb_flush_end(saved);
            assert_int_equal(kept, flushed);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accuracy),
        cmocka_unit_test(test_accuracy_near_one),
        cmocka_unit_test(test_special_values),
        cmocka_unit_test(test_flush_mode_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
