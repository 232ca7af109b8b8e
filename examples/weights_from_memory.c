// SPDX-License-Identifier: Apache-2.0
// A block whose weights come from the program's own memory: a JSON text, a state dict, forward. No file is read.
#include <moeblock/moeblock.h>
#include <stdio.h>
#include <string.h>

enum { HIDDEN = 8, INNER = 4, EXPERTS = 4, TOKENS = 3 };

static const char description[] =
    "{\"model\": {\"hidden_size\": 8, \"num_experts\": 4, \"num_experts_per_tok\": 2},"
    " \"router\": {\"type\": \"moe_gate\", \"config\": {\"score_correction_bias\": false}}, // sigmoid, normalised\n"
    " \"experts\": {\"distributed\": {\"intermediate_size\": 4, \"activation\": \"swiglu\"}}}";

static float router[EXPERTS * HIDDEN], gate_up_down[EXPERTS][3][INNER * HIDDEN];
static char names[3 * EXPERTS + 1][64];

// The state dict: published names, here without the "model.layers.N." that a whole model has in front.
static size_t state_dict(moeblock_tensor *tensors)
{
    static const char *const projections[] = {"gate_proj", "up_proj", "down_proj"};
    size_t n = 0;
    strcpy(names[n], "mlp.gate.weight");
    tensors[n] = (moeblock_tensor){names[n], MOEBLOCK_F32, 2, {EXPERTS, HIDDEN}, router, sizeof router};
    n++;
    for (int e = 0; e < EXPERTS; e++)
        for (int p = 0; p < 3; p++, n++) {
            const int64_t rows = p < 2 ? INNER : HIDDEN, columns = p < 2 ? HIDDEN : INNER;
            snprintf(names[n], sizeof names[n], "mlp.experts.%d.%s.weight", e, projections[p]);
            tensors[n] = (moeblock_tensor){names[n],        MOEBLOCK_F32,       2,
                                           {rows, columns}, gate_up_down[e][p], sizeof gate_up_down[e][p]};
        }
    return n;
}

int main(void)
{
    moeblock_error error;
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    moeblock_tensor tensors[3 * EXPERTS + 1];
    float x[TOKENS * HIDDEN], y[TOKENS * HIDDEN];
    int failed = 1;

    for (int i = 0; i < EXPERTS * HIDDEN; i++) router[i] = (float)(i * 5 % 11 - 5) / 4;
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < 3 * INNER * HIDDEN; i++) (&gate_up_down[e][0][0])[i] = (float)((i + e) * 3 % 7 - 3) / 8;
    for (int i = 0; i < TOKENS * HIDDEN; i++) x[i] = (float)(i * 7 % 13 - 6) / 8;

    const size_t count = state_dict(tensors);
    if (moeblock_context_create(NULL, &context, &error)) goto done;
    if (moeblock_config_parse(context, description, sizeof description - 1, "description", NULL, &config, &error))
        goto done;
    if (moeblock_block_create(context, config, NULL, NULL, &block, &error)) goto done;
    if (moeblock_block_load_weights(block, tensors, count, &error)) goto done;
    if (moeblock_workspace_create(block, TOKENS, NULL, 0, &workspace, &error)) goto done;
    if (moeblock_forward(block, workspace, x, TOKENS, MOEBLOCK_PREFILL, y, &error)) goto done;
    for (int t = 0; t < TOKENS; t++) printf("token %d: y[0] = %g\n", t, (double)y[t * HIDDEN]);
    failed = 0;
done:
    if (failed) fprintf(stderr, "weights_from_memory: %s\n", error.message);
    moeblock_workspace_destroy(&workspace);
    moeblock_block_destroy(&block);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
    return failed;
}
