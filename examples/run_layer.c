// SPDX-License-Identifier: Apache-2.0
// Runs one MoE layer of a downloaded Hugging Face folder on made-up tokens.
//   run_layer FOLDER [LAYER]
#include <moeblock/moeblock.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 4 };

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: run_layer FOLDER [LAYER]\n");
        return 64;
    }
    moeblock_error error;
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    moeblock_config_options options = {.struct_size = sizeof options, .layer = argc > 2 ? atoll(argv[2]) : -1};
    float *x = NULL, *y = NULL;
    int failed = 1;

    if (moeblock_context_create(NULL, &context, &error)) goto done;
    if (moeblock_config_open(context, argv[1], &options, &config, &error)) goto done;
    if (moeblock_block_create(context, config, NULL, NULL, &block, &error)) goto done;
    if (moeblock_block_load_files(block, argv[1], NULL, &error)) goto done;
    if (moeblock_workspace_create(block, TOKENS, NULL, 0, &workspace, &error)) goto done;

    moeblock_config_shape shape;
    moeblock_config_get_shape(config, &shape);
    x = calloc((size_t)(TOKENS * shape.hidden_size), sizeof *x);
    y = calloc((size_t)(TOKENS * shape.hidden_size), sizeof *y);
    if (!x || !y) goto done;
    for (int64_t i = 0; i < TOKENS * shape.hidden_size; i++) x[i] = (float)(i * 7 % 13 - 6) / 8;
    if (moeblock_forward(block, workspace, x, TOKENS, MOEBLOCK_PREFILL, y, &error)) goto done;
    for (int t = 0; t < TOKENS; t++)
        printf("token %d: y[0..2] = %g %g %g\n", t, (double)y[t * shape.hidden_size],
               (double)y[t * shape.hidden_size + 1], (double)y[t * shape.hidden_size + 2]);
    failed = 0;
done:
    if (failed) fprintf(stderr, "run_layer: %s\n", error.message);
    free(x);
    free(y);
    moeblock_workspace_destroy(&workspace);
    moeblock_block_destroy(&block);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
    return failed;
}
