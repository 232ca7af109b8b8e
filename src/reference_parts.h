// SPDX-License-Identifier: Apache-2.0
// What the two files of the reference share: its stored tensors as float weights, and its memory.
#ifndef MB_REFERENCE_PARTS_H
#define MB_REFERENCE_PARTS_H

#include "config/tensors.h"
#include "moeblock/block.h"
#include "reference.h"

// y[n] = sum_k w[n][k] x[order[k]] + bias[n]; with `scale`, each run of `group` inputs is summed on its own and scaled.
// With `integers` w holds integers, and x a row of mb_reference_row.
struct mb_linear {
    int64_t rows, columns, group;
    bool integers, even_odd; // even_odd: chains of BF16X2 compute
    float *w, *scale, *bias; // scale [rows][columns / group, rounded up] or NULL; bias [rows] or NULL
    int32_t *order;          // [columns], or NULL: ascending
};

struct mb_reference {
    const moeblock_allocator *allocator;
    const moeblock_config *config;
    moeblock_weights *weights;
    moeblock_error *error;
    const struct mb_reference_input *input;
    struct mb_chunk *last; // of memory, newest first
    int64_t layer, tokens, hidden;
    int64_t width;   // of rows into and out of the routed experts
    int64_t classes; // that a router chooses from: experts of a bank and null experts
    int64_t k, slots;
    moeblock_compute compute; // not AUTO
};

// Zeroed memory for `count` elements; *out points to it. Released with everything that was taken after `down_to`.
moeblock_status mb_reference_take(struct mb_reference *r, int64_t count, size_t size, void *out);
void mb_reference_release(struct mb_reference *r, const struct mb_chunk *down_to);

// A projection of an expert. `rounds`: its weights are held in bfloat16 in BF16 compute when they are stored wider.
moeblock_status mb_reference_linear(struct mb_reference *r, enum mb_projection projection, int64_t expert,
                                    bool has_bias, bool rounds, struct mb_linear *out);
// reference_formats.c: the same without its bias.
moeblock_status mb_reference_decode(struct mb_reference *r, const struct mb_matrix *matrix, bool rounds,
                                    struct mb_linear *out);
// A vector of the description, NULL when it has none.
moeblock_status mb_reference_vector(struct mb_reference *r, enum mb_role role, int64_t count, float **out);

// What an expert reads of n floats: in BF16 rounded, in INT16 integers and behind them a scale per 32.
// mb_reference_length is the floats that it takes. mb_reference_scale_row multiplies it by a weight.
int64_t mb_reference_length(const struct mb_reference *r, int64_t n);
void mb_reference_row(const struct mb_reference *r, const float *from, int64_t n, float *row);
void mb_reference_scale_row(const struct mb_reference *r, const float *row, float weight, int64_t n, float *out);

float mb_reference_dot(const struct mb_linear *linear, int64_t n, const float *x);
// x / sqrt(mean(x^2) + eps) in place.
void mb_reference_rms_norm(float *x, int64_t n, double eps);

// ids and weights [tokens, slots]; the first k of each token in descending weight to ids_out and w_out (each may be
// NULL).
moeblock_status mb_reference_route(struct mb_reference *r, int32_t *ids, float *w, int32_t *ids_out, float *w_out);

// What the reference's router shares with its operators (reference_operators.c). One token at a time.
struct mb_reference_router {
    const struct mb_router_config *config;
    struct mb_linear linear;
    moeblock_dtype rounds;                                  // logits and weights; NONE: not at all
    float *selection_bias, *input_scale, *factors;          // NULL where there is none
    float *input, *logits, *scores, *choice, *group_scores; // of one token
    uint8_t *closed, *group_closed;                         // 1: may not be chosen (any more)
    int32_t *table;                                         // experts by token id, or NULL
    struct mb_linear down, fc1, fc2;                        // mlp_state
    float *state_scale, *state_norm, *state, *a, *b;
    float learned;
};

// The best value in [from, to) that is not closed: NaN below -infinity, ties to the lower index.
int64_t mb_reference_best(const float *values, const uint8_t *closed, int64_t from, int64_t to);
void mb_reference_softmax(const float *values, int64_t n, float *out);
float mb_reference_rounded(moeblock_dtype dtype, float value);
// Weights of k ids in ascending order, from unbiased scores or from logits.
void mb_reference_weigh_kept(const struct mb_reference *r, const struct mb_reference_router *router, const int32_t *ids,
                             int64_t k, float *w);
void mb_reference_weigh(const struct mb_reference *r, const struct mb_reference_router *router, const int32_t *ids,
                        float *w);

// The operators' tensors, and their formulas on the logits of one token.
moeblock_status mb_reference_load_operator(struct mb_reference *r, struct mb_reference_router *router);
void mb_reference_network(const struct mb_reference *r, const struct mb_reference_router *router, int64_t t);
void mb_reference_mix(const struct mb_reference *r, const struct mb_reference_router *router, int32_t *ids, float *w);
void mb_reference_join(const struct mb_reference *r, const struct mb_reference_router *router, int32_t *ids, float *w);
void mb_reference_keys(const struct mb_reference *r, const struct mb_reference_router *router, int32_t *ids, float *w);
void mb_reference_adjugate(const struct mb_reference *r, int32_t *ids, float *w);
void mb_reference_drop(const struct mb_reference *r, int64_t *taken, int32_t *ids, float *w);
moeblock_status mb_reference_queue(struct mb_reference *r, const struct mb_reference_router *router, int32_t *ids,
                                   float *w);

#endif
