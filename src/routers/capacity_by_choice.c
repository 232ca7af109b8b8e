// SPDX-License-Identifier: Apache-2.0
// Expert capacity where choices queue (nllb, policy "all"; moe-families 1.8): inside each sequence the first choices of
// all tokens stand before all second ones, tokens in their order or by their best score, and an expert takes no more
// than its capacity of them. Weights are normalised over all choices of a token or over those that were kept. No
// primitive of the pipeline can express it, for all of them see one token; and as a second choice stands behind the
// first ones of later tokens, passes must not cut a sequence.
#include <math.h>
#include <string.h>

#include "base/arith.h"
#include "base/status.h"
#include "routers/pipeline.h"

struct carry {
    int64_t sequence; // that the next pass begins with
    int64_t taken[];  // [classes] in the present one
};

static size_t carry_bytes(const void *object)
{
    return sizeof(struct carry) + (size_t)((const struct mb_pipeline *)object)->classes * sizeof(int64_t);
}

static int whole_sequences(const void *object)
{
    (void)object;
    return 1;
}

// Choices with what weights are made of; settle makes them.
static moeblock_status select(const void *object, const moeblock_router_input *input, const float *values,
                              int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    const struct mb_pipeline *self = object;
    const bool scores = self->config->router.post == MB_POST_NONE;
    struct mb_select_scratch scratch;
    mb_pipeline_place(self, input->scratch, &scratch);
    for (int64_t t = 0; t < input->tokens; t++) {
        const float *logits = values + t * stride;
        const int32_t *given;
        MB_TRY(mb_pipeline_given(self, input, t, &given, error));
        mb_pipeline_choose(self, logits, given, &scratch);
        const float *from = scores ? scratch.scores : logits;
        for (int64_t j = 0; j < self->k; j++) scratch.weights[j] = from[scratch.chosen[j]];
        mb_pipeline_publish(&scratch, self->k, ids + t * self->slots, weights + t * self->slots);
    }
    return MOEBLOCK_OK;
}

// Tokens that an expert takes of a sequence of n.
static int64_t capacity_of(const struct mb_pipeline *self, int64_t n)
{
    const struct mb_router_config *router = &self->config->router;
    if (router->capacity_fraction > 0) return (int64_t)ceil(router->capacity_fraction * (double)n);
    return router->capacity ? router->capacity : 2 * mb_ceil_div(n, self->experts);
}

// Tokens of one sequence: `n` of them with k choices each, `slots` apart.
struct sequence {
    const struct mb_pipeline *self;
    int64_t n;
    int32_t *ids;
    float *weights;
    int32_t *order; // [n]
};

// Whether token a stands before token b: the better first choice, then the lower index. NaN is the worst.
static bool stands_before(const struct sequence *s, int32_t a, int32_t b)
{
    const float of_a = s->weights[a * s->self->slots], of_b = s->weights[b * s->self->slots];
    const float x = isnan(of_a) ? -INFINITY : of_a, y = isnan(of_b) ? -INFINITY : of_b;
    return x != y ? x > y : a < b;
}

// The token at `root` of a heap whose top stands last sinks to its place among the first `n`.
static void sink(const struct sequence *s, int64_t root, int64_t n)
{
    const int32_t moving = s->order[root];
    for (int64_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && stands_before(s, s->order[child], s->order[child + 1])) child++;
        if (!stands_before(s, moving, s->order[child])) break;
        s->order[root] = s->order[child];
    }
    s->order[root] = moving;
}

static void put_in_order(const struct sequence *s)
{
    for (int64_t t = 0; t < s->n; t++) s->order[t] = (int32_t)t;
    if (s->self->config->router.capacity_order == MB_ORDER_ARRIVAL) return;
    for (int64_t i = s->n / 2 - 1; i >= 0; i--) sink(s, i, s->n);
    for (int64_t i = s->n - 1; i > 0; i--) {
        const int32_t last = s->order[0];
        s->order[0] = s->order[i];
        s->order[i] = last;
        sink(s, 0, i);
    }
}

// Weights of `k` choices in place.
static void weigh(const struct mb_pipeline *self, const int32_t *ids, int64_t k, float *weights)
{
    mb_router_weigh_kept(&self->config->router, weights, self->factors, ids, k, weights);
    mb_router_round(self->rounds, weights, k);
}

// The kept choices come first, best weight first, ties by lower id.
static int64_t keep(int32_t *ids, float *weights, int64_t k)
{
    int64_t kept = 0;
    for (int64_t j = 0; j < k; j++) {
        if (ids[j] < 0) continue;
        const int32_t id = ids[j];
        const float weight = weights[j];
        int64_t at = kept++;
        for (; at > 0 && (weights[at - 1] < weight || (weights[at - 1] == weight && ids[at - 1] > id)); at--)
            ids[at] = ids[at - 1], weights[at] = weights[at - 1];
        ids[at] = id, weights[at] = weight;
    }
    for (int64_t j = kept; j < k; j++) ids[j] = -1, weights[j] = 0.0f;
    return kept;
}

static void settle_sequence(const struct sequence *s, int64_t capacity, int64_t *taken)
{
    const struct mb_pipeline *self = s->self;
    const bool norm_kept = self->config->router.norm_kept;
    put_in_order(s);
    for (int64_t t = 0; t < s->n && !norm_kept; t++)
        weigh(self, s->ids + t * self->slots, self->k, s->weights + t * self->slots);
    memset(taken, 0, (size_t)self->classes * sizeof *taken);
    for (int64_t j = 0; j < self->k; j++) {
        for (int64_t i = 0; i < s->n; i++) {
            int32_t *id = &s->ids[s->order[i] * self->slots + j];
            if (taken[*id]++ >= capacity) *id = -1;
        }
    }
    for (int64_t t = 0; t < s->n; t++) {
        int32_t *ids = s->ids + t * self->slots;
        float *weights = s->weights + t * self->slots;
        const int64_t kept = keep(ids, weights, self->k);
        if (!norm_kept) continue;
        weigh(self, ids, kept, weights);
        keep(ids, weights, kept);
    }
}

static moeblock_status settle(const void *object, const moeblock_router_input *input, void *memory, int32_t *ids,
                              float *weights, moeblock_error *error)
{
    (void)error;
    const struct mb_pipeline *self = object;
    struct carry *carry = memory;
    for (int64_t t = 0; t < input->tokens;) {
        const int64_t n = input->seq_lens ? input->seq_lens[carry->sequence++] : input->tokens;
        const struct sequence sequence = {self, n, ids + t * self->slots, weights + t * self->slots, input->scratch};
        settle_sequence(&sequence, capacity_of(self, n), carry->taken);
        t += n;
    }
    return MOEBLOCK_OK;
}

const moeblock_router_class mb_router_capacity_by_choice = {
    .struct_size = sizeof(moeblock_router_class),
    .create = mb_pipeline_create,
    .destroy = mb_pipeline_destroy,
    .need = mb_pipeline_need,
    .load = mb_pipeline_load,
    .width = mb_pipeline_width,
    .scratch_bytes = mb_pipeline_scratch_bytes,
    .logits = mb_pipeline_logits,
    .select = select,
    .carry_bytes = carry_bytes,
    .settle = settle,
    .whole_sequences = whole_sequences,
};
