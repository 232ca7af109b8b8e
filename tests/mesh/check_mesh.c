// SPDX-License-Identifier: Apache-2.0
// One rank of a mesh under any MPI, SimGrid's simulator included: runs a block on inputs whose output on one process is
// known and compares every byte of its part (with mesh.reproducible batch: how far it is, and every byte of two runs in
// other passes), with x replicated and, where it can be, hidden-sharded; then compares what
// the mesh counted with what src/traffic.c predicts for the same routing, and the dispatch with the least that could be
// sent. Before that it compares the bytes read with those of the weights that the rank owns.
//
//   check_mesh CONFIG WEIGHTS LAYER RxC [X.npy Y.npy IDS.npy]...
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experts/expert.h"
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
    moeblock_weights *weights;
    int64_t system_read; // bytes of files while loading; -1: unknown
    const char *folder;  // of the weights
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

// Bytes that this process has read from files, by the system's own count; -1 where it cannot be told apart.
static int64_t system_read_bytes(void)
{
    long long bytes = -1;
#ifndef SMPI_H // all ranks are one process there
    FILE *file = fopen("/proc/self/io", "r");
    if (file && fscanf(file, "rchar: %lld", &bytes) != 1) bytes = -1;
    if (file) fclose(file);
#endif
    return bytes;
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
    if (status == MOEBLOCK_OK) status = moeblock_weights_open(rank->context, argv[2], &rank->weights, &error);
    const int64_t before = system_read_bytes();
    if (status == MOEBLOCK_OK) status = moeblock_block_load(rank->block, rank->weights, NULL, &error);
    rank->system_read = before < 0 ? -1 : system_read_bytes() - before;
    return status == MOEBLOCK_OK ? 0 : fail(rank, "opening the block", error.message);
}

static void close_block(struct rank *rank)
{
    moeblock_block_destroy(&rank->block);
    moeblock_weights_destroy(&rank->weights);
    moeblock_config_destroy(&rank->config);
    moeblock_context_destroy(&rank->context);
    moeblock_mesh_destroy(&rank->mesh);
}

static int64_t read_header_bytes(const struct rank *rank)
{
    char path[4096];
    uint64_t bytes = 0;
    snprintf(path, sizeof path, "%s/model.safetensors", rank->folder);
    FILE *file = fopen(path, "rb");
    if (file && fread(&bytes, sizeof bytes, 1, file) != 1) bytes = 0;
    if (file) fclose(file);
    return (int64_t)bytes + (int64_t)sizeof bytes;
}

// A rank reads its rows of its experts' matrices and of the shared expert's, each once, and the router, which is
// everyone's. Beyond that: the file's header, and what the ranks compare, the router and a sample of each tensor.
static int check_bytes_read(const struct rank *rank)
{
    enum { SAMPLES = 16 * 256, SYSTEM = 1 << 16 }; // SYSTEM: what MPI reads meanwhile
    const struct mb_share *share = &rank->block->share;
    const moeblock_config *config = rank->config;
    const int64_t value = strcmp(rank->block->set->format, "f32") ? 2 : 4, hidden = config->hidden_size;
    // Gate and up, then down: whole rows of outputs, or a part of every row.
    const struct mb_columns *columns = &rank->block->set->columns;
    const int64_t outputs = columns->h1 - columns->h0, own = columns->i1 - columns->i0,
                  own_shared = columns->s1 - columns->s0;
    const int64_t inner = columns->sums ? own : config->routed.intermediate_size;
    const int64_t shared_inner = columns->sums ? own_shared : config->shared.intermediate_size;
    const int64_t expert = 2 * own * hidden + outputs * inner,
                  shared = 2 * own_shared * hidden + outputs * shared_inner;
    const int64_t router = config->num_experts * (hidden + 1) * (int64_t)sizeof(float); // at most, with its bias
    const int64_t owned = (share->owned * expert + shared) * value;
    const int64_t read = (int64_t)moeblock_weights_bytes_read(rank->weights), header = read_header_bytes(rank);
    if (rank->transport->rank == 0)
        printf("rank 0 read %" PRId64 " bytes, %" PRId64 " of them owned weights\n", read, owned);
    if (read < owned || read > owned + header + 2 * router + SAMPLES) return fail(rank, "loading", "bytes of others");
    if (rank->system_read >= 0 && rank->system_read > owned + header + 2 * router + SAMPLES + SYSTEM)
        return fail(rank, "loading", "the system counted bytes of others");
    return 0;
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

// The least that this rank could send for this routing, counted from the ids alone: each row once to every other rank
// that holds one of its experts, with 4 bytes, and 8 for each expert there; 32 bytes a rank.
static int64_t least_dispatch(const struct rank *rank, const struct input *input)
{
    const struct mb_share *share = &rank->block->share;
    const int64_t k = rank->config->num_experts_per_tok;
    const int64_t value = mb_has_bf16_rows(rank->block->set->compute) ? 2 : 4;
    const int32_t *ids = input->ids.data;
    int64_t t0, t1, bytes = 32 * (share->ep - 1);
    mb_split(input->tokens, share->ep, share->ep_index, &t0, &t1);
    for (int64_t t = t0; t < t1; t++) {
        bool goes[1024] = {false};
        for (int64_t j = t * k; j < (t + 1) * k; j++) {
            const int to = mb_placement_rank(&rank->block->placement, ids[j], share->ep_index);
            if (to == share->ep_index) continue;
            if (!goes[to]) bytes += input->hidden * value + 4;
            goes[to] = true;
            bytes += 8;
        }
    }
    return bytes;
}

// From a width of 1,024 on the dispatch is within 5 % of the least.
static int check_dispatch(const struct rank *rank, const struct input *input, bool sharded)
{
    moeblock_traffic counted = {.struct_size = sizeof counted};
    const int64_t least = least_dispatch(rank, input);
    moeblock_mesh_get_traffic(rank->mesh, MOEBLOCK_TRAFFIC_DISPATCH, rank->block->share.ep_axis, -1, &counted);
    if (input->hidden < 1024 || rank->block->share.ep == 1) return 0;
    if (rank->transport->rank == 0 && !sharded)
        printf("dispatch: rank 0 sent %" PRIu64 " bytes, the least is %" PRId64 " (%+.2f %%)\n", counted.bytes_sent,
               least, 100 * ((double)counted.bytes_sent / (double)least - 1));
    return (double)counted.bytes_sent <= 1.05 * (double)least ? 0
                                                              : fail(rank, "dispatch", "more than 5 % above the least");
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
                                     .sharded = sharded,
                                     .sums = rank->block->set->columns.sums};
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
    rank->block->backend->travel(rank->block, rank->block->set, count[0], &travel);
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

// Against the size of all of y: a rank may have a few values that are nearly nothing.
static bool near(const struct rank *rank, const struct mb_npy *y, const float *found, const float *wanted,
                 int64_t count)
{
    const double most = rank->block->set->compute == MOEBLOCK_COMPUTE_F32 ? 1e-6 : 5e-3;
    double error = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        error += ((double)found[i] - (double)wanted[i]) * ((double)found[i] - (double)wanted[i]);
    }
    const float *const all = y->data;
    for (int64_t i = 0; i < y->count; i++) size += (double)all[i] * (double)all[i];
    return error <= most * most * size * (double)count / (double)y->count;
}

static bool as_expected(const struct rank *rank, const struct mb_npy *y, const float *found, const float *wanted,
                        int64_t count)
{
    if (rank->config->reproducible == MB_REPRODUCIBLE_BATCH) return near(rank, y, found, wanted, count);
    return memcmp(found, wanted, (size_t)count * sizeof *found) == 0;
}

// The same tokens in twice as many passes.
static int forward_again(const struct rank *rank, const moeblock_forward_input *in, const float *y, int64_t most)
{
    const int64_t count = in->x.dims[0] * in->x.dims[1];
    float *const again = calloc((size_t)count + 1, sizeof *again);
    moeblock_workspace *workspace = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_forward_output out = {.struct_size = sizeof out, .y = in->x};
    out.y.data = again;
    moeblock_status status = moeblock_workspace_create(rank->block, (most + 1) / 2, NULL, 0, &workspace, &error);
    if (status == MOEBLOCK_OK) status = moeblock_block_forward(rank->block, workspace, in, &out, &error);
    int wrong = status == MOEBLOCK_OK ? 0 : fail(rank, "forward in more passes", error.message);
    if (!wrong && memcmp(y, again, (size_t)count * sizeof *y))
        wrong = fail(rank, "forward", "other bytes in more passes");
    moeblock_workspace_destroy(&workspace);
    free(again);
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
    if (!wrong && !as_expected(rank, &input->y, y, want, (t1 - t0) * (h1 - h0)))
        wrong = fail(rank, "forward", "not what one process computes");
    if (!wrong) wrong = check_traffic(rank, input, sharded);
    if (!wrong) wrong = check_dispatch(rank, input, sharded);
    if (!wrong && rank->config->reproducible == MB_REPRODUCIBLE_BATCH) wrong = forward_again(rank, &in, y, most);
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
    rank.folder = argv[2];
    int wrong = open_block(&rank, argv);
    if (!wrong) wrong = check_bytes_read(&rank);
    for (int i = 5; !wrong && i < argc; i += 3) wrong = check_input(&rank, argv + i);
    if (wrong) {
        fflush(NULL);
        MPI_Abort(MPI_COMM_WORLD, 1); // the others would wait for this rank
    }
    int all = 0;
    MPI_Reduce(&wrong, &all, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank.transport->rank == 0)
        printf("%d of %d inputs and %d ranks, columns exchange %s: %s, counters as predicted\n", (argc - 5) / 3,
               (argc - 5) / 3, rank.rows * rank.columns, rank.block->set->columns.sums ? "sums" : "activations",
               rank.config->reproducible == MB_REPRODUCIBLE_BATCH ? "near one process" : "same bytes");
    close_block(&rank);
    moeblock_mpi_end(&rank.transport, 0, 0);
    return all != 0;
}
