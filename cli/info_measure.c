// SPDX-License-Identifier: Apache-2.0
// `moeblock info --measure`: what each kernel level reaches on a product that stays in the caches, beside the fastest
// instructions of the machine, and whether the rule chose the level that is fastest.
#include <stdio.h>
#include <string.h>

#include "base/float.h"
#include "base/fpmode.h"
#include "base/memory.h"
#include "cli/info.h"
#include "cli/limits.h"

// 64 rows through 128 outputs of 1024 inputs: weights of 0.25 to 0.5 MB a thread, arithmetic binds.
enum { ROWS = 64, OUTPUTS = 128, INPUTS = 1024, ROUNDS = 3 };
static const double round_seconds = 0.02;
// Levels this close to the fastest are as good a choice.
static const double tie = 0.95;

struct product {
    const struct mb_kernels *kernels;
    struct mb_packing packing;
    const void *packed, *rows[ROWS];
    bool bf16;
    int threads;
    float *out;    // [threads][ROWS][OUTPUTS]
    char *scratch; // [threads][scratch_bytes]
    size_t scratch_bytes;
};

static double multiply(void *argument, int worker)
{
    const struct product *const product = argument;
    const struct mb_project_call call = {
        .packing = &product->packing,
        .packed = product->packed,
        .rows = {.row = product->rows, .m = ROWS, .bf16 = product->bf16},
        .n1 = OUTPUTS,
        .out = product->out + (size_t)worker * ROWS * OUTPUTS,
        .out_stride = OUTPUTS,
        .scratch = product->scratch + (size_t)worker * product->scratch_bytes,
    };
    const uint64_t mode = mb_flush_begin();
    product->kernels->project(&call);
    mb_flush_end(mode);
    return 2.0 * ROWS * OUTPUTS * INPUTS;
}

static size_t element_bytes(bool bf16) { return bf16 ? sizeof(uint16_t) : sizeof(float); }

// Makes up weights and, behind them, rows; packs the weights.
static void fill(struct product *product, char *values, void *packed)
{
    const size_t element = element_bytes(product->bf16);
    for (int i = 0; i < INPUTS * (ROWS + OUTPUTS); i++) {
        const float value = (float)(i * 7 % 31 - 15) / 16;
        const uint16_t half = mb_to_bf16(value);
        memcpy(values + (size_t)i * element, product->bf16 ? (const void *)&half : &value, element);
    }
    const struct mb_piece piece = {
        .n1 = OUTPUTS, .k1 = INPUTS, .codes = values, .row_stride = INPUTS, .column_stride = 1};
    product->kernels->pack(&product->packing, packed, &piece);
    for (int r = 0; r < ROWS; r++) product->rows[r] = values + (size_t)(OUTPUTS + r) * INPUTS * element;
    product->packed = packed;
}

// Best of several short runs on all threads; 0 without memory.
static double rate_of(const struct mb_kernels *kernels, bool bf16, int threads)
{
    const moeblock_allocator *const allocator = &mb_default_allocator;
    struct product product = {.kernels = kernels, .bf16 = bf16, .threads = threads};
    product.packing =
        (struct mb_packing){.format = bf16 ? MB_PACKED_BF16 : MB_PACKED_F32, .parts = 1, .n = OUTPUTS, .k = INPUTS};
    product.scratch_bytes = (kernels->scratch_bytes(&product.packing, ROWS) + 64) / 64 * 64;
    void *const packed = mb_alloc_zero(allocator, kernels->packed_bytes(&product.packing));
    char *const values = mb_alloc_zero(allocator, element_bytes(bf16) * INPUTS * (ROWS + OUTPUTS));
    product.scratch = mb_alloc(allocator, product.scratch_bytes * (size_t)threads);
    product.out = mb_alloc(allocator, sizeof(float) * ROWS * OUTPUTS * (size_t)threads);
    double best = 0;
    if (packed && values && product.scratch && product.out) {
        fill(&product, values, packed);
        for (int i = 0; i < ROUNDS; i++) {
            const double rate = cli_rate(threads, round_seconds, multiply, &product);
            if (rate > best) best = rate;
        }
    }
    mb_free(allocator, product.out);
    mb_free(allocator, product.scratch);
    mb_free(allocator, values);
    mb_free(allocator, packed);
    return best;
}

void cli_info_measure(int threads, struct cli_info_rates *out)
{
    *out = (struct cli_info_rates){.threads = threads};
    for (int i = 0; mb_kernel_levels[i] && i < CLI_INFO_LEVELS; i++) {
        const char *reason;
        struct cli_level_rate *const level = &out->levels[out->count++];
        *level = (struct cli_level_rate){.kernels = mb_kernel_levels[i]};
        if (!mb_kernel_levels[i]->usable(&reason)) continue;
        level->bf16 = rate_of(mb_kernel_levels[i], true, threads);
        level->f32 = rate_of(mb_kernel_levels[i], false, threads);
        if (!out->fastest || level->bf16 > out->fastest->bf16) out->fastest = level;
    }
    for (int i = 0; i < out->count; i++)
        if (out->levels[i].kernels == mb_kernels_best(NULL)) out->chosen = &out->levels[i];
    out->right = out->chosen && out->fastest && out->chosen->bf16 >= tie * out->fastest->bf16;
    struct cli_ruler ruler;
    struct cli_samples samples = {0};
    const struct cli_peak *const peak = cli_peak_best(CLI_PEAK_BF16, threads);
    cli_ruler_open(&ruler);
    for (int i = 0; i < ROUNDS; i++) cli_samples_take(&ruler, peak, threads, &samples);
    out->limits = cli_limits_of(&samples, peak);
    cli_ruler_close(&ruler);
    for (int i = 0; i < cli_peak_count; i++) out->peaks[i] = cli_peak_rate(&cli_peaks[i], threads);
}

static void print_verdict(const struct cli_info_rates *rates)
{
    printf("rule        chose %s, ", rates->chosen->kernels->name);
    if (rates->right)
        printf("right: no level is faster in bf16 compute by more than %.0f %%\n", 100 * (1 / tie - 1));
    else
        printf("wrong here: %s is %.2f times as fast in bf16 compute\n", rates->fastest->kernels->name,
               rates->fastest->bf16 / rates->chosen->bf16);
}

void cli_info_print_rates(const struct cli_info_rates *rates)
{
    printf("measured    on %d threads; a level's product of %d rows, %d inputs in the caches\n", rates->threads, ROWS,
           INPUTS);
    for (int i = 0; i < rates->count; i++) {
        const struct cli_level_rate *const level = &rates->levels[i];
        if (level->bf16 > 0)
            printf("            %-40s %8.1f GFLOP/s bf16 compute, %8.1f f32\n", level->kernels->name,
                   1e-9 * level->bf16, 1e-9 * level->f32);
    }
    for (int i = 0; i < cli_peak_count; i++)
        if (rates->peaks[i] > 0)
            printf("            %-40s %8.1f GFLOP/s at best\n", cli_peaks[i].name, 1e-9 * rates->peaks[i]);
    printf("            reading memory, %-24s %8.1f GB/s\n", rates->limits.read.how, 1e-9 * rates->limits.read.rate);
    if (rates->chosen && rates->fastest) print_verdict(rates);
}

json_t *cli_info_rates_json(const struct cli_info_rates *rates)
{
    json_t *object = json_object(), *levels = json_object(), *peaks = json_object();
    for (int i = 0; i < rates->count; i++) {
        const struct cli_level_rate *const level = &rates->levels[i];
        if (level->bf16 <= 0) continue;
        json_t *one = json_object();
        cli_json_number(one, "bf16_gflops", 1e-9 * level->bf16);
        cli_json_number(one, "f32_gflops", 1e-9 * level->f32);
        json_object_set_new(levels, level->kernels->name, one);
    }
    for (int i = 0; i < cli_peak_count; i++)
        if (rates->peaks[i] > 0) cli_json_number(peaks, cli_peaks[i].name, 1e-9 * rates->peaks[i]);
    json_object_set_new(object, "threads", json_integer(rates->threads));
    json_object_set_new(object, "levels", levels);
    json_object_set_new(object, "instructions", peaks);
    cli_json_number(object, "dram_gbps", 1e-9 * rates->limits.read.rate);
    json_object_set_new(object, "fastest_level", json_string(rates->fastest ? rates->fastest->kernels->name : ""));
    json_object_set_new(object, "rule_right", json_boolean(rates->right));
    return object;
}
