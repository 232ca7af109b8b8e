// SPDX-License-Identifier: Apache-2.0
// What the two files of the reference share: its stored tensors as float weights, and its memory.
#ifndef MB_REFERENCE_PARTS_H
#define MB_REFERENCE_PARTS_H

#include "config/tensors.h"
#include "moeblock/block.h"

// y[n] = sum_k w[n][k] x[k] + bias[n]; with `scale`, each run of `group` inputs is summed on its own and scaled.
struct mb_linear {
    int64_t rows, columns, group;
    float *w, *scale, *bias; // scale [rows][columns / group, rounded up] or NULL; bias [rows] or NULL
};

struct mb_reference {
    const moeblock_allocator *allocator;
    const moeblock_config *config;
    moeblock_weights *weights;
    moeblock_error *error;
    struct mb_chunk *last;                            // of memory, newest first
    int64_t layer, tokens, hidden, width, classes, k; // width: of rows into and out of the routed experts
    bool bf16;
};

// Zeroed memory for `count` elements; *out points to it. Released with everything that was taken after `down_to`.
moeblock_status mb_reference_take(struct mb_reference *r, int64_t count, size_t size, void *out);
void mb_reference_release(struct mb_reference *r, const struct mb_chunk *down_to);

// A projection of an expert. `rounds`: its weights are held in bfloat16 in BF16 compute when they are stored wider.
moeblock_status mb_reference_linear(struct mb_reference *r, enum mb_projection projection, int64_t expert,
                                    bool has_bias, bool rounds, struct mb_linear *out);
// A vector of the description, NULL when it has none.
moeblock_status mb_reference_vector(struct mb_reference *r, enum mb_role role, int64_t count, float **out);

float mb_reference_dot(const struct mb_linear *linear, int64_t n, const float *x);
// x / sqrt(mean(x^2) + eps) in place.
void mb_reference_rms_norm(float *x, int64_t n, double eps);

// ids and weights [tokens, k] in ascending id, from x, or from aux where the description says so; the same in
// descending weight to ids_out and w_out (each may be NULL).
moeblock_status mb_reference_route(struct mb_reference *r, const float *x, const float *aux, int32_t *ids, float *w,
                                   int32_t *ids_out, float *w_out);

#endif
