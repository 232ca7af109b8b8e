// SPDX-License-Identifier: Apache-2.0
// bench's results: a table with a head that says what was timed, or one JSON document; the limits beside each case.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/machine.h"
#include "cli/out.h"
#include "moeblock/export.h"

// Above this share the limit was missed: the output then says how far it moved.
static const double share_explained = 1.02;

static const char *scope_of(const struct bench *bench) { return bench->ids ? "experts" : "block"; }
static double share_of(const struct bench_case *one) { return one->roofline / one->median; }
static bool bound_by_memory(const struct bench_case *one) { return one->by_memory >= one->by_peak; }

// --- text -----------------------------------------------------------------------------------------------------------

static void print_head(const struct bench *bench)
{
    char packed[32];
    const struct bench_variant *const v = &bench->variants[0];
    printf("%s, layer %" PRId64 ": hidden %" PRId64 ", %" PRId64 " experts of %" PRId64 ", %" PRId64
           " a token, shared %" PRId64 "; weights %s, %s, %s packed; %s compute, level %s\n",
           bench->name, v->shape.layer, v->shape.hidden_size, v->shape.num_experts, v->shape.intermediate_size,
           bench->k, v->shape.shared_intermediate_size, bench->source, v->info.format,
           cli_bytes_text((double)v->info.packed_bytes, packed), cli_compute_name(v->info.compute),
           moeblock_context_level(v->session.context));
    printf("%s; limits beside each case: reading memory and %s\n",
           bench->ids ? "the routed experts alone on given ids" : "the whole block, router and shared expert included",
           bench->peaks[0]->name);
    if (*v->setting) printf("%-40s", "setting");
    printf("%7s %7s %5s %10s %10s %10s %7s %8s %7s %8s %10s %6s %s\n", "tokens", "threads", "runs", "median ms",
           "p95 ms", "tokens/s", "GB/s", "GFLOP/s", "limit", "limit", "roofline", "share", "bound by");
    if (*v->setting) printf("%-40s", "");
    printf("%7s %7s %5s %10s %10s %10s %7s %8s %7s %8s %10s\n", "", "", "", "", "", "", "", "", "GB/s", "GFLOP/s",
           "ms");
}

static void print_case(const struct bench_case *one)
{
    if (*one->variant->setting) printf("%-40s", one->variant->setting);
    printf("%7" PRId64 " %7d %5" PRId64 " %10.3f %10.3f %10.1f %7.2f %8.1f %7.2f %8.1f %10.3f %6.3f %s\n", one->tokens,
           one->threads, one->count, 1e3 * one->median, 1e3 * one->p95, (double)one->tokens / one->median,
           1e-9 * one->bytes / one->median, 1e-9 * one->flops / one->median, 1e-9 * one->limits.read.rate,
           1e-9 * one->limits.peak.rate, 1e3 * one->roofline, share_of(one),
           bound_by_memory(one) ? "memory" : "compute");
}

static void print_notes(const struct bench *bench)
{
    char huge[32];
    int64_t disturbed = 0;
    for (int i = 0; i < bench->case_count; i++) {
        const struct bench_case *const one = &bench->cases[i];
        const struct cli_limit *const limit = bound_by_memory(one) ? &one->limits.read : &one->limits.peak;
        disturbed += one->disturbed;
        if (share_of(one) > share_explained)
            printf("%" PRId64 " tokens, %d threads: above the limit, which moved between %.1f and %.1f %s (%s)\n",
                   one->tokens, one->threads, 1e-9 * limit->lowest, 1e-9 * limit->highest,
                   bound_by_memory(one) ? "GB/s" : "GFLOP/s", limit->how);
    }
    printf("%s of this process's memory are in huge pages, that for the limits among them\n",
           cli_bytes_text((double)cli_huge_page_bytes(), huge));
    if (disturbed)
        printf("%" PRId64 " runs in which our threads were not on a CPU for 95 %% of the time%s\n", disturbed,
               bench->args->repeat ? "" : " were made again");
}

// Cases of one batch size must agree: thread counts never change bits, nor do many settings.
static int cases_that_differ(const struct bench *bench)
{
    int differ = 0;
    for (int i = 0; i < bench->case_count; i++) {
        int first = 0;
        while (bench->cases[first].tokens != bench->cases[i].tokens) first++;
        differ += bench->cases[first].output != bench->cases[i].output;
    }
    return differ;
}

static void print_text(const struct bench *bench)
{
    print_head(bench);
    for (int i = 0; i < bench->case_count; i++) print_case(&bench->cases[i]);
    print_notes(bench);
    const int differ = cases_that_differ(bench);
    if (bench->threads.count == 1 && bench->variant_count == 1) return;
    if (differ)
        printf("outputs: %d cases differ in bits from the first of their batch size\n", differ);
    else
        printf("outputs: the same bits in all cases of a batch size\n");
}

// --- JSON -----------------------------------------------------------------------------------------------------------

static json_t *machine_json(const struct bench *bench)
{
    struct cli_machine machine;
    json_t *object = json_object();
    cli_machine_read(&machine);
    json_object_set_new(object, "cpu", json_string(machine.cpu));
    json_object_set_new(object, "features", json_string(machine.features));
    json_object_set_new(object, "level", json_string(moeblock_context_level(bench->variants[0].session.context)));
    json_object_set_new(object, "memory_bytes", json_integer((json_int_t)machine.memory_bytes));
    json_object_set_new(object, "cache_bytes", json_integer((json_int_t)machine.cache_bytes));
    json_object_set_new(object, "huge_pages", json_string(machine.huge_pages));
    return object;
}

static void add_limit(json_t *object, const char *key, const char *how, const struct cli_limit *limit)
{
    char name[64];
    cli_json_number(object, key, 1e-9 * limit->rate);
    snprintf(name, sizeof name, "%s_lowest", key);
    cli_json_number(object, name, 1e-9 * limit->lowest);
    snprintf(name, sizeof name, "%s_highest", key);
    cli_json_number(object, name, 1e-9 * limit->highest);
    json_object_set_new(object, how, json_string(limit->how));
}

static json_t *limits_json(const struct cli_limits *limits)
{
    json_t *object = json_object();
    add_limit(object, "dram_gbps", "dram_pattern", &limits->read);
    add_limit(object, "dot_gflops", "dot_instruction", &limits->peak);
    return object;
}

// Of all cases on the most threads: the middle of their limits, which a single case need not share.
static json_t *overall_json(const struct bench *bench)
{
    struct cli_limits best = {.read.how = "not measured", .peak.how = "not measured"};
    int most = 0;
    for (int i = 0; i < bench->case_count; i++)
        if (bench->cases[i].threads > most) most = bench->cases[i].threads;
    for (int i = 0; i < bench->case_count; i++) {
        const struct cli_limits *const limits = &bench->cases[i].limits;
        if (bench->cases[i].threads != most) continue;
        if (limits->read.rate > best.read.rate) best.read = limits->read;
        if (limits->peak.rate > best.peak.rate) best.peak = limits->peak;
    }
    json_t *object = limits_json(&best);
    json_object_set_new(object, "threads", json_integer(most));
    return object;
}

static json_t *case_json(const struct bench *bench, const struct bench_case *one)
{
    char hash[24];
    json_t *object = json_object();
    snprintf(hash, sizeof hash, "%016" PRIx64, one->output);
    json_object_set_new(object, "config", json_string(bench->name));
    json_object_set_new(object, "format", json_string(one->variant->info.format));
    json_object_set_new(object, "tokens", json_integer(one->tokens));
    json_object_set_new(object, "threads", json_integer(one->threads));
    cli_json_number(object, "median_s", one->median);
    cli_json_number(object, "p95_s", one->p95);
    cli_json_number(object, "tokens_per_s", (double)one->tokens / one->median);
    cli_json_number(object, "gflops", 1e-9 * one->flops / one->median);
    cli_json_number(object, "weight_gbps", 1e-9 * one->bytes / one->median);
    cli_json_number(object, "roofline_s", one->roofline);
    cli_json_number(object, "roofline_share", share_of(one));
    json_object_set_new(object, "bound", json_string(bound_by_memory(one) ? "memory" : "compute"));
    json_object_set_new(object, "setting", json_string(one->variant->setting));
    json_object_set_new(object, "scope", json_string(scope_of(bench)));
    json_object_set_new(object, "compute", json_string(cli_compute_name(one->variant->info.compute)));
    json_object_set_new(object, "runs", json_integer(one->count));
    json_object_set_new(object, "runs_disturbed", json_integer(one->disturbed));
    cli_json_number(object, "active_experts", one->active_experts / (double)one->counted);
    cli_json_number(object, "weight_bytes", one->bytes);
    cli_json_number(object, "flops", one->flops);
    json_object_set_new(object, "output_hash", json_string(hash));
    json_object_set_new(object, "limits", limits_json(&one->limits));
    return object;
}

static void print_json(const struct bench *bench)
{
    const struct bench_variant *const v = &bench->variants[0];
    json_t *document = cli_json_begin("bench"), *cases = json_array();
    json_object_set_new(document, "version", json_string(moeblock_version()));
    json_object_set_new(document, "machine", machine_json(bench));
    json_object_set_new(document, "limits", overall_json(bench));
    json_object_set_new(document, "weights", json_string(bench->source));
    json_object_set_new(document, "routing", json_string(bench->args->routing));
    json_object_set_new(document, "layer", json_integer(v->shape.layer));
    json_object_set_new(document, "hidden_size", json_integer(v->shape.hidden_size));
    json_object_set_new(document, "num_experts", json_integer(v->shape.num_experts));
    json_object_set_new(document, "num_experts_per_tok", json_integer(bench->k));
    json_object_set_new(document, "packed_bytes", json_integer((json_int_t)v->info.packed_bytes));
    json_object_set_new(document, "huge_page_bytes", json_integer((json_int_t)cli_huge_page_bytes()));
    json_object_set_new(document, "peak_memory_bytes", json_integer((json_int_t)cli_peak_memory()));
    json_object_set_new(document, "outputs_equal", json_boolean(cases_that_differ(bench) == 0));
    for (int i = 0; i < bench->case_count; i++) json_array_append_new(cases, case_json(bench, &bench->cases[i]));
    json_object_set_new(document, "cases", cases);
    cli_json_print(document);
}

void bench_report(const struct bench *bench)
{
    if (bench->args->json)
        print_json(bench);
    else
        print_text(bench);
}
