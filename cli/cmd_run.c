// SPDX-License-Identifier: Apache-2.0
// `moeblock run`: one layer on an input. Everything that can be wrong is looked at before the weights are loaded, and
// outputs are written when all of them are computed.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "cli/commands.h"
#include "cli/exit.h"
#include "cli/out.h"
#include "cli/progress.h"
#include "cli/run.h"
#include "mesh/mesh.h"

static int check_outputs(const struct cli_args *args, char ids[CLI_PATH_MAX], char weights[CLI_PATH_MAX])
{
    if (!args->output && !args->compare && !args->router_out && !args->router_state_out && !args->show)
        return cli_fail(CLI_USAGE, "run needs something to do with its result: --output, --router-out, "
                                   "--router-state-out, --compare or --show");
    int code = args->output ? cli_check_output(args->output) : CLI_OK;
    if (!code && args->router_state_out) code = cli_check_output(args->router_state_out);
    if (code || !args->router_out) return code;
    if (snprintf(ids, CLI_PATH_MAX, "%s_ids.npy", args->router_out) >= CLI_PATH_MAX ||
        snprintf(weights, CLI_PATH_MAX, "%s_weights.npy", args->router_out) >= CLI_PATH_MAX)
        return cli_fail(CLI_USAGE, "option --router-out: longer than %d bytes", CLI_PATH_MAX);
    if (args->output && (!strcmp(args->output, ids) || !strcmp(args->output, weights)))
        return cli_fail(CLI_USAGE, "--output and --router-out would both write '%s'; give two names", args->output);
    code = cli_check_output(ids);
    return code ? code : cli_check_output(weights);
}

static int allocate_results(struct cli_run *run)
{
    const moeblock_allocator *const allocator = &mb_default_allocator;
    const size_t slots = (size_t)run->tokens * (size_t)run->shape.num_experts_per_tok;
    run->n_load = run->shape.num_experts + run->session.config->router.null_experts;
    run->y = mb_alloc(allocator, sizeof(float) * (size_t)run->x.count);
    run->ids = mb_alloc(allocator, sizeof(int32_t) * slots);
    run->weights = mb_alloc(allocator, sizeof(float) * slots);
    run->load = mb_alloc_zero(allocator, sizeof(int64_t) * (size_t)(run->n_load + 1));
    const size_t state = (size_t)(run->tokens * run->session.config->router.state_size);
    if (run->args->router_state_out && !(run->state_out = mb_alloc(allocator, sizeof(float) * (state + 1))))
        return cli_fail(CLI_SYSTEM_REFUSED, "no memory for the router state of %" PRId64 " tokens", run->tokens);
    if (run->y && run->ids && run->weights && run->load) return CLI_OK;
    return cli_fail(CLI_SYSTEM_REFUSED, "no memory for the results of %" PRId64 " tokens", run->tokens);
}

// Cuts an array of all tokens to rows [t0, t1) and columns [h0, h1), seen in their place.
static void narrow(moeblock_array *array, int64_t t0, int64_t t1, int64_t h0, int64_t h1)
{
    if (!array->data) return;
    const int64_t width = array->dims[array->rank - 1];
    array->data = (char *)array->data + (size_t)(t0 * width + h0) * moeblock_dtype_bytes(array->dtype);
    array->rank = 2;
    array->dims[0] = t1 - t0;
    array->dims[1] = h1 - h0;
    array->strides[0] = width;
    array->strides[1] = 1;
}

// What the block of this process reads, of what the files hold.
static moeblock_forward_input input_of(const struct cli_run *run, const struct cli_part *part)
{
    moeblock_forward_input input = cli_run_input(run);
    if (!run->session.ranks.mesh) return input;
    narrow(&input.x, part->t0, part->t1, part->h0, part->h1);
    narrow(&input.aux, part->t0, part->t1, 0, run->shape.hidden_size);
    if (input.token_ids) input.token_ids += part->t0;
    if (input.token_types) input.token_types += part->t0;
    if (input.router_state) input.router_state += part->t0 * run->session.config->router.state_size;
    return input;
}

// Runs the part of this process; its y, ids and weights stand at the beginning of the arrays.
static int compute(struct cli_run *run)
{
    moeblock_workspace *workspace = NULL;
    moeblock_error *const error = &run->session.error;
    const struct cli_part part = cli_ranks_part(&run->session.ranks, run->tokens, run->shape.hidden_size);
    run->stats = (moeblock_forward_stats){.struct_size = sizeof run->stats, .expert_load = run->load};
    const moeblock_forward_input input = input_of(run, &part);
    moeblock_array y = input.x;
    y.dtype = MOEBLOCK_F32;
    y.data = run->y;
    memset(y.strides, 0, sizeof y.strides);
    const moeblock_forward_output output = {
        .struct_size = sizeof output,
        .y = y,
        .ids = run->ids,
        .weights = run->weights,
        .router_state = run->state_out,
        .stats = &run->stats,
    };
    // Ranks with fewer tokens compute for the others: all hold the same workspace.
    moeblock_status status = moeblock_workspace_create(run->session.block, run->tokens, NULL, 0, &workspace, error);
    status = moeblock_mesh_agree(run->session.ranks.mesh, status, error);
    moeblock_mesh_reset_traffic(run->session.ranks.mesh);
    const double started = cli_seconds();
    if (status == MOEBLOCK_OK) status = moeblock_block_forward(run->session.block, workspace, &input, &output, error);
    run->seconds = cli_seconds() - started;
    moeblock_workspace_destroy(&workspace);
    return status == MOEBLOCK_OK ? CLI_OK : cli_ranks_fail(&run->session.ranks, CLI_ABOUT_DATA, error);
}

// Brings the parts of all processes together in the one that writes them.
static int gather_results(struct cli_run *run)
{
    const struct cli_ranks *const mesh = &run->session.ranks;
    moeblock_error *const error = &run->session.error;
    const int64_t k = run->shape.num_experts_per_tok;
    const struct {
        void **array;
        int64_t width;
        size_t element;
        bool sharded;
    } results[] = {{(void **)&run->y, run->shape.hidden_size, sizeof(float), true},
                   {(void **)&run->ids, k, sizeof(int32_t), false},
                   {(void **)&run->weights, k, sizeof(float), false},
                   {(void **)&run->state_out, run->session.config->router.state_size, sizeof(float), false}};
    if (!mesh->mesh) return CLI_OK;
    for (size_t i = 0; i < sizeof results / sizeof *results; i++) {
        if (!*results[i].array) continue; // not asked for, on any process
        const size_t bytes = (size_t)(run->tokens * results[i].width) * results[i].element;
        void *whole = mb_alloc(&mb_default_allocator, bytes + 1);
        moeblock_status status =
            whole ? MOEBLOCK_OK : mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "no memory for the results");
        status = moeblock_mesh_agree(mesh->mesh, status, error);
        if (status == MOEBLOCK_OK)
            status = cli_ranks_gather(mesh, *results[i].array, run->tokens, results[i].width, results[i].element,
                                      results[i].sharded, whole, error);
        mb_free(&mb_default_allocator, *results[i].array);
        *results[i].array = whole;
        if (status != MOEBLOCK_OK) return cli_ranks_fail(mesh, CLI_ABOUT_DATA, error);
    }
    if (!cli_ranks_speaks(mesh)) return CLI_OK;
    memset(run->load, 0, sizeof *run->load * (size_t)run->n_load);
    for (int64_t i = 0; i < run->tokens * k; i++)
        if (run->ids[i] >= 0 && run->ids[i] < run->shape.num_experts) run->load[run->ids[i]]++;
    return CLI_OK;
}

static int write_results(const struct cli_run *run, const char *ids, const char *weights)
{
    const struct cli_args *const args = run->args;
    const int64_t slots[2] = {run->tokens, run->shape.num_experts_per_tok};
    int code = CLI_OK;
    if (args->output) code = cli_write_array(args->output, MOEBLOCK_F32, run->x.rank, run->x.dims, run->y);
    const int64_t state[2] = {run->tokens, run->session.config->router.state_size};
    if (!code && args->router_state_out)
        code = cli_write_array(args->router_state_out, MOEBLOCK_F32, 2, state, run->state_out);
    if (!code && args->router_out) code = cli_write_array(ids, MOEBLOCK_I32, 2, slots, run->ids);
    if (!code && args->router_out) code = cli_write_array(weights, MOEBLOCK_F32, 2, slots, run->weights);
    return code;
}

static int check_tolerance(const struct cli_run *run)
{
    const double allowed = run->args->tolerance, found = run->comparison.relative_rms;
    if (!run->compared || allowed < 0 || found <= allowed) return CLI_OK;
    return cli_fail(CLI_BAD_DATA, "the output differs from '%s': relative rms %.3g, at most %.3g allowed",
                    run->args->compare, found, allowed);
}

static int publish(struct cli_run *run, const char *ids, const char *weights)
{
    int code;
    if (!cli_ranks_speaks(&run->session.ranks)) return CLI_OK;
    run->compared = run->args->compare != NULL;
    if (run->compared) run->comparison = cli_compare(run->y, &run->reference);
    if ((code = write_results(run, ids, weights))) return code;
    cli_run_report(run);
    return check_tolerance(run);
}

// What each process does for itself before the first call that needs the others.
static int prepare(struct cli_run *run, char *ids, char *weights)
{
    struct cli_session *const session = &run->session;
    const struct cli_args *const args = run->args;
    int code;
    if ((code = check_outputs(args, ids, weights))) return code;
    if ((code = cli_open_context(session, args, (int)args->threads))) return code;
    if ((code = cli_open_config(session, args, args->positional[0], NULL, 0))) return code;
    moeblock_config_get_shape(session->config, &run->shape);
    cli_ranks_lay(&session->ranks, session->config);
    if ((code = cli_find_weights(session, args))) return code;
    if ((code = cli_run_read(run))) return code;
    if (run->seq_lens && session->ranks.mesh && session->ranks.mesh->size > 1)
        return cli_fail(CLI_USAGE, "option --seq-lens: a mesh splits the tokens, not the sequences; use one process");
    if ((code = cli_open_weights(session, session->weights_path))) return code;
    return allocate_results(run);
}

static int run_all(struct cli_run *run)
{
    static char ids[CLI_PATH_MAX], weights[CLI_PATH_MAX];
    struct cli_session *const session = &run->session;
    const struct cli_args *const args = run->args;
    int code;
    if ((code = cli_ranks_open(&session->ranks, args))) return code;
    if ((code = cli_ranks_agree(&session->ranks, prepare(run, ids, weights)))) return code;
    const double started = cli_seconds();
    if ((code = cli_make_block(session, args))) return code;
    if ((code = cli_load(session, args))) return code;
    run->info.struct_size = sizeof run->info;
    moeblock_block_get_info(session->block, &run->info);
    if ((code = compute(run))) return code;
    run->first_forward_seconds = cli_seconds() - started;
    if ((code = cli_mesh_collect(session, run->tokens, &run->counts))) return code;
    if ((code = gather_results(run))) return code;
    return cli_ranks_agree(&session->ranks, publish(run, ids, weights));
}

int cli_run(const struct cli_args *args)
{
    static struct cli_run run; // paths and messages inside: too large for the stack's taste
    run.args = args;
    const int code = run_all(&run);
    cli_run_free(&run);
    cli_close(&run.session);
    cli_ranks_close(&run.session.ranks, code);
    return code;
}
