// SPDX-License-Identifier: Apache-2.0
// Run on R * C processes by mpiexec, or in SimGrid's simulator: mesh_equivalence RxC. The logic flow of
// tests/test_deepseek_equivalence.c with ranks that are processes: every device has the original's result and gate and
// makes the calls that its steps ask for, with x sharded and replicated, through the block and through the adapter. On
// the original's 4 x 8 the layer has DeepSeek-V3's 256 experts, 8 a token, in 8 groups.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "cmocka.h"
#include "moeblock/mpi.h"
#include "support/flow.h"

enum { TOKENS = 11, TOKENS_V3 = 26, CALLS_MAX = 32 };

struct device {
    moeblock_transport *transport;
    struct mesh_call calls[CALLS_MAX];
    int n_calls, flows;
};

static void note(void *user, const char *what, int axis, size_t bytes)
{
    struct device *here = user;
    if (here->n_calls < CALLS_MAX) here->calls[here->n_calls++] = (struct mesh_call){what, axis, bytes};
}

static void run(void *user, struct flow *flow)
{
    struct device *const here = user;
    moeblock_mesh *mesh = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const moeblock_mesh_options options = {
        .struct_size = sizeof options, .rows = flow->rows, .columns = flow->columns, .deadline = 60};
    if (moeblock_mesh_create(here->transport, &options, &mesh, &error) != MOEBLOCK_OK) fail_msg("%s", error.message);
    here->n_calls = 0;
    mb_mesh_set_trace(mesh, note, here);
    flow_run_device(flow, mesh);
    flow_check_device(flow, mesh->rank, here->calls, here->n_calls);
    moeblock_mesh_destroy(&mesh);
    here->flows++;
}

int main(int argc, char **argv)
{
    struct device here = {.flows = 0};
    moeblock_error error = {MOEBLOCK_OK, ""};
    int rows = 0, columns = 0;
    if (argc != 2 || sscanf(argv[1], "%dx%d", &rows, &columns) != 2) return 64;
#ifdef SMPI_H
    const moeblock_mpi_options mpi = {.struct_size = sizeof mpi, .blocks = 1};
#else
    const moeblock_mpi_options mpi = {.struct_size = sizeof mpi};
#endif
    if (moeblock_mpi_begin(&mpi, &here.transport, &error) != MOEBLOCK_OK) fail_msg("%s", error.message);
    const bool v3 = rows * columns > 4;
    flow_run_all(v3 ? &small_v3 : &small_shape, rows, columns, v3 ? TOKENS_V3 : TOKENS, run, &here);
    if (here.transport->rank == 0)
        printf("%s, %d x %d: %d flows are the original's\n", here.transport->name, rows, columns, here.flows);
    moeblock_mpi_end(&here.transport, 0, 0);
    return 0;
}
