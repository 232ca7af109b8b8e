// SPDX-License-Identifier: Apache-2.0
// `moeblock run`: one layer on an input. Everything that can be wrong is looked at before the weights are loaded, and
// outputs are written when all of them are computed.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/exit.h"
#include "cli/out.h"
#include "cli/progress.h"
#include "cli/run.h"

static int check_mesh(const struct cli_args *args)
{
    static const char *const launchers[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
    if (args->mesh) {
        long rows = 0, columns = 0;
        char end;
        if (sscanf(args->mesh, "%5ldx%5ld%c", &rows, &columns, &end) != 2 || rows < 1 || columns < 1)
            return cli_fail(CLI_USAGE, "option --mesh: found '%.100s', expected rows x columns, such as 2x4",
                            args->mesh);
        if (rows * columns > 1)
            return cli_fail(CLI_BAD_CONFIG,
                            "--mesh %ldx%ld: mesh support arrives as moeblock-mpi; this program "
                            "computes on one process (1x1)",
                            rows, columns);
    }
    for (size_t i = 0; !args->mesh && i < sizeof launchers / sizeof *launchers; i++) {
        const char *const size = getenv(launchers[i]);
        if (size && atoi(size) > 1)
            return cli_fail(CLI_USAGE,
                            "started as one of %d processes (%s) without --mesh: each would do the same "
                            "work; start one process",
                            atoi(size), launchers[i]);
    }
    return CLI_OK;
}

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

static int forward(struct cli_run *run)
{
    moeblock_workspace *workspace = NULL;
    moeblock_error *const error = &run->session.error;
    run->stats = (moeblock_forward_stats){.struct_size = sizeof run->stats, .expert_load = run->load};
    const moeblock_forward_input input = cli_run_input(run);
    const moeblock_forward_output output = {
        .struct_size = sizeof output,
        .y = cli_run_array(&run->x, MOEBLOCK_F32, run->y),
        .ids = run->ids,
        .weights = run->weights,
        .router_state = run->state_out,
        .stats = &run->stats,
    };
    moeblock_status status = moeblock_workspace_create(run->session.block, run->tokens, NULL, 0, &workspace, error);
    const double started = cli_seconds();
    if (status == MOEBLOCK_OK) status = moeblock_block_forward(run->session.block, workspace, &input, &output, error);
    run->seconds = cli_seconds() - started;
    moeblock_workspace_destroy(&workspace);
    return status == MOEBLOCK_OK ? CLI_OK : cli_fail_status(CLI_ABOUT_DATA, error);
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

static int load_and_compute(struct cli_run *run, const char *ids, const char *weights)
{
    struct cli_session *const session = &run->session;
    const struct cli_args *const args = run->args;
    const double started = cli_seconds();
    int code;
    if ((code = cli_open_weights(session, session->weights_path))) return code;
    if ((code = cli_make_block(session, args))) return code;
    if ((code = cli_load(session, args))) return code;
    run->info.struct_size = sizeof run->info;
    moeblock_block_get_info(session->block, &run->info);
    if ((code = allocate_results(run))) return code;
    if ((code = forward(run))) return code;
    run->first_forward_seconds = cli_seconds() - started;
    run->compared = args->compare != NULL;
    if (run->compared) run->comparison = cli_compare(run->y, &run->reference);
    if ((code = write_results(run, ids, weights))) return code;
    cli_run_report(run);
    return check_tolerance(run);
}

static int run_all(struct cli_run *run)
{
    static char ids[CLI_PATH_MAX], weights[CLI_PATH_MAX];
    struct cli_session *const session = &run->session;
    const struct cli_args *const args = run->args;
    int code;
    if ((code = check_mesh(args))) return code;
    if ((code = check_outputs(args, ids, weights))) return code;
    if ((code = cli_open_context(session, args, (int)args->threads))) return code;
    if ((code = cli_open_config(session, args, args->positional[0], NULL, 0))) return code;
    moeblock_config_get_shape(session->config, &run->shape);
    if ((code = cli_find_weights(session, args))) return code;
    if ((code = cli_run_read(run))) return code;
    return load_and_compute(run, ids, weights);
}

int cli_run(const struct cli_args *args)
{
    static struct cli_run run; // paths and messages inside: too large for the stack's taste
    run.args = args;
    const int code = run_all(&run);
    cli_run_free(&run);
    cli_close(&run.session);
    return code;
}
