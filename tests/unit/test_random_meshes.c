// SPDX-License-Identifier: Apache-2.0
// Blocks of random descriptions on meshes whose ranks are threads: the reference's bytes, or with sums of partial rows
// close to them.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "cmocka.h"
#include "config/tensors.h"
#include "mesh/mesh.h"
#include "support/mesh_double.h"
#include "support/random_blocks.h"

enum { MESH_ROUNDS = 120 };

// What the ranks of a mesh run, and what one process made of it. `given` ids and weights go to the experts alone, with
// a k of their own.
struct mesh_job {
    const char *text;
    const moeblock_tensor *tensors;
    size_t n;
    moeblock_compute compute;
    const float *x, *aux, *y;
    const int32_t *ids;
    bool sharded;
    const char *const *set; // of mesh.reproducible batch: near one process, the same bytes in other passes; NULL: mesh
    int64_t held;           // tokens of the workspace
    int64_t given_k;
    const int32_t *given_ids;
    const float *given_weights;
    float *given_y; // written by one process, compared by the ranks of a mesh
};

static void compare_rows(const struct mesh_job *job, moeblock_mesh *mesh, const float *found, const float *wanted,
                         int64_t tokens, int64_t width, int64_t stride)
{
    for (int64_t t = 0; t < tokens; t++)
        if (memcmp(found + t * width, wanted + t * stride, (size_t)width * sizeof *found))
            fail_msg("rank %d,%d of %d x %d, compute %d: token %d differs for %s", mesh->row, mesh->column, mesh->rows,
                     mesh->columns, (int)job->compute, (int)t, job->text);
}

// Relative to all of y: a rank may have rows that come to almost nothing.
static void near_rows(const struct mesh_job *job, const float *found, const float *wanted, const float *all,
                      int64_t tokens, int64_t width, int64_t stride)
{
    const double most = job->compute == MOEBLOCK_COMPUTE_F32 ? 1e-5 : 2e-2;
    double error = 0, size = 0;
    for (int64_t i = 0; i < TOKENS * stride; i++) size += (double)all[i] * (double)all[i];
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < width; i++) {
            const double apart = (double)found[t * width + i] - (double)wanted[t * stride + i];
            error += apart * apart;
        }
    if (!(error <= most * most * size)) fail_msg("%g from one process for %s", sqrt(error / size), job->text);
}

// Another workspace, other passes, the same bytes.
static void compare_passes(const struct mesh_job *job, const moeblock_block *block, const moeblock_forward_input *input,
                           const moeblock_forward_output *output)
{
    const int64_t count = output->y.dims[0] * output->y.dims[1];
    float *const again = malloc((size_t)(count + 1) * sizeof *again);
    moeblock_workspace *workspace = NULL;
    moeblock_error e = {MOEBLOCK_OK, ""};
    moeblock_forward_output other = {.struct_size = sizeof other, .y = output->y};
    other.y.data = again;
    if (moeblock_workspace_create(block, 2, NULL, 0, &workspace, &e) ||
        moeblock_block_forward(block, workspace, input, &other, &e))
        fail_msg("%s: %s", e.message, job->text);
    assert_memory_equal(again, output->y.data, (size_t)count * sizeof *again);
    moeblock_workspace_destroy(&workspace);
    free(again);
}

static void run_rank(void *argument, moeblock_mesh *mesh)
{
    const struct mesh_job *job = argument;
    const moeblock_context_options one_thread = {
        .struct_size = sizeof one_thread,
        .threads = 1,
        .cpu_level = job->compute == MOEBLOCK_COMPUTE_F32 ? "generic" : NULL, // for the reference's bytes
    };
    const moeblock_block_options options = {.struct_size = sizeof options, .compute = job->compute};
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    moeblock_error e = {MOEBLOCK_OK, ""};
    moeblock_status status = moeblock_context_create(&one_thread, &context, &e);
    const moeblock_config_options set = {.struct_size = sizeof set, .set = job->set, .n_set = mesh && job->set ? 2 : 0};
    if (!status) status = moeblock_config_parse(context, job->text, strlen(job->text), "random", &set, &config, &e);
    if (!status) status = moeblock_block_create(context, config, mesh, &options, &block, &e);
    if (!status) status = moeblock_block_load_weights(block, job->tensors, job->n, &e);
    if (!status) status = moeblock_workspace_create(block, job->held, NULL, 0, &workspace, &e);
    if (status) fail_msg("%s", e.message);
    int64_t t0 = 0, t1 = TOKENS, h0 = 0, h1 = config->hidden_size;
    const int64_t hidden = h1, k = config->num_experts_per_tok;
    if (mesh) mb_split(TOKENS, mesh->rows, mesh->row, &t0, &t1);
    if (job->sharded) mb_split(hidden, mesh->columns, mesh->column, &h0, &h1);
    const int64_t tokens = t1 - t0, own = h1 - h0;
    float *x = malloc((size_t)(tokens * own + 1) * sizeof *x), *y = malloc((size_t)(tokens * own + 1) * sizeof *y);
    int32_t *ids = malloc((size_t)(tokens * k + 1) * sizeof *ids);
    for (int64_t t = 0; t < tokens; t++) memcpy(x + t * own, job->x + (t0 + t) * hidden + h0, (size_t)own * sizeof *x);
    moeblock_forward_input input = {.struct_size = sizeof input,
                                    .mode = MOEBLOCK_DECODE,
                                    .x = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {tokens, own}, .data = x}};
    moeblock_forward_output output = {.struct_size = sizeof output, .y = input.x, .ids = ids};
    output.y.data = y;
    if (mb_reads_aux(config)) input.aux = array_of(config, (float *)(uintptr_t)(job->aux + t0 * hidden));
    input.aux.dims[0] = tokens;
    if (mesh && moeblock_block_forward(block, workspace, &input, &output, &e)) fail_msg("%s: %s", e.message, job->text);
    if (mesh && job->set) compare_passes(job, block, &input, &output);
    if (mesh && job->set)
        near_rows(job, y, job->y + t0 * hidden + h0, job->y, tokens, own, hidden);
    else if (mesh)
        compare_rows(job, mesh, y, job->y + t0 * hidden + h0, tokens, own, hidden);
    if (mesh) assert_memory_equal(ids, job->ids + t0 * k, (size_t)(tokens * k) * sizeof *ids);
    if (moeblock_block_forward_experts(block, workspace, &input.x, job->given_ids + t0 * job->given_k,
                                       job->given_weights + t0 * job->given_k, job->given_k, &output.y, &e))
        fail_msg("%s: %s", e.message, job->text);
    if (mesh && job->set)
        near_rows(job, y, job->given_y + t0 * hidden + h0, job->given_y, tokens, own, hidden);
    else if (mesh)
        compare_rows(job, mesh, y, job->given_y + t0 * hidden + h0, tokens, own, hidden);
    else
        memcpy(job->given_y, y, (size_t)(tokens * hidden) * sizeof *y);
    free(x);
    free(y);
    free(ids);
    moeblock_block_destroy(&block);
    moeblock_workspace_destroy(&workspace);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
}

// k distinct ids below `classes` or -1.
static void give_ids(int64_t k, int64_t classes, int32_t *ids, float *weights)
{
    for (int64_t t = 0; t < TOKENS; t++) {
        const int64_t first = random_below((uint32_t)classes);
        for (int64_t j = 0; j < k; j++) {
            ids[t * k + j] = random_below(5) ? (int32_t)((first + j) % classes) : -1;
            weights[t * k + j] = random_uniform();
        }
    }
}

static void compare_on_meshes(const char *text, moeblock_context *context, const moeblock_config *config,
                              enum mb_format format, int rows, int columns, bool wild, const char *const *set)
{
    static float x[TOKENS * MOST_HIDDEN], aux[TOKENS * MOST_HIDDEN], given_y[TOKENS * MOST_HIDDEN],
        given_weights[TOKENS * 16];
    static int32_t given_ids[TOKENS * 16];
    moeblock_tensor tensors[MOST_TENSORS];
    const size_t n = make_random_tensors(config, format, tensors);
    const int64_t classes = config->num_experts + config->router.null_experts;
    const int64_t given_k = 1 + random_below((uint32_t)classes);
    struct block_result expected = make_result(config);
    fill_input(x, (size_t)(TOKENS * config->hidden_size), wild, context->kernels->fused);
    fill_input(aux, (size_t)(TOKENS * config->hidden_size), wild, context->kernels->fused);
    struct mesh_job job = {.text = text,
                           .tensors = tensors,
                           .n = n,
                           .compute = any_compute(config, format),
                           .x = x,
                           .aux = aux,
                           .y = expected.y,
                           .ids = expected.ids,
                           .set = set,
                           .held = 16 * TOKENS,
                           .given_k = given_k,
                           .given_ids = given_ids,
                           .given_weights = given_weights,
                           .given_y = given_y};
    give_ids(given_k, classes, given_ids, given_weights);
    run_reference(context, config, tensors, n, job.compute, x, aux, &expected);
    run_rank(&job, NULL);
    job.sharded = columns > 1 && config->hidden_size % columns == 0;
    job.held = given_k + random_below(TOKENS); // enough for one token's slots
    struct mesh_double *mesh = mesh_double_create(rows, columns);
    mesh_double_run(mesh, run_rank, &job);
    mesh_double_destroy(mesh);
    free_result(&expected);
    free_random_tensors(tensors, n);
}

// Whether the description is a valid one; then it was compared.
static bool on_meshes(const char *text, enum mb_format format, int rows, int columns, bool wild, bool batch)
{
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    assert_int_equal(moeblock_context_create(NULL, &context, NULL), MOEBLOCK_OK);
    const bool valid = moeblock_config_parse(context, text, strlen(text), "random", NULL, &config, NULL) == MOEBLOCK_OK;
    // Latent experts and orders of inputs are not cut along k: there sums are an error.
    const bool cut = valid && columns > 1 && !config->latent_size && !mb_format_suffix(format, MB_PART_ORDER);
    const char *const set[] = {"mesh.reproducible=batch", cut ? "mesh.exchange=sums" : "mesh.exchange=auto"};
    if (valid) compare_on_meshes(text, context, config, format, rows, columns, wild, batch ? set : NULL);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
    return valid;
}

// Few experts and narrow layers on many ranks: some own no expert, some no column; k up to all experts.
static void many_meshes(bool batch)
{
    static char text[DESCRIPTION];
    static const int counts[] = {1, 2, 3, 4, 8};
    int valid = 0;
    for (int round = 0; round < MESH_ROUNDS; round++) {
        const enum mb_format format = (enum mb_format)random_below(MB_FORMATS);
        const int experts = counts[random_below(5)];
        describe_block(text, format, experts, 1 + (int)random_below((uint32_t)experts));
        const int rows = 1 + (int)random_below(4), columns = 1 + (int)random_below(4);
        valid += on_meshes(text, format, rows, columns, !batch && round % 4 == 3, batch);
    }
    print_message("%d of %d descriptions were valid\n", valid, MESH_ROUNDS);
    assert_true(valid >= MESH_ROUNDS / 3);
}

static void random_meshes(void **state)
{
    (void)state;
    many_meshes(false);
}

// Rows summed at the experts' ranks, partial sums added by the columns, some of which may have no part of k.
static void random_sums(void **state)
{
    (void)state;
    many_meshes(true);
}

// Given ids may be more than the description's one per token: then fewer rows travel, but each to more ranks.
static void wide_choices_on_a_mesh(void **state)
{
    (void)state;
    static const char text[] =
        "{\"model\": {\"hidden_size\": 2, \"num_experts\": 4, \"num_experts_per_tok\": 1}, \"router\": {\"type\": "
        "\"linear\"}, \"experts\": {\"distributed\": {\"intermediate_size\": 3, \"activation\": \"silu\"}}}";
    for (int round = 0; round < 20; round++) assert_true(on_meshes(text, MB_FORMAT_BF16, 4, 1, false, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_meshes), cmocka_unit_test(random_sums),
                                       cmocka_unit_test(wide_choices_on_a_mesh)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
