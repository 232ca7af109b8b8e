// SPDX-License-Identifier: Apache-2.0
// How fast a layer loads: reads, checks and packs it several times and prints the fastest pass, beside
// bench/load_limit.
//   load_rate CONFIG WEIGHTS [--layer N] [--threads N] [--passes N] [--json]
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "moeblock/moeblock.h"

struct arguments {
    const char *config, *weights;
    int64_t layer;
    int threads, passes;
    int json;
};

static int read_arguments(int argc, char **argv, struct arguments *out)
{
    *out = (struct arguments){.layer = -1, .passes = 5};
    for (int i = 1; i < argc; i++) {
        const int has_value = i + 1 < argc;
        if (!strcmp(argv[i], "--json")) {
            out->json = 1;
        } else if (!strcmp(argv[i], "--layer") && has_value) {
            out->layer = strtoll(argv[++i], NULL, 10);
        } else if (!strcmp(argv[i], "--threads") && has_value) {
            out->threads = (int)strtol(argv[++i], NULL, 10);
        } else if (!strcmp(argv[i], "--passes") && has_value) {
            out->passes = (int)strtol(argv[++i], NULL, 10);
        } else if (argv[i][0] != '-' && !out->weights) {
            *(out->config ? &out->weights : &out->config) = argv[i];
        } else {
            return 0;
        }
    }
    return out->weights && out->passes > 0;
}

// Seconds of one load into a fresh block; negative after an error.
static double load_once(moeblock_context *context, const moeblock_config *config, const char *weights,
                        moeblock_block_info *info, moeblock_error *error)
{
    moeblock_block *block = NULL;
    double seconds = -1;
    if (moeblock_block_create(context, config, NULL, NULL, &block, error)) return seconds;
    const double start = mb_seconds();
    if (!moeblock_block_load_files(block, weights, NULL, error)) seconds = mb_seconds() - start;
    moeblock_block_get_info(block, info);
    moeblock_block_destroy(&block);
    return seconds;
}

int main(int argc, char **argv)
{
    struct arguments arguments;
    if (!read_arguments(argc, argv, &arguments)) {
        fprintf(stderr, "usage: load_rate CONFIG WEIGHTS [--layer N] [--threads N] [--passes N] [--json]\n");
        return 64;
    }
    const moeblock_context_options threads = {.struct_size = sizeof threads, .threads = arguments.threads};
    const moeblock_config_options options = {
        .struct_size = sizeof options, .layer = arguments.layer, .weights_path = arguments.weights};
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_block_info info = {.struct_size = sizeof info};
    double best = -1;
    if (!moeblock_context_create(&threads, &context, &error) &&
        !moeblock_config_open(context, arguments.config, &options, &config, &error)) {
        for (int i = 0; i < arguments.passes; i++) {
            const double seconds = load_once(context, config, arguments.weights, &info, &error);
            if (seconds > 0 && (best < 0 || seconds < best)) best = seconds;
        }
    }
    if (best > 0 && arguments.json)
        printf("{\"gb_per_s\": %.3f, \"packed_bytes\": %zu, \"threads\": %d, \"format\": \"%s\"}\n",
               (double)info.packed_bytes / best * 1e-9, info.packed_bytes, moeblock_context_threads(context),
               info.format);
    else if (best > 0)
        printf("%.3f GB/s (%zu packed bytes of %s, %d threads, best of %d)\n", (double)info.packed_bytes / best * 1e-9,
               info.packed_bytes, info.format, moeblock_context_threads(context), arguments.passes);
    else
        fprintf(stderr, "load_rate: %s\n", error.message);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
    return best > 0 ? 0 : 1;
}
