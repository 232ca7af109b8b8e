// SPDX-License-Identifier: Apache-2.0
// The flow of the block, whole: one process or a mesh, sharded or replicated x, prefill or decode. The steps are the
// backend's (src/backend/cpu has one file each).
#include "block.h"

#include "base/clock.h"
#include "base/status.h"

// x [T, H/C] or [T, H]
moeblock_status mb_block_pass(struct mb_run *run)
{
    const struct mb_backend *backend = run->block->backend;
    MB_TRY(backend->gather_input(run)); // all-gather over the TP axis when x is hidden-sharded
    const double start = mb_seconds();
    MB_TRY(backend->route(run)); // ids [T, k], weights [T, k]
    const double routed = mb_seconds();
    run->router_seconds += routed - start;
    if (run->route_only) return MOEBLOCK_OK;
    MB_TRY(backend->dispatch(run));        // each row at most once to a rank that owns one of its experts
    MB_TRY(backend->compute_experts(run)); // grouped, only routed rows; the shared expert beside them
    MB_TRY(backend->combine(run));         // weighted sum at the row's home, ascending expert id
    MB_TRY(backend->compute_shared(run));  // where it was asked to run after the routed experts
    MB_TRY(backend->add_shared(run));
    MB_TRY(backend->norm_output(run)); // of whole rows, where the description has a norm
    run->experts_seconds += mb_seconds() - routed;
    return backend->scatter_output(run); // reduce-scatter over the TP axis when x was gathered
}
// y, same shape and sharding as x

// Tokens of one pass: the workspace's, in prefill also at most the configuration's chunk sizes.
int64_t mb_block_pass_tokens(const moeblock_config *config, int ep, moeblock_mode mode, int64_t capacity)
{
    int64_t tokens = capacity;
    if (mode == MOEBLOCK_PREFILL) {
        // Counts the tokens of all EP ranks, once where they all hold the same.
        const int64_t prefill = config->prefill_chunk / (config->replicated_batch ? 1 : ep);
        if (config->prefill_chunk && tokens > mb_max(prefill, 1)) tokens = mb_max(prefill, 1);
        if (config->moe_chunk && tokens > config->moe_chunk) tokens = config->moe_chunk;
    }
    return tokens;
}

static int64_t pass_tokens(const struct mb_run *run, int64_t capacity)
{
    return mb_block_pass_tokens(run->block->config, run->block->share.ep, run->input->mode, capacity);
}

moeblock_status mb_block_walk(struct mb_run *run, int64_t tokens, int64_t capacity, int64_t *passes)
{
    const moeblock_mesh *mesh = run->block->mesh;
    int64_t least; // negated: what a rank sends must fit the smallest workspace
    MB_TRY(mesh->agree(mesh->user, -pass_tokens(run, capacity), &least, run->error));
    const int64_t step = -least;
    run->block->backend->begin(run);
    // Every rank makes as many passes as the one with the most tokens, empty ones included.
    MB_TRY(mesh->agree(mesh->user, mb_ceil_div(tokens, step), passes, run->error));
    for (int64_t i = 0; i < *passes; i++) {
        run->first = mb_min(i * step, tokens);
        run->n = mb_min(step, tokens - run->first);
        MB_TRY(mb_block_pass(run)); // an empty pass still takes part in the mesh's calls
    }
    return MOEBLOCK_OK;
}
