// SPDX-License-Identifier: Apache-2.0
// "post_normed": feed-forward experts whose output is normalised on its own before its weight (muse_spark): times a
// stored weight, then RMSNorm. A norm needs the whole row, so the kind computes whole rows only. Where outputs are
// rounded, the normalised one is.
#include <math.h>

#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"
#include "experts/expert.h"
#include "experts/ffn.h"
#include "kernels/math_inline.h"

struct post_normed {
    struct ffn *ffn;
    float *weight; // [hidden], 1 already added where the description says so
};

static void destroy(void *object)
{
    struct post_normed *self = object;
    if (!self) return;
    const moeblock_allocator allocator = self->ffn->build.context->allocator;
    mb_expert_ffn.destroy(self->ffn);
    mb_free(&allocator, self->weight);
    mb_free(&allocator, self);
}

static moeblock_status create(void *user, const moeblock_expert_build *build, void **out, moeblock_error *error)
{
    const moeblock_allocator *allocator = &build->context->allocator;
    void *ffn = NULL;
    MB_TRY(mb_expert_ffn.create(user, build, &ffn, error));
    struct post_normed *self = mb_alloc_zero(allocator, sizeof *self);
    if (!self) {
        mb_expert_ffn.destroy(ffn);
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating experts: no memory");
    }
    self->ffn = ffn;
    self->ffn->unrounded = true;
    *out = self;
    return MOEBLOCK_OK;
}

static int need(const void *object, int64_t layer, const char *format, int64_t i, moeblock_tensor_need *out)
{
    return mb_expert_ffn.need(((const struct post_normed *)object)->ffn, layer, format, i, out);
}

static moeblock_status open(void *object, moeblock_weights *weights, int64_t layer, int64_t *items,
                            moeblock_error *error)
{
    struct post_normed *self = object;
    const moeblock_expert_build *build = &self->ffn->build;
    self->weight = mb_alloc(&build->context->allocator, (size_t)build->hidden * sizeof *self->weight);
    if (!self->weight)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the norm of the experts' outputs: no memory");
    MB_TRY(mb_role_floats(build->config, weights, MB_ROLE_POST_NORM, layer, build->hidden, self->weight, error));
    for (int64_t i = 0; build->config->post_norm_plus_one && i < build->hidden; i++)
        self->weight[i] = 1.0f + self->weight[i];
    return mb_expert_ffn.open(self->ffn, weights, layer, items, error);
}

static moeblock_status pack(void *object, int64_t item, moeblock_error *error)
{
    return mb_expert_ffn.pack(((struct post_normed *)object)->ffn, item, error);
}

static size_t packed_bytes(const void *object)
{
    return mb_expert_ffn.packed_bytes(((const struct post_normed *)object)->ffn);
}

static size_t scratch_bytes(const void *object, int64_t m)
{
    return mb_expert_ffn.scratch_bytes(((const struct post_normed *)object)->ffn, m);
}

static int64_t granule(const void *object) { return mb_expert_ffn.granule(((const struct post_normed *)object)->ffn); }

static moeblock_status inner(const void *object, const moeblock_expert_call *call, moeblock_error *error)
{
    return mb_expert_ffn.inner(((const struct post_normed *)object)->ffn, call, error);
}

static void norm_row(const struct post_normed *self, float *row)
{
    const moeblock_expert_build *build = &self->ffn->build;
    float sum = 0.0f;
    for (int64_t i = 0; i < build->hidden; i++) {
        row[i] = row[i] * self->weight[i];
        sum = sum + row[i] * row[i];
    }
    const float factor = 1.0f / sqrtf(sum / (float)build->hidden + (float)build->config->post_norm_eps);
    for (int64_t i = 0; i < build->hidden; i++) {
        row[i] = mb_one_nan(row[i] * factor);
        if (build->compute != MOEBLOCK_COMPUTE_F32) row[i] = mb_round_bf16(row[i]);
    }
}

static moeblock_status outer(const void *object, const moeblock_expert_call *call, moeblock_error *error)
{
    const struct post_normed *self = object;
    MB_TRY(mb_expert_ffn.outer(self->ffn, call, error));
    for (int64_t i = 0; i < call->m; i++) norm_row(self, (float *)call->out + i * call->out_stride);
    return MOEBLOCK_OK;
}

void mb_post_normed_size(void *object, enum mb_format format)
{
    mb_ffn_size(((struct post_normed *)object)->ffn, format);
}

const moeblock_expert_class mb_expert_post_normed = {
    .struct_size = sizeof mb_expert_post_normed,
    .splits = 0,
    .create = create,
    .destroy = destroy,
    .need = need,
    .open = open,
    .pack = pack,
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .granule = granule,
    .inner = inner,
    .outer = outer,
};
