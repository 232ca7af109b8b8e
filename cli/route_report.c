// SPDX-License-Identifier: Apache-2.0
// What `moeblock route` found: text, JSON, the load file, a drawing.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/arith.h"
#include "base/file.h"
#include "cli/load_chart.h"
#include "cli/out.h"
#include "cli/route.h"
#include "cli/svg.h"

enum { BARS_MAX = 64, BAR = 40 };

static double imbalance(double worst, double mean) { return mean > 0 ? worst / mean : 1; }

static double expert_imbalance(const struct cli_run *run)
{
    int64_t most = 0, total = 0;
    for (int64_t e = 0; e < run->n_load; e++) {
        most = mb_max(most, run->load[e]);
        total += run->load[e];
    }
    return imbalance((double)most, (double)total / (double)run->n_load);
}

static void print_choices(const struct cli_run *run)
{
    char read[32];
    printf("%" PRId64 " tokens to %" PRId64 " of %" PRId64 " experts each, layer %" PRId64 ", in %.3f ms; %s read\n",
           run->tokens, run->shape.num_experts_per_tok, run->shape.num_experts, run->shape.layer, 1e3 * run->seconds,
           cli_bytes_text((double)moeblock_weights_bytes_read(run->session.weights), read));
}

// How many experts more than one rank holds, and how many copies there are of them beyond the first.
static int64_t count_copied(const struct mb_placement_table *table)
{
    int64_t copied = 0;
    for (int64_t e = 0; e < table->experts; e++) copied += table->begin[e + 1] - table->begin[e] > 1;
    return copied;
}

static void print_rank_bars(const struct cli_route *route)
{
    const struct cli_placed *const now = &route->now, *const balanced = &route->balanced;
    const double most = fmax(fmax(now->worst, balanced->worst), 1);
    printf("  rank  experts   rows now                                        balanced: experts   rows\n");
    for (int r = 0; r < route->ranks && r < BARS_MAX; r++) {
        printf("%6d %8" PRId64 " %10.0f ", r, mb_placement_count(&now->table, r), now->load[r]);
        for (int i = 0; i < BAR; i++) putchar(i < now->load[r] / most * BAR ? '#' : ' ');
        printf(" %8" PRId64 " %10.0f ", mb_placement_count(&balanced->table, r), balanced->load[r]);
        for (int i = 0; i < balanced->load[r] / most * BAR; i++) putchar('#');
        printf("\n");
    }
    if (route->ranks > BARS_MAX) printf("       ... %d more ranks\n", route->ranks - BARS_MAX);
}

static void print_mesh(const struct cli_route *route)
{
    const struct cli_placed *const now = &route->now, *const balanced = &route->balanced;
    char memory[32];
    const int64_t extra = balanced->table.begin[balanced->table.experts] - balanced->table.experts;
    printf("mesh %dx%d: experts on %d ranks, placed %s\n", route->mesh.rows, route->mesh.columns, route->ranks,
           route->run.session.config->placement);
    print_rank_bars(route);
    printf("worst rank %d has %.0f of %.1f rows on average: max / mean %.3f\n", now->worst_rank, now->worst, now->mean,
           imbalance(now->worst, now->mean));
    printf("balanced with up to %" PRId64
           " experts more a rank: rank %d has %.0f rows: max / mean %.3f, %.2f times less for "
           "the worst rank; %" PRId64 " copies of %" PRId64 " experts",
           route->copies, balanced->worst_rank, balanced->worst, imbalance(balanced->worst, balanced->mean),
           balanced->worst > 0 ? now->worst / balanced->worst : 1, extra, count_copied(&balanced->table));
    if (route->expert_bytes) printf(", %s each on a rank", cli_bytes_text((double)route->expert_bytes, memory));
    printf("\n");
}

static json_t *counts_json(const int64_t *values, int64_t n)
{
    json_t *array = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(array, json_integer(values[i]));
    return array;
}

static json_t *placed_json(const struct cli_placed *placed)
{
    json_t *object = json_object(), *rows = json_array(), *experts = json_array();
    for (int r = 0; r < placed->table.ranks; r++) {
        json_array_append_new(rows, json_real(placed->load[r]));
        json_array_append_new(experts, json_integer(mb_placement_count(&placed->table, r)));
    }
    json_object_set_new(object, "rows", rows);
    json_object_set_new(object, "experts", experts);
    json_object_set_new(object, "worst_rank", json_integer(placed->worst_rank));
    cli_json_number(object, "imbalance", imbalance(placed->worst, placed->mean));
    json_object_set_new(object, "copies",
                        json_integer(placed->table.begin[placed->table.experts] - placed->table.experts));
    return object;
}

static void print_json(const struct cli_route *route)
{
    const struct cli_run *const run = &route->run;
    json_t *document = cli_json_begin("route");
    json_object_set_new(document, "tokens", json_integer(run->tokens));
    json_object_set_new(document, "num_experts", json_integer(run->shape.num_experts));
    json_object_set_new(document, "num_experts_per_tok", json_integer(run->shape.num_experts_per_tok));
    json_object_set_new(document, "layer", json_integer(run->shape.layer));
    json_object_set_new(document, "bytes_read",
                        json_integer((json_int_t)moeblock_weights_bytes_read(run->session.weights)));
    json_object_set_new(document, "expert_load", counts_json(run->load, run->n_load));
    cli_json_number(document, "imbalance", expert_imbalance(run));
    if (route->has_mesh) {
        json_t *mesh = json_object();
        json_object_set_new(mesh, "rows", json_integer(route->mesh.rows));
        json_object_set_new(mesh, "columns", json_integer(route->mesh.columns));
        json_object_set_new(mesh, "ranks", json_integer(route->ranks));
        json_object_set_new(mesh, "copies_allowed", json_integer(route->copies));
        json_object_set_new(mesh, "expert_bytes", json_integer((json_int_t)route->expert_bytes));
        json_object_set_new(mesh, "now", placed_json(&route->now));
        json_object_set_new(mesh, "balanced", placed_json(&route->balanced));
        json_object_set_new(document, "mesh", mesh);
    }
    cli_json_print(document);
}

void cli_route_report(const struct cli_route *route)
{
    if (route->run.args->json) {
        print_json(route);
    } else if (!route->run.args->quiet) {
        print_choices(&route->run);
        cli_print_load(route->run.load, route->run.n_load);
        cli_print_load_histogram(route->run.load, route->run.n_load);
        printf("experts: max / mean %.3f\n", expert_imbalance(&route->run));
        if (route->has_mesh) print_mesh(route);
    }
}

int cli_route_write_load(const struct cli_route *route, const char *path)
{
    const struct cli_run *const run = &route->run;
    struct mb_output output;
    moeblock_error error;
    json_t *document = cli_json_begin("load");
    json_object_set_new(document, "layer", json_integer(run->shape.layer));
    json_object_set_new(document, "tokens", json_integer(run->tokens));
    json_object_set_new(document, "num_experts_per_tok", json_integer(run->shape.num_experts_per_tok));
    json_object_set_new(document, "counts", counts_json(run->load, run->n_load));
    moeblock_status status = mb_output_open(path, &output, &error);
    if (status == MOEBLOCK_OK) {
        json_dumpf(document, output.stream, JSON_COMPACT);
        fputc('\n', output.stream);
        status = mb_output_commit(&output, &error);
    }
    json_decref(document);
    return status == MOEBLOCK_OK ? CLI_OK : cli_fail_status(CLI_ABOUT_DATA, &error);
}

struct panel {
    double top, height, left, width;
};

// Bars of `n` values scaled to `most`, with the mean as a line.
static void draw_bars(struct cli_svg *svg, const struct panel *panel, const double *values, int64_t n, double most,
                      const char *colour, const char *caption)
{
    const double step = panel->width / (double)n, base = panel->top + panel->height;
    double mean = 0;
    for (int64_t i = 0; i < n; i++) mean += values[i] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        const double height = values[i] / most * panel->height;
        cli_svg_box(svg, panel->left + step * (double)i, base - height, step > 3 ? step - 1 : step, height, colour);
    }
    cli_svg_line(svg, panel->left, base, panel->left + panel->width, base, "#000000");
    const double middle = base - mean / most * panel->height;
    cli_svg_line(svg, panel->left, middle, panel->left + panel->width, middle, "#cc3311");
    cli_svg_text(svg, panel->left, panel->top - 8, CLI_SVG_START, caption);
    char label[32];
    snprintf(label, sizeof label, "%.0f", most);
    cli_svg_text(svg, panel->left - 4, panel->top + 10, CLI_SVG_END, label);
    snprintf(label, sizeof label, "mean %.1f", mean);
    cli_svg_text(svg, panel->left + panel->width, middle - 4, CLI_SVG_END, label);
    cli_svg_text(svg, panel->left, base + 14, CLI_SVG_MIDDLE, "0");
    snprintf(label, sizeof label, "%" PRId64, n - 1);
    cli_svg_text(svg, panel->left + panel->width, base + 14, CLI_SVG_END, label);
}

int cli_route_plot(const struct cli_route *route, const char *path)
{
    const struct cli_run *const run = &route->run;
    struct cli_svg svg;
    char caption[160];
    double *const values = mb_alloc(&mb_default_allocator, sizeof(double) * (size_t)run->n_load);
    if (!values) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for the plot");
    double most = 1;
    for (int64_t e = 0; e < run->n_load; e++) most = fmax(most, values[e] = (double)run->load[e]);
    int code = cli_svg_begin(&svg, path, 900, route->has_mesh ? 640 : 240, "load of experts");
    if (!code) {
        struct panel panel = {.top = 30, .height = 170, .left = 60, .width = 820};
        snprintf(caption, sizeof caption, "rows of each expert, %" PRId64 " tokens: max / mean %.3f", run->tokens,
                 expert_imbalance(run));
        draw_bars(&svg, &panel, values, run->n_load, most, "#4477aa", caption);
        const struct cli_placed *const placed[] = {&route->now, &route->balanced};
        for (int i = 0; route->has_mesh && i < 2; i++) {
            panel.top += 205;
            snprintf(caption, sizeof caption, "rows of each rank of %dx%d, %s: max / mean %.3f", route->mesh.rows,
                     route->mesh.columns, i ? "balanced" : "now", imbalance(placed[i]->worst, placed[i]->mean));
            draw_bars(&svg, &panel, placed[i]->load, route->ranks,
                      fmax(fmax(route->now.worst, route->balanced.worst), 1), i ? "#228833" : "#4477aa", caption);
        }
        code = cli_svg_end(&svg);
    }
    mb_free(&mb_default_allocator, values);
    return code;
}
