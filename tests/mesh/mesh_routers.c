// SPDX-License-Identifier: Apache-2.0
// Run by mpiexec on R * C processes: mesh_routers RxC. Routers that a program brings choose what no model does: one
// expert for all tokens, nothing at all, an expert twice, one that does not exist; and one row of the mesh has no
// tokens. Good choices give the bytes of one process. Bad ones of a single rank are the same error on all, which names
// router and rank, and the mesh lives on.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "mesh/mesh.h"
#include "moeblock/mpi.h"
#include "support/small_layer.h"

enum { TOKENS = 9, K = SMALL_K };

// What the router writes for every token of this rank; what becomes of it.
static const struct choice {
    const char *name;
    int32_t ids[K];
    const char *wrong; // part of the error; NULL: none
} choices[] = {
    {"one expert", {5, -1, -1, -1}, NULL},
    {"experts of one rank", {0, 1, 2, 3}, NULL},
    {"experts of all ranks", {0, 5, 10, 15}, NULL},
    {"none", {-1, -1, -1, -1}, NULL},
    {"twice the same", {3, 7, 3, 1}, "3"},
    {"one that does not exist", {3, 16, 1, 2}, "16"},
    {"one below the empty slot", {3, -2, 1, 2}, "-2"},
    {"experts of all ranks again", {15, 0, 5, 10}, NULL},
};

static const char description[] = "{\"model\": {\"hidden_size\": 32, \"num_experts\": 16, \"num_experts_per_tok\": 4}, "
                                  "\"router\": {\"type\": \"fixed\"},"
                                  " \"experts\": {\"distributed\": {\"intermediate_size\": 12},"
                                  "               \"shared\": {\"enabled\": true, \"intermediate_size\": 24}},"
                                  " \"weights\": {\"module_prefix\": \"model.layers.{layer}\"}}";

static moeblock_status fixed_create(void *user, const moeblock_router_build *build, void **self, moeblock_error *error)
{
    (void)build, (void)error;
    *self = user;
    return MOEBLOCK_OK;
}

static void fixed_destroy(void *self) { (void)self; }

static moeblock_status fixed_select(const void *self, const moeblock_router_input *input, const float *logits,
                                    int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    const struct choice *choice = *(const struct choice *const *)self;
    (void)logits, (void)stride, (void)error;
    for (int64_t i = 0; i < input->tokens * K; i++) {
        ids[i] = choice->ids[i % K];
        weights[i] = 0.25f + 0.125f * (float)(i % K);
    }
    return MOEBLOCK_OK;
}

static const moeblock_router_class fixed = {
    .struct_size = sizeof fixed, .create = fixed_create, .destroy = fixed_destroy, .select = fixed_select};

struct objects {
    moeblock_context *context;
    moeblock_config *config;
    moeblock_block *block;
    moeblock_workspace *workspace;
};

static void make(const struct small_layer *layer, moeblock_mesh *mesh, const struct choice **choice,
                 struct objects *out)
{
    const moeblock_context_options threads = {.struct_size = sizeof threads, .threads = 1};
    const moeblock_config_options options = {.struct_size = sizeof options, .layer = 3};
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_status status = moeblock_context_create(&threads, &out->context, &error);
    if (!status) status = moeblock_register_router(out->context, "fixed", &fixed, choice, &error);
    if (!status)
        status = moeblock_config_parse(out->context, description, strlen(description), "text", &options, &out->config,
                                       &error);
    if (!status) status = moeblock_block_create(out->context, out->config, mesh, NULL, &out->block, &error);
    if (!status) status = moeblock_block_load_weights(out->block, layer->tensors, layer->count, &error);
    if (!status) status = moeblock_workspace_create(out->block, TOKENS, NULL, 0, &out->workspace, &error);
    if (status) fail_msg("%s", error.message);
}

static void destroy(struct objects *objects)
{
    moeblock_workspace_destroy(&objects->workspace);
    moeblock_block_destroy(&objects->block);
    moeblock_config_destroy(&objects->config);
    moeblock_context_destroy(&objects->context);
}

// Tokens of this rank's row: the last row of several has none.
static void own_tokens(const moeblock_mesh *mesh, int64_t *t0, int64_t *t1)
{
    const int rows = mesh->rows > 1 ? mesh->rows - 1 : 1;
    *t0 = *t1 = TOKENS;
    if (mesh->row < rows) mb_split(TOKENS, rows, mesh->row, t0, t1);
}

static void check(const struct choice *choice, const struct objects *alone, const struct objects *rank,
                  const moeblock_mesh *mesh, const float *x)
{
    float want[TOKENS * SMALL_HIDDEN], y[TOKENS * SMALL_HIDDEN];
    moeblock_error error = {MOEBLOCK_OK, ""}, single = {MOEBLOCK_OK, ""};
    int64_t t0, t1;
    own_tokens(mesh, &t0, &t1);
    const moeblock_status one =
        moeblock_forward(alone->block, alone->workspace, x, TOKENS, MOEBLOCK_PREFILL, want, &single);
    const moeblock_status all =
        moeblock_forward(rank->block, rank->workspace, x + t0 * SMALL_HIDDEN, t1 - t0, MOEBLOCK_PREFILL, y, &error);
    if (one != all)
        fail_msg("%s: rank %d: \"%s\", one process: \"%s\"", choice->name, mesh->rank, error.message, single.message);
    if (!choice->wrong) {
        assert_int_equal(all, MOEBLOCK_OK);
        assert_memory_equal(y, want + t0 * SMALL_HIDDEN, (size_t)(t1 - t0) * SMALL_HIDDEN * sizeof *y);
        return;
    }
    assert_int_not_equal(all, MOEBLOCK_OK);
    // The lowest rank that fails is heard everywhere.
    if (!strstr(error.message, "rank 0") || !strstr(error.message, "fixed") || !strstr(error.message, choice->wrong))
        fail_msg("%s: rank %d: %s", choice->name, mesh->rank, error.message);
}

int main(int argc, char **argv)
{
    enum { COUNT = sizeof choices / sizeof *choices };
    moeblock_transport *transport = NULL;
    moeblock_mesh *mesh = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    struct small_layer layer;
    struct objects alone = {.config = NULL}, rank = {.config = NULL};
    const struct choice *here = NULL, *there = NULL;
    float x[TOKENS * SMALL_HIDDEN];
    moeblock_mesh_options options = {.struct_size = sizeof options, .deadline = 60};
    if (argc != 2 || sscanf(argv[1], "%dx%d", &options.rows, &options.columns) != 2) return 64;
    if (moeblock_mpi_begin(NULL, &transport, &error) || moeblock_mesh_create(transport, &options, &mesh, &error))
        fail_msg("%s", error.message);
    small_layer_make(&layer, 3, 1);
    small_random(x, TOKENS * SMALL_HIDDEN, 2);
    make(&layer, NULL, &there, &alone);
    make(&layer, mesh, &here, &rank);
    for (int i = 0; i < COUNT; i++) {
        there = &choices[i];
        here = &choices[choices[i].wrong && mesh->rank ? 0 : i]; // a bad choice is rank 0's alone
        check(&choices[i], &alone, &rank, mesh, x);
    }
    if (mesh->rank == 0) printf("%s, %d x %d: %d routers\n", transport->name, mesh->rows, mesh->columns, COUNT);
    destroy(&rank);
    destroy(&alone);
    small_layer_free(&layer);
    moeblock_mesh_destroy(&mesh);
    moeblock_mpi_end(&transport, 0, 0);
    return 0;
}
