// SPDX-License-Identifier: Apache-2.0
// `moeblock plan`: memory, bytes on the wire and predicted time of meshes, side by side, without MPI and without
// weights.
#include <string.h>

#include "cli/commands.h"
#include "cli/exit.h"
#include "cli/plan.h"
#include "config/layers.h"
#include "weights/dtype.h"

// Ranks of the expert-parallel axis: the bytes between each pair are kept.
enum { EP_MOST = 4096 };

static int read_format(struct plan *plan)
{
    const char *const named = plan->session.config->format;
    const char *name = plan->args->format ? plan->args->format : strcmp(named, "auto") ? named : "bf16";
    const int format = mb_format_find(name);
    if (format < 0)
        return cli_fail(CLI_USAGE,
                        "option --format: '%.60s' is no number format of experts, such as bf16, fp8 or mxfp4", name);
    plan->format = (enum mb_format)format;
    return CLI_OK;
}

static void count_layers(struct plan *plan)
{
    const moeblock_config *const config = plan->session.config;
    for (int64_t layer = 0; layer < config->num_layers; layer++)
        plan->layers += !config->moe_layers[0] || mb_layers_contain(config->moe_layers, layer);
}

static int check_meshes(const struct plan *plan)
{
    const moeblock_config *const config = plan->session.config;
    for (int i = 0; i < plan->count; i++) {
        const struct cli_mesh *const mesh = &plan->mesh[i].shape;
        const int ep = config->ep_axis == 0 ? mesh->rows : mesh->columns;
        if (config->ep_enabled && config->tp_enabled && config->ep_axis == config->tp_axis &&
            (mesh->rows > 1 || mesh->columns > 1))
            return cli_fail(CLI_BAD_CONFIG,
                            "mesh %dx%d: tensor and expert parallelism are on the same axis %d; they must "
                            "be different axes",
                            mesh->rows, mesh->columns, (int)config->ep_axis);
        if (config->ep_enabled && ep > EP_MOST)
            return cli_fail(CLI_USAGE, "mesh %dx%d: the experts are spread over %d ranks, at most %d can be planned",
                            mesh->rows, mesh->columns, ep, EP_MOST);
    }
    return CLI_OK;
}

static void choose(struct plan *plan)
{
    plan->fastest = -1;
    for (int i = 0; i < plan->count; i++) {
        if (!plan->mesh[i].fits) continue;
        if (plan->fastest < 0 || plan->mesh[i].total < plan->mesh[plan->fastest].total) plan->fastest = i;
    }
}

static int plan_all(struct plan *plan)
{
    const struct cli_args *const args = plan->args;
    struct cli_session *const session = &plan->session;
    struct cli_mesh shapes[CLI_MESHES_MAX];
    int code;
    if ((code = cli_mesh_read(args->mesh, CLI_MESHES_MAX, shapes, &plan->count))) return code;
    for (int i = 0; i < plan->count; i++) plan->mesh[i].shape = shapes[i];
    if ((code = cli_open_context(session, args, (int)args->threads))) return code;
    if ((code = cli_open_config(session, args, args->positional[0], NULL, 0))) return code;
    moeblock_config_get_shape(session->config, &plan->shape);
    if ((code = read_format(plan))) return code;
    if ((code = check_meshes(plan))) return code;
    count_layers(plan);
    plan->compute = cli_compute_of(args->compute);
    plan->input_bytes = strcmp(args->dtype, "f32") == 0 ? 4 : 2;
    plan->rates = (struct plan_rates){1e-6 * args->alpha, 1e9 * args->beta, args->gflops, 1e9 * args->dram};
    if ((code = plan_read_routing(plan))) return code;
    for (int i = 0; i < plan->count; i++)
        if ((code = plan_predict(plan, &plan->mesh[i]))) return code;
    choose(plan);
    plan_report(plan);
    return CLI_OK;
}

int cli_plan(const struct cli_args *args)
{
    static struct plan plan; // paths and messages inside: too large for the stack's taste
    plan.args = args;
    const int code = plan_all(&plan);
    mb_free(&mb_default_allocator, plan.ids);
    cli_close(&plan.session);
    return code;
}
