// SPDX-License-Identifier: Apache-2.0
// Every golden case: read from its folder as a downloaded checkpoint, run in both modes, held against the model's own
// definition in float64, then run again from the JSON that `moeblock config` prints, and at every kernel level. A case
// whose family or format is not covered yet must be refused by name and is listed as skipped with that reason.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "config/config.h"
#include "kernels/kernels.h"
#include "reference.h"
#include "support/golden.h"

// What may not be skipped: the families of this release in f32, f16, bf16, and the two quantised formats.
static const char *const required[] = {
    "deepseek_v2", "deepseek_v3",  "gpt_oss", "mixtral",        "qwen2_moe",        "qwen3_moe",
    "qwen3_next",  "glm4_moe",     "olmoe",   "llama4",         "granitemoe",       "granitemoeshared",
    "minimax_m2",  "ernie4_5_moe", "dots1",   "hunyuan_v1_moe", "granitemoehybrid", "axk1",
    NULL};

static bool is_required(const struct golden_case *golden)
{
    for (int i = 0; required[i]; i++)
        if (!strcmp(golden->family, required[i])) return true;
    return false;
}

static void assert_same_choice(const struct golden_case *golden, const struct golden_run *a, const struct golden_run *b,
                               const char *what)
{
    const size_t slots = (size_t)(golden->tokens * golden->k);
    if (memcmp(a->ids, b->ids, slots * sizeof *a->ids) || memcmp(a->weights, b->weights, slots * sizeof *a->weights))
        fail_msg("%s: %s gives other ids or weights", golden->name, what);
}

static void assert_same(const struct golden_case *golden, const struct golden_run *a, const struct golden_run *b,
                        const char *what)
{
    assert_same_choice(golden, a, b, what);
    if (a->state && memcmp(a->state, b->state, (size_t)golden->state.count * sizeof(float)))
        fail_msg("%s: %s hands on another router state", golden->name, what);
    if (memcmp(a->y, b->y, (size_t)(golden->tokens * golden->hidden) * sizeof(float)))
        fail_msg("%s: %s gives other bytes", golden->name, what);
}

static void run_or_fail(const struct golden_case *golden, const struct golden_settings *settings,
                        struct golden_run *out)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (golden_run(golden, settings, out, &error) != MOEBLOCK_OK) fail_msg("%s: %s", golden->name, error.message);
}

static moeblock_compute computed(const struct golden_run *run)
{
    moeblock_block_info info = {.struct_size = sizeof info};
    moeblock_block_get_info(run->block, &info);
    return info.compute;
}

static void check_reference(const struct golden_case *golden, const struct golden_run *first)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_weights *weights;
    struct golden_run reference = *first;
    struct mb_reference_input inputs = golden->inputs;
    reference.state = inputs.router_state_out = golden_state(golden);
    reference.y = calloc((size_t)(golden->tokens * golden->hidden), sizeof(float));
    reference.ids = calloc((size_t)(golden->tokens * golden->k), sizeof(int32_t));
    reference.weights = calloc((size_t)(golden->tokens * golden->k), sizeof(float));
    moeblock_status status = moeblock_weights_open(first->context, golden->folder, &weights, &error);
    if (status == MOEBLOCK_OK)
        status = mb_reference(first->context, first->config, weights, golden->layer, computed(first), &inputs,
                              golden->tokens, reference.y, reference.ids, reference.weights, &error);
    if (status != MOEBLOCK_OK) fail_msg("%s: reference: %s", golden->name, error.message);
    assert_same(golden, first, &reference, "the scalar reference");
    moeblock_weights_destroy(&weights);
    free(reference.y);
    free(reference.ids);
    free(reference.weights);
    free(reference.state);
}

static void check_accuracy(const struct golden_case *golden, const struct golden_run *run)
{
    const double got = golden_error(golden, run->y), allowed = golden_allowed(golden, computed(run));
    const int64_t row = golden_router_difference(golden, run->ids, run->weights);
    static const char *const names[] = {"auto", "f32", "bf16", "int16", "bf16x2"};
    printf("  %-34s error %.2e  allowed %.1e  %s\n", golden->name, got, allowed, names[computed(run)]);
    if (!(got <= allowed)) fail_msg("%s: relative rms %.3e, allowed %.3e", golden->name, got, allowed);
    if (row >= 0) fail_msg("%s: ids or weights differ in row %lld", golden->name, (long long)row);
    if (run->state && !(golden_state_error(golden, run->state) <= 1e-5))
        fail_msg("%s: the router's state differs", golden->name);
}

// Whether the level multiplies and adds in one rounding, which shows in F32 compute (docs/numerics.md).
static bool fused(const char *level) { return mb_kernels_select(level, NULL)->fused; }

// At every level the same ids and weights; in BF16, INT16 and BF16X2 compute the same y as the reference, in F32
// compute the reference's at the levels with separate roundings, and one y at the others.
static void check_levels(const struct golden_case *golden, const struct golden_run *first)
{
    struct golden_run runs[2] = {{0}};
    int usable;
    const char *level, *reason;
    for (int i = 0; (level = moeblock_level(i, &usable, &reason)) != NULL; i++) {
        if (!usable) continue;
        struct golden_run other;
        run_or_fail(golden, &(struct golden_settings){.level = level, .threads = 1, .compute = computed(first)},
                    &other);
        const bool own = computed(first) == MOEBLOCK_COMPUTE_F32 && fused(level);
        assert_same_choice(golden, first, &other, level);
        if (!runs[own].y) {
            runs[own] = other;
            if (own) check_accuracy(golden, &other);
            continue;
        }
        assert_same(golden, &runs[own], &other, level);
        golden_run_free(golden, &other);
    }
    const bool own = computed(first) == MOEBLOCK_COMPUTE_F32 && fused(moeblock_context_level(first->context));
    assert_same(golden, &runs[own], first, "the chosen level");
    check_reference(golden, &runs[0]);
    for (int i = 0; i < 2; i++)
        if (runs[i].y) golden_run_free(golden, &runs[i]);
}

// The same bytes from the printed configuration, in decode and on other thread counts.
static void check_variants(const struct golden_case *golden, const struct golden_run *first)
{
    struct golden_run other;
    const size_t length = moeblock_config_print(first->config, NULL, 0);
    char *text = malloc(length + 1);
    moeblock_config_print(first->config, text, length + 1);
    run_or_fail(golden, &(struct golden_settings){.config_text = text, .compute = computed(first)}, &other);
    assert_same(golden, first, &other, "the printed configuration");
    golden_run_free(golden, &other);
    run_or_fail(golden,
                &(struct golden_settings){.config_text = text, .mode = MOEBLOCK_DECODE, .compute = computed(first)},
                &other);
    assert_same(golden, first, &other, "the printed configuration in decode");
    golden_run_free(golden, &other);
    free(text);
    run_or_fail(golden, &(struct golden_settings){.mode = MOEBLOCK_DECODE, .threads = 3, .compute = computed(first)},
                &other);
    assert_same(golden, first, &other, "decode with 3 threads");
    golden_run_free(golden, &other);
}

// Weights with exact integers: int16 compute errs no more than bf16 compute. All others: refused by the format's name.
static void check_int16(const struct golden_case *golden)
{
    struct golden_run bf16, int16;
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_block_info info = {.struct_size = sizeof info};
    run_or_fail(golden, &(struct golden_settings){.compute = MOEBLOCK_COMPUTE_BF16}, &bf16);
    moeblock_block_get_info(bf16.block, &info);
    const moeblock_status status =
        golden_run(golden, &(struct golden_settings){.compute = MOEBLOCK_COMPUTE_INT16}, &int16, &error);
    if (status == MOEBLOCK_OK) {
        check_accuracy(golden, &int16);
        if (!(golden_error(golden, int16.y) <= golden_error(golden, bf16.y)))
            fail_msg("%s: int16 compute errs more than bf16 compute", golden->name);
        check_variants(golden, &int16);
        check_levels(golden, &int16);
        golden_run_free(golden, &int16);
    } else {
        assert_int_equal(status, MOEBLOCK_UNSUPPORTED);
        assert_non_null(strstr(error.message, "int16"));
        // Other linear maps may be stored in formats without integers.
        if (!strcmp(info.format, "mxfp4") && !bf16.config->shared_enabled && !bf16.config->latent_size)
            fail_msg("%s: %s", golden->name, error.message);
    }
    golden_run_free(golden, &bf16);
}

// Errors of BF16X2 compute over those of BF16 compute, which are chance: what both round outweighs the order of sums.
static struct {
    double sum, most;
    int count;
} ratios;

// Both compute types of bfloat16 rows; `automatic`, what AUTO is on this machine, was checked.
static void check_bf16(const struct golden_case *golden, moeblock_compute automatic)
{
    static const moeblock_compute computes[] = {MOEBLOCK_COMPUTE_BF16, MOEBLOCK_COMPUTE_BF16X2};
    double errors[2];
    for (int i = 0; i < 2; i++) {
        struct golden_run run;
        run_or_fail(golden, &(struct golden_settings){.compute = computes[i]}, &run);
        errors[i] = golden_error(golden, run.y);
        if (computes[i] != automatic) {
            check_accuracy(golden, &run);
            check_variants(golden, &run);
            check_levels(golden, &run);
        }
        golden_run_free(golden, &run);
    }
    const double ratio = errors[0] > 0 ? errors[1] / errors[0] : 1;
    ratios.sum += ratio;
    ratios.most = ratio > ratios.most ? ratio : ratios.most;
    ratios.count++;
}

static bool check_case(const char *name)
{
    struct golden_case golden;
    golden_open(name, &golden);
    struct golden_run run;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const moeblock_status status = golden_run(&golden, &(struct golden_settings){.level = NULL}, &run, &error);
    const bool covered = status == MOEBLOCK_OK;
    if (covered) {
        check_accuracy(&golden, &run);
        check_variants(&golden, &run);
        check_levels(&golden, &run);
        const moeblock_compute automatic = computed(&run);
        // Stored bf16 weights computed in f32, and the other way round: the other compute type holds its bound too.
        golden_run_free(&golden, &run);
        run_or_fail(&golden, &(struct golden_settings){.compute = MOEBLOCK_COMPUTE_F32}, &run);
        check_accuracy(&golden, &run);
        golden_run_free(&golden, &run);
        check_int16(&golden);
        check_bf16(&golden, automatic);
    } else {
        printf("  %-34s skipped: %s\n", name, error.message);
        if (is_required(&golden)) fail_msg("%s must run: %s", name, error.message);
        assert_int_equal(status, MOEBLOCK_UNSUPPORTED);
    }
    golden_close(&golden);
    return covered;
}

static void all_cases(void **state)
{
    (void)state;
    static char names[256][64];
    const int n = golden_list(names, 256);
    int covered = 0;
    for (int i = 0; i < n; i++) covered += check_case(names[i]);
    printf("%d of %d cases covered, %d skipped\n", covered, n, n - covered);
    const double mean = ratios.sum / ratios.count;
    printf("error of bf16x2 over that of bf16 compute: mean %.3f, most %.3f\n", mean, ratios.most);
    assert_true(mean <= 1.01 && ratios.most <= 1.1);
    assert_true(n >= 118);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_cases)};
    return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}
