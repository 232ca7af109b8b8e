// SPDX-License-Identifier: Apache-2.0
// The drop-in for a model's own MoE layer: made from a Hugging Face folder, called like the original's
// forward_mlp_prefill(x, cfg) and forward_mlp_decode.
//   adapter FOLDER [LAYER]
#include <moeblock/moeblock.h>
#include <stdio.h>
#include <stdlib.h>

enum { SEQUENCE = 5 };

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: adapter FOLDER [LAYER]\n");
        return 64;
    }
    moeblock_error error;
    moeblock_context *context = NULL;
    moeblock_adapter *adapter = NULL;
    float *x = NULL, *y = NULL;
    int failed = 1;

    if (moeblock_context_create(NULL, &context, &error)) goto done;
    if (moeblock_adapter_open(context, argv[1], argc > 2 ? atoll(argv[2]) : -1, NULL, NULL, &adapter, &error))
        goto done;
    moeblock_config_shape shape;
    moeblock_config_get_shape(moeblock_adapter_config(adapter), &shape);
    const int64_t hidden = shape.hidden_size;
    x = calloc((size_t)(SEQUENCE * hidden), sizeof *x);
    y = calloc((size_t)(SEQUENCE * hidden), sizeof *y);
    if (!x || !y) goto done;
    for (int64_t i = 0; i < SEQUENCE * hidden; i++) x[i] = (float)(i * 7 % 13 - 6) / 8;

    // The original's shape: [batch, 1, sequence, hidden].
    moeblock_array in = {.dtype = MOEBLOCK_F32, .rank = 4, .dims = {1, 1, SEQUENCE, hidden}, .data = x}, out = in;
    out.data = y;
    if (moeblock_adapter_forward_mlp_prefill(adapter, &in, NULL, &out, &error)) goto done;
    printf("prefill of %d tokens: last y[0] = %g\n", SEQUENCE, (double)y[(SEQUENCE - 1) * hidden]);

    // The last token again as a decode step gives the same bits.
    const float prefilled = y[(SEQUENCE - 1) * hidden];
    in.dims[2] = out.dims[2] = 1;
    in.data = x + (SEQUENCE - 1) * hidden;
    if (moeblock_adapter_forward_mlp_decode(adapter, &in, NULL, &out, &error)) goto done;
    printf("decode of its last token: y[0] = %g (%s)\n", (double)y[0], y[0] == prefilled ? "same bits" : "DIFFERENT");
    failed = y[0] != prefilled;
done:
    if (failed) fprintf(stderr, "adapter: %s\n", error.message);
    free(x);
    free(y);
    moeblock_adapter_destroy(&adapter);
    moeblock_context_destroy(&context);
    return failed;
}
