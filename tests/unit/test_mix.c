// SPDX-License-Identifier: Apache-2.0
// What becomes of the routed sum and the shared expert: each mix, the second tensor and the norm of the output against
// their formulas in double, from the two parts computed alone with the same weights.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "support/tiny_block.h"

enum { TOKENS = 7, HIDDEN = 24, K = 3 };

static const struct tiny_settings settings = {.format = MB_FORMAT_F32, .threads = 1, .seed = 5};
static struct tiny_block donor; // has every tensor; all blocks below use its values
static float *x, *aux, *routed, *shared;

static void make(struct tiny_block *out, const char *experts)
{
    char json[1024];
    snprintf(
        json, sizeof json,
        "{\"model\": {\"hidden_size\": %d, \"num_experts\": 6, \"num_experts_per_tok\": %d, \"rms_norm_eps\": 1e-3},"
        "\"router\": {\"type\": \"linear\"}, \"experts\": {%s}}",
        HIDDEN, K, experts);
    tiny_make(out, json, &settings);
    for (size_t i = 0; donor.count && i < out->count; i++)
        memcpy((void *)(uintptr_t)out->tensors[i].data, tiny_data(&donor, out->tensors[i].name), out->tensors[i].bytes);
    tiny_load(out, MOEBLOCK_COMPUTE_F32, TOKENS);
}

static moeblock_array rows(const float *data)
{
    moeblock_array array = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {TOKENS, HIDDEN}};
    memcpy(&array.data, &data, sizeof data); // only read
    return array;
}

static moeblock_status forward(const struct tiny_block *tiny, const float *input, const float *second, float *y,
                               moeblock_error *error)
{
    const moeblock_forward_input in = {.struct_size = sizeof in,
                                       .mode = MOEBLOCK_PREFILL,
                                       .x = rows(input),
                                       .aux = second ? rows(second) : (moeblock_array){.rank = 0}};
    const moeblock_forward_output out = {.struct_size = sizeof out, .y = rows(y)};
    return moeblock_block_forward(tiny->block, tiny->workspace, &in, &out, error);
}

// y of a block with these members of "experts".
static float *run(const char *experts, const float *input, const float *second)
{
    struct tiny_block tiny;
    moeblock_error error = {MOEBLOCK_OK, ""};
    float *y = calloc(TOKENS * HIDDEN, sizeof *y);
    assert_non_null(y);
    make(&tiny, experts);
    if (forward(&tiny, input, second, y, &error) != MOEBLOCK_OK) fail_msg("%s", error.message);
    tiny_free(&tiny);
    return y;
}

#define ROUTED "\"distributed\": {\"intermediate_size\": 10}"
#define NO_ROUTED "\"distributed\": {\"intermediate_size\": 10, \"enabled\": false}"
#define SHARED(more) ", \"shared\": {\"intermediate_size\": 14" more "}"

static int set_up(void **state)
{
    (void)state;
    uint64_t random = 3;
    make(&donor, ROUTED SHARED(", \"mix\": \"softmax_coef\"") ", \"out_norm\": true");
    x = tiny_values(&random, TOKENS * HIDDEN);
    aux = tiny_values(&random, TOKENS * HIDDEN);
    routed = run(ROUTED, x, NULL);
    shared = run(NO_ROUTED SHARED(""), x, NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    tiny_free(&donor);
    free(x);
    free(aux);
    free(routed);
    free(shared);
    return 0;
}

static void assert_near(const float *y, const double *expected)
{
    for (int i = 0; i < TOKENS * HIDDEN; i++)
        if (!(fabs((double)y[i] - expected[i]) <= 2e-6 * (1 + fabs(expected[i]))))
            fail_msg("token %d, column %d is %.9g, expected %.9g", i / HIDDEN, i % HIDDEN, (double)y[i], expected[i]);
}

static void plain_mixes(void **state)
{
    (void)state;
    static const struct {
        const char *experts;
        double factor;
    } mixes[] = {{ROUTED SHARED(""), 1},
                 {ROUTED SHARED(", \"mix\": \"average\""), 0.5},
                 {ROUTED SHARED(", \"mix\": \"sum_over_sqrt2\""), 0.70710678118654752440}};
    for (size_t m = 0; m < sizeof mixes / sizeof *mixes; m++) {
        double expected[TOKENS * HIDDEN];
        float *y = run(mixes[m].experts, x, NULL);
        for (int i = 0; i < TOKENS * HIDDEN; i++)
            expected[i] = mixes[m].factor * ((double)routed[i] + (double)shared[i]);
        assert_near(y, expected);
        free(y);
    }
}

static void softmax_coefficients(void **state)
{
    (void)state;
    const float *map = tiny_data(&donor, "model.layers.0.mlp.coefficient.weight");
    const float *bias = tiny_data(&donor, "model.layers.0.mlp.coefficient.bias");
    double expected[TOKENS * HIDDEN];
    for (int t = 0; t < TOKENS; t++) {
        double logit[2] = {(double)bias[0], (double)bias[1]};
        for (int i = 0; i < 2 * HIDDEN; i++) logit[i / HIDDEN] += (double)map[i] * (double)x[t * HIDDEN + i % HIDDEN];
        const double c1 = exp(logit[1]) / (exp(logit[0]) + exp(logit[1]));
        for (int i = t * HIDDEN; i < (t + 1) * HIDDEN; i++)
            expected[i] = (1 - c1) * (double)routed[i] + c1 * (double)shared[i];
    }
    float *y = run(ROUTED SHARED(", \"mix\": \"softmax_coef\""), x, NULL);
    assert_near(y, expected);
    free(y);
}

static void norm_of_the_output(void **state)
{
    (void)state;
    const float *weight = tiny_data(&donor, "model.layers.0.post_mlp_layernorm.weight");
    double expected[TOKENS * HIDDEN];
    for (int t = 0; t < TOKENS; t++) {
        double square = 0;
        for (int i = t * HIDDEN; i < (t + 1) * HIDDEN; i++) square += pow((double)routed[i] + (double)shared[i], 2);
        for (int i = t * HIDDEN; i < (t + 1) * HIDDEN; i++)
            expected[i] =
                ((double)routed[i] + (double)shared[i]) / sqrt(square / HIDDEN + 1e-3) * (double)weight[i % HIDDEN];
    }
    float *y = run(ROUTED SHARED("") ", \"out_norm\": true", x, NULL);
    assert_near(y, expected);
    free(y);
}

// The experts alone have neither shared expert nor norm.
static void experts_alone_are_not_normed(void **state)
{
    (void)state;
    struct tiny_block plain;
    moeblock_error error = {MOEBLOCK_OK, ""};
    make(&plain, ROUTED);
    struct tiny_result chosen = tiny_result_make(&plain, TOKENS), alone = tiny_result_make(&plain, TOKENS);
    tiny_forward(&plain, x, TOKENS, &chosen, NULL);
    const moeblock_array in = rows(x);
    moeblock_array out = rows(alone.y);
    if (moeblock_block_forward_experts(donor.block, donor.workspace, &in, chosen.ids, chosen.weights, K, &out, &error))
        fail_msg("%s", error.message);
    assert_memory_equal(alone.y, routed, TOKENS * HIDDEN * sizeof *routed);
    tiny_result_free(&chosen);
    tiny_result_free(&alone);
    tiny_free(&plain);
}

static void shared_expert_of_the_second_tensor(void **state)
{
    (void)state;
    float *of_aux = run(NO_ROUTED SHARED(""), aux, NULL);
    float *y = run(ROUTED SHARED(", \"input\": \"aux\""), x, aux);
    double expected[TOKENS * HIDDEN];
    for (int i = 0; i < TOKENS * HIDDEN; i++) expected[i] = (double)routed[i] + (double)of_aux[i];
    assert_near(y, expected);
    free(y);
    // The coefficients still read x.
    y = run(NO_ROUTED SHARED(", \"input\": \"aux\", \"mix\": \"softmax_coef\""), x, aux);
    float *coefficient = run(NO_ROUTED SHARED(", \"mix\": \"softmax_coef\""), x, NULL);
    for (int i = 0; i < TOKENS * HIDDEN; i++)
        expected[i] = (double)of_aux[i] * (double)coefficient[i] / (double)shared[i];
    for (int i = 0; i < TOKENS * HIDDEN; i++) assert_true(fabs((double)y[i] - expected[i]) <= 1e-4);
    free(coefficient);
    free(of_aux);
    free(y);

    struct tiny_block tiny;
    moeblock_error error = {MOEBLOCK_OK, ""};
    float unused[TOKENS * HIDDEN];
    make(&tiny, ROUTED SHARED(", \"input\": \"aux\""));
    assert_int_equal(forward(&tiny, x, NULL, unused, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "experts.shared.input"));
    tiny_free(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_mixes),
        cmocka_unit_test(softmax_coefficients),
        cmocka_unit_test(norm_of_the_output),
        cmocka_unit_test(experts_alone_are_not_normed),
        cmocka_unit_test(shared_expert_of_the_second_tensor),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
