// SPDX-License-Identifier: Apache-2.0
// Two banks of experts, each with a router of its own, and the token's type says which (ernie4_5_vl_moe, moe-families
// 1.3): 0 the first, anything else the second. Either router is the whole pipeline; the pipeline knows one bank.
#include "base/context.h"
#include "base/status.h"
#include "routers/pipeline.h"

struct token_type {
    struct mb_pipeline first; // at the start, so that it owns the object's allocation
    struct mb_pipeline second;
};

static moeblock_status create(void *user, const moeblock_router_build *build, void **out, moeblock_error *error)
{
    (void)user;
    MB_TRY(mb_router_new(build, sizeof(struct token_type), out, error));
    struct token_type *self = *out;
    const moeblock_status status = mb_pipeline_init(&self->second, build, error);
    self->second.projection = MB_PROJ_ROUTER_SECOND;
    if (status != MOEBLOCK_OK) {
        mb_pipeline_destroy(self);
        *out = NULL;
    }
    return status;
}

static void destroy(void *object)
{
    struct token_type *self = object;
    if (!self) return;
    mb_pipeline_free(&self->second);
    mb_pipeline_destroy(self);
}

static moeblock_status load(void *object, moeblock_weights *weights, int64_t layer, moeblock_error *error)
{
    struct token_type *self = object;
    MB_TRY(mb_pipeline_load(&self->first, weights, layer, error));
    return mb_pipeline_load(&self->second, weights, layer, error);
}

static size_t scratch_bytes(const void *object)
{
    const struct token_type *self = object;
    const size_t first = mb_pipeline_scratch_bytes(&self->first), second = mb_pipeline_scratch_bytes(&self->second);
    return first > second ? first : second;
}

// Each token by the logits of its own bank.
static moeblock_status select_rows(const void *object, const moeblock_router_input *input, const float *values,
                                   int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    const struct token_type *self = object;
    const int64_t experts = self->first.experts, slots = self->first.slots;
    if (!input->token_types)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "routing: router.type is \"token_type\" and the call has no token_types; give one a token");
    for (int64_t t = 0; t < input->tokens; t++) {
        const bool second = input->token_types[t] != 0;
        const struct mb_pipeline *bank = second ? &self->second : &self->first;
        struct mb_select_scratch scratch;
        const int32_t *given;
        mb_pipeline_place(bank, input->scratch, &scratch);
        MB_TRY(mb_pipeline_given(bank, input, t, &given, error));
        mb_pipeline_select_row(bank, values + t * stride + (second ? experts : 0), given, &scratch, ids + t * slots,
                               weights + t * slots);
        for (int64_t j = 0; second && j < bank->k; j++) ids[t * slots + j] += (int32_t)experts;
    }
    return MOEBLOCK_OK;
}

static int64_t width(const void *object) { return 2 * ((const struct token_type *)object)->first.experts; }

// The second bank's logits stand behind the first's.
static moeblock_status logits(const void *object, const moeblock_router_input *input, int64_t c0, int64_t c1,
                              float *out, int64_t stride, moeblock_error *error)
{
    const struct token_type *self = object;
    const int64_t experts = self->first.experts;
    if (c0 < experts)
        MB_TRY(mb_pipeline_logits(&self->first, input, c0, c1 < experts ? c1 : experts, out, stride, error));
    if (c1 <= experts) return MOEBLOCK_OK;
    return mb_pipeline_logits(&self->second, input, c0 > experts ? c0 - experts : 0, c1 - experts, out + experts,
                              stride, error);
}

const moeblock_router_class mb_router_token_type = {
    .struct_size = sizeof(moeblock_router_class),
    .create = create,
    .destroy = destroy,
    .need = mb_pipeline_need,
    .load = load,
    .width = width,
    .scratch_bytes = scratch_bytes,
    .logits = logits,
    .select = select_rows,
};
