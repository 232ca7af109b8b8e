// SPDX-License-Identifier: Apache-2.0
// Expert capacity (switch, moe-families 1.8): inside each sequence an expert takes the first `capacity` tokens that
// chose it and drops the others, which leave the block as 0. The counts go from chunk to chunk, so that chunks never
// show. No primitive of the pipeline can express it: all of them see one token.
#include <string.h>

#include "routers/pipeline.h"

struct carry {
    int64_t sequence, end; // the sequence of the last token, and the token that follows it; end 0: before the first
    int64_t taken[];       // [classes] in that sequence
};

static size_t carry_bytes(const void *object)
{
    return sizeof(struct carry) + (size_t)((const struct mb_pipeline *)object)->classes * sizeof(int64_t);
}

// Moves to the sequence of `token`; the lengths were checked to sum up to all tokens of the call.
static void follow(const struct mb_pipeline *self, const moeblock_router_input *input, int64_t token,
                   struct carry *carry)
{
    if (!input->seq_lens) return;
    if (token == 0) carry->end = input->seq_lens[0];
    if (token < carry->end) return;
    while (token >= carry->end) carry->end += input->seq_lens[++carry->sequence];
    memset(carry->taken, 0, (size_t)self->classes * sizeof carry->taken[0]);
}

static moeblock_status settle(const void *object, const moeblock_router_input *input, void *memory, int32_t *ids,
                              float *weights, moeblock_error *error)
{
    (void)error;
    const struct mb_pipeline *self = object;
    struct carry *carry = memory;
    for (int64_t t = 0; t < input->tokens; t++) {
        follow(self, input, input->first + t, carry);
        int32_t *id = ids + t * self->slots;
        float *weight = weights + t * self->slots;
        int64_t kept = 0;
        for (int64_t j = 0; j < self->k; j++) {
            if (++carry->taken[id[j]] > self->config->router.capacity) continue;
            id[kept] = id[j];
            weight[kept++] = weight[j];
        }
        for (; kept < self->k; kept++) id[kept] = -1, weight[kept] = 0.0f;
    }
    return MOEBLOCK_OK;
}

const moeblock_router_class mb_router_capacity = {
    .struct_size = sizeof(moeblock_router_class),
    .create = mb_pipeline_create,
    .destroy = mb_pipeline_destroy,
    .need = mb_pipeline_need,
    .load = mb_pipeline_load,
    .width = mb_pipeline_width,
    .scratch_bytes = mb_pipeline_scratch_bytes,
    .logits = mb_pipeline_logits,
    .select = mb_pipeline_select,
    .carry_bytes = carry_bytes,
    .settle = settle,
};
