// SPDX-License-Identifier: Apache-2.0
// Blocks of random descriptions, formats and inputs: the working path gives the reference's bytes at every level (in
// f32 compute the levels with fused multiply-add come close to them), in all compute types, for some NaN, infinities
// and denormals too.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/context.h"
#include "cmocka.h"
#include "config/tensors.h"
#include "support/random_blocks.h"
#include "support/stored_values.h"

enum { ROUNDS = 300, OPERATOR_ROUNDS = 120 };

static void run_block(moeblock_context *context, const moeblock_config *config, const moeblock_tensor *tensors,
                      size_t n, moeblock_compute compute, float *x, float *aux, struct block_result *out)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    const moeblock_block_options options = {.struct_size = sizeof options, .compute = compute};
    const bool wants_aux = mb_reads_aux(config);
    const moeblock_forward_input input = {.struct_size = sizeof input,
                                          .mode = random_below(2) ? MOEBLOCK_PREFILL : MOEBLOCK_DECODE,
                                          .x = array_of(config, x),
                                          .aux = array_of(config, wants_aux ? aux : NULL),
                                          .token_ids = further.token_ids,
                                          .token_types = further.token_types,
                                          .seq_lens = further.seq_lens,
                                          .n_seq = 3,
                                          .router_state = config->router.state_size ? further.state : NULL};
    const moeblock_forward_output output = {.struct_size = sizeof output,
                                            .y = array_of(config, out->y),
                                            .ids = out->ids,
                                            .weights = out->weights,
                                            .router_state = config->router.state_size ? out->state : NULL};
    moeblock_status status = moeblock_block_create(context, config, NULL, &options, &block, &error);
    if (status == MOEBLOCK_OK) status = moeblock_block_load_weights(block, tensors, n, &error);
    if (status == MOEBLOCK_OK) status = moeblock_workspace_create(block, TOKENS, NULL, 0, &workspace, &error);
    if (status == MOEBLOCK_OK) status = moeblock_block_forward(block, workspace, &input, &output, &error);
    if (status != MOEBLOCK_OK) fail_msg("%s", error.message);
    moeblock_workspace_destroy(&workspace);
    moeblock_block_destroy(&block);
}

// Rows of finite numbers within 1e-4 of the largest.
static bool is_close(const struct block_result *found, const struct block_result *expected, int64_t hidden)
{
    for (int64_t t = 0; t < TOKENS; t++) {
        const float *a = found->y + t * hidden, *b = expected->y + t * hidden;
        float largest = 0, difference = 0;
        for (int64_t i = 0; i < hidden; i++) largest = fmaxf(largest, isfinite(b[i]) ? fabsf(b[i]) : INFINITY);
        for (int64_t i = 0; i < hidden; i++) difference = fmaxf(difference, fabsf(a[i] - b[i]));
        if (isfinite(largest) && !(difference <= 1e-4f * largest + 1e-6f)) return false;
    }
    return true;
}

// One level on one description: NULL, or what differs from the reference.
static const char *compare_level(moeblock_context *context, const moeblock_config *config, enum mb_format format,
                                 moeblock_compute compute, bool wild)
{
    static float x[TOKENS * MOST_HIDDEN], aux[TOKENS * MOST_HIDDEN];
    moeblock_tensor tensors[MOST_TENSORS];
    const size_t n = make_random_tensors(config, format, tensors);
    struct block_result expected = make_result(config), found = make_result(config);
    fill_input(x, (size_t)(TOKENS * config->hidden_size), wild, context->kernels->fused);
    fill_further();
    fill_input(aux, (size_t)(TOKENS * config->hidden_size), wild, context->kernels->fused);
    run_reference(context, config, tensors, n, compute, x, aux, &expected);
    run_block(context, config, tensors, n, compute, x, aux, &found);
    const char *what = NULL;
    if (memcmp(found.ids, expected.ids, found.slot_bytes)) what = "ids";
    if (memcmp(found.weights, expected.weights, found.slot_bytes)) what = "weights";
    if (memcmp(found.state, expected.state, sizeof found.state)) what = "state";
    if (compute == MOEBLOCK_COMPUTE_F32 && context->kernels->fused) {
        if (!is_close(&found, &expected, config->hidden_size)) what = "y";
    } else if (memcmp(found.y, expected.y, found.y_bytes)) {
        what = "y";
    }
    free_result(&expected);
    free_result(&found);
    free_random_tensors(tensors, n);
    return what;
}

// Whether the description is a valid one; then all levels were compared with the reference.
static bool compare(const char *text, enum mb_format format, bool wild)
{
    bool valid = false;
    int usable;
    const char *level;
    for (int i = 0; (level = moeblock_level(i, &usable, NULL)) != NULL; i++) {
        if (!usable) continue;
        moeblock_context *context = NULL;
        moeblock_config *config = NULL;
        const moeblock_context_options options = {
            .struct_size = sizeof options, .threads = 1 + i % 2, .cpu_level = level};
        assert_int_equal(moeblock_context_create(&options, &context, NULL), MOEBLOCK_OK);
        valid = moeblock_config_parse(context, text, strlen(text), "random", NULL, &config, NULL) == MOEBLOCK_OK;
        const moeblock_compute compute = valid ? any_compute(config, format) : MOEBLOCK_COMPUTE_AUTO;
        const char *what = valid ? compare_level(context, config, format, compute, wild) : NULL;
        if (what)
            fail_msg("level %s, %s weights, compute %d: %s differ for %s", level, mb_format_table[format].name,
                     (int)compute, what, text);
        moeblock_config_destroy(&config);
        moeblock_context_destroy(&context);
    }
    return valid;
}

static void random_blocks(void **state)
{
    (void)state;
    static char text[DESCRIPTION];
    int valid = 0;
    for (int round = 0; round < ROUNDS; round++) {
        const enum mb_format format = (enum mb_format)random_below(MB_FORMATS);
        describe_block(text, format, 8, 1 + (int)random_below(4));
        valid += compare(text, format, round % 4 == 3);
    }
    print_message("%d of %d descriptions were valid\n", valid, ROUNDS);
    assert_true(valid >= ROUNDS * 3 / 4);
}

static void random_operators(void **state)
{
    (void)state;
    static char text[DESCRIPTION];
    int valid = 0;
    for (int round = 0; round < OPERATOR_ROUNDS; round++) {
        const enum mb_format format = (enum mb_format)random_below(MB_FORMATS);
        describe_operator(text, format, 8, 1 + (int)random_below(4));
        valid += compare(text, format, round % 4 == 3);
    }
    print_message("%d of %d descriptions of operators were valid\n", valid, OPERATOR_ROUNDS);
    assert_true(valid >= OPERATOR_ROUNDS * 3 / 4);
}

// Gate and up in one tensor, of widths whose rows share tiles of scales or do not, and hidden sizes of one tile and
// two.
static void joint_projections(void **state)
{
    (void)state;
    static const int sizes[][2] = {{160, 32}, {64, 96}, {160, 160}}; // hidden, intermediate
    static char text[DESCRIPTION];
    for (int at = 0; at < MB_FORMATS * (int)random_storages * (int)COUNT(sizes); at++) {
        const enum mb_format format = (enum mb_format)(at / (int)(COUNT(sizes) * random_storages));
        const char *stored = random_storage[at / (int)COUNT(sizes) % (int)random_storages], *keys = stored_keys(format);
        const int *size = sizes[at % (int)COUNT(sizes)];
        if (mb_format_table[format].order == MB_CODES_WORDS_ACROSS || !strstr(stored, "\"gate_up\"")) continue;
        text[0] = '\0';
        add_text(text, "{\"model\": {\"hidden_size\": %d, \"num_experts\": 4, \"num_experts_per_tok\": 2},", size[0]);
        add_text(text, "\"router\": {\"type\": \"linear\"}, \"experts\": {\"distributed\": {\"intermediate_size\": %d,",
                 size[1]);
        add_text(text, "\"activation\": \"silu\"}}, \"weights\": {%s%s}", keys, stored + 1);
        assert_true(compare(text, format, false));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(joint_projections), cmocka_unit_test(random_blocks),
                                       cmocka_unit_test(random_operators)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
