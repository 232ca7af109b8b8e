// SPDX-License-Identifier: Apache-2.0
// Peak memory of a load: at most the packed weights + one expert + 64 MiB, whatever the layout, and packed weights no
// larger than the stored ones need. Measured with getrusage in a child process.
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmocka.h"
#include "config/tensors.h"
#include "moeblock/moeblock.h"
#include "weights/safetensors.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static const char deepseek[] =
    "{\"model\": {\"hidden_size\": 2048, \"num_experts\": 32, \"num_experts_per_tok\": 4},"
    "\"router\": {\"type\": \"moe_gate\", \"config\": {\"score_correction_bias\": true}},"
    "\"experts\": {\"distributed\": {\"intermediate_size\": 1024, \"activation\": \"swiglu\"},"
    "\"shared\": {\"enabled\": true, \"intermediate_size\": 1024}}}";
static const char llama4[] =
    "{\"model\": {\"hidden_size\": 2048, \"num_experts\": 6, \"num_experts_per_tok\": 1},"
    "\"router\": {\"type\": \"topk\"},"
    "\"experts\": {\"distributed\": {\"intermediate_size\": 2048, \"activation\": \"swiglu\"}},"
    "\"weights\": {\"layout\": \"stacked\", \"orientation\": \"input_major\", \"gate_up\": \"concatenated\","
    "\"names\": {\"router_weight\": \"mlp.router.weight\", \"gate_up\": \"mlp.experts.gate_up_proj\","
    "\"down\": \"mlp.experts.down_proj\"}}}";

// A checkpoint of zeros: a header and a hole.
static void write_zeros(const moeblock_config *config, enum mb_format format, const char *path)
{
    enum { MOST = 4096 };
    static moeblock_tensor_need needs[MOST];
    static moeblock_tensor_info infos[MOST];
    size_t n = 0;
    uint64_t bytes = 0;
    while (n < MOST && mb_tensor_needed(config, format, 0, (int64_t)n, &needs[n])) {
        infos[n] = (moeblock_tensor_info){.name = needs[n].name, .dtype = needs[n].dtype, .rank = needs[n].rank};
        infos[n].bytes = moeblock_dtype_bytes(needs[n].dtype);
        infos[n].dtype_name = moeblock_dtype_name(needs[n].dtype);
        for (int i = 0; i < needs[n].rank; i++) {
            infos[n].dims[i] = needs[n].dims[i];
            infos[n].bytes *= (uint64_t)needs[n].dims[i];
        }
        bytes += infos[n++].bytes;
    }
    struct mb_output output;
    moeblock_error error;
    if (mb_output_open(path, &output, &error) || mb_safetensors_write_header(&output, infos, n, &error) ||
        mb_output_commit(&output, &error))
        fail_msg("%s", error.message);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    assert_int_equal(ftruncate(fileno(file), ftell(file) + (long)bytes), 0);
    fclose(file);
}

static long peak_kib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

struct measured {
    size_t packed, expert;
    long grown_kib;
};

static struct measured load_in_child(const char *text, const char *path, moeblock_compute compute)
{
    int ends[2];
    struct measured result = {0, 0, -1};
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        moeblock_context *context;
        moeblock_config *config;
        moeblock_block *block;
        const moeblock_block_options options = {.struct_size = sizeof options, .compute = compute};
        moeblock_error error = {MOEBLOCK_OK, ""};
        const long before = peak_kib();
        if (!moeblock_context_create(NULL, &context, &error) &&
            !moeblock_config_parse(context, text, strlen(text), "text", NULL, &config, &error) &&
            !moeblock_block_create(context, config, NULL, &options, &block, &error) &&
            !moeblock_block_load_files(block, path, NULL, &error)) {
            moeblock_block_info info = {.struct_size = sizeof info};
            moeblock_block_get_info(block, &info);
            result = (struct measured){info.packed_bytes, info.expert_packed_bytes, peak_kib() - before};
        } else {
            fprintf(stderr, "%s\n", error.message);
        }
        _exit(write(ends[1], &result, sizeof result) == sizeof result ? 0 : 1);
    }
    int status;
    assert_int_equal(read(ends[0], &result, sizeof result), sizeof result);
    waitpid(child, &status, 0);
    close(ends[0]);
    close(ends[1]);
    return result;
}

static void check(const char *name, const char *text, enum mb_format format, moeblock_compute compute,
                  double bytes_per_weight, double weights)
{
    char path[512];
    snprintf(path, sizeof path, "%s/load_memory_%s.safetensors", getenv("MOEBLOCK_BUILD_DIR"), name);
    moeblock_context *context;
    moeblock_config *config;
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(moeblock_context_create(NULL, &context, &error), MOEBLOCK_OK);
    if (moeblock_config_parse(context, text, strlen(text), name, NULL, &config, &error)) fail_msg("%s", error.message);
    write_zeros(config, format, path);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
    const struct measured got = load_in_child(text, path, compute);
    unlink(path);
    assert_true(got.grown_kib > 0);
    const double mib = 1 << 20;
    const double allowed = (double)got.packed + (double)got.expert + 64 * mib;
    printf("  %-10s packed %.0f MiB, one expert %.1f MiB, peak %.0f MiB, allowed %.0f MiB\n", name,
           (double)got.packed / mib, (double)got.expert / mib, (double)got.grown_kib / 1024, allowed / mib);
    assert_true((double)got.grown_kib * 1024 <= allowed);
    assert_true((double)got.packed <= weights * bytes_per_weight * 1.01);
}

static void peak_of_a_load(void **state)
{
    (void)state;
    if (SANITIZED) {
        printf("  skipped: sanitizers keep shadow memory, which counts as the process's own\n");
        skip();
    }
    const double v3 = 33.0 * 3 * 2048 * 1024, l4 = 6.0 * 3 * 2048 * 2048;
    // FP8: one byte a weight and a float32 scale for 128; the layer's own type elsewhere.
    check("fp8", deepseek, MB_FORMAT_FP8, MOEBLOCK_COMPUTE_AUTO, 1 + 4.0 / 128, v3);
    check("bf16", deepseek, MB_FORMAT_BF16, MOEBLOCK_COMPUTE_AUTO, 2, v3);
    check("f32-bf16", deepseek, MB_FORMAT_F32, MOEBLOCK_COMPUTE_BF16, 2, v3);
    check("input", llama4, MB_FORMAT_BF16, MOEBLOCK_COMPUTE_AUTO, 2, l4);
    check("fbgemm", llama4, MB_FORMAT_FBGEMM_FP8, MOEBLOCK_COMPUTE_AUTO, 1 + 4.0 / 2048, l4);
}

static const char gpt_oss[] =
    "{\"model\": {\"hidden_size\": 2880, \"num_experts\": 16, \"num_experts_per_tok\": 4},"
    "\"router\": {\"type\": \"topk\", \"config\": {\"linear_bias\": true}},"
    "\"experts\": {\"distributed\": {\"intermediate_size\": 2880, \"activation\": \"swiglu_oai\", \"bias\": true}},"
    "\"weights\": {\"layout\": \"stacked\", \"orientation\": \"input_major\", \"gate_up\": \"interleaved\","
    "\"names\": \"gpt_oss\"}}";

static void mxfp4_stays_four_and_a_quarter_bits(void **state)
{
    (void)state;
    if (SANITIZED) {
        printf("  skipped: sanitizers keep shadow memory, which counts as the process's own\n");
        skip();
    }
    const double weights = 16.0 * 3 * 2880 * 2880;
    check("mxfp4", gpt_oss, MB_FORMAT_MXFP4, MOEBLOCK_COMPUTE_AUTO, 4.25 / 8, weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(peak_of_a_load),
                                       cmocka_unit_test(mxfp4_stays_four_and_a_quarter_bits)};
    return cmocka_run_group_tests_name("load_memory", tests, NULL, NULL);
}
