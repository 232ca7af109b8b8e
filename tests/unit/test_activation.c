// SPDX-License-Identifier: Apache-2.0
// Every activation against its formula in double; clamps before and after; NaN stays NaN; names and aliases; the same
// bits one by one, in a run, and in place.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/float.h"
#include "cmocka.h"
#include "kernels/activation.h"

enum { COUNT = 301 };

static const struct mb_activation parameters = {
    .clamp = MB_CLAMP_NONE, .limit = 2.5f, .alpha = 1.702f, .plus_one = true, .beta = 4.0f, .linear_beta = 25.0f};

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double silu(double g) { return g * sigmoid(g); }
static double gelu(double g) { return g / 2 * (1 + erf(g / sqrt(2))); }
static double gelu_tanh(double g) { return g / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (g + 0.044715 * g * g * g))); }
static double relu(double g) { return g > 0 ? g : 0; }
static double relu2(double g) { return relu(g) * relu(g); }
static double silu_alpha(double g) { return g * sigmoid(1.702 * g); }
static double situ(double g) { return 4 * tanh(g / 4) * sigmoid(g); }
static double same(double v) { return v; }
static double plus_one(double u) { return u + 1; }
static double soft_limit(double u) { return 25 * tanh(u / 25); }

struct row {
    const char *name;
    double (*on_gate)(double);
    double (*on_up)(double);
};

static const struct row rows[] = {
    {"silu", silu, same},
    {"swiglu", silu, same},
    {"silu_glu", silu, same},
    {"gelu", gelu, same},
    {"gelu_tanh", gelu_tanh, same},
    {"gelu_pytorch_tanh", gelu_tanh, same},
    {"relu", relu, same},
    {"gelu_new", gelu_tanh, same},
    {"clamped_swiglu", silu_alpha, plus_one},
    {"relu2", relu2, same},
    {"swiglu_oai", silu_alpha, plus_one},
    {"situ", situ, soft_limit},
    {"identity", same, same},
};

enum { ROWS = sizeof rows / sizeof *rows };

static float gate[COUNT], up[COUNT], out[COUNT];

static int fill(void **state)
{
    (void)state;
    for (int i = 0; i < COUNT; i++) {
        gate[i] = (float)(i - COUNT / 2) * 0.0731f;
        up[i] = (float)(i * 37 % COUNT - COUNT / 2) * 0.041f;
    }
    return 0;
}

static double at_most(double x, double limit) { return x > limit ? limit : x; }
static double within(double x, double limit) { return x < -limit ? -limit : at_most(x, limit); }

static double expected(const struct row *row, enum mb_clamp clamp, bool gated, int i)
{
    const double limit = 2.5;
    double g = (double)(gated ? gate[i] : up[i]), u = (double)up[i];
    if (clamp == MB_CLAMP_BEFORE) g = at_most(g, limit);
    if (clamp != MB_CLAMP_NONE) u = within(u, limit);
    double act = row->on_gate(g);
    if (clamp == MB_CLAMP_AFTER) return gated ? at_most(act, limit) * u : at_most(act, limit);
    return gated ? act * row->on_up(u) : act;
}

static void test_formulas(void **state)
{
    (void)state;
    for (int r = 0; r < ROWS; r++) {
        for (int clamp = MB_CLAMP_NONE; clamp <= MB_CLAMP_AFTER; clamp++) {
            for (int gated = 0; gated < 2; gated++) {
                struct mb_activation activation = parameters;
                activation.kind = mb_activation_find(rows[r].name);
                activation.clamp = (enum mb_clamp)clamp;
                assert_true(activation.kind >= 0);
                mb_activation_apply(&activation, gated ? gate : NULL, up, out, COUNT);
                for (int i = 0; i < COUNT; i++) {
                    const double exact = expected(&rows[r], (enum mb_clamp)clamp, gated, i);
                    assert_true(fabs((double)out[i] - exact) <= 2e-6 * (fabs(exact) + 1));
                }
            }
        }
    }
}

static void test_without_plus_one(void **state)
{
    (void)state;
    struct mb_activation activation = parameters;
    activation.kind = mb_activation_find("swiglu_oai");
    activation.plus_one = false;
    mb_activation_apply(&activation, gate, up, out, COUNT);
    for (int i = 0; i < COUNT; i++) {
        const double exact = silu_alpha((double)gate[i]) * (double)up[i];
        assert_true(fabs((double)out[i] - exact) <= 2e-6 * (fabs(exact) + 1));
    }
}

static void test_same_bits_however_called(void **state)
{
    (void)state;
    for (int r = 0; r < ROWS; r++) {
        struct mb_activation activation = parameters;
        activation.kind = mb_activation_find(rows[r].name);
        activation.clamp = MB_CLAMP_BEFORE;
        mb_activation_apply(&activation, gate, up, out, COUNT);
        float in_gate[COUNT], in_up[COUNT];
        memcpy(in_gate, gate, sizeof in_gate);
        memcpy(in_up, up, sizeof in_up);
        mb_activation_apply(&activation, in_gate, up, in_gate, COUNT);
        mb_activation_apply(&activation, gate, in_up, in_up, COUNT);
        assert_memory_equal(in_gate, out, sizeof out);
        assert_memory_equal(in_up, out, sizeof out);
        for (int i = 0; i < COUNT; i++) {
            float one;
            mb_activation_apply(&activation, gate + i, up + i, &one, 1);
            assert_int_equal(mb_bits(one), mb_bits(out[i]));
        }
    }
}

static void test_nan_stays(void **state)
{
    (void)state;
    const float nan = mb_float(0x7fc00000u), one = 1;
    for (int r = 0; r < ROWS; r++) {
        for (int clamp = MB_CLAMP_NONE; clamp <= MB_CLAMP_AFTER; clamp++) {
            struct mb_activation activation = parameters;
            activation.kind = mb_activation_find(rows[r].name);
            activation.clamp = (enum mb_clamp)clamp;
            float value;
            mb_activation_apply(&activation, &nan, &one, &value, 1);
            assert_true(isnan(value));
            mb_activation_apply(&activation, &one, &nan, &value, 1);
            assert_true(isnan(value));
            mb_activation_apply(&activation, NULL, &nan, &value, 1);
            assert_true(isnan(value));
        }
    }
}

static void test_situ_without_soft_limit(void **state)
{
    (void)state;
    struct mb_activation activation = parameters;
    activation.kind = mb_activation_find("situ");
    activation.linear_beta = 0;
    mb_activation_apply(&activation, gate, up, out, COUNT);
    for (int i = 0; i < COUNT; i++) {
        const double exact = situ((double)gate[i]) * (double)up[i];
        assert_true(fabs((double)out[i] - exact) <= 2e-6 * (fabs(exact) + 1));
    }
}

static void test_names(void **state)
{
    (void)state;
    assert_int_equal(mb_activation_find("swiglu"), mb_activation_find("silu"));
    assert_int_equal(mb_activation_find("gelu_new"), mb_activation_find("gelu_tanh"));
    assert_int_equal(mb_activation_find("clamped_swiglu"), mb_activation_find("swiglu_oai"));
    assert_int_equal(mb_activation_find("softmax"), -1);
    assert_int_equal(mb_activation_find(""), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formulas),
        cmocka_unit_test(test_without_plus_one),
        cmocka_unit_test(test_same_bits_however_called),
        cmocka_unit_test(test_nan_stays),
        cmocka_unit_test(test_situ_without_soft_limit),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, fill, NULL);
}
