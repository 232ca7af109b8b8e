// SPDX-License-Identifier: Apache-2.0
// Which experts does an input use? Prints every token's choice and the load of each expert.
//   expert_load FOLDER [LAYER]
#include <moeblock/moeblock.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 8 };

static void print_choices(const int32_t *ids, const float *weights, int64_t k)
{
    for (int t = 0; t < TOKENS; t++) {
        printf("token %d:", t);
        for (int64_t j = 0; j < k; j++) printf("  %d (%.3f)", (int)ids[t * k + j], (double)weights[t * k + j]);
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: expert_load FOLDER [LAYER]\n");
        return 64;
    }
    moeblock_error error;
    moeblock_context *context = NULL;
    moeblock_adapter *model = NULL;
    float *x = NULL, *y = NULL, *weights = NULL;
    int32_t *ids = NULL;
    int64_t *load = NULL;
    int failed = 1;

    if (moeblock_context_create(NULL, &context, &error)) goto done;
    if (moeblock_adapter_open(context, argv[1], argc > 2 ? atoll(argv[2]) : -1, NULL, NULL, &model, &error)) goto done;
    moeblock_config_shape shape;
    moeblock_config_get_shape(moeblock_adapter_config(model), &shape);
    const int64_t hidden = shape.hidden_size, k = shape.num_experts_per_tok;
    x = calloc((size_t)(TOKENS * hidden), sizeof *x);
    y = calloc((size_t)(TOKENS * hidden), sizeof *y);
    ids = calloc((size_t)(TOKENS * k), sizeof *ids);
    weights = calloc((size_t)(TOKENS * k), sizeof *weights);
    load = calloc((size_t)shape.num_experts, sizeof *load);
    if (!x || !y || !ids || !weights || !load) goto done;
    for (int64_t i = 0; i < TOKENS * hidden; i++) x[i] = (float)(i * i % 17 - 8) / 8;

    moeblock_array in = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {TOKENS, hidden}, .data = x}, out = in;
    out.data = y;
    moeblock_forward_stats stats = {.struct_size = sizeof stats, .expert_load = load};
    const moeblock_adapter_options cfg = {.struct_size = sizeof cfg, .stats = &stats, .ids = ids, .weights = weights};
    if (moeblock_adapter_forward_mlp_prefill(model, &in, &cfg, &out, &error)) goto done;
    print_choices(ids, weights, k);
    for (int64_t e = 0; e < shape.num_experts; e++) printf("expert %lld: %lld\n", (long long)e, (long long)load[e]);
    failed = 0;
done:
    if (failed) fprintf(stderr, "expert_load: %s\n", error.message);
    free(x);
    free(y);
    free(ids);
    free(weights);
    free(load);
    moeblock_adapter_destroy(&model);
    moeblock_context_destroy(&context);
    return failed;
}
