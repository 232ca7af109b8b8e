// SPDX-License-Identifier: Apache-2.0
// Memory, bytes and time of a mesh. Every pass of the flow is walked step by step; a step takes as long as its slowest
// rank, since the next one needs all of them.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/arith.h"
#include "base/status.h"
#include "block.h"
#include "cli/exit.h"
#include "cli/plan.h"

static const moeblock_allocator *const allocator = &mb_default_allocator;

// One walk over the passes of a mesh.
struct walk {
    struct plan *plan;
    struct plan_mesh *mesh;
    struct mb_traffic_shape shape;
    struct mb_placement_table placement;
    struct mb_routing routing;
    struct mb_traffic (*traffic)[MOEBLOCK_TRAFFIC_STEPS]; // [ep * tp] summed over the passes
    double *rows;                                         // [ep]
    struct mb_sizes *sizes;                               // [ep] of the first, widest column
    int64_t *first, *count;                               // [ep] tokens of a pass
};

static double larger(double a, double b) { return a > b ? a : b; }

// --- memory ----------------------------------------------------------------------------------------------------------

static moeblock_status measure_ranks(struct walk *w)
{
    struct plan_mesh *const mesh = w->mesh;
    struct cli_session *const session = &w->plan->session;
    const moeblock_config *const config = session->config;
    mesh->experts_least = config->num_experts;
    for (int e = 0; e < mesh->ep; e++) {
        const bool on_rows = config->ep_axis == 0;
        const struct mb_size_question question = {
            .rows = mesh->shape.rows,
            .columns = mesh->shape.columns,
            .row = on_rows && config->ep_enabled ? e : 0,
            .column = !on_rows && config->ep_enabled ? e : 0,
            .format = w->plan->format,
            .compute = w->plan->compute,
            .tokens = mesh->tokens,
        };
        MB_TRY(mb_sizes_of(session->context, config, &question, &w->sizes[e], &session->error));
        mesh->experts_most = mb_max(mesh->experts_most, w->sizes[e].experts);
        mesh->experts_least = mb_min(mesh->experts_least, w->sizes[e].experts);
        if (w->sizes[e].packed_bytes > mesh->weights) mesh->weights = w->sizes[e].packed_bytes;
        if (w->sizes[e].workspace > mesh->workspace) mesh->workspace = w->sizes[e].workspace;
    }
    return MOEBLOCK_OK;
}

// --- time ------------------------------------------------------------------------------------------------------------

// Operations of one row through the routed or the shared feed-forward's columns on the widest rank.
static double row_flops(const struct mb_columns *columns, const struct mb_ffn_config *ffn, int64_t width, bool shared)
{
    const double inner = (double)(shared ? columns->s1 - columns->s0 : columns->i1 - columns->i0);
    const double out = (double)(shared ? columns->h1 - columns->h0 : columns->d1 - columns->d0);
    return 2.0 * (ffn->gated ? 2 : 1) * (double)width * inner +
           2.0 * (columns->sums ? inner : (double)ffn->intermediate_size) * out;
}

static double compute_seconds(const struct plan_rates *rates, double flops, double bytes)
{
    return larger(flops / (1e9 * rates->gflops), bytes / rates->dram);
}

static double travel_seconds(const struct plan_rates *rates, const struct mb_traffic *now)
{
    return (double)now->messages * rates->alpha + larger((double)now->sent, (double)now->received) / rates->beta;
}

// Seconds of the computing parts of rank `e` in this pass; `worst` keeps the slowest rank of each part.
static void time_computing(const struct walk *w, int e, double worst[PLAN_PARTS])
{
    const moeblock_config *const config = w->plan->session.config;
    const struct plan_rates *const rates = &w->plan->rates;
    const struct mb_routing *const r = &w->routing;
    const int64_t width = config->latent_size ? config->latent_size : config->hidden_size;
    const double tokens = (double)r->tokens[e], expert = (double)w->sizes[e].expert_bytes;
    const double fixed = (double)w->sizes[e].packed_bytes - expert * (double)w->sizes[e].experts;
    const double slot = row_flops(&w->mesh->columns, &config->routed, width, false);
    double own = (double)r->slots[(size_t)e * (size_t)r->ep + (size_t)e], far = 0;
    for (int h = 0; h < r->ep && !config->replicated_batch; h++)
        if (h != e) far += (double)r->slots[(size_t)h * (size_t)r->ep + (size_t)e];
    w->rows[e] += own + far;
    const double logits = (double)config->hidden_size * (double)(config->num_experts + config->router.null_experts);
    double flops = own * slot + tokens * 4.0 * (double)config->hidden_size * (double)config->latent_size;
    if (config->shared_enabled)
        flops += tokens * row_flops(&w->mesh->columns, &config->shared, config->hidden_size, true);
    const double seconds[] = {
        [PLAN_ROUTER] = compute_seconds(rates, 2 * tokens * logits, tokens > 0 ? 2 * logits : 0),
        [PLAN_OWN] = compute_seconds(rates, flops, (double)r->own_busy[e] * expert + (tokens > 0 ? fixed : 0)),
        [PLAN_FAR] = compute_seconds(rates, far * slot, (double)r->far_busy[e] * expert),
    };
    for (int part = PLAN_ROUTER; part <= PLAN_FAR; part++)
        if (part != PLAN_DISPATCH) worst[part] = larger(worst[part], seconds[part]);
}

static void time_pass(struct walk *w)
{
    static const enum plan_part part_of[MOEBLOCK_TRAFFIC_STEPS] = {
        [MOEBLOCK_TRAFFIC_INPUT] = PLAN_INPUT,
        [MOEBLOCK_TRAFFIC_DISPATCH] = PLAN_DISPATCH,
        [MOEBLOCK_TRAFFIC_ACTIVATIONS] = PLAN_ACTIVATIONS,
        [MOEBLOCK_TRAFFIC_COMBINE] = PLAN_COMBINE,
        [MOEBLOCK_TRAFFIC_WHOLE_ROWS] = PLAN_WHOLE_ROWS,
        [MOEBLOCK_TRAFFIC_OUTPUT] = PLAN_OUTPUT,
        [MOEBLOCK_TRAFFIC_SUMS] = PLAN_SUMS,
    };
    struct plan_mesh *const mesh = w->mesh;
    double worst[PLAN_PARTS] = {0};
    for (int e = 0; e < mesh->ep; e++) {
        time_computing(w, e, worst);
        for (int c = 0; c < mesh->tp; c++) {
            struct mb_traffic now[MOEBLOCK_TRAFFIC_STEPS] = {{0}}, *const sum = w->traffic[e * mesh->tp + c];
            mb_traffic_add(&w->shape, &w->routing, e, c, now);
            for (int s = 0; s < MOEBLOCK_TRAFFIC_STEPS; s++) {
                worst[part_of[s]] = larger(worst[part_of[s]], travel_seconds(&w->plan->rates, &now[s]));
                sum[s].messages += now[s].messages;
                sum[s].sent += now[s].sent;
                sum[s].received += now[s].received;
                sum[s].bound += now[s].bound;
            }
        }
    }
    for (int part = 0; part < PLAN_PARTS; part++) mesh->seconds[part] += worst[part];
    // Rows travel while own rows and the shared expert are computed.
    mesh->total -= worst[PLAN_DISPATCH] < worst[PLAN_OWN] ? worst[PLAN_DISPATCH] : worst[PLAN_OWN];
    for (int part = 0; part < PLAN_PARTS; part++) mesh->total += worst[part];
}

// --- all passes ------------------------------------------------------------------------------------------------------

static moeblock_status walk_passes(struct walk *w)
{
    struct plan_mesh *const mesh = w->mesh;
    const moeblock_config *const config = w->plan->session.config;
    const int64_t total = w->plan->args->token_count;
    const bool replicated = w->plan->choices.replicated;
    const moeblock_mode mode = strcmp(w->plan->args->mode, "decode") == 0 ? MOEBLOCK_DECODE : MOEBLOCK_PREFILL;
    int64_t chunk = mesh->tokens;
    for (int e = 0; e < mesh->ep; e++) chunk = mb_min(chunk, w->sizes[e].chunk_tokens);
    const int64_t step = mb_block_pass_tokens(config, mesh->ep, mode, mb_max(chunk, 1));
    mesh->passes = mb_ceil_div(mesh->tokens, step);
    mesh->travel = w->sizes[0].travel;
    mesh->travel.tokens = mb_min(step, mesh->tokens);
    mesh->travel.alpha = w->plan->rates.alpha;
    mesh->travel.beta = w->plan->rates.beta;
    mesh->algorithm = w->shape.algorithm = mb_travel_choose(config->algorithm, &mesh->travel);
    if (mesh->ep > 1) mb_travel_explain(config->algorithm, &mesh->travel, mesh->explain, sizeof mesh->explain);
    for (int64_t pass = 0; pass < mesh->passes; pass++) {
        for (int h = 0; h < mesh->ep; h++) {
            int64_t begin = 0, end = total;
            if (!replicated) mb_split(total, mesh->ep, h, &begin, &end);
            w->first[h] = mb_min(begin + pass * step, end);
            w->count[h] = mb_min(step, end - w->first[h]);
        }
        mb_routing_fill(&w->routing, &w->placement, &w->plan->choices, w->first, w->count);
        time_pass(w);
    }
    return MOEBLOCK_OK;
}

static void add_bytes(struct plan_bytes *to, double sent, double received, int ranks)
{
    to->sent_mean += sent / ranks;
    to->sent_worst = larger(to->sent_worst, sent);
    to->received_worst = larger(to->received_worst, received);
}

static void summarise(struct walk *w)
{
    struct plan_mesh *const mesh = w->mesh;
    const int ranks = mesh->ep * mesh->tp;
    for (int r = 0; r < ranks; r++) {
        double sent[2] = {0, 0}, received[2] = {0, 0};
        for (int s = 0; s < MOEBLOCK_TRAFFIC_STEPS; s++) {
            const struct mb_traffic *const t = &w->traffic[r][s];
            const int axis = s != MOEBLOCK_TRAFFIC_DISPATCH && s != MOEBLOCK_TRAFFIC_COMBINE;
            add_bytes(&mesh->step[s], (double)t->sent, (double)t->received, ranks);
            sent[axis] += (double)t->sent;
            received[axis] += (double)t->received;
        }
        for (int axis = 0; axis < 2; axis++) add_bytes(&mesh->axis[axis], sent[axis], received[axis], ranks);
        mesh->dispatch_sent += (double)w->traffic[r][MOEBLOCK_TRAFFIC_DISPATCH].sent;
        mesh->dispatch_bound += (double)w->traffic[r][MOEBLOCK_TRAFFIC_DISPATCH].bound;
    }
    for (int e = 0; e < mesh->ep; e++) {
        mesh->rows_mean += w->rows[e] / mesh->ep;
        mesh->rows_worst = larger(mesh->rows_worst, w->rows[e]);
    }
    for (int part = 0; part < PLAN_PARTS; part++) {
        const bool hidden = (part == PLAN_DISPATCH && mesh->seconds[PLAN_OWN] > mesh->seconds[PLAN_DISPATCH]) ||
                            (part == PLAN_OWN && mesh->seconds[PLAN_DISPATCH] > mesh->seconds[PLAN_OWN]);
        if (!hidden && mesh->seconds[part] > mesh->seconds[mesh->dominant]) mesh->dominant = (enum plan_part)part;
    }
    const double layers = (double)mb_max(w->plan->layers, 1);
    const double need = (double)mesh->weights * layers + (double)mesh->workspace;
    mesh->fits = w->plan->args->memory == 0 || need <= (double)w->plan->args->memory;
}

static moeblock_status predict(struct walk *w)
{
    struct plan_mesh *const mesh = w->mesh;
    const moeblock_config *const config = w->plan->session.config;
    moeblock_error *const error = &w->plan->session.error;
    const char *const placed = mesh->ep == 1 ? "contiguous" : config->placement;
    MB_TRY(mb_placement_named(allocator, placed, config->num_experts, mesh->ep, &w->placement, error));
    MB_TRY(mb_routing_create(allocator, mesh->ep, config->num_experts, &w->routing, error));
    MB_TRY(measure_ranks(w));
    w->shape = (struct mb_traffic_shape){.config = config,
                                         .ep = mesh->ep,
                                         .tp = mesh->tp,
                                         .compute = w->sizes[0].compute,
                                         .x_bytes = w->plan->input_bytes,
                                         .y_bytes = w->plan->input_bytes,
                                         .sharded = mesh->sharded,
                                         .sums = w->sizes[0].columns.sums};
    mesh->columns = w->sizes[0].columns;
    MB_TRY(walk_passes(w));
    summarise(w);
    return MOEBLOCK_OK;
}

int plan_predict(struct plan *plan, struct plan_mesh *mesh)
{
    const moeblock_config *const config = plan->session.config;
    const int64_t total = plan->args->token_count;
    const int sides[] = {mesh->shape.rows, mesh->shape.columns};
    mesh->ep = config->ep_enabled ? sides[config->ep_axis] : 1;
    mesh->tp = config->tp_enabled ? sides[config->tp_axis] : 1;
    mesh->sharded = mesh->tp > 1 && config->hidden_size % mesh->tp == 0;
    mesh->tokens = plan->choices.replicated ? total : mb_ceil_div(total, mesh->ep);
    const size_t ranks = (size_t)mesh->ep * (size_t)mesh->tp, ep = (size_t)mesh->ep;
    struct walk w = {.plan = plan,
                     .mesh = mesh,
                     .traffic = mb_alloc_zero(allocator, ranks * sizeof *w.traffic),
                     .rows = mb_alloc_zero(allocator, ep * sizeof *w.rows),
                     .sizes = mb_alloc_zero(allocator, ep * sizeof *w.sizes),
                     .first = mb_alloc(allocator, ep * sizeof *w.first),
                     .count = mb_alloc(allocator, ep * sizeof *w.count)};
    int code = CLI_OK;
    if (!w.traffic || !w.rows || !w.sizes || !w.first || !w.count)
        code = cli_fail(CLI_SYSTEM_REFUSED, "no memory to plan for %zu ranks", ranks);
    else if (predict(&w) != MOEBLOCK_OK)
        code = cli_fail_status(CLI_ABOUT_CONFIG, &plan->session.error);
    mb_placement_free(&w.placement);
    mb_routing_free(&w.routing);
    void *const used[] = {w.traffic, w.rows, w.sizes, w.first, w.count};
    for (size_t i = 0; i < sizeof used / sizeof *used; i++) mb_free(allocator, used[i]);
    return code;
}
