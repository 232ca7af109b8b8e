// SPDX-License-Identifier: Apache-2.0
// The flow of the block, whole: one process or a mesh, sharded or replicated x, prefill or decode. The steps are the
// backend's (src/backend/cpu has one file each).
#include "block.h"

#include "base/clock.h"
#include "base/context.h"
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
    MB_TRY(backend->dispatch(run));         // each row at most once to a rank that owns one of its experts
    MB_TRY(backend->compute_experts(run));  // grouped, only routed rows; the shared expert beside them
    MB_TRY(backend->receive(run));          // rows of other ranks, which travelled meanwhile
    MB_TRY(backend->compute_received(run)); // the same experts on them
    MB_TRY(backend->combine(run));          // weighted sum at the row's home, ascending expert id
    MB_TRY(backend->compute_shared(run));   // where it was asked to run after the routed experts
    MB_TRY(backend->add_shared(run));
    MB_TRY(backend->reduce_sums(run)); // reduce-scatter over the TP axis, where columns hold partial sums
    MB_TRY(backend->norm_output(run)); // of whole rows, where the description has a norm
    run->experts_seconds += mb_seconds() - routed;
    return backend->scatter_output(run); // own columns of y when x was gathered, else all of them
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

// Whether the router must see sequences whole.
static bool keeps_sequences(const struct mb_run *run)
{
    const struct mb_registered *kind = run->block->router_kind;
    if (run->given_ids || !kind || !run->block->config->routed_enabled) return false;
    const moeblock_router_class *router = kind->class_copy;
    return router->whole_sequences && router->whole_sequences(run->set->router);
}

static int64_t pass_tokens(const struct mb_run *run, int64_t capacity)
{
    if (keeps_sequences(run)) return capacity; // chunk sizes stand behind that
    return mb_block_pass_tokens(run->block->config, run->block->share.ep, run->input->mode, capacity);
}

// Tokens of the pass that begins at `first`, and where sequences stay whole with sequence *next, which goes on.
static int64_t pass_length(const struct mb_run *run, int64_t first, int64_t tokens, int64_t step, int64_t *next)
{
    const int64_t *lengths = run->input->seq_lens;
    int64_t n = 0;
    if (!lengths || !keeps_sequences(run)) return mb_min(step, tokens - first);
    for (; *next < run->input->n_seq && n + lengths[*next] <= step; ++*next) n += lengths[*next];
    return n;
}

// As many passes as the rank with the most of them makes, of whole sequences.
static moeblock_status agree_whole(struct mb_run *run, int64_t tokens, int64_t step, int64_t *passes)
{
    const moeblock_forward_input *in = run->input;
    moeblock_mesh *mesh = run->block->mesh;
    int64_t longest = in->seq_lens ? 0 : tokens, next = 0;
    for (int64_t i = 0; in->seq_lens && i < in->n_seq; i++) longest = mb_max(longest, in->seq_lens[i]);
    moeblock_status mine = MOEBLOCK_OK;
    if (longest > step)
        mine =
            mb_fail(run->error, MOEBLOCK_INVALID_ARGUMENT,
                    "running the block: a sequence has %lld tokens and a workspace holds %lld; this router must see it "
                    "whole: make workspaces for it, or give seq_lens of shorter sequences",
                    (long long)longest, (long long)step);
    *passes = 0;
    for (int64_t first = 0; !mine && first < tokens; ++*passes) first += pass_length(run, first, tokens, step, &next);
    return mesh ? mb_mesh_agree(mesh, passes, 1, mine, run->error) : mine;
}

// The pass length that fits the smallest workspace, and as many passes as the rank with the most tokens makes.
static moeblock_status agree_passes(struct mb_run *run, int64_t tokens, int64_t capacity, moeblock_status mine,
                                    int64_t *step, int64_t *passes)
{
    moeblock_mesh *mesh = run->block->mesh;
    int64_t values[] = {mine ? INT64_MIN : -pass_tokens(run, capacity), tokens, run->k, -run->k};
    if (mesh) MB_TRY(mb_mesh_agree(mesh, values, sizeof values / sizeof *values, mine, run->error));
    if (mine != MOEBLOCK_OK) return mine;
    if (values[2] != -values[3])
        return mb_fail(run->error, MOEBLOCK_MISMATCH, "running the block: the ranks give a token %lld to %lld slots",
                       (long long)-values[3], (long long)values[2]);
    *step = -values[0];
    *passes = mb_ceil_div(values[1], *step);
    run->longest = mb_min(values[1], *step);
    return keeps_sequences(run) ? agree_whole(run, tokens, *step, passes) : MOEBLOCK_OK;
}

moeblock_status mb_block_walk(struct mb_run *run, int64_t tokens, int64_t capacity, moeblock_status mine,
                              int64_t *passes)
{
    moeblock_mesh *mesh = run->block->mesh;
    int64_t step = 1, sequence = 0;
    MB_TRY(agree_passes(run, tokens, capacity, mine, &step, passes));
    run->block->backend->begin(run);
    run->first = run->n = 0;
    for (int64_t i = 0; i < *passes; i++) {
        run->first += run->n;
        run->n = pass_length(run, run->first, tokens, step, &sequence);
        MB_TRY(mb_block_pass(run)); // an empty pass still takes part in the mesh's calls
    }
    // A failure of another rank is told by that rank.
    const bool own = mb_run_failed(run) && run->origin == (mesh ? mesh->rank : 0);
    const moeblock_status status = own ? (moeblock_status)run->failed : MOEBLOCK_OK;
    return mesh ? mb_mesh_agree(mesh, NULL, 0, status, run->error) : status;
}
