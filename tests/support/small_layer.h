// SPDX-License-Identifier: Apache-2.0
// A DeepSeek-V3 layer of random float32 weights, small enough for the original's flow in plain C, with its tensors
// under their published names; and JSON texts with a change applied.
#ifndef TESTS_SUPPORT_SMALL_LAYER_H
#define TESTS_SUPPORT_SMALL_LAYER_H

#include "moeblock/moeblock.h"
#include "support/original.h"

// Sizes of a layer; `shared` is the width of the shared expert.
struct small_shape {
    int hidden, experts, k, groups, groups_kept, inner, shared;
};
enum { SMALL_HIDDEN_MAX = 64, SMALL_K_MAX = 8 };

// The usual one.
enum {
    SMALL_HIDDEN = 32,
    SMALL_EXPERTS = 16,
    SMALL_K = 4,
    SMALL_GROUPS = 4,
    SMALL_GROUPS_KEPT = 2,
    SMALL_INNER = 12,
    SMALL_SHARED = 24, // two shared experts of SMALL_INNER
    SMALL_TENSORS = 2 + 3 * SMALL_EXPERTS + 3
};
extern const struct small_shape small_shape;
// DeepSeek-V3's router and counts of experts, narrow.
extern const struct small_shape small_v3;

struct small_layer {
    struct original_layer math;
    float *memory;
    moeblock_tensor *tensors; // [count]
    size_t count;
    char (*names)[96]; // [count]
};

// Names start with "model.layers.LAYER."; seeds differ in every weight.
void small_layer_make(struct small_layer *out, int layer, unsigned seed);
void small_layer_make_as(struct small_layer *out, const struct small_shape *shape, int layer, unsigned seed);
void small_layer_free(struct small_layer *layer);
// The tensors of several layers of the usual shape as one safetensors file.
void small_layer_write(const struct small_layer *layers, int count, const char *path);

// count values in [-1, 1], the same for the same seed.
void small_random(float *to, int count, unsigned seed);
// sqrt(sum (a - b)^2 / sum b^2)
double small_error(const float *a, const double *b, int count);

// A JSON text with a patch laid over it: objects are merged, null removes a key. Freed by the caller.
char *small_patched(const char *json, const char *patch);
// The text of a file under the source folder. Freed by the caller.
char *small_file(const char *path);

#endif
