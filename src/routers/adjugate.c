// SPDX-License-Identifier: Apache-2.0
// A second bank of small experts chosen along with the first (grovemoe, moe-families 1.8): every group of consecutive
// experts has one, which a token that goes to members of the group goes to once, with the sum of their weights times a
// factor. The pipeline's primitives choose the first bank; they have no slots for another.
#include "base/context.h"
#include "base/status.h"
#include "kernels/math_inline.h"
#include "routers/pipeline.h"

struct adjugate {
    struct mb_pipeline pipeline;
    int64_t group; // experts of the first bank that share one of the second
};

static moeblock_status create(void *user, const moeblock_router_build *build, void **out, moeblock_error *error)
{
    (void)user;
    MB_TRY(mb_router_new(build, sizeof(struct adjugate), out, error));
    ((struct adjugate *)*out)->group = build->experts / build->second_experts;
    return MOEBLOCK_OK;
}

// Slots behind the first k, from the chosen experts in ascending id; those left over stay empty.
static void add_second(const struct adjugate *self, const struct mb_select_scratch *scratch, int32_t *ids,
                       float *weights)
{
    const struct mb_pipeline *base = &self->pipeline;
    const float scale = (float)base->config->second.scale;
    int64_t used = base->k - 1, before = -1;
    for (int64_t j = 0; j < base->k; j++) {
        const int64_t group = scratch->chosen[j] / self->group;
        if (group != before) {
            ids[++used] = (int32_t)(base->experts + group);
            weights[used] = 0.0f;
            before = group;
        }
        weights[used] = mb_one_nan(weights[used] + scale * scratch->weights[j]);
    }
    while (++used < base->slots) ids[used] = -1, weights[used] = 0.0f;
}

static moeblock_status select_rows(const void *object, const moeblock_router_input *input, const float *values,
                                   int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    const struct adjugate *self = object;
    const int64_t slots = self->pipeline.slots;
    struct mb_select_scratch scratch;
    mb_pipeline_place(&self->pipeline, input->scratch, &scratch);
    for (int64_t t = 0; t < input->tokens; t++) {
        const int32_t *given;
        MB_TRY(mb_pipeline_given(&self->pipeline, input, t, &given, error));
        mb_pipeline_select_row(&self->pipeline, values + t * stride, given, &scratch, ids + t * slots,
                               weights + t * slots);
        add_second(self, &scratch, ids + t * slots, weights + t * slots);
    }
    return MOEBLOCK_OK;
}

const moeblock_router_class mb_router_adjugate = {
    .struct_size = sizeof(moeblock_router_class),
    .create = create,
    .destroy = mb_pipeline_destroy,
    .need = mb_pipeline_need,
    .load = mb_pipeline_load,
    .width = mb_pipeline_width,
    .scratch_bytes = mb_pipeline_scratch_bytes,
    .logits = mb_pipeline_logits,
    .select = select_rows,
};
