// SPDX-License-Identifier: Apache-2.0
// An expert kind of one's own, selected from JSON by name: expert e multiplies its row by a number of its own, read
// from the tensor "mlp.scales" [experts]. It cannot split its columns, so the block calls it for whole rows.
#include <moeblock/moeblock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN = 6, EXPERTS = 4, TOKENS = 3 };

struct scaling {
    int64_t experts, hidden;
    float scale[EXPERTS];
};

static moeblock_status create(void *user, const moeblock_expert_build *build, void **self, moeblock_error *error)
{
    (void)user, (void)error;
    struct scaling *kind = calloc(1, sizeof *kind);
    if (!kind || build->experts > EXPERTS || build->compute != MOEBLOCK_COMPUTE_F32)
        return free(kind), MOEBLOCK_UNSUPPORTED;
    kind->experts = build->experts;
    kind->hidden = build->hidden;
    *self = kind;
    return MOEBLOCK_OK;
}

static void destroy(void *self) { free(self); }

static moeblock_status open_weights(void *self, moeblock_weights *weights, int64_t layer, int64_t *items,
                                    moeblock_error *error)
{
    (void)layer;
    struct scaling *kind = self;
    moeblock_tensor_info tensor;
    *items = 0; // read here, nothing left to pack
    const moeblock_status found = moeblock_weights_find(weights, "mlp.scales", &tensor, error);
    if (found) return found;
    return moeblock_weights_read(weights, &tensor, 0, (size_t)kind->experts * sizeof(float), kind->scale, error);
}

// Without an intermediate (intermediate_size 0) inner is never called and outer gets the rows themselves.
static moeblock_status outer(const void *self, const moeblock_expert_call *call, moeblock_error *error)
{
    (void)error;
    const struct scaling *kind = self;
    for (int64_t r = 0; r < call->m; r++)
        for (int64_t i = 0; i < kind->hidden; i++)
            ((float *)call->out)[r * call->out_stride + i] =
                kind->scale[call->expert] * ((const float *)call->rows[r])[i];
    return MOEBLOCK_OK;
}

static const moeblock_expert_class scaling = {
    .struct_size = sizeof scaling, .create = create, .destroy = destroy, .open = open_weights, .outer = outer};
static const char description[] = "{\"model\": {\"hidden_size\": 6, \"num_experts\": 4, \"num_experts_per_tok\": 2}, "
                                  "\"router\": {\"type\": \"topk\"},"
                                  " \"experts\": {\"type\": \"scaling\", \"distributed\": {\"intermediate_size\": 0}}}";

int main(void)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    float gate[EXPERTS * HIDDEN], scales[EXPERTS] = {1, 2, 4, 8}, x[TOKENS * HIDDEN], y[TOKENS * HIDDEN];
    for (int i = 0; i < EXPERTS * HIDDEN; i++) gate[i] = (float)(i * 5 % 11 - 5) / 4;
    for (int i = 0; i < TOKENS * HIDDEN; i++) x[i] = (float)(i * 7 % 13 - 6) / 8;
    const moeblock_tensor tensors[] = {{"mlp.gate.weight", MOEBLOCK_F32, 2, {EXPERTS, HIDDEN}, gate, sizeof gate},
                                       {"mlp.scales", MOEBLOCK_F32, 1, {EXPERTS}, scales, sizeof scales}};
    const int failed =
        moeblock_context_create(NULL, &context, &error) ||
        moeblock_register_expert(context, "scaling", &scaling, NULL, &error) ||
        moeblock_config_parse(context, description, strlen(description), "description", NULL, &config, &error) ||
        moeblock_block_create(context, config, NULL, NULL, &block, &error) ||
        moeblock_block_load_weights(block, tensors, 2, &error) ||
        moeblock_workspace_create(block, TOKENS, NULL, 0, &workspace, &error) ||
        moeblock_forward(block, workspace, x, TOKENS, MOEBLOCK_PREFILL, y, &error);
    if (failed) fprintf(stderr, "custom_expert: %s\n", error.message);
    for (int t = 0; !failed && t < TOKENS; t++)
        printf("token %d: y / x = %g\n", t, (double)(y[t * HIDDEN] / x[t * HIDDEN]));
    moeblock_workspace_destroy(&workspace);
    moeblock_block_destroy(&block);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
    return failed;
}
