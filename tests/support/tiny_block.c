// SPDX-License-Identifier: Apache-2.0
// Small blocks with random weights.
#include "support/tiny_block.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "support/stored_values.h"

uint32_t tiny_random(uint64_t *state, uint32_t below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % below);
}

float tiny_uniform(uint64_t *state) { return (float)tiny_random(state, 1u << 20) / (float)(1 << 19) - 1.0f; }

float *tiny_values(uint64_t *state, int64_t count)
{
    float *values = malloc((size_t)(count ? count : 1) * sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < count; i++) values[i] = tiny_uniform(state);
    return values;
}

static void make_tensor(struct tiny_block *out, enum mb_format format, uint64_t *state)
{
    const moeblock_tensor_need *need = &out->needs[out->count];
    const size_t bytes = stored_bytes(need);
    void *data = malloc(bytes ? bytes : 1);
    assert_non_null(data);
    stored_fill(format, need, state, data);
    moeblock_tensor *tensor = &out->tensors[out->count++];
    *tensor =
        (moeblock_tensor){.name = need->name, .dtype = need->dtype, .rank = need->rank, .data = data, .bytes = bytes};
    memcpy(tensor->dims, need->dims, sizeof tensor->dims);
}

void tiny_make(struct tiny_block *out, const char *json, const struct tiny_settings *settings)
{
    const moeblock_context_options options = {
        .struct_size = sizeof options, .threads = settings->threads, .cpu_level = settings->level};
    uint64_t state = settings->seed * 0x9e3779b97f4a7c15u + 1;
    moeblock_config_shape shape;
    moeblock_error error = {MOEBLOCK_OK, ""};
    *out = (struct tiny_block){.count = 0};
    moeblock_status status = moeblock_context_create(&options, &out->context, &error);
    if (status == MOEBLOCK_OK)
        status = moeblock_config_parse(out->context, json, strlen(json), "tiny", NULL, &out->config, &error);
    if (status != MOEBLOCK_OK) fail_msg("%s: %s", error.message, json);
    while (mb_tensor_needed(out->config, settings->format, 0, (int64_t)out->count, &out->needs[out->count])) {
        make_tensor(out, settings->format, &state);
        assert_true(out->count < TINY_TENSORS);
    }
    moeblock_config_get_shape(out->config, &shape);
    out->hidden = shape.hidden_size;
    out->experts = shape.num_experts;
    out->k = shape.num_experts_per_tok;
}

void tiny_load(struct tiny_block *tiny, moeblock_compute compute, int64_t tokens)
{
    const moeblock_block_options options = {.struct_size = sizeof options, .compute = compute};
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_status status = moeblock_block_create(tiny->context, tiny->config, NULL, &options, &tiny->block, &error);
    if (status == MOEBLOCK_OK) status = moeblock_block_load_weights(tiny->block, tiny->tensors, tiny->count, &error);
    if (status == MOEBLOCK_OK)
        status = moeblock_workspace_create(tiny->block, tokens, NULL, 0, &tiny->workspace, &error);
    if (status != MOEBLOCK_OK) fail_msg("%s", error.message);
}

void tiny_free(struct tiny_block *tiny)
{
    moeblock_workspace_destroy(&tiny->workspace);
    moeblock_block_destroy(&tiny->block);
    moeblock_config_destroy(&tiny->config);
    moeblock_context_destroy(&tiny->context);
    for (size_t i = 0; i < tiny->count; i++) free((void *)(uintptr_t)tiny->tensors[i].data);
    tiny->count = 0;
}

moeblock_tensor *tiny_tensor(struct tiny_block *tiny, const char *name)
{
    for (size_t i = 0; i < tiny->count; i++)
        if (!strcmp(tiny->tensors[i].name, name)) return &tiny->tensors[i];
    fail_msg("there is no tensor '%s'", name);
    return NULL;
}

void *tiny_data(struct tiny_block *tiny, const char *name) { return (void *)(uintptr_t)tiny_tensor(tiny, name)->data; }

struct tiny_result tiny_result_make(const struct tiny_block *tiny, int64_t tokens)
{
    const size_t rows = (size_t)(tokens ? tokens : 1);
    struct tiny_result result = {.y = calloc(rows * (size_t)tiny->hidden, sizeof *result.y),
                                 .ids = calloc(rows * (size_t)tiny->k, sizeof *result.ids),
                                 .weights = calloc(rows * (size_t)tiny->k, sizeof *result.weights)};
    assert_true(result.y && result.ids && result.weights);
    return result;
}

void tiny_result_free(struct tiny_result *result)
{
    free(result->y);
    free(result->ids);
    free(result->weights);
}

void tiny_forward(const struct tiny_block *tiny, const float *x, int64_t tokens, const struct tiny_result *out,
                  moeblock_forward_stats *stats)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_forward_input in = {.struct_size = sizeof in,
                                 .mode = MOEBLOCK_PREFILL,
                                 .x = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {tokens, tiny->hidden}}};
    moeblock_forward_output result = {
        .struct_size = sizeof result, .y = in.x, .ids = out->ids, .weights = out->weights, .stats = stats};
    memcpy(&in.x.data, &x, sizeof x); // x is only read
    result.y.data = out->y;
    if (moeblock_block_forward(tiny->block, tiny->workspace, &in, &result, &error) != MOEBLOCK_OK)
        fail_msg("%" PRId64 " tokens: %s", tokens, error.message);
}
