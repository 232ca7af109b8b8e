// SPDX-License-Identifier: Apache-2.0
// The scalar reference: against the golden cases in both compute types, and against blocks of one number whose every
// rounding is written out here.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/float.h"
#include "cmocka.h"
#include "config/tensors.h"
#include "kernels/math.h"
#include "reference.h"
#include "support/golden.h"

// --- golden cases
// -----------------------------------------------------------------------------------------------------

struct result {
    float *y, *weights;
    int32_t *ids;
};

static moeblock_status run_golden(const struct golden_case *golden, moeblock_compute compute, struct result *out,
                                  bool *f32, moeblock_error *error)
{
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_weights *weights = NULL;
    struct mb_matrix down;
    const moeblock_config_options options = {.struct_size = sizeof options, .layer = golden->layer};
    assert_int_equal(moeblock_context_create(NULL, &context, error), MOEBLOCK_OK);
    moeblock_status status = moeblock_config_open(context, golden->folder, &options, &config, error);
    if (status == MOEBLOCK_OK) status = moeblock_weights_open(context, golden->folder, &weights, error);
    if (status == MOEBLOCK_OK)
        status = mb_projection_find(config, weights, MB_PROJ_DOWN, golden->layer, 0, &down, error);
    if (status == MOEBLOCK_OK) {
        *f32 = compute == MOEBLOCK_COMPUTE_F32 || mb_format_table[down.format].f32_compute;
        status = mb_reference(context, config, weights, golden->layer, compute, &golden->inputs, golden->tokens, out->y,
                              out->ids, out->weights, error);
    }
    moeblock_weights_destroy(&weights);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
    return status;
}

enum outcome { COVERED, SKIPPED, WRONG };

// What is wrong is printed: one run shows all cases.
static enum outcome judge(const struct golden_case *golden, moeblock_compute compute, struct result *found)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    bool f32 = false;
    const moeblock_status status = run_golden(golden, compute, found, &f32, &error);
    // NOT_FOUND: a second way of storing a family that the configuration cannot tell.
    if (status == MOEBLOCK_UNSUPPORTED || status == MOEBLOCK_NOT_FOUND) return SKIPPED;
    if (status != MOEBLOCK_OK) {
        print_error("%s: %s\n", golden->name, error.message);
        return WRONG;
    }
    const double off = golden_error(golden, found->y);
    const double allowed = golden_allowed(golden, f32 ? MOEBLOCK_COMPUTE_F32 : MOEBLOCK_COMPUTE_BF16);
    const int64_t row = golden_router_difference(golden, found->ids, found->weights);
    if (off <= allowed && row < 0) return COVERED;
    print_error("%s: relative rms %.3e, allowed %.1e; ids or weights differ first in row %d\n", golden->name, off,
                allowed, (int)row);
    return WRONG;
}

static enum outcome check_golden(const char *name, moeblock_compute compute)
{
    struct golden_case golden;
    golden_open(name, &golden);
    const size_t rows = (size_t)golden.tokens;
    struct result found = {.y = calloc(rows * (size_t)golden.hidden, sizeof(float)),
                           .weights = calloc(rows * (size_t)golden.k, sizeof(float)),
                           .ids = calloc(rows * (size_t)golden.k, sizeof(int32_t))};
    assert_true(found.y && found.weights && found.ids);
    const enum outcome outcome = judge(&golden, compute, &found);
    free(found.y);
    free(found.weights);
    free(found.ids);
    golden_close(&golden);
    return outcome;
}

static void check_all_golden(moeblock_compute compute)
{
    static char names[256][64];
    const int n = golden_list(names, 256);
    int count[3] = {0, 0, 0};
    for (int i = 0; i < n; i++) count[check_golden(names[i], compute)]++;
    print_message("%d golden cases agree, %d not computed yet\n", count[COVERED], count[SKIPPED]);
    assert_int_equal(count[WRONG], 0);
    assert_true(count[COVERED] >= 89);
}

static void golden_in_f32(void **state)
{
    (void)state;
    check_all_golden(MOEBLOCK_COMPUTE_F32);
}

static void golden_in_their_own_type(void **state)
{
    (void)state;
    check_all_golden(MOEBLOCK_COMPUTE_AUTO);
}

// --- blocks of one number
// ---------------------------------------------------------------------------------------------

// Every tensor of such a block holds one number (the router one a class); roles without a value are not needed.
static const float numbers[MB_ROLES] = {
    [MB_ROLE_UP] = 1.5f,          [MB_ROLE_DOWN] = 1.25f,           [MB_ROLE_OUTPUT_BIAS] = 0.3f,
    [MB_ROLE_SHARED_UP] = 0.7f,   [MB_ROLE_SHARED_DOWN] = 1.1f,     [MB_ROLE_SHARED_SIGMOID] = -0.4f,
    [MB_ROLE_LATENT_DOWN] = 0.9f, [MB_ROLE_LATENT_UP] = 1.7f,       [MB_ROLE_LATENT_IN_NORM] = 0.2f,
    [MB_ROLE_OUT_NORM] = 1.6f,    [MB_ROLE_OUTPUT_SCALE] = -0.3f,   [MB_ROLE_UP_BIAS] = 0.01f,
    [MB_ROLE_DOWN_BIAS] = 0.02f,  [MB_ROLE_LATENT_OUT_NORM] = 1.3f,
};
static const float router[] = {0.5f, 0.25f}, coefficient[] = {0.6f, -0.2f}, coefficient_bias[] = {0.1f, 0.3f};
static const float x = 1.00390625f * 1.0009765625f; // no bfloat16

static bool is_vector(enum mb_role role)
{
    return role == MB_ROLE_OUTPUT_BIAS || role == MB_ROLE_LATENT_IN_NORM || role == MB_ROLE_LATENT_OUT_NORM ||
           role == MB_ROLE_UP_BIAS || role == MB_ROLE_DOWN_BIAS || role == MB_ROLE_MIX_COEFFICIENT_BIAS ||
           role == MB_ROLE_OUT_NORM || role == MB_ROLE_OUTPUT_SCALE;
}

static size_t list_tensors(const moeblock_config *config, moeblock_tensor *tensors)
{
    static char names[MB_ROLES][256];
    size_t n = 0;
    for (enum mb_role role = MB_ROLE_ROUTER; role < MB_ROLES; role++) {
        const float *data = role == MB_ROLE_ROUTER                 ? router
                            : role == MB_ROLE_MIX_COEFFICIENT      ? coefficient
                            : role == MB_ROLE_MIX_COEFFICIENT_BIAS ? coefficient_bias
                                                                   : &numbers[role];
        if (*data == 0.0f) continue;
        const int64_t rows = role == MB_ROLE_ROUTER   ? config->num_experts + config->router.null_experts
                             : data == &numbers[role] ? 1
                                                      : 2;
        mb_role_name(config, role, 0, 0, names[role]);
        tensors[n++] = (moeblock_tensor){.name = names[role],
                                         .dtype = MOEBLOCK_F32,
                                         .rank = is_vector(role) ? 1 : 2,
                                         .dims = {rows, is_vector(role) ? 0 : 1},
                                         .data = data,
                                         .bytes = (size_t)rows * sizeof(float)};
    }
    return n;
}

// y of a block described by further members of "router.config", "experts.distributed" and "experts".
static float compute(moeblock_compute type, int64_t k, const char *in_router, const char *in_routed,
                     const char *in_experts)
{
    char text[1024];
    const int length = snprintf(text, sizeof text,
                                "{\"model\": {\"hidden_size\": 1, \"num_experts\": 1, \"num_experts_per_tok\": %d},"
                                "\"router\": {\"config\": {\"score\": \"sigmoid\"%s}}, \"experts\": {\"distributed\":"
                                "{\"intermediate_size\": 1, \"activation\": \"relu\", \"gated\": false%s}%s}}",
                                (int)k, in_router, in_routed, in_experts);
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_weights *weights = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_tensor tensors[MB_ROLES];
    float y = 0;
    assert_int_equal(moeblock_context_create(NULL, &context, &error), MOEBLOCK_OK);
    moeblock_status status = moeblock_config_parse(context, text, (size_t)length, "test", NULL, &config, &error);
    if (status == MOEBLOCK_OK)
        status = moeblock_weights_from_tensors(context, tensors, list_tensors(config, tensors), &weights, &error);
    if (status == MOEBLOCK_OK)
        status = mb_reference(context, config, weights, 0, type, &(struct mb_reference_input){.x = &x}, 1, &y, NULL,
                              NULL, &error);
    if (status != MOEBLOCK_OK) fail_msg("%s", error.message);
    moeblock_weights_destroy(&weights);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
    return y;
}

static float to_bf16(float value) { return mb_round_bf16(value); }

// relu(up row) down in BF16 compute: weights, intermediate and output in bfloat16.
static float expert(float row, float up, float down) { return to_bf16(to_bf16(to_bf16(up) * row) * to_bf16(down)); }

static void assert_bits(float found, float expected) { assert_int_equal(mb_bits(found), mb_bits(expected)); }

static void weight_on_the_output(void **state)
{
    (void)state;
    const float w = mb_sigmoid(0.5f * x);
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, "", "", ""), w * expert(to_bf16(x), 1.5f, 1.25f));
    assert_bits(compute(MOEBLOCK_COMPUTE_F32, 1, "", "", ""), w * (1.5f * x * 1.25f));
}

static void weight_on_the_input(void **state)
{
    (void)state;
    const float w = mb_sigmoid(0.5f * x);
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, ", \"apply_weight\": \"input\"", "", ""),
                expert(to_bf16(w * to_bf16(x)), 1.5f, 1.25f));
}

static void biases(void **state)
{
    (void)state;
    const float h = to_bf16(1.5f * to_bf16(x) + 0.01f);
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, "", ", \"bias\": true", ""),
                mb_sigmoid(0.5f * x) * to_bf16(1.25f * h + 0.02f));
}

static void null_experts_take_the_unrounded_x(void **state)
{
    (void)state;
    const float routed = mb_sigmoid(0.5f * x) * expert(to_bf16(x), 1.5f, 1.25f), w = mb_sigmoid(0.25f * x);
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 2, ", \"null_experts\": 1", "", ""), routed + w * x);
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 2, ", \"null_experts\": 1, \"null_kind\": \"zero\"", "", ""), routed);
}

static void scale_before_output_bias_before_shared(void **state)
{
    (void)state;
    const float routed = mb_sigmoid(0.5f * x) * expert(to_bf16(x), 1.5f, 1.25f);
    const float shared = expert(to_bf16(x), 0.7f, 1.1f), gate = mb_sigmoid(-0.4f * x);
    static const char scale[] = ", \"routed_scaling_factor\": 3, \"scale_on\": \"output\"";
    static const char bias[] = ", \"output_bias\": true";
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, scale, bias, ", \"shared\": {\"intermediate_size\": 1}"),
                (routed * 3.0f + 0.3f) + shared);
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, scale, bias,
                        ", \"shared\": {\"intermediate_size\": 1, \"mix\": \"average\"}"),
                ((routed * 3.0f + 0.3f) + shared) * 0.5f);
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, scale, bias,
                        ", \"shared\": {\"intermediate_size\": 1, \"mix\": \"sum_over_sqrt2\"}"),
                ((routed * 3.0f + 0.3f) + shared) * (float)sqrt(0.5));
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, scale, bias,
                        ", \"shared\": {\"intermediate_size\": 1, \"gate\": \"sigmoid\"}"),
                (routed * 3.0f + 0.3f) + gate * shared);
    const float e0 = mb_exp(0.0f), e1 = mb_exp((-0.2f * x + 0.3f) - (0.6f * x + 0.1f));
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, scale, bias,
                        ", \"shared\": {\"intermediate_size\": 1, \"mix\": \"softmax_coef\"}"),
                (routed * 3.0f + 0.3f) * (e0 / (e0 + e1)) + e1 / (e0 + e1) * shared);
}

static float normed(float v, float weight) { return v * (1.0f / sqrtf(v * v + 1e-6f)) * weight; }

static void latent_projections(void **state)
{
    (void)state;
    const float w = mb_sigmoid(0.5f * x), narrow = to_bf16(0.9f) * to_bf16(x), up = to_bf16(1.7f);
    const float plain = w * expert(to_bf16(narrow), 1.5f, 1.25f);
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, "", "", ", \"latent\": {\"size\": 1}"), to_bf16(up * to_bf16(plain)));
    const float in = to_bf16(normed(narrow, 1.0f + 0.2f));
    const float sum = w * expert(in, 1.5f, 1.25f);
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, "", "",
                        ", \"latent\": {\"size\": 1, \"in_norm\": true, \"out_norm\": true, \"norm_plus_one\": true}"),
                to_bf16(up * to_bf16(normed(sum, 1.0f + 1.3f))));
    // The scale on the output comes before the norm, which all but takes it out again.
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, ", \"routed_scaling_factor\": 3, \"scale_on\": \"output\"", "",
                        ", \"latent\": {\"size\": 1, \"in_norm\": true, \"out_norm\": true, \"norm_plus_one\": true}"),
                to_bf16(up * to_bf16(normed(sum * 3.0f, 1.0f + 1.3f))));
}

static void norm_of_the_output(void **state)
{
    (void)state;
    const float routed = mb_sigmoid(0.5f * x) * expert(to_bf16(x), 1.5f, 1.25f);
    const float shared = expert(to_bf16(x), 0.7f, 1.1f);
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, "", "", ", \"out_norm\": true"), normed(routed, 1.6f));
    assert_bits(
        compute(MOEBLOCK_COMPUTE_BF16, 1, "", "", ", \"out_norm\": true, \"shared\": {\"intermediate_size\": 1}"),
        normed(routed + shared, 1.6f));
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, "", "", ", \"output_scale\": true"), routed * (1.0f + -0.3f));
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, "", "", ", \"output_scale\": true, \"out_norm\": true"),
                normed(routed, 1.6f) * (1.0f + -0.3f));
}

static void shared_expert_alone(void **state)
{
    (void)state;
    assert_bits(compute(MOEBLOCK_COMPUTE_BF16, 1, "", ", \"enabled\": false",
                        ", \"shared\": {\"intermediate_size\": 1, \"activation\": \"relu\", \"gated\": false}"),
                expert(to_bf16(x), 0.7f, 1.1f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_in_f32),
        cmocka_unit_test(golden_in_their_own_type),
        cmocka_unit_test(weight_on_the_output),
        cmocka_unit_test(weight_on_the_input),
        cmocka_unit_test(biases),
        cmocka_unit_test(null_experts_take_the_unrounded_x),
        cmocka_unit_test(scale_before_output_bias_before_shared),
        cmocka_unit_test(latent_projections),
        cmocka_unit_test(norm_of_the_output),
        cmocka_unit_test(shared_expert_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
