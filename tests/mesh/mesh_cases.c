// SPDX-License-Identifier: Apache-2.0
// Run by mpiexec on R * C processes: mesh_cases RxC. Every golden case, in every compute type that it has, with either
// axis for tensor parallelism, gives the bytes that each rank computes alone. One job does them all.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

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

static int check_case(const char *name, moeblock_mesh *mesh)
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
    int runs = 0;
    for (int i = 0; i < count; i++) runs += check_case(names[i], mesh);
    if (mesh->rank == 0)
        printf("%s, %d x %d: %d runs with the bytes of one process, in %.1f s\n", transport->name, mesh->rows,
               mesh->columns, runs, mb_seconds() - started);
    moeblock_mesh_destroy(&mesh);
    moeblock_mpi_destroy(&transport);
    MPI_Finalize();
    return 0;
}
