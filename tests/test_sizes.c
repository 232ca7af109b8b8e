// SPDX-License-Identifier: Apache-2.0
// A block with its router alone routes like the whole block; sizes told without a load are those of a load, on one
// process and on every rank of a mesh.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "sizes.h"
#include "support/golden.h"
#include "support/mesh_double.h"
#include "weights/format.h"

static const char *const cases[] = {"deepseek_v3-bf16",   "deepseek_v3_fp8",        "gpt_oss_mxfp4", "mixtral-f32",
                                    "longcat_flash-bf16", "nemotron_h_latent-bf16", "llama4-f16"};
enum { CASES = sizeof cases / sizeof *cases, TOKENS = 3 };

struct objects {
    moeblock_context *context;
    moeblock_config *config;
    moeblock_block *block;
};

static void open_block(const struct golden_case *golden, moeblock_mesh *mesh, int router_only, struct objects *out)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    const moeblock_context_options threads = {.struct_size = sizeof threads, .threads = 1};
    const moeblock_config_options options = {.struct_size = sizeof options, .layer = golden->layer};
    const moeblock_load_options load = {.struct_size = sizeof load, .router_only = router_only};
    moeblock_status status = moeblock_context_create(&threads, &out->context, &error);
    if (status == MOEBLOCK_OK)
        status = moeblock_config_open(out->context, golden->folder, &options, &out->config, &error);
    if (status == MOEBLOCK_OK)
        status = moeblock_block_create(out->context, out->config, mesh, NULL, &out->block, &error);
    if (status == MOEBLOCK_OK) status = moeblock_block_load_files(out->block, golden->folder, &load, &error);
    if (status != MOEBLOCK_OK) fail_msg("%s: %s", golden->name, error.message);
}

static void close_block(struct objects *objects)
{
    moeblock_block_destroy(&objects->block);
    moeblock_config_destroy(&objects->config);
    moeblock_context_destroy(&objects->context);
}

static void check_rank(void *argument, moeblock_mesh *mesh)
{
    const struct golden_case *golden = argument;
    struct objects real;
    moeblock_error error = {MOEBLOCK_OK, ""};
    open_block(golden, mesh, 0, &real);
    moeblock_block_info info = {.struct_size = sizeof info};
    moeblock_block_get_info(real.block, &info);
    const struct mb_size_question question = {.rows = mesh ? mesh->rows : 1,
                                              .columns = mesh ? mesh->columns : 1,
                                              .row = mesh ? mesh->row : 0,
                                              .column = mesh ? mesh->column : 0,
                                              .format = (enum mb_format)mb_format_find(info.format),
                                              .tokens = TOKENS};
    struct mb_sizes sizes;
    if (mb_sizes_of(real.context, real.config, &question, &sizes, &error) != MOEBLOCK_OK)
        fail_msg("%s: %s", golden->name, error.message);
    assert_int_equal(sizes.packed_bytes, info.packed_bytes);
    assert_int_equal(sizes.expert_bytes, info.expert_packed_bytes);
    assert_int_equal(sizes.chunk_tokens, info.chunk_tokens);
    // Scratch of the router goes by its stored format, which only a load knows; bfloat16 is taken for granted.
    const size_t workspace = moeblock_workspace_bytes(real.block, TOKENS);
    if (!strncmp(golden->name, "deepseek", 8) || !strncmp(golden->name, "gpt_oss", 7))
        assert_int_equal(sizes.workspace, workspace);
    assert_in_range(sizes.workspace + (1 << 21), workspace, workspace + (1 << 22)); // one worker's scratch
    assert_int_equal(sizes.compute, info.compute);
    close_block(&real);
}

static void sizes_are_those_of_a_load(void **state)
{
    (void)state;
    for (size_t c = 0; c < CASES; c++) {
        struct golden_case golden;
        golden_open(cases[c], &golden);
        check_rank(&golden, NULL);
        struct mesh_double *mesh = mesh_double_create(3, 2);
        mesh_double_run(mesh, check_rank, &golden);
        mesh_double_destroy(mesh);
        golden_close(&golden);
    }
}

static void router_alone(void **state)
{
    (void)state;
    for (size_t c = 0; c < CASES; c++) {
        struct golden_case golden;
        struct golden_run whole;
        struct objects router;
        moeblock_workspace *workspace;
        moeblock_error error = {MOEBLOCK_OK, ""};
        golden_open(cases[c], &golden);
        assert_int_equal(golden_run(&golden, &(struct golden_settings){.level = NULL}, &whole, &error), MOEBLOCK_OK);
        open_block(&golden, NULL, 1, &router);
        assert_int_equal(moeblock_workspace_create(router.block, golden.tokens, NULL, 0, &workspace, &error),
                         MOEBLOCK_OK);
        const size_t slots = (size_t)(golden.tokens * golden.k);
        int32_t *ids = calloc(slots, sizeof *ids);
        float *weights = calloc(slots, sizeof *weights);
        const moeblock_forward_input in = {
            .struct_size = sizeof in,
            .mode = MOEBLOCK_DECODE,
            .x = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {golden.tokens, golden.hidden}, .data = golden.x.data}};
        const moeblock_forward_output out = {.struct_size = sizeof out, .ids = ids, .weights = weights};
        if (moeblock_block_route(router.block, workspace, &in, &out, &error) != MOEBLOCK_OK)
            fail_msg("%s: %s", golden.name, error.message);
        assert_memory_equal(ids, whole.ids, slots * sizeof *ids);
        assert_memory_equal(weights, whole.weights, slots * sizeof *weights);
        float y;
        assert_int_equal(moeblock_forward(router.block, workspace, golden.x.data, 0, MOEBLOCK_PREFILL, &y, &error),
                         MOEBLOCK_WRONG_STATE);
        assert_non_null(strstr(error.message, "router_only"));
        free(ids);
        free(weights);
        moeblock_workspace_destroy(&workspace);
        close_block(&router);
        golden_run_free(&golden, &whole);
        golden_close(&golden);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_those_of_a_load),
        cmocka_unit_test(router_alone),
    };
    return cmocka_run_group_tests_name("sizes", tests, NULL, NULL);
}
