// SPDX-License-Identifier: Apache-2.0
// One block, one workspace: a prompt in prefill, then tokens one by one in decode, as a generating program does.
//   prefill_then_decode FOLDER [LAYER]
#include <moeblock/moeblock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 6, STEPS = 4 };

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: prefill_then_decode FOLDER [LAYER]\n");
        return 64;
    }
    moeblock_error error;
    moeblock_context *context = NULL;
    moeblock_adapter *model = NULL;
    moeblock_workspace *workspace = NULL;
    float *x = NULL, *y = NULL;
    int failed = 1;

    if (moeblock_context_create(NULL, &context, &error)) goto done;
    if (moeblock_adapter_open(context, argv[1], argc > 2 ? atoll(argv[2]) : -1, NULL, NULL, &model, &error)) goto done;
    const moeblock_block *block = moeblock_adapter_block(model);
    if (moeblock_workspace_create(block, PROMPT, NULL, 0, &workspace, &error)) goto done;
    printf("workspace: %zu bytes\n", moeblock_workspace_bytes(block, PROMPT));

    moeblock_config_shape shape;
    moeblock_config_get_shape(moeblock_adapter_config(model), &shape);
    const int64_t hidden = shape.hidden_size;
    x = calloc((size_t)(PROMPT * hidden), sizeof *x);
    y = calloc((size_t)(PROMPT * hidden), sizeof *y);
    if (!x || !y) goto done;
    for (int64_t i = 0; i < PROMPT * hidden; i++) x[i] = (float)(i * 7 % 13 - 6) / 8;
    if (moeblock_forward(block, workspace, x, PROMPT, MOEBLOCK_PREFILL, y, &error)) goto done;
    printf("prompt of %d tokens done\n", PROMPT);

    // A real model would run attention between the steps; here the layer's output is the next input.
    float *token = x;
    memcpy(token, y + (PROMPT - 1) * hidden, (size_t)hidden * sizeof *token);
    for (int step = 0; step < STEPS; step++) {
        if (moeblock_forward(block, workspace, token, 1, MOEBLOCK_DECODE, token, &error)) goto done; // in place
        printf("step %d: y[0] = %g\n", step, (double)token[0]);
    }
    failed = 0;
done:
    if (failed) fprintf(stderr, "prefill_then_decode: %s\n", error.message);
    free(x);
    free(y);
    moeblock_workspace_destroy(&workspace);
    moeblock_adapter_destroy(&model);
    moeblock_context_destroy(&context);
    return failed;
}
