// SPDX-License-Identifier: Apache-2.0
// Joint normalisation with shared experts (inkling, moe-families 1.8): the router's map has a row for every shared
// expert too; the softmax of the log-sigmoids of the chosen and of the shared logits together weights both. The shared
// experts are a second bank that every token goes to. The pipeline's primitives weight chosen experts only.
#include <math.h>

#include "base/context.h"
#include "base/status.h"
#include "kernels/math_inline.h"
#include "routers/pipeline.h"

struct joint {
    struct mb_pipeline pipeline;
    int64_t shared;
    float scale; // the configured factor times the stored one
};

static moeblock_status create(void *user, const moeblock_router_build *build, void **out, moeblock_error *error)
{
    (void)user;
    MB_TRY(mb_router_new(build, sizeof(struct joint), out, error));
    struct joint *self = *out;
    self->shared = build->second_experts;
    return MOEBLOCK_OK;
}

static moeblock_status load(void *object, moeblock_weights *weights, int64_t layer, moeblock_error *error)
{
    struct joint *self = object;
    const moeblock_config *config = self->pipeline.config;
    float stored = 1.0f;
    MB_TRY(mb_pipeline_load(object, weights, layer, error));
    if (config->router.learned_scale)
        MB_TRY(mb_role_floats(config, weights, MB_ROLE_LEARNED_SCALE, layer, 1, &stored, error));
    self->scale = (float)config->router.scale * stored;
    return MOEBLOCK_OK;
}

struct scratch {
    struct mb_select_scratch select;
    float *joint; // [k + shared]
};

static size_t place(const struct joint *self, void *base, struct scratch *out)
{
    size_t offset = mb_pipeline_place(&self->pipeline, base, &out->select);
    out->joint = mb_carve(base, &offset, self->pipeline.k + self->shared, sizeof *out->joint);
    return offset;
}

static size_t scratch_bytes(const void *object)
{
    struct scratch scratch;
    const size_t logits = mb_pipeline_scratch_bytes(object), select = place(object, NULL, &scratch);
    return logits > select ? logits : select;
}

static void select_row(const struct joint *self, const float *values, struct scratch *scratch, int32_t *ids,
                       float *weights)
{
    const struct mb_pipeline *base = &self->pipeline;
    const int64_t k = base->k, n = k + self->shared;
    mb_pipeline_choose(base, values, NULL, &scratch->select); // the best of score + bias among the routed experts
    for (int64_t j = 0; j < n; j++) {
        const float logit = values[j < k ? scratch->select.chosen[j] : base->experts + j - k];
        scratch->joint[j] = -mb_softplus_body(-logit); // log(sigmoid(logit))
    }
    mb_softmax(scratch->joint, n, scratch->joint);
    for (int64_t j = 0; j < n; j++) scratch->joint[j] = mb_one_nan(scratch->joint[j] * self->scale);
    mb_router_round(base->rounds, scratch->joint, n);
    for (int64_t j = 0; j < k; j++) scratch->select.weights[j] = scratch->joint[j];
    mb_pipeline_publish(&scratch->select, k, ids, weights);
    for (int64_t j = k; j < n; j++) {
        ids[j] = (int32_t)(base->experts + j - k);
        weights[j] = scratch->joint[j];
    }
}

static moeblock_status select_rows(const void *object, const moeblock_router_input *input, const float *values,
                                   int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    (void)error;
    const struct joint *self = object;
    const int64_t slots = self->pipeline.slots;
    struct scratch scratch;
    place(self, input->scratch, &scratch);
    for (int64_t t = 0; t < input->tokens; t++)
        select_row(self, values + t * stride, &scratch, ids + t * slots, weights + t * slots);
    return MOEBLOCK_OK;
}

const moeblock_router_class mb_router_joint = {
    .struct_size = sizeof(moeblock_router_class),
    .create = create,
    .destroy = mb_pipeline_destroy,
    .need = mb_pipeline_need,
    .load = load,
    .width = mb_pipeline_width,
    .scratch_bytes = scratch_bytes,
    .logits = mb_pipeline_logits,
    .select = select_rows,
};
