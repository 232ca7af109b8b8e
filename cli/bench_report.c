// SPDX-License-Identifier: Apache-2.0
// bench's table: a head with what was timed, a row per case, the machine's limits beside each.
#include <inttypes.h>
#include <stdio.h>

#include "cli/bench.h"
#include "cli/out.h"

static void print_head(struct bench *bench)
{
    char packed[32];
    bench->head_printed = true;
    printf("layer %" PRId64 ": hidden %" PRId64 ", %" PRId64 " experts of %" PRId64 ", %" PRId64
           " a token, shared %" PRId64 "; weights %s, %s, %s packed; %s compute, level %s\n",
           bench->shape.layer, bench->shape.hidden_size, bench->shape.num_experts, bench->shape.intermediate_size,
           bench->shape.num_experts_per_tok, bench->shape.shared_intermediate_size, bench->source, bench->info.format,
           cli_bytes_text((double)bench->info.packed_bytes, packed), cli_compute_name(bench->info.compute),
           bench->level);
    if (bench->left_out)
        printf("memory holds no more experts: %" PRId64 " of the model's %" PRId64 " are left out, so that large "
               "batches touch fewer weights than in the model\n",
               bench->left_out, bench->left_out + bench->shape.num_experts);
    printf("machine: rates of reading memory and of the fastest multiply-add, measured before and after each case; "
           "bound: share of the rate that binds\n");
    printf("%7s %7s %7s %10s %10s %10s %8s %9s %12s %14s %6s\n", "tokens", "threads", "runs", "median ms", "p95 ms",
           "tokens/s", "GB/s", "GFLOP/s", "machine GB/s", "machine GFLOP/s", "bound");
}

static void add_json(struct bench *bench, const struct bench_row *row)
{
    json_t *object = json_object();
    json_object_set_new(object, "tokens", json_integer(row->tokens));
    json_object_set_new(object, "threads", json_integer(row->threads));
    json_object_set_new(object, "runs", json_integer(row->repeats));
    cli_json_number(object, "median_ms", 1e3 * row->median);
    cli_json_number(object, "p95_ms", 1e3 * row->p95);
    cli_json_number(object, "tokens_per_second", (double)row->tokens / row->median);
    cli_json_number(object, "gb_per_second", 1e-9 * row->bytes / row->median);
    cli_json_number(object, "gflop_per_second", 1e-9 * row->flops / row->median);
    cli_json_number(object, "machine_gb_per_second", 1e-9 * row->limits.read_bytes_per_second);
    cli_json_number(object, "machine_gflop_per_second", 1e-9 * row->limits.flops_per_second);
    json_object_set_new(object, "machine_instruction", json_string(row->limits.instruction));
    cli_json_number(object, "share_of_bound", row->bound / row->median);
    json_array_append_new(bench->rows, object);
}

void bench_report_row(struct bench *bench, const struct bench_row *row)
{
    if (bench->rows) {
        add_json(bench, row);
        return;
    }
    if (!bench->head_printed) print_head(bench);
    printf("%7" PRId64 " %7d %7" PRId64 " %10.3f %10.3f %10.1f %8.2f %9.2f %12.2f %15.2f %5.0f%%\n", row->tokens,
           row->threads, row->repeats, 1e3 * row->median, 1e3 * row->p95, (double)row->tokens / row->median,
           1e-9 * row->bytes / row->median, 1e-9 * row->flops / row->median, 1e-9 * row->limits.read_bytes_per_second,
           1e-9 * row->limits.flops_per_second, 100 * row->bound / row->median);
    fflush(stdout);
}

void bench_report_end(struct bench *bench)
{
    if (!bench->rows) return;
    json_t *document = cli_json_begin("bench");
    json_object_set_new(document, "weights", json_string(bench->source));
    json_object_set_new(document, "format", json_string(bench->info.format));
    json_object_set_new(document, "compute", json_string(cli_compute_name(bench->info.compute)));
    json_object_set_new(document, "level", json_string(bench->level));
    json_object_set_new(document, "layer", json_integer(bench->shape.layer));
    json_object_set_new(document, "hidden_size", json_integer(bench->shape.hidden_size));
    json_object_set_new(document, "num_experts", json_integer(bench->shape.num_experts));
    json_object_set_new(document, "experts_left_out", json_integer(bench->left_out));
    json_object_set_new(document, "packed_bytes", json_integer((json_int_t)bench->info.packed_bytes));
    json_object_set_new(document, "peak_memory_bytes", json_integer((json_int_t)cli_peak_memory()));
    json_object_set(document, "rows", bench->rows);
    cli_json_print(document);
}
