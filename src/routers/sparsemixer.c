// SPDX-License-Identifier: Apache-2.0
// sparsemixer (phimoe, GRIN; moe-families 1.8): two picks, each weighted by its own softmax over the logits that come
// near it. No combination of the pipeline's primitives gives it: what a softmax runs over depends on the logits.
#include <math.h>

#include "kernels/math_inline.h"
#include "routers/pipeline.h"

// softmax(kept)[best] = 1 / sum over kept of exp(l - l[best]); kept is who is not further from the best than
// `threshold`, relatively to the larger of the best and its own size. `without`: a class that is no candidate, -1:
// none.
static float weight_of(const float *logits, int64_t classes, int32_t best, int32_t without, float threshold)
{
    const float maximum = logits[best];
    float sum = 0.0f;
    for (int64_t i = 0; i < classes; i++) {
        const float size = fabsf(logits[i]), against = size > maximum ? size : maximum;
        if (i == without || (i != best && (maximum - logits[i]) / against > threshold)) continue;
        sum = sum + mb_exp_body(logits[i] - maximum);
    }
    return mb_one_nan(1.0f / sum);
}

static moeblock_status select_rows(const void *object, const moeblock_router_input *input, const float *values,
                                   int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    (void)error;
    const struct mb_pipeline *self = object;
    const float threshold = 2.0f * (float)self->config->router.jitter_eps;
    struct mb_select_scratch scratch;
    mb_pipeline_place(self, input->scratch, &scratch);
    for (int64_t t = 0; t < input->tokens; t++) {
        const float *logits = values + t * stride;
        int32_t *best = scratch.chosen; // the two picks: the best logit, and the best of the rest
        mb_top_k(logits, self->classes, 2, best);
        scratch.weights[0] = weight_of(logits, self->classes, best[0], -1, threshold);
        scratch.weights[1] = weight_of(logits, self->classes, best[1], best[0], threshold);
        if (best[0] > best[1]) { // ties of weight go to the lower id
            const int32_t id = best[0];
            const float weight = scratch.weights[0];
            best[0] = best[1], best[1] = id;
            scratch.weights[0] = scratch.weights[1], scratch.weights[1] = weight;
        }
        mb_router_round(self->rounds, scratch.weights, 2);
        mb_pipeline_publish(&scratch, 2, ids + t * self->slots, weights + t * self->slots);
    }
    return MOEBLOCK_OK;
}

const moeblock_router_class mb_router_sparsemixer = {
    .struct_size = sizeof(moeblock_router_class),
    .create = mb_pipeline_create,
    .destroy = mb_pipeline_destroy,
    .need = mb_pipeline_need,
    .load = mb_pipeline_load,
    .width = mb_pipeline_width,
    .scratch_bytes = mb_pipeline_scratch_bytes,
    .logits = mb_pipeline_logits,
    .select = select_rows,
};
