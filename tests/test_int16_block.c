// SPDX-License-Identifier: Apache-2.0
// Blocks in int16 compute: what cannot be computed so is refused by name, a checkpoint that mixes formats too, and what
// AUTO makes of each.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "cmocka.h"
#include "kernels/kernels.h"
#include "support/tiny_block.h"

enum { TOKENS = 5 };

static const char shared_text[] =
    "{\"model\": {\"hidden_size\": 64, \"num_experts\": 4, \"num_experts_per_tok\": 2},"
    " \"router\": {\"type\": \"topk\"}, \"experts\": {\"distributed\": {\"intermediate_size\": 96},"
    " \"shared\": {\"intermediate_size\": 32}}}";
static const char latent_text[] =
    "{\"model\": {\"hidden_size\": 64, \"num_experts\": 4, \"num_experts_per_tok\": 2},"
    " \"router\": {\"type\": \"topk\"}, \"experts\": {\"distributed\": {\"intermediate_size\": 96},"
    " \"latent\": {\"size\": 32}}}";

static moeblock_status load(const struct tiny_block *tiny, const moeblock_tensor *tensors, size_t count,
                            moeblock_compute wanted, moeblock_compute *got, moeblock_error *error)
{
    const moeblock_block_options options = {.struct_size = sizeof options, .compute = wanted};
    moeblock_block_info info = {.struct_size = sizeof info};
    moeblock_block *block = NULL;
    assert_int_equal(moeblock_block_create(tiny->context, tiny->config, NULL, &options, &block, error), MOEBLOCK_OK);
    const moeblock_status status = moeblock_block_load_weights(block, tensors, count, error);
    moeblock_block_get_info(block, &info);
    *got = info.compute;
    moeblock_block_destroy(&block);
    return status;
}

static void refused(const struct tiny_block *tiny, const moeblock_tensor *tensors, size_t count, const char *tensor,
                    const char *format)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_compute got;
    char stored[64];
    snprintf(stored, sizeof stored, "stored as %s", format);
    assert_int_equal(load(tiny, tensors, count, MOEBLOCK_COMPUTE_INT16, &got, &error), MOEBLOCK_UNSUPPORTED);
    const char *const parts[] = {"int16", tensor, stored, "choose compute"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(error.message, parts[i])) fail_msg("no \"%s\" in: %s", parts[i], error.message);
}

// What AUTO stands for on this machine.
static moeblock_compute automatic(bool integers)
{
    if (integers && mb_kernels_prefer_int16()) return MOEBLOCK_COMPUTE_INT16;
    return mb_kernels_prefer_bf16x2() ? MOEBLOCK_COMPUTE_BF16X2 : MOEBLOCK_COMPUTE_BF16;
}

static void formats_without_integers(void **state)
{
    (void)state;
    for (int format = 0; format < MB_FORMATS; format++) {
        const struct mb_format_info *info = &mb_format_table[format];
        const struct tiny_settings settings = {.format = (enum mb_format)format, .seed = 3};
        // In tensors this small a tile of 128 x 128 is the whole tensor; output-major FBGEMM is stored as ct_fp8.
        const char *name = info->name;
        if (format == MB_FORMAT_CT_FP8_BLOCK || format == MB_FORMAT_FBGEMM_FP8) name = "ct_fp8";
        if (format == MB_FORMAT_MODELOPT_FP8) name = "ct_fp8_tensor"; // as experts of their own are named
        if (format == MB_FORMAT_MODELOPT_NVFP4) name = "nvfp4";
        struct tiny_block tiny;
        if (info->told) continue; // refused before that: the description must name it
        tiny_make(&tiny, shared_text, &settings);
        if (mb_packed_has_integers(info->packed)) {
            moeblock_error error = {MOEBLOCK_OK, ""};
            moeblock_compute got;
            assert_int_equal(load(&tiny, tiny.tensors, tiny.count, MOEBLOCK_COMPUTE_INT16, &got, &error), MOEBLOCK_OK);
            assert_int_equal(got, MOEBLOCK_COMPUTE_INT16);
            assert_int_equal(load(&tiny, tiny.tensors, tiny.count, MOEBLOCK_COMPUTE_AUTO, &got, &error), MOEBLOCK_OK);
            assert_int_equal(got, automatic(true));
        } else {
            refused(&tiny, tiny.tensors, tiny.count, "mlp.experts.0.", name);
        }
        tiny_free(&tiny);
    }
}

// Routed experts in mxfp4, the shared one in bf16: int16 is refused, AUTO is bf16 on every machine.
static void mixed_formats(void **state)
{
    (void)state;
    const struct tiny_settings fp4 = {.format = MB_FORMAT_MXFP4, .seed = 3}, bf16 = {.format = MB_FORMAT_BF16};
    struct tiny_block routed, shared;
    moeblock_tensor tensors[2 * TINY_TENSORS];
    size_t count = 0;
    tiny_make(&routed, shared_text, &fp4);
    tiny_make(&shared, shared_text, &bf16);
    for (size_t i = 0; i < routed.count; i++)
        if (!strstr(routed.tensors[i].name, "shared")) tensors[count++] = routed.tensors[i];
    for (size_t i = 0; i < shared.count; i++)
        if (strstr(shared.tensors[i].name, "shared")) tensors[count++] = shared.tensors[i];
    refused(&routed, tensors, count, "shared_experts", "bf16");
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_compute got;
    assert_int_equal(load(&routed, tensors, count, MOEBLOCK_COMPUTE_AUTO, &got, &error), MOEBLOCK_OK);
    assert_int_equal(got, automatic(false));
    tiny_free(&routed);
    tiny_free(&shared);
}

static void latent_projections(void **state)
{
    (void)state;
    const struct tiny_settings fp4 = {.format = MB_FORMAT_MXFP4, .seed = 3};
    struct tiny_block tiny;
    tiny_make(&tiny, latent_text, &fp4);
    refused(&tiny, tiny.tensors, tiny.count, "latent", "bf16");
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_compute got;
    assert_int_equal(load(&tiny, tiny.tensors, tiny.count, MOEBLOCK_COMPUTE_AUTO, &got, &error), MOEBLOCK_OK);
    assert_int_equal(got, automatic(false));
    tiny_free(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(formats_without_integers), cmocka_unit_test(mixed_formats),
                                       cmocka_unit_test(latent_projections)};
    return cmocka_run_group_tests_name("int16 blocks", tests, NULL, NULL);
}
