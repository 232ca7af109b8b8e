// SPDX-License-Identifier: Apache-2.0
// `moeblock route`: where the tokens of an input go. Reads the router's tensors and no expert.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "block.h"
#include "cli/commands.h"
#include "cli/exit.h"
#include "cli/out.h"
#include "cli/progress.h"
#include "cli/route.h"
#include "config/tensors.h"
#include "sizes.h"

static const moeblock_allocator *const allocator = &mb_default_allocator;

static int check_outputs(const struct cli_args *args, char ids[CLI_PATH_MAX], char weights[CLI_PATH_MAX])
{
    const char *const paths[] = {args->output, args->placement, args->plot};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        const int code = paths[i] ? cli_check_output(paths[i]) : CLI_OK;
        if (code) return code;
    }
    if (!args->router_out) return CLI_OK;
    if (snprintf(ids, CLI_PATH_MAX, "%s_ids.npy", args->router_out) >= CLI_PATH_MAX ||
        snprintf(weights, CLI_PATH_MAX, "%s_weights.npy", args->router_out) >= CLI_PATH_MAX)
        return cli_fail(CLI_USAGE, "option --router-out: longer than %d bytes", CLI_PATH_MAX);
    const int code = cli_check_output(ids);
    return code ? code : cli_check_output(weights);
}

static int allocate(struct cli_run *run)
{
    const size_t slots = (size_t)run->tokens * (size_t)run->shape.num_experts_per_tok;
    run->n_load = run->shape.num_experts;
    run->ids = mb_alloc(allocator, sizeof(int32_t) * slots);
    run->weights = mb_alloc(allocator, sizeof(float) * slots);
    run->load = mb_alloc_zero(allocator, sizeof(int64_t) * (size_t)run->n_load);
    if (run->ids && run->weights && run->load) return CLI_OK;
    return cli_fail(CLI_SYSTEM_REFUSED, "no memory for the choices of %" PRId64 " tokens", run->tokens);
}

static int route_tokens(struct cli_run *run)
{
    struct cli_session *const session = &run->session;
    moeblock_workspace *workspace = NULL;
    run->stats = (moeblock_forward_stats){.struct_size = sizeof run->stats, .expert_load = run->load};
    const moeblock_forward_input input = cli_run_input(run);
    const moeblock_forward_output output = {
        .struct_size = sizeof output, .ids = run->ids, .weights = run->weights, .stats = &run->stats};
    moeblock_status status =
        moeblock_workspace_create(session->block, run->tokens, NULL, 0, &workspace, &session->error);
    const double started = cli_seconds();
    if (status == MOEBLOCK_OK)
        status = moeblock_block_route(session->block, workspace, &input, &output, &session->error);
    run->seconds = cli_seconds() - started;
    moeblock_workspace_destroy(&workspace);
    return status == MOEBLOCK_OK ? CLI_OK : cli_fail_status(CLI_ABOUT_DATA, &session->error);
}

// Bytes of one expert on a rank of the mesh, in the format in which the checkpoint holds it.
static moeblock_status find_expert_bytes(struct cli_route *route)
{
    struct cli_session *const session = &route->run.session;
    struct mb_matrix matrix;
    struct mb_sizes sizes;
    moeblock_error *const error = &session->error;
    const moeblock_status status = mb_projection_find(session->config, session->weights, MB_PROJ_DOWN,
                                                      mb_block_layer(session->config), 0, &matrix, error);
    if (status != MOEBLOCK_OK) return status;
    const struct mb_size_question question = {
        .rows = route->mesh.rows, .columns = route->mesh.columns, .format = matrix.format};
    const moeblock_status sized = mb_sizes_of(session->context, session->config, &question, &sizes, error);
    if (sized == MOEBLOCK_OK) route->expert_bytes = sizes.expert_bytes;
    return sized;
}

static int weigh(struct cli_route *route, struct cli_placed *placed)
{
    placed->load = mb_alloc(allocator, sizeof(double) * (size_t)route->ranks);
    if (!placed->load) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for %d ranks", route->ranks);
    mb_placement_loads(&placed->table, route->run.load, placed->load);
    for (int r = 0; r < route->ranks; r++) {
        placed->mean += placed->load[r] / route->ranks;
        if (placed->load[r] <= placed->worst) continue;
        placed->worst = placed->load[r];
        placed->worst_rank = r;
    }
    return CLI_OK;
}

static int place(struct cli_route *route)
{
    struct cli_session *const session = &route->run.session;
    const moeblock_config *const config = session->config;
    const struct cli_args *const args = route->run.args;
    const int64_t experts = config->num_experts;
    moeblock_error *const error = &session->error;
    route->ranks = !config->ep_enabled ? 1 : config->ep_axis == 0 ? route->mesh.rows : route->mesh.columns;
    route->copies = args->copies;
    const moeblock_status sized = find_expert_bytes(route);
    if (args->copy_bytes) {
        if (sized != MOEBLOCK_OK) return cli_fail_status(CLI_ABOUT_DATA, error);
        route->copies = route->expert_bytes ? args->copy_bytes / (int64_t)route->expert_bytes : 0;
    }
    moeblock_status status =
        mb_placement_named(allocator, config->placement, experts, route->ranks, &route->now.table, error);
    if (status == MOEBLOCK_OK)
        status = mb_placement_balanced(allocator, route->run.load, experts, route->ranks, route->copies,
                                       &route->balanced.table, error);
    if (status != MOEBLOCK_OK) return cli_fail_status(CLI_ABOUT_CONFIG, error);
    const int code = weigh(route, &route->now);
    return code ? code : weigh(route, &route->balanced);
}

static int write_text(const char *path, const char *text)
{
    struct mb_output output;
    moeblock_error error;
    moeblock_status status = mb_output_open(path, &output, &error);
    if (status == MOEBLOCK_OK) status = mb_output_write(&output, text, strlen(text), &error);
    if (status == MOEBLOCK_OK) status = mb_output_commit(&output, &error);
    return status == MOEBLOCK_OK ? CLI_OK : cli_fail_status(CLI_ABOUT_DATA, &error);
}

static int write_placement(const struct cli_route *route)
{
    char *const text = mb_placement_text(&route->balanced.table);
    if (!text) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for the placement's text");
    const int code = write_text(route->run.args->placement, text);
    mb_free(allocator, text);
    return code;
}

static int write_results(const struct cli_route *route, const char *ids, const char *weights)
{
    const struct cli_run *const run = &route->run;
    const struct cli_args *const args = run->args;
    const int64_t slots[2] = {run->tokens, run->shape.num_experts_per_tok};
    int code = args->output ? cli_route_write_load(route, args->output) : CLI_OK;
    if (!code && args->router_out) code = cli_write_array(ids, MOEBLOCK_I32, 2, slots, run->ids);
    if (!code && args->router_out) code = cli_write_array(weights, MOEBLOCK_F32, 2, slots, run->weights);
    if (!code && args->placement) code = write_placement(route);
    return !code && args->plot ? cli_route_plot(route, args->plot) : code;
}

static int route_all(struct cli_route *route)
{
    static char ids[CLI_PATH_MAX], weights[CLI_PATH_MAX];
    struct cli_run *const run = &route->run;
    struct cli_session *const session = &run->session;
    const struct cli_args *const args = run->args;
    int code, count;
    route->has_mesh = args->mesh != NULL;
    if (args->mesh && (code = cli_mesh_read(args->mesh, 1, &route->mesh, &count))) return code;
    if ((code = check_outputs(args, ids, weights))) return code;
    if ((code = cli_open_context(session, args, (int)args->threads))) return code;
    if ((code = cli_open_config(session, args, args->positional[0], NULL, 0))) return code;
    moeblock_config_get_shape(session->config, &run->shape);
    if (!session->config->routed_enabled)
        return cli_fail(CLI_BAD_CONFIG, "'%.500s' has no routed experts, so there is nothing to route",
                        session->config_path);
    if ((code = cli_find_weights(session, args))) return code;
    if ((code = cli_run_read(run))) return code;
    if ((code = cli_open_weights(session, session->weights_path))) return code;
    if ((code = cli_make_block(session, args))) return code;
    if ((code = cli_load_router(session))) return code;
    if ((code = allocate(run))) return code;
    if ((code = route_tokens(run))) return code;
    if (route->has_mesh && (code = place(route))) return code;
    if ((code = write_results(route, ids, weights))) return code;
    cli_route_report(route);
    return CLI_OK;
}

int cli_route(const struct cli_args *args)
{
    static struct cli_route route; // paths and messages inside: too large for the stack's taste
    route.run.args = args;
    const int code = route_all(&route);
    struct cli_placed *const placed[] = {&route.now, &route.balanced};
    for (size_t i = 0; i < sizeof placed / sizeof *placed; i++) {
        mb_free(allocator, placed[i]->load);
        mb_placement_free(&placed[i]->table);
    }
    cli_run_free(&route.run);
    cli_close(&route.run.session);
    return code;
}
