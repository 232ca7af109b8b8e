// SPDX-License-Identifier: Apache-2.0
// A plan as text, a column a mesh, or as JSON.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/mesh_report.h"
#include "cli/out.h"
#include "cli/plan.h"

enum { COLUMN = 12 };

const char *const plan_part_names[PLAN_PARTS] = {
    "gather x",           "router",  "dispatch",         "own rows, shared expert", "rows of others",
    "gather activations", "combine", "add partial sums", "gather whole rows",       "gather y"};
static const char *const part_keys[PLAN_PARTS] = {"input",       "router",  "dispatch", "own",        "far",
                                                  "activations", "combine", "sums",     "whole_rows", "output"};

// --- text ------------------------------------------------------------------------------------------------------------

static void label(const char *text) { printf("%-34s", text); }

static void put(const char *text) { printf(" %*s", COLUMN, text); }

typedef double (*pick)(const struct plan_mesh *mesh);

static void line_of_bytes(const struct plan *plan, const char *name, pick of)
{
    char text[32];
    label(name);
    for (int i = 0; i < plan->count; i++) put(cli_bytes_text(of(&plan->mesh[i]), text));
    printf("\n");
}

static void line_of_numbers(const struct plan *plan, const char *name, int digits, pick of)
{
    label(name);
    for (int i = 0; i < plan->count; i++) printf(" %*.*f", COLUMN, digits, of(&plan->mesh[i]));
    printf("\n");
}

static double processes(const struct plan_mesh *m) { return (double)m->shape.rows * m->shape.columns; }
static double tokens(const struct plan_mesh *m) { return (double)m->tokens; }
static double passes(const struct plan_mesh *m) { return (double)m->passes; }
static double experts(const struct plan_mesh *m) { return (double)m->experts_most; }
static double weights(const struct plan_mesh *m) { return (double)m->weights; }
static double workspace(const struct plan_mesh *m) { return (double)m->workspace; }
static double imbalance(const struct plan_mesh *m) { return m->rows_mean > 0 ? m->rows_worst / m->rows_mean : 1; }
static double ep_mean(const struct plan_mesh *m) { return m->axis[0].sent_mean; }
static double ep_worst(const struct plan_mesh *m) { return m->axis[0].sent_worst; }
static double ep_received(const struct plan_mesh *m) { return m->axis[0].received_worst; }
static double tp_mean(const struct plan_mesh *m) { return m->axis[1].sent_mean; }
static double tp_worst(const struct plan_mesh *m) { return m->axis[1].sent_worst; }
static double total(const struct plan_mesh *m) { return 1e6 * m->total; }
static void print_head(const struct plan *plan)
{
    const struct cli_args *const args = plan->args;
    const moeblock_config *const config = plan->session.config;
    printf("one layer of %s: hidden size %" PRId64 ", %" PRId64 " experts of %" PRId64 ", %" PRId64 " a token",
           config->name[0] ? config->name : plan->session.config_path, plan->shape.hidden_size, plan->shape.num_experts,
           plan->shape.intermediate_size, plan->shape.num_experts_per_tok);
    if (plan->shape.shared_intermediate_size)
        printf(", a shared one of %" PRId64, plan->shape.shared_intermediate_size);
    printf("; weights in %s\n", mb_format_table[plan->format].name);
    printf("%" PRId64 " tokens on the whole mesh (%s), x and y in %s, routing %s%s\n", args->token_count, args->mode,
           args->dtype, args->routing, plan->choices.rows < args->token_count ? ", its rows repeated" : "");
    printf("assumed of each rank: %g us a message, %g GB/s each way, %g GFLOP/s, %g GB/s of memory\n"
           "  (--alpha, --beta, --gflops, --dram; `moeblock bench` measures the last two on a machine)\n",
           args->alpha, args->beta, args->gflops, args->dram);
}

static void print_memory(const struct plan *plan)
{
    char text[32], name[64];
    line_of_bytes(plan, "weights of the fullest rank", weights);
    if (plan->layers > 1) {
        snprintf(name, sizeof name, "  the same in all %" PRId64 " layers", plan->layers);
        label(name);
        for (int i = 0; i < plan->count; i++)
            put(cli_bytes_text((double)plan->mesh[i].weights * (double)plan->layers, text));
        printf("\n");
    }
    line_of_bytes(plan, "workspace", workspace);
    if (!plan->args->memory) return;
    snprintf(name, sizeof name, "fits into %s", cli_bytes_text((double)plan->args->memory, text));
    label(name);
    for (int i = 0; i < plan->count; i++) put(plan->mesh[i].fits ? "yes" : "no");
    printf("\n");
}

static void print_times(const struct plan *plan)
{
    printf("time, us:\n");
    for (int part = 0; part < PLAN_PARTS; part++) {
        bool any = false;
        for (int i = 0; i < plan->count; i++) any = any || plan->mesh[i].seconds[part] > 0;
        if (!any) continue;
        printf("  %-32s", plan_part_names[part]);
        for (int i = 0; i < plan->count; i++) printf(" %*.1f", COLUMN, 1e6 * plan->mesh[i].seconds[part]);
        printf("\n");
    }
    line_of_numbers(plan, "  all, dispatch beside own rows", 1, total);
    label("  mostly");
    for (int i = 0; i < plan->count; i++) printf(" %*.*s", COLUMN, COLUMN, part_keys[plan->mesh[i].dominant]);
    printf("\n");
    label("tokens/s, one layer");
    for (int i = 0; i < plan->count; i++)
        printf(" %*.4g", COLUMN, (double)plan->args->token_count / plan->mesh[i].total);
    printf("\n");
}

static void print_advice(const struct plan *plan)
{
    if (plan->fastest < 0) {
        printf("no mesh fits into the memory given\n");
        return;
    }
    const struct plan_mesh *const best = &plan->mesh[plan->fastest];
    int thriftiest = plan->fastest;
    for (int i = 0; i < plan->count; i++)
        if (plan->mesh[i].fits && plan->mesh[i].total * processes(&plan->mesh[i]) <
                                      plan->mesh[thriftiest].total * processes(&plan->mesh[thriftiest]))
            thriftiest = i;
    printf("recommended: %dx%d, %.1f us, mostly %s", best->shape.rows, best->shape.columns, 1e6 * best->total,
           plan_part_names[best->dominant]);
    if (thriftiest != plan->fastest)
        printf("; the least process time a token: %dx%d", plan->mesh[thriftiest].shape.rows,
               plan->mesh[thriftiest].shape.columns);
    printf("\n");
}

static void print_algorithms(const struct plan *plan)
{
    for (int i = 0; i < plan->count; i++) {
        const struct plan_mesh *const mesh = &plan->mesh[i];
        if (mesh->explain[0]) printf("%dx%d: %s\n", mesh->shape.rows, mesh->shape.columns, mesh->explain);
        if (mesh->tp > 1 && plan->session.config->reproducible == MB_REPRODUCIBLE_BATCH)
            printf("%dx%d: columns exchange %s\n", mesh->shape.rows, mesh->shape.columns, mesh->columns.why);
    }
}

static void print_text(const struct plan *plan)
{
    char shape[32];
    print_head(plan);
    printf("\n");
    label("mesh");
    for (int i = 0; i < plan->count; i++) {
        snprintf(shape, sizeof shape, "%dx%d", plan->mesh[i].shape.rows, plan->mesh[i].shape.columns);
        put(shape);
    }
    printf("\n");
    line_of_numbers(plan, "processes", 0, processes);
    line_of_numbers(plan, "tokens of the fullest row", 0, tokens);
    line_of_numbers(plan, "passes", 0, passes);
    line_of_numbers(plan, "experts of the fullest rank", 0, experts);
    print_memory(plan);
    line_of_numbers(plan, "rows computed, worst / mean rank", 3, imbalance);
    line_of_bytes(plan, "expert axis: sent, mean rank", ep_mean);
    line_of_bytes(plan, "             sent, worst rank", ep_worst);
    line_of_bytes(plan, "             received, worst rank", ep_received);
    line_of_bytes(plan, "tensor axis: sent, mean rank", tp_mean);
    line_of_bytes(plan, "             sent, worst rank", tp_worst);
    print_times(plan);
    print_algorithms(plan);
    print_advice(plan);
}

// --- JSON ------------------------------------------------------------------------------------------------------------

static json_t *bytes_json(const struct plan_bytes *bytes)
{
    json_t *object = json_object();
    cli_json_number(object, "sent_mean", bytes->sent_mean);
    cli_json_number(object, "sent_worst", bytes->sent_worst);
    cli_json_number(object, "received_worst", bytes->received_worst);
    return object;
}

static json_t *mesh_json(const struct plan_mesh *mesh)
{
    json_t *object = json_object(), *steps = json_object(), *seconds = json_object();
    const struct {
        const char *key;
        int64_t value;
    } integers[] = {
        {"rows", mesh->shape.rows},
        {"columns", mesh->shape.columns},
        {"expert_parallel", mesh->ep},
        {"tensor_parallel", mesh->tp},
        {"tokens", mesh->tokens},
        {"passes", mesh->passes},
        {"experts_most", mesh->experts_most},
        {"experts_least", mesh->experts_least},
        {"weight_bytes", (int64_t)mesh->weights},
        {"workspace_bytes", (int64_t)mesh->workspace},
    };
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        json_object_set_new(object, integers[i].key, json_integer(integers[i].value));
    json_object_set_new(object, "sharded", json_boolean(mesh->sharded));
    json_object_set_new(object, "fits", json_boolean(mesh->fits));
    cli_json_number(object, "imbalance", imbalance(mesh));
    json_object_set_new(object, "expert_axis", bytes_json(&mesh->axis[0]));
    json_object_set_new(object, "tensor_axis", bytes_json(&mesh->axis[1]));
    for (int s = 0; s < MOEBLOCK_TRAFFIC_STEPS; s++)
        json_object_set_new(steps, cli_traffic_keys[s], bytes_json(&mesh->step[s]));
    json_object_set_new(object, "steps", steps);
    cli_json_number(object, "dispatch_sent", mesh->dispatch_sent);
    cli_json_number(object, "dispatch_bound", mesh->dispatch_bound);
    for (int part = 0; part < PLAN_PARTS; part++) cli_json_number(seconds, part_keys[part], mesh->seconds[part]);
    cli_json_number(seconds, "total", mesh->total);
    json_object_set_new(object, "seconds", seconds);
    json_object_set_new(object, "algorithm", json_string(mb_algorithm_names[mesh->algorithm]));
    json_object_set_new(object, "explain", json_string(mesh->explain));
    json_object_set_new(object, "exchange", json_string(mesh->columns.why));
    json_object_set_new(object, "dominant", json_string(part_keys[mesh->dominant]));
    return object;
}

static void print_json(const struct plan *plan)
{
    json_t *document = cli_json_begin("plan"), *rates = json_object(), *meshes = json_array();
    json_object_set_new(document, "tokens", json_integer(plan->args->token_count));
    json_object_set_new(document, "format", json_string(mb_format_table[plan->format].name));
    json_object_set_new(document, "routing", json_string(plan->args->routing));
    json_object_set_new(document, "layers", json_integer(plan->layers));
    cli_json_number(rates, "alpha_seconds", plan->rates.alpha);
    cli_json_number(rates, "beta_bytes_per_second", plan->rates.beta);
    cli_json_number(rates, "gflops", plan->rates.gflops);
    cli_json_number(rates, "dram_bytes_per_second", plan->rates.dram);
    json_object_set_new(document, "rates", rates);
    for (int i = 0; i < plan->count; i++) json_array_append_new(meshes, mesh_json(&plan->mesh[i]));
    json_object_set_new(document, "meshes", meshes);
    json_object_set_new(document, "recommended", plan->fastest < 0 ? json_null() : json_integer(plan->fastest));
    cli_json_print(document);
}

void plan_report(const struct plan *plan)
{
    if (plan->args->json)
        print_json(plan);
    else if (!plan->args->quiet)
        print_text(plan);
}
