// SPDX-License-Identifier: Apache-2.0
// "banked": two banks of feed-forward experts behind one set of ids, alike but for their number and width. Each bank is
// the built-in kind over a description of its own; columns beyond the narrower bank's width are zero.
#include <string.h>

#include "base/arith.h"
#include "base/status.h"
#include "config/config.h"
#include "experts/expert.h"

struct banked {
    moeblock_context *context;
    moeblock_compute compute;
    int64_t experts[2], width[2]; // of each bank
    int64_t items;                // of the first bank
    moeblock_config *second;      // the second bank's description, shallow
    void *bank[2];
};

// What a rank owns of a bank: its experts among those of both, its columns as far as the bank has them.
static moeblock_expert_build build_of(const moeblock_expert_build *whole, const moeblock_config *config, int64_t first)
{
    moeblock_expert_build build = *whole;
    const int64_t experts = config->num_experts, width = config->routed.intermediate_size;
    build.config = config;
    build.experts = experts;
    build.intermediate = width;
    build.e0 = mb_min(mb_max(whole->e0 - first, 0), experts);
    build.e1 = mb_min(mb_max(whole->e1 - first, 0), experts);
    if (whole->owns) build.owns = whole->owns + mb_max(first - whole->e0, 0);
    build.i0 = mb_min(whole->i0, width);
    build.i1 = mb_min(whole->i1, width);
    return build;
}

static void destroy(void *object)
{
    struct banked *self = object;
    if (!self) return;
    for (int i = 0; i < 2; i++) mb_expert_ffn.destroy(self->bank[i]);
    mb_free(&self->context->allocator, self->second);
    mb_free(&self->context->allocator, self);
}

static moeblock_status create_banks(struct banked *self, void *user, const moeblock_expert_build *build,
                                    moeblock_error *error)
{
    self->second = mb_alloc(&build->context->allocator, sizeof *self->second);
    if (!self->second) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating experts: no memory");
    mb_second_bank(build->config, self->second);
    const moeblock_config *const configs[] = {build->config, self->second};
    for (int i = 0; i < 2; i++) {
        self->experts[i] = configs[i]->num_experts;
        self->width[i] = configs[i]->routed.intermediate_size;
        const moeblock_expert_build one = build_of(build, configs[i], i ? self->experts[0] : 0);
        MB_TRY(mb_expert_ffn.create(user, &one, &self->bank[i], error));
    }
    return MOEBLOCK_OK;
}

static moeblock_status create(void *user, const moeblock_expert_build *build, void **out, moeblock_error *error)
{
    // The banks read rows of the wider one's intermediate, whose scales a narrower bank would not find.
    if (build->compute == MOEBLOCK_COMPUTE_INT16)
        return mb_fail(
            error, MOEBLOCK_UNSUPPORTED,
            "loading for int16 compute: two banks of experts are not computed so; choose compute auto, f32 or "
            "bf16");
    struct banked *self = mb_alloc_zero(&build->context->allocator, sizeof *self);
    if (!self) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating experts: no memory");
    self->context = build->context;
    self->compute = build->compute;
    const moeblock_status status = create_banks(self, user, build, error);
    if (status == MOEBLOCK_OK) {
        *out = self;
    } else {
        destroy(self);
    }
    return status;
}

static int need(const void *object, int64_t layer, const char *format, int64_t i, moeblock_tensor_need *out)
{
    const struct banked *self = object;
    int64_t first = 0;
    moeblock_tensor_need unused;
    if (mb_expert_ffn.need(self->bank[0], layer, format, i, out)) return 1;
    while (mb_expert_ffn.need(self->bank[0], layer, format, first, &unused)) first++;
    return mb_expert_ffn.need(self->bank[1], layer, format, i - first, out);
}

static moeblock_status open(void *object, moeblock_weights *weights, int64_t layer, int64_t *items,
                            moeblock_error *error)
{
    struct banked *self = object;
    int64_t second = 0;
    MB_TRY(mb_expert_ffn.open(self->bank[0], weights, layer, &self->items, error));
    MB_TRY(mb_expert_ffn.open(self->bank[1], weights, layer, &second, error));
    *items = self->items + second;
    return MOEBLOCK_OK;
}

static moeblock_status pack(void *object, int64_t item, moeblock_error *error)
{
    struct banked *self = object;
    const bool second = item >= self->items;
    return mb_expert_ffn.pack(self->bank[second], item - (second ? self->items : 0), error);
}

static size_t packed_bytes(const void *object)
{
    const struct banked *self = object;
    return mb_expert_ffn.packed_bytes(self->bank[0]) + mb_expert_ffn.packed_bytes(self->bank[1]);
}

static size_t scratch_bytes(const void *object, int64_t m)
{
    const struct banked *self = object;
    const size_t first = mb_expert_ffn.scratch_bytes(self->bank[0], m);
    const size_t second = mb_expert_ffn.scratch_bytes(self->bank[1], m);
    return first > second ? first : second;
}

static int64_t granule(const void *object) { return mb_expert_ffn.granule(((const struct banked *)object)->bank[0]); }

// The call on its own bank, with that bank's number of the expert.
static moeblock_expert_call call_of(const struct banked *self, const moeblock_expert_call *call, int *bank)
{
    moeblock_expert_call own = *call;
    *bank = call->expert >= self->experts[0];
    if (*bank) own.expert -= self->experts[0];
    return own;
}

static moeblock_status inner(const void *object, const moeblock_expert_call *call, moeblock_error *error)
{
    const struct banked *self = object;
    int bank;
    moeblock_expert_call own = call_of(self, call, &bank);
    const size_t element = mb_has_bf16_rows(self->compute) ? 2 : 4;
    own.c1 = mb_min(call->c1, self->width[bank]);
    const int64_t from = mb_max(own.c1, call->c0); // columns that the bank does not have
    for (int64_t i = 0; from < call->c1 && i < call->m; i++)
        memset((char *)call->out + (size_t)(i * call->out_stride + from - call->c0) * element, 0,
               (size_t)(call->c1 - from) * element);
    return own.c0 < own.c1 ? mb_expert_ffn.inner(self->bank[bank], &own, error) : MOEBLOCK_OK;
}

static moeblock_status outer(const void *object, const moeblock_expert_call *call, moeblock_error *error)
{
    int bank;
    const moeblock_expert_call own = call_of(object, call, &bank);
    return mb_expert_ffn.outer(((const struct banked *)object)->bank[bank], &own, error);
}

void mb_banked_size(void *object, enum mb_format format)
{
    struct banked *self = object;
    for (int i = 0; i < 2; i++) mb_ffn_size(self->bank[i], format);
}

const moeblock_expert_class mb_expert_banked = {
    .struct_size = sizeof mb_expert_banked,
    .splits = 1,
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
