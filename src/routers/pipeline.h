// SPDX-License-Identifier: Apache-2.0
// The pipeline's object and calls, for the named operators: most are the pipeline with another end. An operator's
// object begins with a struct mb_pipeline, so that the pipeline's calls serve it as they are.
#ifndef MB_ROUTERS_PIPELINE_H
#define MB_ROUTERS_PIPELINE_H

#include "routers/linear.h"
#include "routers/primitives.h"
#include "routers/router.h"

struct mb_pipeline {
    const moeblock_context *context;
    const moeblock_config *config;
    int64_t hidden, experts, classes, k;
    int64_t slots;                 // k and those of a second bank: what ids and weights of a token have places for
    enum mb_projection projection; // the router's linear map, of the first bank or of the second
    struct mb_router_linear linear;
    moeblock_dtype rounds; // logits and weights to this type; NONE: they stay float32
    float *vectors;        // one allocation that holds the three below; each NULL when the description has none
    float *selection_bias; // [classes]
    float *input_scale;    // [hidden]
    float *factors;        // [classes]; 1 for null experts
    int32_t *table;        // [table_size][k] or NULL
};

// What selecting one token uses.
struct mb_select_scratch {
    float *scores;   // [classes]
    float *choice;   // [classes]
    float *weights;  // [k], by ascending id
    int32_t *chosen; // [k], ascending
    int32_t *order;  // [k]: slots, best weight first
    struct mb_choose_scratch choose;
};

// Checks the counts and fills the part that comes from the build.
moeblock_status mb_pipeline_init(struct mb_pipeline *self, const moeblock_router_build *build, moeblock_error *error);
void mb_pipeline_free(struct mb_pipeline *self); // what it holds, not itself
// A zeroed operator of `bytes` bytes with its pipeline made.
moeblock_status mb_router_new(const moeblock_router_build *build, size_t bytes, void **out, moeblock_error *error);

// The calls of moeblock_router_class.
moeblock_status mb_pipeline_create(void *user, const moeblock_router_build *build, void **out, moeblock_error *error);
void mb_pipeline_destroy(void *object);
int mb_pipeline_need(const void *object, int64_t layer, int i, moeblock_tensor_need *out);
moeblock_status mb_pipeline_load(void *object, moeblock_weights *weights, int64_t layer, moeblock_error *error);
int64_t mb_pipeline_width(const void *object);
size_t mb_pipeline_scratch_bytes(const void *object);
moeblock_status mb_pipeline_logits(const void *object, const moeblock_router_input *input, int64_t c0, int64_t c1,
                                   float *out, int64_t stride, moeblock_error *error);
moeblock_status mb_pipeline_select(const void *object, const moeblock_router_input *input, const float *values,
                                   int64_t stride, int32_t *ids, float *weights, moeblock_error *error);

// Lays the scratch of selecting out at `base` (NULL: only its size).
size_t mb_pipeline_place(const struct mb_pipeline *self, void *base, struct mb_select_scratch *out);
// The experts that the table gives token t of the input, NULL without a table.
moeblock_status mb_pipeline_given(const struct mb_pipeline *self, const moeblock_router_input *input, int64_t t,
                                  const int32_t **given, moeblock_error *error);
// One token from its logits: scores and the k chosen classes (those given, if any) in ascending id; their weights; both
// in descending weight, ties by lower id; all three in turn.
void mb_pipeline_choose(const struct mb_pipeline *self, const float *values, const int32_t *given,
                        struct mb_select_scratch *scratch);
void mb_pipeline_weigh(const struct mb_pipeline *self, const float *values, struct mb_select_scratch *scratch);
void mb_pipeline_publish(struct mb_select_scratch *scratch, int64_t k, int32_t *ids, float *weights);
void mb_pipeline_select_row(const struct mb_pipeline *self, const float *values, const int32_t *given,
                            struct mb_select_scratch *scratch, int32_t *ids, float *weights);

#endif
