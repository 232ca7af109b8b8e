// SPDX-License-Identifier: Apache-2.0
// What `moeblock run` tells about its run.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/load_chart.h"
#include "cli/out.h"
#include "cli/run.h"

// Bytes of packed weights that the run had to touch: each chunk reads its busy experts and the shared weights once.
static double bytes_touched(const struct cli_run *run)
{
    const double one = (double)run->info.expert_packed_bytes;
    const double rest = (double)run->info.packed_bytes - one * (double)run->shape.num_experts;
    return one * (double)run->stats.active_experts + (rest > 0 ? rest * (double)run->stats.chunks : 0);
}

static void print_choices(const struct cli_run *run)
{
    const int64_t k = run->shape.num_experts_per_tok;
    printf("experts chosen (weight):\n");
    for (int64_t t = 0; t < run->tokens && t < run->args->show; t++) {
        printf("  token %" PRId64 ":", t);
        for (int64_t j = 0; j < k; j++) printf("  %d (%.3f)", run->ids[t * k + j], (double)run->weights[t * k + j]);
        printf("\n");
    }
}

static void print_text(const struct cli_run *run)
{
    char packed[32], rate[32], peak[32], load_rate[32];
    if (run->args->show > 0) {
        print_choices(run);
        cli_print_load(run->load, run->n_load);
    }
    const struct cli_session *const session = &run->session;
    printf("loaded %s of %s weights in %.2f s (%s/s)\n", cli_bytes_text((double)run->info.packed_bytes, packed),
           run->info.format, session->load_seconds,
           cli_bytes_text((double)moeblock_weights_bytes_read(session->weights) / session->load_seconds, load_rate));
    printf("%" PRId64 " tokens in %.3f ms: %.4g tokens/s, %s/s of weights, %s, %s compute, level %s, %d threads, "
           "peak memory %s\n",
           run->tokens, 1e3 * run->seconds, (double)run->tokens / run->seconds,
           cli_bytes_text(bytes_touched(run) / run->seconds, rate), run->args->mode,
           cli_compute_name(run->info.compute), run->info.level, moeblock_context_threads(session->context),
           cli_bytes_text(cli_peak_memory(), peak));
    printf("first forward done %.2f s after the start of loading\n", run->first_forward_seconds);
    cli_mesh_print(session, &run->counts);
    if (run->compared)
        printf("against %s: relative rms %.3g, largest error %.3g at element %" PRId64 ", correlation %.9f\n",
               run->args->compare, run->comparison.relative_rms, run->comparison.largest_error,
               run->comparison.largest_at, run->comparison.correlation);
}

static json_t *choices_json(const struct cli_run *run, bool weights)
{
    const int64_t k = run->shape.num_experts_per_tok;
    json_t *rows = json_array();
    for (int64_t t = 0; t < run->tokens && t < run->args->show; t++) {
        json_t *row = json_array();
        for (int64_t j = t * k; j < (t + 1) * k; j++)
            json_array_append_new(row, weights ? json_real((double)run->weights[j]) : json_integer(run->ids[j]));
        json_array_append_new(rows, row);
    }
    return rows;
}

static void add_comparison(const struct cli_run *run, json_t *document)
{
    json_t *compare = json_object();
    cli_json_number(compare, "relative_rms", run->comparison.relative_rms);
    cli_json_number(compare, "largest_error", run->comparison.largest_error);
    json_object_set_new(compare, "largest_at", json_integer(run->comparison.largest_at));
    cli_json_number(compare, "correlation", run->comparison.correlation);
    json_object_set_new(document, "compare", compare);
}

static void print_json(const struct cli_run *run)
{
    const struct cli_session *const session = &run->session;
    json_t *document = cli_json_begin("run");
    const struct {
        const char *key;
        int64_t value;
    } integers[] = {
        {"tokens", run->tokens},
        {"hidden_size", run->shape.hidden_size},
        {"num_experts", run->shape.num_experts},
        {"num_experts_per_tok", run->shape.num_experts_per_tok},
        {"layer", run->shape.layer},
        {"threads", moeblock_context_threads(session->context)},
        {"chunks", run->stats.chunks},
        {"active_experts", run->stats.active_experts},
        {"packed_bytes", (int64_t)run->info.packed_bytes},
        {"bytes_read", (int64_t)moeblock_weights_bytes_read(session->weights)},
        {"shards_opened", (int64_t)moeblock_weights_shards_opened(session->weights)},
        {"peak_memory_bytes", (int64_t)cli_peak_memory()},
    };
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        json_object_set_new(document, integers[i].key, json_integer(integers[i].value));
    json_object_set_new(document, "mode", json_string(run->args->mode));
    json_object_set_new(document, "compute", json_string(cli_compute_name(run->info.compute)));
    json_object_set_new(document, "format", json_string(run->info.format));
    json_object_set_new(document, "level", json_string(run->info.level));
    cli_json_number(document, "load_seconds", session->load_seconds);
    cli_json_number(document, "seconds", run->seconds);
    cli_json_number(document, "first_forward_seconds", run->first_forward_seconds);
    cli_json_number(document, "router_seconds", run->stats.router_seconds);
    cli_json_number(document, "experts_seconds", run->stats.experts_seconds);
    cli_json_number(document, "tokens_per_second", (double)run->tokens / run->seconds);
    cli_json_number(document, "weight_bytes_per_second", bytes_touched(run) / run->seconds);
    if (run->args->show > 0) {
        json_object_set_new(document, "ids", choices_json(run, false));
        json_object_set_new(document, "weights", choices_json(run, true));
        json_t *load = json_array();
        for (int64_t e = 0; e < run->n_load; e++) json_array_append_new(load, json_integer(run->load[e]));
        json_object_set_new(document, "expert_load", load);
    }
    json_t *const mesh = cli_mesh_json(session, &run->counts);
    if (mesh) json_object_set_new(document, "mesh", mesh);
    if (run->compared) add_comparison(run, document);
    cli_json_print(document);
}

void cli_run_report(const struct cli_run *run)
{
    if (run->args->json)
        print_json(run);
    else if (!run->args->quiet)
        print_text(run);
}
