// SPDX-License-Identifier: Apache-2.0
// The router pipeline (moe-families section 3.1): input -> linear -> logits -> score -> selection bias -> groups ->
// top k -> post -> normalise -> scale. This file owns the tensors and walks the chain; primitives.h has the links, and
// the named operators use the parts of it that their formulas share (pipeline.h).
// Null experts are further classes behind the routed experts (ids from `experts` on).
#include "routers/pipeline.h"

#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "base/context.h"
#include "base/fpmode.h"
#include "base/status.h"
#include "config/roles.h"

enum {
    PLAIN_TILE = 64,  // rows that one product takes: pointers to the caller's rows only
    CHANGED_TILE = 16 // the same where rows are normalised into scratch first
};

// --- create ---------------------------------------------------------------------------------------------------------

// The relations that choosing relies on: k ids can be found whatever the scores are.
static moeblock_status check_counts(const struct mb_pipeline *self, moeblock_error *error)
{
    const struct mb_router_config *router = &self->config->router;
    if (self->k < 1 || self->k > self->classes)
        return mb_fail(error, MOEBLOCK_INVALID_CONFIG,
                       "making the router: model.num_experts_per_tok is %" PRId64 " with %" PRId64
                       " classes; it must be between 1 and the number of experts",
                       self->k, self->classes);
    if (router->groups == MB_GROUPS_NONE) return MOEBLOCK_OK;
    if (router->n_group < 1 || self->classes % router->n_group)
        return mb_fail(error, MOEBLOCK_INVALID_CONFIG,
                       "making the router: router.config.n_group is %" PRId64 ", which does not divide %" PRId64
                       " experts (null experts included)",
                       router->n_group, self->classes);
    const int64_t size = self->classes / router->n_group;
    if (router->groups == MB_GROUPS_PER_GROUP && (self->k % router->n_group || self->k / router->n_group > size))
        return mb_fail(error, MOEBLOCK_INVALID_CONFIG,
                       "making the router: model.num_experts_per_tok is %" PRId64 "; choosing equally from %" PRId64
                       " groups of %" PRId64 " needs a multiple of the groups",
                       self->k, router->n_group, size);
    if (router->groups == MB_GROUPS_LIMITED &&
        (router->topk_group < 1 || router->topk_group > router->n_group || router->topk_group * size < self->k))
        return mb_fail(error, MOEBLOCK_INVALID_CONFIG,
                       "making the router: router.config.topk_group is %" PRId64 " of %" PRId64 " groups of %" PRId64
                       " experts; the kept groups must hold at least the %" PRId64 " experts of a token",
                       router->topk_group, router->n_group, size, self->k);
    return MOEBLOCK_OK;
}

moeblock_status mb_pipeline_init(struct mb_pipeline *self, const moeblock_router_build *build, moeblock_error *error)
{
    *self = (struct mb_pipeline){
        .context = build->context,
        .config = build->config,
        .hidden = build->hidden,
        .experts = build->experts,
        .classes = build->experts + build->config->router.null_experts,
        .k = build->top_k,
        .slots = build->slots,
        .projection = MB_PROJ_ROUTER,
        .linear = mb_router_linear_sized(build->context, mb_extent(build->config, MB_EXTENT_LOGITS),
                                         mb_extent(build->config, MB_EXTENT_ROUTER_INPUT)),
    };
    return check_counts(self, error);
}

moeblock_status mb_router_new(const moeblock_router_build *build, size_t bytes, void **out, moeblock_error *error)
{
    struct mb_pipeline made;
    *out = NULL;
    MB_TRY(mb_pipeline_init(&made, build, error));
    struct mb_pipeline *self = mb_alloc_zero(&build->context->allocator, bytes);
    if (!self) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "making the router: no memory");
    *self = made;
    *out = self;
    return MOEBLOCK_OK;
}

moeblock_status mb_pipeline_create(void *user, const moeblock_router_build *build, void **out, moeblock_error *error)
{
    (void)user;
    return mb_router_new(build, sizeof(struct mb_pipeline), out, error);
}

void mb_pipeline_free(struct mb_pipeline *self)
{
    mb_router_linear_free(&self->linear);
    mb_free(&self->context->allocator, self->vectors);
    mb_free(&self->context->allocator, self->table);
}

void mb_pipeline_destroy(void *object)
{
    struct mb_pipeline *self = object;
    if (!self) return;
    const moeblock_allocator *allocator = &self->context->allocator;
    mb_pipeline_free(self);
    mb_free(allocator, self);
}

// --- tensors --------------------------------------------------------------------------------------------------------

// Every tensor of the router's, whichever operator it is.
int mb_pipeline_need(const void *object, int64_t layer, int i, moeblock_tensor_need *out)
{
    const struct mb_pipeline *self = object;
    for (int r = 0; r < MB_ROLES; r++) {
        const enum mb_role role = (enum mb_role)r;
        if (mb_roles[role].owner != MB_OWNER_ROUTER || !mb_role_wanted(self->config, role) || i-- > 0) continue;
        *out = (moeblock_tensor_need){.dtype = mb_roles[role].columns == MB_EXTENT_NONE ? MOEBLOCK_F32
                                               : role == MB_ROLE_TOKEN_TABLE            ? MOEBLOCK_I64
                                                                                        : MOEBLOCK_DTYPE_NONE};
        out->rank = mb_role_dims(self->config, role, MB_FORMAT_BF16, MB_PART_CODES, 0, out->dims);
        mb_role_name(self->config, role, layer, 0, out->name);
        return 1;
    }
    return 0;
}

// sarvam: the bias is stored with a common part, which counts where dropped groups are filled with 0.
static void subtract_mean(float *values, int64_t n)
{
    const uint64_t mode = mb_flush_begin(); // as in forward
    float sum = 0.0f;
    for (int64_t i = 0; i < n; i++) sum = sum + values[i];
    const float mean = sum / (float)n;
    for (int64_t i = 0; i < n; i++) values[i] = values[i] - mean;
    mb_flush_end(mode);
}

static moeblock_status load_vectors(struct mb_pipeline *self, moeblock_weights *weights, int64_t layer,
                                    moeblock_error *error)
{
    const moeblock_config *config = self->config;
    const struct mb_router_config *router = &config->router;
    const int64_t biases = mb_extent(config, MB_EXTENT_CHOICES); // of both banks where there are two routers
    const size_t floats = (size_t)(biases + self->classes + self->hidden);
    self->vectors = mb_alloc(&self->context->allocator, floats * sizeof(float));
    if (!self->vectors) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the router: no memory for its vectors");
    if (router->selection_bias) {
        const int64_t bank = self->projection == MB_PROJ_ROUTER_SECOND;
        MB_TRY(mb_role_floats(config, weights, MB_ROLE_SELECTION_BIAS, layer, biases, self->vectors, error));
        self->selection_bias = self->vectors + bank * self->classes;
        if (router->selection_bias_subtract_mean) subtract_mean(self->selection_bias, self->classes);
    }
    if (router->per_expert_scale) {
        self->factors = self->vectors + biases;
        MB_TRY(mb_role_floats(config, weights, MB_ROLE_PER_EXPERT_SCALE, layer, self->experts, self->factors, error));
        for (int64_t i = self->experts; i < self->classes; i++) self->factors[i] = 1.0f;
    }
    if (router->input_scale_vector) {
        self->input_scale = self->vectors + biases + self->classes;
        MB_TRY(mb_role_floats(config, weights, MB_ROLE_INPUT_SCALE, layer, self->hidden, self->input_scale, error));
    }
    return MOEBLOCK_OK;
}

static moeblock_status load_table(struct mb_pipeline *self, moeblock_weights *weights, int64_t layer,
                                  moeblock_error *error)
{
    if (self->config->router.ids != MB_IDS_TOKEN_TABLE) return MOEBLOCK_OK;
    const size_t bytes = (size_t)(self->config->router.table_size * self->k) * sizeof *self->table;
    self->table = mb_alloc(&self->context->allocator, bytes);
    if (!self->table)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the router: no memory for a table of %zu bytes", bytes);
    return mb_token_table(self->config, weights, layer, self->table, error);
}

moeblock_status mb_pipeline_load(void *object, moeblock_weights *weights, int64_t layer, moeblock_error *error)
{
    struct mb_pipeline *self = object;
    MB_TRY(mb_router_linear_load(&self->linear, self->context, self->config, weights, self->projection, layer,
                                 self->config->router.linear_bias, error));
    if (self->config->router.precision == MB_PRECISION_MODEL) self->rounds = self->linear.stored;
    MB_TRY(load_vectors(self, weights, layer, error));
    return load_table(self, weights, layer, error);
}

// --- scratch --------------------------------------------------------------------------------------------------------

struct logits_scratch {
    int64_t tile;      // rows a product takes
    const void **rows; // [tile]
    float *changed;    // [tile][hidden] when the input changes
    void *kernel;
};

static size_t place_logits(const struct mb_pipeline *self, void *base, struct logits_scratch *out)
{
    const bool changes = mb_router_input_changes(&self->config->router);
    const int64_t tile = changes ? CHANGED_TILE : PLAIN_TILE;
    size_t offset = 0;
    out->tile = tile;
    out->rows = mb_carve(base, &offset, tile, sizeof *out->rows);
    out->changed = mb_carve(base, &offset, changes ? tile * self->hidden : 0, sizeof *out->changed);
    out->kernel = mb_carve(base, &offset, 1, mb_router_linear_scratch(&self->linear, tile));
    return offset;
}

size_t mb_pipeline_place(const struct mb_pipeline *self, void *base, struct mb_select_scratch *out)
{
    const int64_t classes = self->classes, groups = self->config->router.n_group;
    size_t offset = 0;
    out->scores = mb_carve(base, &offset, classes, sizeof *out->scores);
    out->choice = mb_carve(base, &offset, classes, sizeof *out->choice);
    out->weights = mb_carve(base, &offset, self->k, sizeof *out->weights);
    out->chosen = mb_carve(base, &offset, self->k, sizeof *out->chosen);
    out->order = mb_carve(base, &offset, self->k, sizeof *out->order);
    out->choose.values = mb_carve(base, &offset, classes, sizeof *out->choose.values);
    out->choose.candidates = mb_carve(base, &offset, classes, sizeof *out->choose.candidates);
    out->choose.group_scores = mb_carve(base, &offset, groups, sizeof *out->choose.group_scores);
    out->choose.groups = mb_carve(base, &offset, groups, sizeof *out->choose.groups);
    out->choose.marks = mb_carve(base, &offset, classes, sizeof *out->choose.marks);
    return offset;
}

size_t mb_pipeline_scratch_bytes(const void *object)
{
    struct logits_scratch logits;
    struct mb_select_scratch select;
    const size_t first = place_logits(object, NULL, &logits), second = mb_pipeline_place(object, NULL, &select);
    return first > second ? first : second;
}

// --- the chain ------------------------------------------------------------------------------------------------------

int64_t mb_pipeline_width(const void *object)
{
    return mb_extent(((const struct mb_pipeline *)object)->config, MB_EXTENT_LOGITS);
}

moeblock_status mb_pipeline_logits(const void *object, const moeblock_router_input *input, int64_t c0, int64_t c1,
                                   float *out, int64_t stride, moeblock_error *error)
{
    const struct mb_pipeline *self = object;
    const struct mb_router_config *router = &self->config->router;
    const bool from_aux = router->input == MB_INPUT_AUX, changes = mb_router_input_changes(router);
    const float *x = from_aux ? input->aux : input->x;
    const int64_t x_stride = from_aux ? input->aux_stride : input->x_stride;
    if (!x)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "routing: router.config.input is \"aux\" and the call has no aux tensor; give one of x's shape");
    struct logits_scratch scratch;
    place_logits(self, input->scratch, &scratch);
    for (int64_t t = 0; t < input->tokens; t += scratch.tile) {
        const int64_t m = mb_min(scratch.tile, input->tokens - t);
        for (int64_t i = 0; i < m; i++) {
            scratch.rows[i] = x + (t + i) * x_stride;
            if (!changes) continue;
            float *row = scratch.changed + i * self->hidden;
            mb_router_input_row(router, scratch.rows[i], self->input_scale, self->hidden, row);
            scratch.rows[i] = row;
        }
        float *to = out + t * stride + c0;
        mb_router_linear_apply(&self->linear, scratch.rows, m, c0, c1, to, stride, scratch.kernel);
        for (int64_t i = 0; i < m; i++) {
            mb_router_round(self->rounds, to + i * stride, c1 - c0);
            mb_router_logits(router, to + i * stride, c1 - c0);
        }
    }
    return MOEBLOCK_OK;
}

void mb_pipeline_publish(struct mb_select_scratch *scratch, int64_t k, int32_t *ids, float *weights)
{
    mb_top_k(scratch->weights, k, k, scratch->order);
    for (int64_t j = 0; j < k; j++) {
        ids[j] = scratch->chosen[scratch->order[j]];
        weights[j] = scratch->weights[scratch->order[j]];
    }
}

void mb_pipeline_choose(const struct mb_pipeline *self, const float *values, const int32_t *given,
                        struct mb_select_scratch *scratch)
{
    const struct mb_router_config *router = &self->config->router;
    const int64_t classes = self->classes, k = self->k;
    mb_router_score(router->score, values, classes, scratch->scores);
    if (given) {
        memcpy(scratch->chosen, given, (size_t)k * sizeof *given);
        return;
    }
    if (router->select_score == router->score)
        memcpy(scratch->choice, scratch->scores, (size_t)classes * sizeof *scratch->choice);
    else
        mb_router_score(router->select_score, values, classes, scratch->choice);
    if (self->selection_bias)
        for (int64_t i = 0; i < classes; i++) scratch->choice[i] = scratch->choice[i] + self->selection_bias[i];
    mb_router_choose(router, scratch->choice, classes, k, &scratch->choose, scratch->chosen);
}

void mb_pipeline_weigh(const struct mb_pipeline *self, const float *values, struct mb_select_scratch *scratch)
{
    const struct mb_router_config *router = &self->config->router;
    mb_router_weigh(router, values, scratch->scores, self->factors, scratch->chosen, self->k, scratch->weights);
    for (int64_t j = 0; router->null_experts && router->null_kind == MB_NULL_ZERO && j < self->k; j++)
        if (scratch->chosen[j] >= self->experts) scratch->weights[j] = 0.0f; // it returns nothing
    mb_router_round(self->rounds, scratch->weights, self->k);
}

void mb_pipeline_select_row(const struct mb_pipeline *self, const float *values, const int32_t *given,
                            struct mb_select_scratch *scratch, int32_t *ids, float *weights)
{
    mb_pipeline_choose(self, values, given, scratch);
    mb_pipeline_weigh(self, values, scratch);
    mb_pipeline_publish(scratch, self->k, ids, weights);
}

moeblock_status mb_pipeline_given(const struct mb_pipeline *self, const moeblock_router_input *input, int64_t t,
                                  const int32_t **given, moeblock_error *error)
{
    *given = NULL;
    if (!self->table) return MOEBLOCK_OK;
    if (!input->token_ids)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "routing: router.config.ids is \"token_table\" and the call has no token_ids; give one a token");
    const int64_t id = input->token_ids[t], rows = self->config->router.table_size;
    if (id < 0 || id >= rows)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "routing token %" PRId64 ": its token id is %" PRId64 ", expected 0 to %" PRId64
                       " (router.config.table_size)",
                       input->first + t, id, rows - 1);
    *given = self->table + id * self->k;
    return MOEBLOCK_OK;
}

moeblock_status mb_pipeline_select(const void *object, const moeblock_router_input *input, const float *values,
                                   int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    const struct mb_pipeline *self = object;
    struct mb_select_scratch scratch;
    mb_pipeline_place(self, input->scratch, &scratch);
    for (int64_t t = 0; t < input->tokens; t++) {
        const int32_t *given;
        MB_TRY(mb_pipeline_given(self, input, t, &given, error));
        mb_pipeline_select_row(self, values + t * stride, given, &scratch, ids + t * self->slots,
                               weights + t * self->slots);
    }
    return MOEBLOCK_OK;
}

const moeblock_router_class mb_router_pipeline = {
    .struct_size = sizeof(moeblock_router_class),
    .create = mb_pipeline_create,
    .destroy = mb_pipeline_destroy,
    .need = mb_pipeline_need,
    .load = mb_pipeline_load,
    .width = mb_pipeline_width,
    .scratch_bytes = mb_pipeline_scratch_bytes,
    .logits = mb_pipeline_logits,
    .select = mb_pipeline_select,
};
