// SPDX-License-Identifier: Apache-2.0
// One rank of a mesh under any MPI, SimGrid's simulator included: runs a block on inputs whose output on one process is
// known and compares every byte of its part, with x replicated and, where it can be, hidden-sharded; then compares what
// the mesh counted with what src/traffic.c predicts for the same routing.
//
//   check_mesh CONFIG WEIGHTS LAYER RxC [X.npy Y.npy IDS.npy]...
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/mesh.h"
#include "moeblock/mpi.h"
#include "sizes.h"
#include "traffic.h"
#include "weights/npy.h"

struct rank {
    moeblock_transport *transport;
    moeblock_mesh *mesh;
    moeblock_context *context;
    moeblock_config *config;
    moeblock_block *block;
    const char *layer;
    int rows, columns;
};

struct input {
    struct mb_npy x, y, ids;
    int64_t tokens, hidden;
};

static int fail(const struct rank *rank, const char *what, const char *why)
{
    fprintf(stderr, "rank %d: %s: %s\n", rank->transport ? rank->transport->rank : -1, what, why);
    return 1;
}

static int open_block(struct rank *rank, char **argv)
{
#ifdef SMPI_H
    const int blocks = 1; // a loop of tests would turn the simulator's clock, not the peers
#else
    const int blocks = 0;
#endif
    const moeblock_mpi_options mpi = {.struct_size = sizeof mpi, .blocks = blocks};
    const moeblock_context_options threads = {.struct_size = sizeof threads, .threads = 1};
    const moeblock_config_options options = {
        .struct_size = sizeof options, .layer = atoll(argv[3]), .weights_path = argv[2]};
    const moeblock_mesh_options shape = {.struct_size = sizeof shape, .rows = rank->rows, .columns = rank->columns};
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_status status = moeblock_mpi_begin(&mpi, &rank->transport, &error);
    if (status == MOEBLOCK_OK) status = moeblock_mesh_create(rank->transport, &shape, &rank->mesh, &error);
    if (status == MOEBLOCK_OK) status = moeblock_context_create(&threads, &rank->context, &error);
    if (status == MOEBLOCK_OK) status = moeblock_config_open(rank->context, argv[1], &options, &rank->config, &error);
    if (status == MOEBLOCK_OK)
        status = moeblock_block_create(rank->context, rank->config, rank->mesh, NULL, &rank->block, &error);
    if (status == MOEBLOCK_OK) status = moeblock_block_load_files(rank->block, argv[2], NULL, &error);
    return status == MOEBLOCK_OK ? 0 : fail(rank, "opening the block", error.message);
}

static void close_block(struct rank *rank)
{
    moeblock_block_destroy(&rank->block);
    moeblock_config_destroy(&rank->config);
    moeblock_context_destroy(&rank->context);
    moeblock_mesh_destroy(&rank->mesh);
}

static int read_input(const struct rank *rank, char **paths, struct input *out)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    struct mb_npy *const arrays[] = {&out->x, &out->y, &out->ids};
    for (int i = 0; i < 3; i++)
        if (mb_npy_read(&mb_default_allocator, paths[i], arrays[i], &error) != MOEBLOCK_OK)
            return fail(rank, paths[i], error.message);
    out->hidden = out->x.dims[out->x.rank - 1];
    out->tokens = out->x.count / out->hidden;
    return 0;
}

// Columns [h0, h1) of tokens [t0, t1), dense.
static float *slice(const struct mb_npy *from, int64_t hidden, int64_t t0, int64_t t1, int64_t h0, int64_t h1)
{
    float *out = malloc((size_t)((t1 - t0) * (h1 - h0) + 1) * sizeof *out);
    for (int64_t t = t0; out && t < t1; t++)
        memcpy(out + (t - t0) * (h1 - h0), (const float *)from->data + t * hidden + h0,
               (size_t)(h1 - h0) * sizeof *out);
    return out;
}

// What the mesh counted is what the formulas say.
static int check_traffic(const struct rank *rank, const struct input *input, bool sharded)
{
    const struct mb_share *share = &rank->block->share;
    struct mb_traffic_shape shape = {.config = rank->config,
                                     .ep = share->ep,
                                     .tp = share->tp,
                                     .compute = rank->block->set->compute,
                                     .x_bytes = sizeof(float),
                                     .y_bytes = sizeof(float),
                                     .sharded = sharded};
    const struct mb_choices choices = {
        .ids = input->ids.data, .rows = input->tokens, .k = rank->config->num_experts_per_tok};
    struct mb_traffic expected[MOEBLOCK_TRAFFIC_STEPS] = {{0}};
    struct mb_routing routing;
    moeblock_error error;
    int64_t first[1024], count[1024];
    int wrong = 0;
    if (mb_routing_create(&mb_default_allocator, share->ep, rank->config->num_experts, &routing, &error) != MOEBLOCK_OK)
        return fail(rank, "counting", error.message);
    for (int h = 0; h < share->ep; h++) {
        int64_t end;
        mb_split(input->tokens, share->ep, h, &first[h], &end);
        count[h] = end - first[h];
    }
    struct mb_travel travel;
    rank->block->backend->travel(rank->block, count[0], &travel);
    shape.algorithm = mb_travel_choose(rank->config->algorithm, &travel);
    mb_routing_fill(&routing, &rank->block->placement, &choices, first, count);
    mb_traffic_add(&shape, &routing, share->ep_index, share->tp_index, expected);
    for (int s = 0; s < MOEBLOCK_TRAFFIC_STEPS; s++) {
        moeblock_traffic counted[2];
        for (int axis = 0; axis < 2; axis++) {
            counted[axis].struct_size = sizeof counted[axis];
            moeblock_mesh_get_traffic(rank->mesh, (moeblock_traffic_step)s, axis, -1, &counted[axis]);
        }
        const uint64_t sent = counted[0].bytes_sent + counted[1].bytes_sent;
        const uint64_t received = counted[0].bytes_received + counted[1].bytes_received;
        if (sent == expected[s].sent && received == expected[s].received) continue;
        fprintf(stderr,
                "rank %d: step %d: sent %" PRIu64 " received %" PRIu64 ", predicted %" PRIu64 " and %" PRIu64 "\n",
                rank->transport->rank, s, sent, received, expected[s].sent, expected[s].received);
        wrong = 1;
    }
    mb_routing_free(&routing);
    return wrong;
}

static int forward(const struct rank *rank, const struct input *input, bool sharded)
{
    const struct mb_share *share = &rank->block->share;
    moeblock_workspace *workspace = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    int64_t t0, t1, h0 = 0, h1 = input->hidden;
    const int64_t most = (input->tokens + share->ep - 1) / share->ep; // of any rank: all cut their passes alike
    mb_split(input->tokens, share->ep, share->ep_index, &t0, &t1);
    if (sharded) mb_split(input->hidden, share->tp, share->tp_index, &h0, &h1);
    float *const x = slice(&input->x, input->hidden, t0, t1, h0, h1);
    float *const want = slice(&input->y, input->hidden, t0, t1, h0, h1);
    float *const y = calloc((size_t)((t1 - t0) * (h1 - h0) + 1), sizeof *y);
    moeblock_status status = moeblock_workspace_create(rank->block, most, NULL, 0, &workspace, &error);
    moeblock_forward_input in = {.struct_size = sizeof in,
                                 .mode = MOEBLOCK_DECODE,
                                 .x = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {t1 - t0, h1 - h0}, .data = x}};
    moeblock_forward_output out = {.struct_size = sizeof out, .y = in.x};
    out.y.data = y;
    moeblock_mesh_reset_traffic(rank->mesh);
    if (status == MOEBLOCK_OK) status = moeblock_block_forward(rank->block, workspace, &in, &out, &error);
    int wrong = status == MOEBLOCK_OK ? 0 : fail(rank, "forward", error.message);
    if (!wrong && memcmp(y, want, (size_t)((t1 - t0) * (h1 - h0)) * sizeof *y))
        wrong = fail(rank, "forward", "other bytes than one process");
    if (!wrong) wrong = check_traffic(rank, input, sharded);
    moeblock_workspace_destroy(&workspace);
    free(x);
    free(want);
    free(y);
    return wrong;
}

static int check_input(const struct rank *rank, char **paths)
{
    struct input input = {0};
    const struct mb_share *share = &rank->block->share;
    int wrong = read_input(rank, paths, &input);
    for (int sharded = 0; !wrong && sharded < 2; sharded++) {
        if (sharded && (share->tp == 1 || input.hidden % share->tp)) continue;
        const double started = MPI_Wtime();
        wrong = forward(rank, &input, sharded);
        if (!wrong && rank->transport->rank == 0)
            printf("%dx%d, %" PRId64 " tokens, x %s: %.3f ms\n", rank->rows, rank->columns, input.tokens,
                   sharded ? "sharded" : "replicated", 1e3 * (MPI_Wtime() - started));
    }
    mb_npy_free(&mb_default_allocator, &input.x);
    mb_npy_free(&mb_default_allocator, &input.y);
    mb_npy_free(&mb_default_allocator, &input.ids);
    return wrong;
}

int main(int argc, char **argv)
{
    struct rank rank = {0};
    if (argc < 5 || (argc - 5) % 3 || sscanf(argv[4], "%dx%d", &rank.rows, &rank.columns) != 2) return 64;
    int wrong = open_block(&rank, argv);
    for (int i = 5; !wrong && i < argc; i += 3) wrong = check_input(&rank, argv + i);
    if (wrong) {
        fflush(NULL);
        MPI_Abort(MPI_COMM_WORLD, 1); // the others would wait for this rank
    }
    int all = 0;
    MPI_Reduce(&wrong, &all, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank.transport->rank == 0)
        printf("%d of %d inputs and %d ranks: same bytes, counters as predicted\n", (argc - 5) / 3, (argc - 5) / 3,
               rank.rows * rank.columns);
    close_block(&rank);
    moeblock_mpi_end(&rank.transport, 0, 0);
    return all != 0;
}
