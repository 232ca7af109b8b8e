// SPDX-License-Identifier: Apache-2.0
// The whole flow on an in-process mesh: any shape, sharded or replicated x, different token counts on every row, gives
// the bytes of one process.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "cmocka.h"
#include "mesh/mesh.h"
#include "support/golden.h"
#include "support/mesh_double.h"
#include "support/mesh_rank.h"
#include "unit/files.h"

// A table in which neighbours lie apart and every third expert has a copy on all ranks. Its file's name goes to `path`.
static void write_table(int64_t experts, int ranks, char *path)
{
    strcpy(path, files_path("table.json"));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "{\"schema\": \"moeblock.placement/1\", \"ranks\": %d, \"experts\": [", ranks);
    for (int64_t e = 0; e < experts; e++) {
        fprintf(file, "%s[", e ? ", " : "");
        for (int r = 0; r < ranks; r++)
            if (e % 3 == 0 || e % ranks == r) fprintf(file, "%s%d", e % 3 == 0 && r ? ", " : "", r);
        fprintf(file, "]");
    }
    fprintf(file, "]}\n");
    assert_int_equal(fclose(file), 0);
}

// On meshes of several rows experts lie anywhere, the first ones on several ranks at once: the same bytes.
static void copies_of_experts(void **state)
{
    (void)state;
    static const int shapes[][2] = {{2, 1}, {3, 2}, {5, 1}};
    static const char *const cases[] = {"deepseek_v3-bf16", "gpt_oss_mxfp4", "longcat_flash-bf16"};
    moeblock_error error = {MOEBLOCK_OK, ""};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct golden_case golden;
        struct golden_run single;
        golden_open(cases[c], &golden);
        assert_int_equal(golden_run(&golden, &(struct golden_settings){.level = NULL}, &single, &error), MOEBLOCK_OK);
        moeblock_config_shape shape;
        moeblock_config_get_shape(single.config, &shape);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            char setting[700] = "mesh.placement=";
            write_table(shape.num_experts, shapes[i][0], strchr(setting, 0));
            const char *const set[] = {setting};
            struct mesh_double *mesh = mesh_double_create(shapes[i][0], shapes[i][1]);
            for (int variant = 0; variant < 2; variant++) {
                struct scenario scenario = {.golden = &golden,
                                            .single = &single,
                                            .all_tokens_on_row_0 = variant,
                                            .mode = MOEBLOCK_PREFILL,
                                            .set = set,
                                            .n_set = 1};
                mesh_double_run(mesh, rank_body, &scenario);
            }
            mesh_double_destroy(mesh);
        }
        golden_run_free(&golden, &single);
        golden_close(&golden);
    }
}

static void check_meshes(const char *name, const char *const *set, size_t n_set)
{
    static const int shapes[][2] = {{1, 2}, {2, 1}, {2, 2}, {3, 2}, {2, 4}, {5, 1}};
    struct golden_case golden;
    struct golden_run single;
    moeblock_error error = {MOEBLOCK_OK, ""};
    golden_open(name, &golden);
    if (golden_run(&golden, &(struct golden_settings){.set = set, .n_set = n_set}, &single, &error) != MOEBLOCK_OK)
        fail_msg("%s: %s", name, error.message);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct mesh_double *mesh = mesh_double_create(shapes[i][0], shapes[i][1]);
        for (int variant = 0; variant < 4; variant++) {
            struct scenario scenario = {.golden = &golden,
                                        .single = &single,
                                        .sharded =
                                            (variant & 1) && shapes[i][1] > 1 && golden.hidden % shapes[i][1] == 0,
                                        .all_tokens_on_row_0 = variant & 2,
                                        .mode = variant & 2 ? MOEBLOCK_DECODE : MOEBLOCK_PREFILL,
                                        .set = set,
                                        .n_set = n_set};
            mesh_double_run(mesh, rank_body, &scenario);
        }
        mesh_double_destroy(mesh);
    }
    golden_run_free(&golden, &single);
    golden_close(&golden);
}

static void deepseek(void **state)
{
    (void)state;
    check_meshes("deepseek_v3-bf16", NULL, 0);
    check_meshes("deepseek_v3-f32", NULL, 0);
    check_meshes("deepseek_v3_fp8", NULL, 0);
}

static void gpt_oss(void **state)
{
    (void)state;
    check_meshes("gpt_oss_mxfp4", NULL, 0);
    check_meshes("gpt_oss-bf16", NULL, 0);
}

static void weight_on_input(void **state)
{
    (void)state;
    check_meshes("llama4-bf16", NULL, 0);
}

static void gated_shared_expert(void **state)
{
    (void)state;
    check_meshes("qwen2_moe-bf16", NULL, 0);
}

static void norm_of_the_output(void **state)
{
    (void)state;
    check_meshes("axk1-bf16", NULL, 0);
}

static void latent_experts(void **state)
{
    (void)state;
    check_meshes("nemotron_h_latent-bf16", NULL, 0);
}

static void null_experts(void **state)
{
    (void)state;
    check_meshes("longcat_flash-bf16", NULL, 0);
}

// The chunk keys cut each rank's tokens; ranks with fewer make empty passes.
static void chunks(void **state)
{
    (void)state;
    static const char *const set[] = {"moe_chunking.chunk_size=2", "prefill_chunking.chunk_size=7"};
    check_meshes("deepseek_v3-bf16", set, 2);
}

static void shared_after_routed(void **state)
{
    (void)state;
    static const char *const set[] = {"experts.shared.parallel_with_moe=false"};
    check_meshes("deepseek_v3-bf16", set, 1);
}

static void no_expert_parallelism(void **state)
{
    (void)state;
    static const char *const set[] = {"expert_parallel.enabled=false"};
    check_meshes("deepseek_v3-bf16", set, 1);
}

// Tensor parallelism off: x must be replicated, every column computes everything.
static void refuse_sharded(void *argument, moeblock_mesh *mesh)
{
    const struct scenario *scenario = argument;
    struct rank_objects rank;
    rank_open(scenario, mesh, 4, &rank);
    float x[80] = {0}, y[80];
    moeblock_forward_input in = {.struct_size = sizeof in,
                                 .mode = MOEBLOCK_PREFILL,
                                 .x = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {4, 20}, .data = x}};
    moeblock_forward_output out = {.struct_size = sizeof out, .y = in.x};
    out.y.data = y;
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(moeblock_block_forward(rank.block, rank.workspace, &in, &out, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "20"));
    assert_non_null(strstr(error.message, "40"));
    rank_close(&rank);
}

static void no_tensor_parallelism(void **state)
{
    (void)state;
    static const char *const set[] = {"tensor_parallel.enabled=false"};
    struct golden_case golden;
    struct golden_run single;
    moeblock_error error = {MOEBLOCK_OK, ""};
    golden_open("deepseek_v3-bf16", &golden);
    assert_int_equal(golden_run(&golden, &(struct golden_settings){.level = NULL}, &single, &error), MOEBLOCK_OK);
    struct mesh_double *mesh = mesh_double_create(2, 2);
    struct scenario scenario = {.golden = &golden, .single = &single, .mode = MOEBLOCK_PREFILL, .set = set, .n_set = 1};
    mesh_double_run(mesh, rank_body, &scenario);
    mesh_double_run(mesh, refuse_sharded, &scenario);
    mesh_double_destroy(mesh);
    golden_run_free(&golden, &single);
    golden_close(&golden);
}

static void count_dispatched(void *argument, moeblock_mesh *mesh)
{
    const struct scenario *scenario = argument;
    const struct golden_case *golden = scenario->golden;
    struct rank_objects rank;
    moeblock_traffic dispatched = {.struct_size = sizeof dispatched};
    moeblock_error error = {MOEBLOCK_OK, ""};
    const size_t values = (size_t)(golden->tokens * golden->hidden);
    float *y = calloc(values, sizeof *y);
    rank_open(scenario, mesh, golden->tokens, &rank);
    if (moeblock_forward(rank.block, rank.workspace, golden->x.data, golden->tokens, MOEBLOCK_PREFILL, y, &error))
        fail_msg("%s", error.message);
    assert_memory_equal(y, scenario->single->y, values * sizeof *y);
    moeblock_mesh_get_traffic(mesh, MOEBLOCK_TRAFFIC_DISPATCH, 0, -1, &dispatched);
    assert_int_equal(dispatched.rows_sent + dispatched.rows_received, 0);
    free(y);
    rank_close(&rank);
}

// All rows of the mesh hold the same tokens: each computes its own experts on them, and no row needs to travel.
static void replicated_batch(void **state)
{
    (void)state;
    static const char *const set[] = {"replicated_batch_mode=true"};
    struct golden_case golden;
    struct golden_run single;
    moeblock_error error = {MOEBLOCK_OK, ""};
    golden_open("deepseek_v3-bf16", &golden);
    assert_int_equal(golden_run(&golden, &(struct golden_settings){.level = NULL}, &single, &error), MOEBLOCK_OK);
    struct mesh_double *mesh = mesh_double_create(3, 2);
    struct scenario scenario = {.golden = &golden, .single = &single, .mode = MOEBLOCK_PREFILL, .set = set, .n_set = 1};
    mesh_double_run(mesh, count_dispatched, &scenario);
    mesh_double_destroy(mesh);
    golden_run_free(&golden, &single);
    golden_close(&golden);
}

static void axes_swapped(void **state)
{
    (void)state;
    static const char *const set[] = {"tensor_parallel.cluster_axis=0", "experts.distributed.dispatch_cluster_axis=1"};
    struct golden_case golden;
    struct golden_run single;
    moeblock_error error = {MOEBLOCK_OK, ""};
    golden_open("deepseek_v3-bf16", &golden);
    assert_int_equal(golden_run(&golden, &(struct golden_settings){.level = NULL}, &single, &error), MOEBLOCK_OK);
    struct mesh_double *mesh = mesh_double_create(2, 3);
    struct scenario scenario = {.golden = &golden,
                                .single = &single,
                                .swapped = true,
                                .sharded = true,
                                .mode = MOEBLOCK_PREFILL,
                                .set = set,
                                .n_set = 2};
    mesh_double_run(mesh, rank_body, &scenario);
    mesh_double_destroy(mesh);
    golden_run_free(&golden, &single);
    golden_close(&golden);
}

static void equal_axes_are_refused(void *argument, moeblock_mesh *mesh)
{
    const struct golden_case *golden = argument;
    static const char *const set[] = {"tensor_parallel.cluster_axis=0", "experts.distributed.dispatch_cluster_axis=0"};
    const moeblock_config_options options = {
        .struct_size = sizeof options, .layer = golden->layer, .set = set, .n_set = 2};
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_context *context;
    moeblock_config *config;
    moeblock_block *block = NULL;
    assert_int_equal(moeblock_context_create(NULL, &context, &error), MOEBLOCK_OK);
    assert_int_equal(moeblock_config_open(context, golden->folder, &options, &config, &error), MOEBLOCK_OK);
    assert_int_equal(moeblock_block_create(context, config, mesh, NULL, &block, &error), MOEBLOCK_INVALID_CONFIG);
    assert_null(block);
    assert_non_null(strstr(error.message, "cluster_axis"));
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
}

static void equal_axes(void **state)
{
    (void)state;
    struct golden_case golden;
    golden_open("deepseek_v3-bf16", &golden);
    struct mesh_double *mesh = mesh_double_create(2, 1);
    mesh_double_run(mesh, equal_axes_are_refused, &golden);
    mesh_double_destroy(mesh);
    golden_close(&golden);
}

static void tp_sharding_is_a_pure_function(void **state)
{
    (void)state;
    moeblock_sharding sharding;
    moeblock_error error;
    for (int columns = 1; columns <= 8; columns *= 2) {
        assert_int_equal(moeblock_tp_sharding(64, 64, columns, 1, &sharding, &error), MOEBLOCK_OK);
        assert_int_equal(sharding, MOEBLOCK_REPLICATED);
        if (columns == 1) continue;
        assert_int_equal(moeblock_tp_sharding(64 / columns, 64, columns, 1, &sharding, &error), MOEBLOCK_OK);
        assert_int_equal(sharding, MOEBLOCK_SHARDED);
        assert_int_equal(moeblock_tp_sharding(64 / columns, 64, columns, 0, &sharding, &error),
                         MOEBLOCK_INVALID_ARGUMENT);
    }
    assert_int_equal(moeblock_tp_sharding(63, 64, 2, 1, &sharding, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "63"));
    assert_non_null(strstr(error.message, "64"));
    assert_non_null(strstr(error.message, "32"));
    assert_int_equal(moeblock_tp_sharding(10, 30, 3, 1, &sharding, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_tp_sharding(10, 31, 3, 1, &sharding, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "31"));
    assert_non_null(strstr(error.message, "columns: 3"));
}

static void splits_cover_everything_once(void **state)
{
    (void)state;
    for (int64_t total = 0; total < 40; total++)
        for (int parts = 1; parts < 9; parts++) {
            int64_t at = 0, begin, end;
            for (int i = 0; i < parts; i++) {
                mb_split(total, parts, i, &begin, &end);
                assert_int_equal(begin, at);
                assert_true(end - begin == total / parts || end - begin == total / parts + 1);
                at = end;
            }
            assert_int_equal(at, total);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tp_sharding_is_a_pure_function),
        cmocka_unit_test(splits_cover_everything_once),
        cmocka_unit_test(deepseek),
        cmocka_unit_test(gpt_oss),
        cmocka_unit_test(weight_on_input),
        cmocka_unit_test(gated_shared_expert),
        cmocka_unit_test(norm_of_the_output),
        cmocka_unit_test(latent_experts),
        cmocka_unit_test(null_experts),
        cmocka_unit_test(chunks),
        cmocka_unit_test(shared_after_routed),
        cmocka_unit_test(no_expert_parallelism),
        cmocka_unit_test(no_tensor_parallelism),
        cmocka_unit_test(replicated_batch),
        cmocka_unit_test(axes_swapped),
        cmocka_unit_test(equal_axes),
        cmocka_unit_test(copies_of_experts),
    };
    return cmocka_run_group_tests_name("mesh", tests, files_begin, files_end);
}
