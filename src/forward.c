// SPDX-License-Identifier: Apache-2.0
// The public forward calls: everything from outside is checked here, before the flow starts.
#include <inttypes.h>
#include <string.h>

#include "backend/array.h"
#include "base/clock.h"
#include "base/fpmode.h"
#include "base/options.h"
#include "base/status.h"
#include "block.h"

static moeblock_status check_objects(const moeblock_block *block, const moeblock_workspace *workspace,
                                     enum mb_loaded most, moeblock_error *error)
{
    if (!block->set)
        return mb_fail(error, MOEBLOCK_WRONG_STATE, "running the block: it has no weights yet; load them first");
    if (block->set->loaded > most)
        return mb_fail(error, MOEBLOCK_WRONG_STATE,
                       "running the block: only its router was loaded; load it without router_only, or call "
                       "moeblock_block_route");
    if (!workspace) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "running the block: workspace is NULL");
    if (workspace->block != block || workspace->serial != block->set->serial)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "running the block: the workspace was made for another block or for earlier weights; make one "
                       "for this block");
    return MOEBLOCK_OK;
}

static moeblock_status check_same_leading(const moeblock_array *x, const moeblock_array *other, const char *name,
                                          bool last_too, moeblock_error *error)
{
    bool same = x->rank == other->rank;
    for (int i = 0; same && i < x->rank - !last_too; i++) same = x->dims[i] == other->dims[i];
    if (same) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "running the block: %s differs in shape from x (%s)", name,
                   last_too ? "all dimensions must agree" : "all but the last dimension must agree");
}

static moeblock_status check_y(const moeblock_array *x, const moeblock_array *y, moeblock_error *error)
{
    int64_t tokens;
    MB_TRY(mb_array_check(y, "y", &tokens, error));
    MB_TRY(check_same_leading(x, y, "y", true, error));
    if (!mb_array_rows_apart(y))
        return mb_fail(
            error, MOEBLOCK_INVALID_ARGUMENT,
            "running the block: the strides of y lay rows over one another; each row needs elements of its own");
    if (mb_array_overlaps(x, y, tokens))
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "running the block: x and y share memory without being the same rows; give y memory of its own, "
                       "or x itself");
    return MOEBLOCK_OK;
}

static moeblock_status check_aux(const moeblock_block *block, const moeblock_forward_input *input,
                                 moeblock_error *error)
{
    const moeblock_config *config = block->config;
    const bool router = config->routed_enabled && config->router.input == MB_INPUT_AUX;
    int64_t tokens;
    if (!mb_reads_aux(config)) return MOEBLOCK_OK;
    if (!input->aux.rank)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "running the block: its %s reads a second tensor (%s.input is \"aux\"), but aux was not given",
                       router ? "router" : "shared expert", router ? "router.config" : "experts.shared");
    MB_TRY(mb_array_check(&input->aux, "aux", &tokens, error));
    MB_TRY(check_same_leading(&input->x, &input->aux, "aux", false, error));
    const int64_t width = input->aux.dims[input->aux.rank - 1];
    if (width != config->hidden_size)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "running the block: aux has last dimension %" PRId64 ", expected %" PRId64, width,
                       config->hidden_size);
    return MOEBLOCK_OK;
}

// Width of the router's state; 0 when it carries none.
static int64_t state_width(const moeblock_block *block)
{
    if (!block->router_kind || !block->set) return 0;
    const moeblock_router_class *router = block->router_kind->class_copy;
    return router->state_width ? router->state_width(block->set->router) : 0;
}

static moeblock_status check_router_state(const moeblock_block *block, const moeblock_forward_input *input,
                                          const moeblock_forward_output *output, moeblock_error *error)
{
    if ((!input->router_state && !output->router_state) || state_width(block) > 0) return MOEBLOCK_OK;
    return mb_fail(
        error, MOEBLOCK_INVALID_ARGUMENT,
        "running the block: the %s's router_state is set, but its router (%s) carries no state; leave it NULL",
        input->router_state ? "input" : "output", block->config->router.type);
}

static moeblock_status check_seq_lens(const moeblock_forward_input *input, int64_t tokens, moeblock_error *error)
{
    int64_t sum = 0;
    if (!input->seq_lens) return MOEBLOCK_OK;
    for (int64_t i = 0; i < input->n_seq; i++) {
        const int64_t length = input->seq_lens[i];
        if (length < 0 || length > tokens - sum)
            return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                           "running the block: sequence %" PRId64 " of seq_lens has length %" PRId64
                           ", expected 0 to %" PRId64 ", the tokens that are left of %" PRId64,
                           i, length, tokens - sum, tokens);
        sum += length;
    }
    if (sum == tokens) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                   "running the block: seq_lens sums to %" PRId64 ", expected %" PRId64 ", the tokens of x", sum,
                   tokens);
}

static moeblock_status check_input(const moeblock_block *block, const moeblock_forward_input *input,
                                   const moeblock_forward_output *output, bool writes_y, moeblock_sharding *sharding,
                                   int64_t *tokens, moeblock_error *error)
{
    if (input->mode != MOEBLOCK_PREFILL && input->mode != MOEBLOCK_DECODE)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "running the block: mode is %d, expected MOEBLOCK_PREFILL (1) or MOEBLOCK_DECODE (2)",
                       (int)input->mode);
    MB_TRY(mb_array_check(&input->x, "x", tokens, error));
    if (writes_y) MB_TRY(check_y(&input->x, &output->y, error));
    MB_TRY(moeblock_tp_sharding(input->x.dims[input->x.rank - 1], block->config->hidden_size, block->share.tp,
                                block->config->tp_enabled, sharding, error));
    MB_TRY(check_aux(block, input, error));
    MB_TRY(check_router_state(block, input, output, error));
    return check_seq_lens(input, *tokens, error);
}

// Runs all passes with denormals flushed and fills the statistics.
static moeblock_status run_all(struct mb_run *run, int64_t tokens, int64_t capacity, moeblock_status mine)
{
    moeblock_forward_stats *stats = run->output->stats;
    const double start = mb_seconds();
    int64_t passes = 0;
    const uint64_t mode = mb_flush_begin();
    const moeblock_status status = mb_block_walk(run, tokens, capacity, mine, &passes);
    mb_flush_end(mode);
    if (stats && status == MOEBLOCK_OK) {
        stats->tokens = tokens;
        stats->slots = tokens * run->k;
        stats->chunks = passes;
        stats->active_experts = run->active_experts;
        stats->router_seconds = run->router_seconds;
        stats->experts_seconds = run->experts_seconds;
        stats->total_seconds = mb_seconds() - start;
    }
    return status;
}

// Runs the passes of a call whose arguments gave `mine`. On a mesh the others wait for this rank: it takes part even
// when its own arguments were wrong, and all ranks return that error.
static moeblock_status start(struct mb_run *run, int64_t tokens, int64_t capacity, moeblock_status mine,
                             moeblock_error *error)
{
    moeblock_mesh *mesh = run->block->mesh;
    moeblock_status status = mine;
    if (mesh && atomic_exchange(&mesh->busy, true))
        return mb_fail(error, MOEBLOCK_WRONG_STATE,
                       "running the block: another forward is under way on its mesh; one at a time");
    if (mesh || mine == MOEBLOCK_OK) status = run_all(run, tokens, capacity, mine);
    if (mesh) atomic_store(&mesh->busy, false);
    if (status != MOEBLOCK_OK && error) *error = *run->error;
    return status;
}

static moeblock_status open_call(struct mb_run *run, const moeblock_forward_input *input,
                                 const moeblock_forward_output *output, moeblock_forward_input *in,
                                 moeblock_forward_output *out, int64_t *tokens)
{
    moeblock_error *error = run->error;
    MB_TRY(check_objects(run->block, run->workspace, run->route_only ? MB_LOADED_ROUTER : MB_LOADED_ALL, error));
    if (!input || !output)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "running the block: %s is NULL", input ? "output" : "input");
    MB_TRY(mb_options_read(in, sizeof *in, input, "moeblock_forward_input", error));
    MB_TRY(mb_options_read(out, sizeof *out, output, "moeblock_forward_output", error));
    if (out->stats && out->stats->struct_size < sizeof *out->stats)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "running the block: stats has struct_size %u, expected %zu",
                       (unsigned)out->stats->struct_size, sizeof *out->stats);
    return check_input(run->block, in, out, !run->route_only, &run->sharding, tokens, error);
}

// Both public calls: the whole flow, or the router alone.
static moeblock_status run_block(const moeblock_block *block, moeblock_workspace *workspace,
                                 const moeblock_forward_input *input, const moeblock_forward_output *output,
                                 bool route_only, moeblock_error *error)
{
    if (!block) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "running the block: block is NULL");
    moeblock_forward_input in = {.struct_size = sizeof in};
    moeblock_forward_output out = {.struct_size = sizeof out};
    moeblock_error reason = {MOEBLOCK_OK, ""};
    struct mb_run run = {.block = block,
                         .set = block->set,
                         .workspace = workspace,
                         .input = &in,
                         .output = &out,
                         .route_only = route_only,
                         .k = mb_all_slots(block->config),
                         .state_width = state_width(block),
                         .origin = block->mesh ? block->mesh->rank : 0,
                         .error = &reason};
    int64_t tokens = 0;
    const moeblock_status status = open_call(&run, input, output, &in, &out, &tokens);
    return start(&run, tokens, workspace ? workspace->tokens : 0, status, error);
}

moeblock_status moeblock_block_forward(const moeblock_block *block, moeblock_workspace *workspace,
                                       const moeblock_forward_input *input, const moeblock_forward_output *output,
                                       moeblock_error *error)
{
    return run_block(block, workspace, input, output, false, error);
}

moeblock_status moeblock_block_route(const moeblock_block *block, moeblock_workspace *workspace,
                                     const moeblock_forward_input *input, const moeblock_forward_output *output,
                                     moeblock_error *error)
{
    return run_block(block, workspace, input, output, true, error);
}

moeblock_status moeblock_forward(const moeblock_block *block, moeblock_workspace *workspace, const float *x,
                                 int64_t tokens, moeblock_mode mode, float *y, moeblock_error *error)
{
    const int64_t hidden = block ? block->config->hidden_size : 0;
    moeblock_forward_input in = {
        .struct_size = sizeof in, .mode = mode, .x = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {tokens, hidden}}};
    moeblock_forward_output out = {.struct_size = sizeof out, .y = in.x};
    memcpy(&in.x.data, &x, sizeof x); // x is only read
    out.y.data = y;
    return moeblock_block_forward(block, workspace, &in, &out, error);
}

static moeblock_status open_experts_call(struct mb_run *run, const moeblock_array *x, const moeblock_array *y,
                                         int64_t *tokens)
{
    const moeblock_block *block = run->block;
    moeblock_error *error = run->error;
    MB_TRY(check_objects(block, run->workspace, MB_LOADED_ALL, error));
    if (!x || !y || !run->given_ids || !run->given_weights)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "running the experts: %s is NULL",
                       !x                ? "x"
                       : !y              ? "y"
                       : !run->given_ids ? "ids"
                                         : "weights");
    if (!block->config->routed_enabled)
        return mb_fail(error, MOEBLOCK_WRONG_STATE,
                       "running the experts: the description has none (experts.distributed.enabled is false)");
    const int64_t slots = run->workspace->tokens * mb_all_slots(block->config);
    if (run->k < 1 || run->k > slots || run->k > mb_all_classes(block->config))
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "running the experts: k is %" PRId64 ", expected 1 to the number of experts, and at most the "
                       "%" PRId64 " slots that the workspace holds",
                       run->k, slots);
    MB_TRY(mb_array_check(x, "x", tokens, error));
    MB_TRY(check_y(x, y, error));
    return moeblock_tp_sharding(x->dims[x->rank - 1], block->config->hidden_size, block->share.tp,
                                block->config->tp_enabled, &run->sharding, error);
}

moeblock_status moeblock_block_forward_experts(const moeblock_block *block, moeblock_workspace *workspace,
                                               const moeblock_array *x, const int32_t *ids, const float *weights,
                                               int64_t k, moeblock_array *y, moeblock_error *error)
{
    if (!block) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "running the block: block is NULL");
    moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_DECODE};
    moeblock_forward_output out = {.struct_size = sizeof out};
    if (x) in.x = *x;
    if (y) out.y = *y;
    moeblock_error reason = {MOEBLOCK_OK, ""};
    struct mb_run run = {.block = block,
                         .set = block->set,
                         .workspace = workspace,
                         .input = &in,
                         .output = &out,
                         .k = k,
                         .given_ids = ids,
                         .given_weights = weights,
                         .origin = block->mesh ? block->mesh->rank : 0,
                         .error = &reason};
    int64_t tokens = 0;
    const moeblock_status status = open_experts_call(&run, x, y, &tokens);
    const int64_t slots = status == MOEBLOCK_OK ? workspace->tokens * mb_all_slots(block->config) : 0;
    return start(&run, tokens, status == MOEBLOCK_OK ? mb_min(workspace->tokens, slots / k) : 0, status, error);
}
