// SPDX-License-Identifier: Apache-2.0
// A router of one's own, selected from JSON by name: token t goes to the experts t * stride, t * stride + 1, ... with
// equal weights. It reads its stride from router.config and needs no tensors.
//   custom_router FOLDER [LAYER]   (only the expert weights are used)
#include <moeblock/moeblock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct round_robin {
    int64_t experts, top_k, stride;
};

static moeblock_status create(void *user, const moeblock_router_build *build, void **self, moeblock_error *error)
{
    (void)user, (void)error;
    struct round_robin *router = malloc(sizeof *router);
    if (!router) return MOEBLOCK_OUT_OF_MEMORY;
    const char *stride = strchr(build->config_json, ':'); // a real program would parse the JSON
    *router = (struct round_robin){build->experts, build->top_k, stride ? atoll(stride + 1) : 1};
    *self = router;
    return MOEBLOCK_OK;
}

static void destroy(void *self) { free(self); }

static moeblock_status choose(const void *self, const moeblock_router_input *input, const float *logits, int64_t stride,
                              int32_t *ids, float *weights, moeblock_error *error)
{
    (void)logits, (void)stride, (void)error;
    const struct round_robin *router = self;
    for (int64_t t = 0; t < input->tokens; t++)
        for (int64_t j = 0; j < router->top_k; j++) {
            ids[t * router->top_k + j] = (int32_t)((t * router->stride + j) % router->experts);
            weights[t * router->top_k + j] = 1.0f / (float)router->top_k;
        }
    return MOEBLOCK_OK;
}

// What the description leaves out comes from the folder's config.json.
static const char description[] = "{\"router\": {\"type\": \"round_robin\", \"config\": {\"stride\":3}}}";
static const moeblock_router_class round_robin = {
    .struct_size = sizeof round_robin, .create = create, .destroy = destroy, .select = choose};

int main(int argc, char **argv)
{
    moeblock_error error = {MOEBLOCK_OK, "usage: custom_router FOLDER [LAYER]"};
    moeblock_config_options options = {.struct_size = sizeof options,
                                       .layer = argc > 2 ? atoll(argv[2]) : -1,
                                       .weights_path = argc > 1 ? argv[1] : NULL};
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    moeblock_config_shape shape;
    float *x = NULL;
    int failed = 1;

    if (argc < 2 || moeblock_context_create(NULL, &context, &error)) goto done;
    if (moeblock_register_router(context, "round_robin", &round_robin, NULL, &error)) goto done;
    if (moeblock_config_parse(context, description, sizeof description - 1, "description", &options, &config, &error))
        goto done;
    if (moeblock_block_create(context, config, NULL, NULL, &block, &error)) goto done;
    if (moeblock_block_load_files(block, argv[1], NULL, &error)) goto done;
    if (moeblock_workspace_create(block, 4, NULL, 0, &workspace, &error)) goto done;
    moeblock_config_get_shape(config, &shape);
    x = calloc((size_t)(4 * shape.hidden_size), sizeof *x);
    if (!x) goto done;
    for (int64_t i = 0; i < 4 * shape.hidden_size; i++) x[i] = (float)(i * 7 % 13 - 6) / 8;
    if (moeblock_forward(block, workspace, x, 4, MOEBLOCK_PREFILL, x, &error)) goto done;
    printf("routed by \"round_robin\": y[0] = %g\n", (double)x[0]);
    failed = 0;
done:
    if (failed) fprintf(stderr, "custom_router: %s\n", error.message);
    free(x);
    moeblock_workspace_destroy(&workspace);
    moeblock_block_destroy(&block);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
    return failed;
}
