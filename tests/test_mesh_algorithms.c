// SPDX-License-Identifier: Apache-2.0
// However rows travel, the bytes are those of one process; with `batch` they are those of any batch, near one process,
// and fewer travel.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cmocka.h"
#include "support/golden.h"
#include "support/mesh_double.h"
#include "support/mesh_rank.h"
#include "traffic.h"

static const char *const cases[] = {"deepseek_v3-bf16", "deepseek_v3-f32",    "gpt_oss_mxfp4",
                                    "llama4-bf16",      "longcat_flash-bf16", "nemotron_h_latent-bf16"};
enum { CASES = sizeof cases / sizeof *cases };

struct settings {
    const char *set[6];
    size_t n_set;
    bool sharded, all_on_row_0, swapped;
    int threads;
    double tolerance;
};

static void run_on(const struct golden_case *golden, const struct golden_run *single, int rows, int columns,
                   const struct settings *settings, float *y)
{
    struct mesh_double *mesh = mesh_double_create(rows, columns);
    const int tp = settings->swapped ? rows : columns;
    struct scenario scenario = {.golden = golden,
                                .single = single,
                                .sharded = settings->sharded && golden->hidden % tp == 0 && tp > 1,
                                .swapped = settings->swapped,
                                .threads = settings->threads,
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

// A case on a mesh in several ways: near one process, the first's bytes every time. A mesh is turned round with its
// axes.
static void same_near(const char *name, const int (*shapes)[2], size_t n_shapes, const struct settings *tries,
                      size_t n_tries, double tolerance)
{
    struct golden_case golden;
    struct golden_run single;
    open_case(name, &golden, &single);
    moeblock_block_info info = {.struct_size = sizeof info};
    moeblock_block_get_info(single.block, &info);
    const size_t bytes = (size_t)(golden.tokens * golden.hidden) * sizeof(float);
    float *first = malloc(bytes), *again = malloc(bytes);
    for (size_t i = 0; i < n_shapes; i++)
        for (size_t t = 0; t < n_tries; t++) {
            const bool turned = tries[t].swapped;
            struct settings settings = tries[t];
            settings.tolerance = info.compute == MOEBLOCK_COMPUTE_F32 ? 1e-6 : tolerance;
            run_on(&golden, &single, shapes[i][turned], shapes[i][!turned], &settings, t ? again : first);
            if (t) assert_memory_equal(again, first, bytes);
        }
    free(first);
    free(again);
    golden_run_free(&golden, &single);
    golden_close(&golden);
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
    for (int c = 0; c < CASES; c++)
        same_near(cases[c], shapes, sizeof shapes / sizeof *shapes, tries, sizeof tries / sizeof *tries, 4e-3);
}

// Columns add partial sums: near one process, the same bytes for any chunk, number of threads, sharding and place of
// the tokens, and on the mesh turned round. Quantised groups stay whole, so that some columns have none.
static void partial_sums(void **state)
{
    (void)state;
    static const char *const names[] = {"deepseek_v3-bf16", "deepseek_v3-f32",    "deepseek_v3_fp8",
                                        "gpt_oss_mxfp4",    "longcat_flash-bf16", "qwen2_moe-bf16",
                                        "axk1-bf16",        "llama4-bf16",        "gpt_oss-bf16"};
    static const int shapes[][2] = {{1, 2}, {1, 3}, {2, 2}, {3, 2}, {2, 5}};
#define SUMS "mesh.reproducible=batch", "mesh.exchange=sums"
#define TURNED "tensor_parallel.cluster_axis=0", "experts.distributed.dispatch_cluster_axis=1"
    static const struct settings tries[] = {
        {.set = {SUMS}, .n_set = 2},
        {.set = {SUMS, "moe_chunking.chunk_size=1"}, .n_set = 3, .sharded = true},
        {.set = {SUMS}, .n_set = 2, .all_on_row_0 = true, .threads = 3},
        {.set = {SUMS, "mesh.algorithm=twolevel"}, .n_set = 3, .sharded = true, .threads = 2},
        {.set = {SUMS, TURNED}, .n_set = 4, .swapped = true, .sharded = true},
    };
    for (size_t c = 0; c < sizeof names / sizeof *names; c++)
        same_near(names[c], shapes, sizeof shapes / sizeof *shapes, tries, sizeof tries / sizeof *tries, 5e-3);
}

// What columns exchange where they may choose, and why; asked for what cannot be, an error that says why.
static const struct form {
    const char *name, *exchange; // mesh.exchange
    int rows, columns;
    bool sums;
    const char *why; // NULL: creating or loading fails with `error`
    const char *error;
} forms[] = {
    {"deepseek_v3-bf16", "auto", 1, 2, true, "partial sums (fewer bytes: ", NULL},
    {"deepseek_v3-bf16", "auto", 6, 2, false, "activations (fewer bytes: ", NULL},
    {"deepseek_v3_fp8", "auto", 1, 5, false, "fewer than the ranks", NULL},
    {"deepseek_v3-bf16", "sums", 6, 2, true, "partial sums (as asked: ", NULL},
    {"deepseek_v3-bf16", "activations", 1, 2, false, "activations (as asked)", NULL},
    {"deepseek_v3-bf16", "sums", 2, 1, false, "activations (no tensor parallelism)", NULL},
    {"nemotron_h_latent-bf16", "auto", 1, 2, false, "activations (the latent projections take whole rows)", NULL},
    {"nemotron_h_latent-bf16", "sums", 1, 2, false, NULL, "but the latent projections take whole rows"},
    {"mixtral_gptq_desc_act", "auto", 1, 2, false, "an order of inputs of their own)", NULL},
};

static void check_form(void *argument, moeblock_mesh *mesh)
{
    const struct form *form = argument;
    char exchange[64];
    struct golden_case golden;
    snprintf(exchange, sizeof exchange, "mesh.exchange=%s", form->exchange);
    golden_open(form->name, &golden);
    const char *const set[] = {"mesh.reproducible=batch", exchange};
    const moeblock_context_options threads = {.struct_size = sizeof threads, .threads = 1};
    const moeblock_config_options options = {
        .struct_size = sizeof options, .layer = golden.layer, .set = set, .n_set = 2};
    struct rank_objects rank = {.context = NULL};
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(moeblock_context_create(&threads, &rank.context, &error), MOEBLOCK_OK);
    assert_int_equal(moeblock_config_open(rank.context, golden.folder, &options, &rank.config, &error), MOEBLOCK_OK);
    assert_int_equal(moeblock_block_create(rank.context, rank.config, mesh, NULL, &rank.block, &error), MOEBLOCK_OK);
    const moeblock_status status = moeblock_block_load_files(rank.block, golden.folder, NULL, &error);
    assert_int_equal(status, form->why ? MOEBLOCK_OK : MOEBLOCK_UNSUPPORTED);
    if (form->why && (rank.block->set->columns.sums != form->sums || !strstr(rank.block->set->columns.why, form->why)))
        fail_msg("%s: columns exchange %s, expected %s", form->name, rank.block->set->columns.why, form->why);
    if (form->error && !strstr(error.message, form->error)) fail_msg("%s", error.message);
    rank_close(&rank);
    golden_close(&golden);
}

static void what_columns_exchange(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct form form = forms[i];
        struct mesh_double *mesh = mesh_double_create(form.rows, form.columns);
        mesh_double_run(mesh, check_form, &form);
        mesh_double_destroy(mesh);
    }
}

struct counted {
    struct scenario scenario;
    bool sums;               // of the columns
    moeblock_config *config; // what the ranks are told
    moeblock_compute compute;
    uint64_t combined[3]; // bytes that came back: by enum mb_reproducible, with partial sums
};

// What a rank counted, beside what src/traffic.c predicts of the same routing.
static void count_rank(void *argument, moeblock_mesh *mesh)
{
    struct counted *counted = argument;
    const struct golden_case *golden = counted->scenario.golden;
    const moeblock_config *config = counted->config;
    const moeblock_allocator *allocator = &mb_default_allocator;
    struct mb_placement_table placement;
    struct mb_routing routing;
    struct mb_traffic expected[MOEBLOCK_TRAFFIC_STEPS] = {{0}};
    int64_t first[16], count[16];
    struct rank_objects rank;
    rank_open(&counted->scenario, mesh, golden->tokens, &rank);
    rank_forward(&counted->scenario, mesh, &rank);
    const bool sums = rank.block->set->columns.sums;
    rank_close(&rank);
    assert_true(sums == counted->sums);
    for (int h = 0; h < mesh->rows; h++) {
        mb_split(golden->tokens, mesh->rows, h, &first[h], &count[h]);
        count[h] -= first[h];
    }
    assert_int_equal(mb_placement_contiguous(allocator, config->num_experts, mesh->rows, &placement, NULL), 0);
    assert_int_equal(mb_routing_create(allocator, mesh->rows, config->num_experts, &routing, NULL), 0);
    mb_routing_fill(&routing, &placement,
                    &(struct mb_choices){.ids = counted->scenario.single->ids, .rows = golden->tokens, .k = golden->k},
                    first, count);
    const struct mb_traffic_shape shape = {.config = config,
                                           .ep = mesh->rows,
                                           .tp = mesh->columns,
                                           .compute = counted->compute,
                                           .x_bytes = 4,
                                           .y_bytes = 4,
                                           .sums = sums,
                                           .algorithm = config->algorithm};
    mb_traffic_add(&shape, &routing, mesh->row, mesh->column, expected);
    for (int s = 0; s < MOEBLOCK_TRAFFIC_STEPS; s++) {
        uint64_t messages = 0, sent = 0, received = 0, bound = 0;
        for (int axis = 0; axis < 2; axis++) {
            moeblock_traffic one = {.struct_size = sizeof one};
            moeblock_mesh_get_traffic(mesh, (moeblock_traffic_step)s, axis, -1, &one);
            messages += one.messages_sent, sent += one.bytes_sent;
            received += one.bytes_received, bound += one.bound_sent;
        }
        if (messages != expected[s].messages || sent != expected[s].sent || received != expected[s].received ||
            bound != expected[s].bound)
            fail_msg("%s, step %d of rank %d: %llu bytes sent, %llu received, expected %llu, %llu", golden->name, s,
                     mesh->rank, (unsigned long long)sent, (unsigned long long)received,
                     (unsigned long long)expected[s].sent, (unsigned long long)expected[s].received);
        if (mesh->rank == 0 && s == MOEBLOCK_TRAFFIC_COMBINE) counted->combined[config->reproducible + sums] = sent;
    }
    mb_routing_free(&routing);
    mb_placement_free(&placement);
}

// Bytes of every step as predicted, for each way and both levels; sums at the experts' ranks are fewer bytes.
static void bytes_as_predicted(void **state)
{
    (void)state;
    static const int shapes[][2] = {{2, 2}, {2, 3}, {3, 1}, {6, 1}, {12, 1}};
    static const char *const names[] = {"alltoall", "allgather", "twolevel"};
    for (int c = 0; c < CASES; c++) {
        struct golden_case golden;
        struct golden_run single;
        open_case(cases[c], &golden, &single);
        moeblock_block_info info = {.struct_size = sizeof info};
        moeblock_block_get_info(single.block, &info);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            for (int way = 0; way < 3; way++) {
                struct counted counted = {.compute = info.compute};
                const bool cut = shapes[i][1] > 1 && !single.config->latent_size;
                for (int form = 0; form < 2 + cut; form++) {
                    char algorithm[64];
                    const bool batch = form > 0;
                    snprintf(algorithm, sizeof algorithm, "mesh.algorithm=%s", names[way]);
                    const char *const set[] = {algorithm, batch ? "mesh.reproducible=batch" : "mesh.reproducible=mesh",
                                               form == 2 ? "mesh.exchange=sums" : "mesh.exchange=activations"};
                    counted.sums = form == 2;
                    counted.scenario = (struct scenario){.golden = &golden,
                                                         .single = &single,
                                                         .mode = MOEBLOCK_PREFILL,
                                                         .set = set,
                                                         .n_set = 3,
                                                         .tolerance = batch ? 5e-3 : 0};
                    counted.config = mb_config_copy(single.config, &mb_default_allocator);
                    counted.config->algorithm = (enum mb_algorithm)way;
                    counted.config->reproducible = (enum mb_reproducible)batch;
                    struct mesh_double *mesh = mesh_double_create(shapes[i][0], shapes[i][1]);
                    mesh_double_run(mesh, count_rank, &counted);
                    mesh_double_destroy(mesh);
                    moeblock_config_destroy(&counted.config);
                }
                assert_true(counted.combined[1] <= counted.combined[0]);
                if (shapes[i][0] == 2 && golden.k > 2) assert_true(counted.combined[1] < counted.combined[0]);
            }
        }
        golden_run_free(&golden, &single);
        golden_close(&golden);
    }
}

// AUTO: few messages where messages cost most, few bytes where bytes do. Never all rows to all ranks.
static void the_quickest_way(void **state)
{
    (void)state;
    struct mb_travel travel = {
        .ranks = 256, .tokens = 1, .experts = 256, .k = 8, .row = 14336, .output = 14336, .alpha = 2e-6, .beta = 25e9};
    char text[400];
    assert_int_equal(mb_travel_choose(MB_ALGORITHM_AUTO, &travel), MB_TWOLEVEL);
    mb_travel_explain(MB_ALGORITHM_AUTO, &travel, text, sizeof text);
    assert_non_null(strstr(text, "twolevel (the quickest"));
    travel.tokens = 4096;
    assert_int_equal(mb_travel_choose(MB_ALGORITHM_AUTO, &travel), MB_ALLTOALL);
    travel.ranks = 251; // a prime
    assert_int_equal(mb_travel_choose(MB_TWOLEVEL, &travel), MB_ALLTOALL);
    assert_int_equal(mb_travel_choose(MB_ALLGATHER, &travel), MB_ALLGATHER);
    struct mb_travel_cost cost[MB_ALGORITHMS];
    travel = (struct mb_travel){
        .ranks = 2, .tokens = 1, .experts = 2, .k = 2, .row = 100, .output = 50, .alpha = 1, .beta = 1e9};
    mb_travel_costs(&travel, cost);
    // Every token goes to the other rank with one pair and one output comes back; a header each way.
    assert_true(fabs(cost[MB_ALLTOALL].bytes - (104 + 8 + 50 + 64)) < 1e-9);
    assert_true(cost[MB_ALLTOALL].messages == 2 && fabs(cost[MB_ALLTOALL].seconds - 2) < 1e-3);
}

// Ranks of unlike machines: each test says how rank 1 differs, what is asked for, and what all ranks must compute.
struct unlike {
    const char *name, *level; // of rank 1; NULL: as the others
    bool prefers[2];          // int16 on this machine: rank 1, the others
    moeblock_compute asked, computed;
    bool apart;    // float32 products and sums
    bool tiles[2]; // as prefers, bf16x2
};

struct unlike_job {
    const struct unlike *unlike;
    struct golden_case golden;
    struct golden_run single;
};

static void unlike_rank(void *argument, moeblock_mesh *mesh)
{
    const struct unlike_job *job = argument;
    const struct unlike *unlike = job->unlike;
    const bool other = mesh->rank == 1;
    const moeblock_context_options options = {
        .struct_size = sizeof options, .threads = 1, .cpu_level = other ? unlike->level : NULL};
    const moeblock_config_options config = {.struct_size = sizeof config, .layer = job->golden.layer};
    const moeblock_block_options compute = {.struct_size = sizeof compute, .compute = unlike->asked};
    const struct scenario scenario = {
        .golden = &job->golden, .single = &job->single, .mode = MOEBLOCK_PREFILL, .compute = unlike->asked};
    struct rank_objects rank = {.context = NULL};
    moeblock_block_info info = {.struct_size = sizeof info};
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(moeblock_context_create(&options, &rank.context, &error), MOEBLOCK_OK);
    const struct mb_kernels *const level = rank.context->kernels;
    rank.context->prefers_int16 = unlike->prefers[!other];
    rank.context->prefers_bf16x2 = unlike->tiles[!other];
    assert_int_equal(moeblock_config_open(rank.context, job->golden.folder, &config, &rank.config, &error), 0);
    assert_int_equal(moeblock_block_create(rank.context, rank.config, mesh, &compute, &rank.block, &error), 0);
    if (moeblock_block_load_files(rank.block, job->golden.folder, NULL, &error)) fail_msg("%s", error.message);
    moeblock_block_get_info(rank.block, &info);
    assert_int_equal(info.compute, unlike->computed);
    assert_string_equal(info.level, unlike->apart ? "generic" : level->name);
    assert_ptr_equal(rank.context->kernels, level); // other blocks of the context keep it
    assert_int_equal(moeblock_workspace_create(rank.block, job->golden.tokens, NULL, 0, &rank.workspace, &error), 0);
    rank_forward(&scenario, mesh, &rank);
    rank_close(&rank);
}

// They take what all of them have, on every block alone, and give the bytes of one process that has it.
static void unlike_machines(void **state)
{
    (void)state;
    static const struct unlike tests[] = {
        {"deepseek_v3-f32",
         "generic",
         {false, false},
         MOEBLOCK_COMPUTE_F32,
         MOEBLOCK_COMPUTE_F32,
         true,
         {false, false}},
        {"deepseek_v3-f32",
         "generic",
         {false, false},
         MOEBLOCK_COMPUTE_AUTO,
         MOEBLOCK_COMPUTE_F32,
         true,
         {false, false}},
        {"nemotron_h_latent-bf16",
         "generic",
         {false, false},
         MOEBLOCK_COMPUTE_F32,
         MOEBLOCK_COMPUTE_F32,
         true,
         {false, false}},
        {"deepseek_v3-bf16",
         "generic",
         {false, true},
         MOEBLOCK_COMPUTE_AUTO,
         MOEBLOCK_COMPUTE_BF16,
         false,
         {false, false}},
        {"deepseek_v3-bf16", NULL, {false, false}, MOEBLOCK_COMPUTE_AUTO, MOEBLOCK_COMPUTE_BF16X2, false, {true, true}},
        {"deepseek_v3-bf16", NULL, {false, false}, MOEBLOCK_COMPUTE_AUTO, MOEBLOCK_COMPUTE_BF16, false, {true, false}},
        {"gpt_oss_mxfp4", NULL, {true, true}, MOEBLOCK_COMPUTE_AUTO, MOEBLOCK_COMPUTE_INT16, false, {true, true}},
        {"gpt_oss_mxfp4", NULL, {false, true}, MOEBLOCK_COMPUTE_AUTO, MOEBLOCK_COMPUTE_BF16, false, {false, false}},
        {"gpt_oss_mxfp4",
         "generic",
         {true, false},
         MOEBLOCK_COMPUTE_AUTO,
         MOEBLOCK_COMPUTE_BF16,
         false,
         {false, false}},
    };
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        const struct unlike *const unlike = &tests[i];
        struct unlike_job job = {.unlike = unlike};
        const struct golden_settings settings = {.level = unlike->apart ? "generic" : NULL,
                                                 .compute = unlike->computed};
        moeblock_error error = {MOEBLOCK_OK, ""};
        golden_open(unlike->name, &job.golden);
        if (golden_run(&job.golden, &settings, &job.single, &error)) fail_msg("%s", error.message);
        struct mesh_double *mesh = mesh_double_create(3, 2);
        mesh_double_run(mesh, unlike_rank, &job);
        mesh_double_destroy(mesh);
        golden_run_free(&job.golden, &job.single);
        golden_close(&job.golden);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_gather),
        cmocka_unit_test(two_levels),
        cmocka_unit_test(batch),
        cmocka_unit_test(partial_sums),
        cmocka_unit_test(bytes_as_predicted),
        cmocka_unit_test(what_columns_exchange),
        cmocka_unit_test(the_quickest_way),
        cmocka_unit_test(unlike_machines),
    };
    return cmocka_run_group_tests_name("mesh algorithms", tests, NULL, NULL);
}
