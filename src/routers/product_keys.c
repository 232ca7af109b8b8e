// SPDX-License-Identifier: Apache-2.0
// Product keys (doge, moe-families 1.8): two halves of keys; an expert is a pair, its logit the sum of both. The best
// pairs are among those of the best k of each half, so that E experts need 2 sqrt(E) logits. The pipeline's choice is
// over logits of its own for every expert.
#include "base/context.h"
#include "base/status.h"
#include "routers/pipeline.h"

struct product_keys {
    struct mb_pipeline pipeline;
    int64_t keys, best; // of a half; how many of them can be part of the best k pairs
};

static moeblock_status create(void *user, const moeblock_router_build *build, void **out, moeblock_error *error)
{
    (void)user;
    int64_t keys = 1;
    while ((keys + 1) * (keys + 1) <= build->experts) keys++;
    if (build->top_k > keys * keys)
        return mb_fail(
            error, MOEBLOCK_INVALID_CONFIG,
            "making the router: model.num_experts_per_tok is %lld, but %lld keys a half reach only %lld experts",
            (long long)build->top_k, (long long)keys, (long long)(keys * keys));
    MB_TRY(mb_router_new(build, sizeof(struct product_keys), out, error));
    struct product_keys *self = *out;
    self->keys = keys;
    self->best = build->top_k < keys ? build->top_k : keys;
    return MOEBLOCK_OK;
}

struct scratch {
    int32_t *halves[2]; // [best] each, best first
    float *sums;        // [best * best]
    int32_t *pairs;     // [k]
    float *logits;      // [k], in the order of chosen
    struct mb_select_scratch select;
};

static size_t place(const struct product_keys *self, void *base, struct scratch *out)
{
    const int64_t k = self->pipeline.k;
    size_t offset = mb_pipeline_place(&self->pipeline, base, &out->select);
    out->halves[0] = mb_carve(base, &offset, self->best, sizeof *out->halves[0]);
    out->halves[1] = mb_carve(base, &offset, self->best, sizeof *out->halves[1]);
    out->sums = mb_carve(base, &offset, self->best * self->best, sizeof *out->sums);
    out->pairs = mb_carve(base, &offset, k, sizeof *out->pairs);
    out->logits = mb_carve(base, &offset, k, sizeof *out->logits);
    return offset;
}

static size_t scratch_bytes(const void *object)
{
    struct scratch scratch;
    const size_t logits = mb_pipeline_scratch_bytes(object), select = place(object, NULL, &scratch);
    return logits > select ? logits : select;
}

static void select_row(const struct product_keys *self, const float *values, struct scratch *s, int32_t *ids,
                       float *weights)
{
    const struct mb_pipeline *base = &self->pipeline;
    const int64_t keys = self->keys, best = self->best, k = base->k;
    mb_top_k(values, keys, best, s->halves[0]);
    mb_top_k(values + keys, keys, best, s->halves[1]);
    for (int64_t i = 0; i < best; i++)
        for (int64_t j = 0; j < best; j++)
            s->sums[i * best + j] = values[s->halves[0][i]] + values[keys + s->halves[1][j]];
    mb_top_k(s->sums, best * best, k, s->pairs);
    for (int64_t j = 0; j < k; j++) { // into ascending id: sums of weights have one order
        const int32_t pair = s->pairs[j];
        const int32_t id = (int32_t)(s->halves[0][pair / best] * keys + s->halves[1][pair % best]);
        int64_t at = j;
        for (; at > 0 && s->select.chosen[at - 1] > id; at--) {
            s->select.chosen[at] = s->select.chosen[at - 1];
            s->logits[at] = s->logits[at - 1];
        }
        s->select.chosen[at] = id;
        s->logits[at] = s->sums[pair];
    }
    mb_router_weigh_kept(&base->config->router, s->logits, base->factors, s->select.chosen, k, s->select.weights);
    mb_router_round(base->rounds, s->select.weights, k);
    mb_pipeline_publish(&s->select, k, ids, weights);
}

static moeblock_status select_rows(const void *object, const moeblock_router_input *input, const float *values,
                                   int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    (void)error;
    const struct product_keys *self = object;
    const int64_t slots = self->pipeline.slots;
    struct scratch scratch;
    place(self, input->scratch, &scratch);
    for (int64_t t = 0; t < input->tokens; t++)
        select_row(self, values + t * stride, &scratch, ids + t * slots, weights + t * slots);
    return MOEBLOCK_OK;
}

const moeblock_router_class mb_router_product_keys = {
    .struct_size = sizeof(moeblock_router_class),
    .create = create,
    .destroy = mb_pipeline_destroy,
    .need = mb_pipeline_need,
    .load = mb_pipeline_load,
    .width = mb_pipeline_width,
    .scratch_bytes = scratch_bytes,
    .logits = mb_pipeline_logits,
    .select = select_rows,
};
