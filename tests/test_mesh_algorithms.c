// SPDX-License-Identifier: Apache-2.0
// However rows travel, the bytes are those of one process; with `batch` they are those of any batch, near one process,
// and fewer travel.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "support/golden.h"
#include "support/mesh_double.h"
#include "support/mesh_rank.h"

static const char *const cases[] = {"deepseek_v3-bf16", "deepseek_v3-f32",    "gpt_oss_mxfp4",
                                    "llama4-bf16",      "longcat_flash-bf16", "nemotron_h_latent-bf16"};
enum { CASES = sizeof cases / sizeof *cases };

struct settings {
    const char *set[4];
    size_t n_set;
    bool sharded, all_on_row_0;
    double tolerance;
};

static void run_on(const struct golden_case *golden, const struct golden_run *single, int rows, int columns,
                   const struct settings *settings, float *y)
{
    struct mesh_double *mesh = mesh_double_create(rows, columns);
    struct scenario scenario = {.golden = golden,
                                .single = single,
                                .sharded = settings->sharded && golden->hidden % columns == 0 && columns > 1,
                                .all_tokens_on_row_0 = settings->all_on_row_0,
                                .mode = MOEBLOCK_PREFILL,
                                .set = settings->set,
                                .n_set = settings->n_set,
                                .tolerance = settings->tolerance,
                                .y = y};
    mesh_double_run(mesh, rank_body, &scenario);
    mesh_double_destroy(mesh);
}

static void open_case(const char *name, struct golden_case *golden, struct golden_run *single)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    golden_open(name, golden);
    if (golden_run(golden, &(struct golden_settings){.level = NULL}, single, &error) != MOEBLOCK_OK)
        fail_msg("%s: %s", name, error.message);
}

static void same_bytes(const char *algorithm)
{
    static const int shapes[][2] = {{2, 1}, {2, 2}, {3, 2}, {4, 1}, {6, 1}, {12, 1}};
    for (int c = 0; c < CASES; c++) {
        struct golden_case golden;
        struct golden_run single;
        open_case(cases[c], &golden, &single);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            for (int variant = 0; variant < 2; variant++) {
                const struct settings settings = {.set = {algorithm, "moe_chunking.chunk_size=3"},
                                                  .n_set = 1 + (size_t)variant,
                                                  .sharded = variant,
                                                  .all_on_row_0 = variant};
                run_on(&golden, &single, shapes[i][0], shapes[i][1], &settings, NULL);
            }
        }
        golden_run_free(&golden, &single);
        golden_close(&golden);
    }
}

static void all_gather(void **state)
{
    (void)state;
    same_bytes("mesh.algorithm=allgather");
}

static void two_levels(void **state)
{
    (void)state;
    same_bytes("mesh.algorithm=twolevel");
}

// Near one process, the same bytes for any chunk and with x sharded or not, whichever way rows travel.
static void batch(void **state)
{
    (void)state;
    static const int shapes[][2] = {{2, 1}, {2, 2}, {3, 1}, {6, 1}};
    static const struct settings tries[] = {
        {.set = {"mesh.reproducible=batch"}, .n_set = 1},
        {.set = {"mesh.reproducible=batch", "moe_chunking.chunk_size=1"}, .n_set = 2, .sharded = true},
        {.set = {"mesh.reproducible=batch", "mesh.algorithm=allgather"}, .n_set = 2},
        {.set = {"mesh.reproducible=batch", "mesh.algorithm=twolevel"}, .n_set = 2},
    };
    for (int c = 0; c < CASES; c++) {
        struct golden_case golden;
        struct golden_run single;
        open_case(cases[c], &golden, &single);
        moeblock_block_info info = {.struct_size = sizeof info};
        moeblock_block_get_info(single.block, &info);
        const size_t bytes = (size_t)(golden.tokens * golden.hidden) * sizeof(float);
        float *first = malloc(bytes), *again = malloc(bytes);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            for (size_t t = 0; t < sizeof tries / sizeof *tries; t++) {
                struct settings settings = tries[t];
                settings.tolerance = info.compute == MOEBLOCK_COMPUTE_F32 ? 1e-6 : 4e-3;
                run_on(&golden, &single, shapes[i][0], shapes[i][1], &settings, t ? again : first);
                if (t) assert_memory_equal(again, first, bytes);
            }
        }
        free(first);
        free(again);
        golden_run_free(&golden, &single);
        golden_close(&golden);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_gather),
        cmocka_unit_test(two_levels),
        cmocka_unit_test(batch),
    };
    return cmocka_run_group_tests_name("mesh algorithms", tests, NULL, NULL);
}
