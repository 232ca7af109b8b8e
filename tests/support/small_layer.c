// SPDX-License-Identifier: Apache-2.0
// A small DeepSeek-V3 layer, and texts for its configuration.
#include "support/small_layer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "cmocka.h"
#include "weights/safetensors.h"

const struct small_shape small_shape = {SMALL_HIDDEN,      SMALL_EXPERTS, SMALL_K,     SMALL_GROUPS,
                                        SMALL_GROUPS_KEPT, SMALL_INNER,   SMALL_SHARED};
const struct small_shape small_v3 = {
    .hidden = 64, .experts = 256, .k = 8, .groups = 8, .groups_kept = 4, .inner = 16, .shared = 16};

void small_random(float *to, int count, unsigned seed)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        to[i] = (float)((double)(state >> 33) / (double)(1u << 30) - 1);
    }
}

double small_error(const float *a, const double *b, int count)
{
    double difference = 0, size = 0;
    for (int i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += b[i] * b[i];
    }
    return sqrt(difference / size);
}

// Adds the tensor [rows, columns] (columns 0: a vector) under "model.layers.LAYER.mlp.NAME".
static void add(struct small_layer *to, size_t *n, int layer, const char *name, int64_t rows, int64_t columns,
                const float *data)
{
    assert_true(*n < to->count);
    snprintf(to->names[*n], sizeof to->names[*n], "model.layers.%d.mlp.%s", layer, name);
    to->tensors[*n] = (moeblock_tensor){.name = to->names[*n],
                                        .dtype = MOEBLOCK_F32,
                                        .rank = columns ? 2 : 1,
                                        .dims = {rows, columns},
                                        .data = data,
                                        .bytes = (size_t)(rows * (columns ? columns : 1)) * sizeof *data};
    ++*n;
}

static void name_tensors(struct small_layer *to, int layer)
{
    const struct original_layer *math = &to->math;
    const int64_t hidden = math->hidden, inner = math->inner, shared = math->shared;
    const struct {
        const char *projection;
        const float *routed, *shared;
        bool to_hidden;
    } parts[] = {{"gate_proj", math->w1, math->s1, false},
                 {"up_proj", math->w3, math->s3, false},
                 {"down_proj", math->w2, math->s2, true}};
    size_t n = 0;
    add(to, &n, layer, "gate.weight", math->experts, hidden, math->gate);
    add(to, &n, layer, "gate.e_score_correction_bias", math->experts, 0, math->bias);
    for (int p = 0; p < 3; p++) {
        char name[64];
        for (int e = 0; e < math->experts; e++) {
            snprintf(name, sizeof name, "experts.%d.%s.weight", e, parts[p].projection);
            add(to, &n, layer, name, parts[p].to_hidden ? hidden : inner, parts[p].to_hidden ? inner : hidden,
                parts[p].routed + e * inner * hidden);
        }
        snprintf(name, sizeof name, "shared_experts.%s.weight", parts[p].projection);
        add(to, &n, layer, name, parts[p].to_hidden ? hidden : shared, parts[p].to_hidden ? shared : hidden,
            parts[p].shared);
    }
    assert_int_equal(n, to->count);
}

void small_layer_make_as(struct small_layer *out, const struct small_shape *shape, int layer, unsigned seed)
{
    const int routed = shape->experts * shape->inner * shape->hidden, shared = shape->shared * shape->hidden;
    const int gates = shape->experts * shape->hidden, all = gates + shape->experts + 3 * routed + 3 * shared;
    out->count = 2 + 3 * (size_t)shape->experts + 3;
    out->memory = calloc((size_t)all, sizeof *out->memory);
    out->tensors = calloc(out->count, sizeof *out->tensors);
    out->names = calloc(out->count, sizeof *out->names);
    assert_true(out->memory && out->tensors && out->names);
    assert_true(shape->hidden <= SMALL_HIDDEN_MAX && shape->k <= SMALL_K_MAX);
    small_random(out->memory, all, seed);
    const float *gate = out->memory, *bias = gate + gates, *w = bias + shape->experts, *s = w + 3 * routed;
    for (float *value = out->memory; value < gate + all; value++) *value *= value < w ? 0.5f : 0.25f;
    out->math = (struct original_layer){
        .hidden = shape->hidden,
        .experts = shape->experts,
        .k = shape->k,
        .n_group = shape->groups,
        .topk_group = shape->groups_kept,
        .inner = shape->inner,
        .shared = shape->shared,
        .normalised = true,
        .scale = 2.5,
        .gate = gate,
        .bias = bias,
        .w1 = w,
        .w3 = w + routed,
        .w2 = w + 2 * (ptrdiff_t)routed,
        .s1 = s,
        .s3 = s + shared,
        .s2 = s + 2 * (ptrdiff_t)shared,
    };
    name_tensors(out, layer);
}

void small_layer_make(struct small_layer *out, int layer, unsigned seed)
{
    small_layer_make_as(out, &small_shape, layer, seed);
}

void small_layer_free(struct small_layer *layer)
{
    free(layer->memory);
    free(layer->tensors);
    free(layer->names);
    *layer = (struct small_layer){.memory = NULL};
}

void small_layer_write(const struct small_layer *layers, int count, const char *path)
{
    enum { LAYERS_MAX = 4 };
    static moeblock_tensor_info infos[LAYERS_MAX * SMALL_TENSORS];
    moeblock_error error = {MOEBLOCK_OK, ""};
    struct mb_output output;
    size_t n = 0;
    assert_true(count <= LAYERS_MAX);
    for (int l = 0; l < count; l++) {
        for (int i = 0; i < SMALL_TENSORS; i++) {
            const moeblock_tensor *tensor = &layers[l].tensors[i];
            infos[n] = (moeblock_tensor_info){.name = tensor->name, .dtype = tensor->dtype, .rank = tensor->rank};
            memcpy(infos[n++].dims, tensor->dims, sizeof tensor->dims);
        }
    }
    moeblock_status status = mb_output_open(path, &output, &error);
    if (status == MOEBLOCK_OK) status = mb_safetensors_write_header(&output, infos, n, &error);
    for (size_t i = 0; status == MOEBLOCK_OK && i < n; i++) {
        const moeblock_tensor *tensor = &layers[i / SMALL_TENSORS].tensors[i % SMALL_TENSORS];
        status = mb_output_write(&output, tensor->data, tensor->bytes, &error);
    }
    if (status == MOEBLOCK_OK) status = mb_output_commit(&output, &error);
    if (status != MOEBLOCK_OK) fail_msg("%s: %s", path, error.message);
}

// The depth is that of the patch, which the test wrote.
static void lay_over(json_t *object, json_t *patch)
{
    const char *key;
    json_t *value;
    json_object_foreach(patch, key, value)
    {
        json_t *below = json_object_get(object, key);
        if (json_is_null(value))
            json_object_del(object, key);
        else if (json_is_object(value) && json_is_object(below))
            lay_over(below, value);
        else
            json_object_set(object, key, value);
    }
}

char *small_patched(const char *json, const char *patch)
{
    json_error_t where;
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &where);
    if (!root) fail_msg("%s in %s", where.text, json);
    json_t *changes = json_loads(patch, JSON_REJECT_DUPLICATES, &where);
    if (!changes) fail_msg("%s in %s", where.text, patch);
    lay_over(root, changes);
    char *text = json_dumps(root, JSON_INDENT(2));
    json_decref(changes);
    json_decref(root);
    assert_non_null(text);
    return text;
}

char *small_file(const char *path)
{
    char whole[1024], *text;
    size_t bytes;
    moeblock_error error = {MOEBLOCK_OK, ""};
    snprintf(whole, sizeof whole, "%s/%s", MOEBLOCK_SOURCE_DIR, path);
    if (mb_file_read_text(&mb_default_allocator, whole, 1 << 20, &text, &bytes, &error) != MOEBLOCK_OK)
        fail_msg("%s", error.message);
    char *copy = strdup(text);
    mb_free(&mb_default_allocator, text);
    assert_non_null(copy);
    return copy;
}
