// SPDX-License-Identifier: Apache-2.0
// Run by mpiexec on R * C processes: mesh_cases RxC. Every golden case, in every compute type that it has, with either
// axis for tensor parallelism, gives the bytes that each rank computes alone; with partial sums, those of core families
// come near them and are the same for any lay, number of threads and passes. One job does them all.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "cmocka.h"
#include "moeblock/mpi.h"
#include "support/mesh_rank.h"

enum { CASES_MOST = 256 };

static const char *const swapped_axes[] = {"tensor_parallel.cluster_axis=0",
                                           "experts.distributed.dispatch_cluster_axis=1"};

// How x lies on the mesh, once for each assignment of the axes.
static const struct lay {
    bool sharded, all_tokens_on_row_0;
    moeblock_mode mode;
} lays[] = {{true, false, MOEBLOCK_PREFILL}, {false, false, MOEBLOCK_DECODE}, {true, true, MOEBLOCK_DECODE}};

static int check_axes(struct scenario *scenario, moeblock_mesh *mesh, bool swapped)
{
    const int tp = swapped ? mesh->rows : mesh->columns, count = sizeof lays / sizeof *lays;
    struct rank_objects rank;
    scenario->swapped = swapped;
    scenario->set = swapped_axes;
    scenario->n_set = swapped ? 2 : 0;
    rank_open(scenario, mesh, scenario->golden->tokens, &rank);
    for (int i = 0; i < count; i++) {
        scenario->sharded = lays[i].sharded && tp > 1 && scenario->golden->hidden % tp == 0;
        scenario->all_tokens_on_row_0 = lays[i].all_tokens_on_row_0;
        scenario->mode = lays[i].mode;
        rank_forward(scenario, mesh, &rank);
    }
    rank_close(&rank);
    return count;
}

// Families of which columns add partial sums, each with something of its own in the way: biases, a gate of the shared
// expert, a norm of the output, null experts, weights on the input, quantised groups.
static const char *const summed[] = {"deepseek_v3", "gpt_oss", "qwen2_moe", "axk1", "longcat_flash", "llama4"};

static bool is_summed(const char *name)
{
    for (size_t i = 0; i < sizeof summed / sizeof *summed; i++)
        if (!strncmp(name, summed[i], strlen(summed[i]))) return true;
    return false;
}

// What this rank has in any case: its tokens' rows, of sharded y its columns.
static void same_part(const struct scenario *scenario, moeblock_mesh *mesh, const float *found, const float *wanted)
{
    const struct golden_case *golden = scenario->golden;
    const bool swapped = scenario->swapped;
    int64_t t0, t1, h0 = 0, h1 = golden->hidden;
    mb_split(golden->tokens, swapped ? mesh->columns : mesh->rows, swapped ? mesh->column : mesh->row, &t0, &t1);
    if (scenario->sharded)
        mb_split(golden->hidden, swapped ? mesh->rows : mesh->columns, swapped ? mesh->row : mesh->column, &h0, &h1);
    for (int64_t t = t0; t < t1; t++)
        assert_memory_equal(found + t * golden->hidden + h0, wanted + t * golden->hidden + h0,
                            (size_t)(h1 - h0) * sizeof *found);
}

static int check_sums(const struct scenario *scenario, moeblock_mesh *mesh, bool swapped)
{
    static const char *const sums[] = {"mesh.reproducible=batch", "mesh.exchange=sums",
                                       "tensor_parallel.cluster_axis=0", "experts.distributed.dispatch_cluster_axis=1"};
    const struct golden_case *golden = scenario->golden;
    const int tp = swapped ? mesh->rows : mesh->columns, tries = 3;
    const size_t count = (size_t)(golden->tokens * golden->hidden);
    if (tp == 1) return 0;
    float *first = calloc(count, sizeof *first), *again = calloc(count, sizeof *again);
    struct scenario own = *scenario;
    own.swapped = swapped;
    own.set = sums;
    own.n_set = swapped ? 4 : 2;
    own.y_is_own = true;
    own.tolerance = own.compute == MOEBLOCK_COMPUTE_F32 ? 1e-6 : 5e-3;
    for (int i = 0; i < tries; i++) {
        struct rank_objects rank;
        own.threads = 1 + (i == 1);
        own.sharded = i == 1 && golden->hidden % tp == 0;
        own.mode = i ? MOEBLOCK_DECODE : MOEBLOCK_PREFILL;
        own.y = i ? again : first;
        rank_open(&own, mesh, i == 2 ? 1 : golden->tokens, &rank); // one token a pass
        assert_true(rank.block->set->columns.sums);
        rank_forward(&own, mesh, &rank);
        rank_close(&rank);
        same_part(&own, mesh, own.y, first);
    }
    free(first);
    free(again);
    return tries;
}

static int check_case(const char *name, moeblock_mesh *mesh, int *near)
{
    struct golden_case golden;
    struct golden_run single;
    moeblock_error error = {MOEBLOCK_OK, ""};
    int runs = 0;
    golden_open(name, &golden);
    for (moeblock_compute compute = MOEBLOCK_COMPUTE_F32; compute <= MOEBLOCK_COMPUTE_INT16; compute++) {
        const struct golden_settings settings = {.threads = 1, .compute = compute};
        const moeblock_status status = golden_run(&golden, &settings, &single, &error);
        if (status == MOEBLOCK_UNSUPPORTED) break; // by one process, so by none
        if (status != MOEBLOCK_OK) fail_msg("%s: %s", name, error.message);
        struct scenario scenario = {.golden = &golden, .single = &single, .compute = compute};
        for (int swapped = 0; swapped < 2; swapped++) runs += check_axes(&scenario, mesh, swapped);
        const struct scenario again = {.golden = &golden, .single = &single, .compute = compute};
        for (int swapped = 0; swapped < 2 && is_summed(name); swapped++) *near += check_sums(&again, mesh, swapped);
        golden_run_free(&golden, &single);
    }
    golden_close(&golden);
    return runs;
}

int main(int argc, char **argv)
{
    static char names[CASES_MOST][64];
    moeblock_transport *transport = NULL;
    moeblock_mesh *mesh = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_mesh_options options = {.struct_size = sizeof options, .deadline = 60};
    if (argc != 2 || sscanf(argv[1], "%dx%d", &options.rows, &options.columns) != 2) return 64;
    MPI_Init(&argc, &argv);
    if (moeblock_mpi_create(MPI_COMM_WORLD, NULL, &transport, &error) ||
        moeblock_mesh_create(transport, &options, &mesh, &error))
        fail_msg("%s", error.message);
    const double started = mb_seconds();
    const int count = golden_list(names, CASES_MOST);
    int runs = 0, near = 0;
    for (int i = 0; i < count; i++) runs += check_case(names[i], mesh, &near);
    if (mesh->rank == 0)
        printf("%s, %d x %d: %d runs with the bytes of one process, %d of partial sums near it, in %.1f s\n",
               transport->name, mesh->rows, mesh->columns, runs, near, mb_seconds() - started);
    moeblock_mesh_destroy(&mesh);
    moeblock_mpi_destroy(&transport);
    MPI_Finalize();
    return 0;
}
