// SPDX-License-Identifier: Apache-2.0
// The router pipeline (moe-families section 3.1): input -> linear -> logits -> score -> selection bias -> groups ->
// top k -> post -> normalise -> scale. This file owns the tensors and walks the chain; primitives.h has the links.
// Null experts are further classes behind the routed experts (ids from `experts` on).
#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "base/context.h"
#include "base/fpmode.h"
#include "base/status.h"
#include "config/tensors.h"
#include "routers/primitives.h"
#include "routers/router.h"

enum {
    PLAIN_TILE = 64,   // rows that one product takes: pointers to the caller's rows only
    CHANGED_TILE = 16, // the same where rows are normalised into scratch first
    PIECE_BYTES = 8 << 20
};

struct pipeline {
    const moeblock_context *context;
    const moeblock_config *config;
    int64_t hidden, experts, classes, k;
    struct mb_packing packing;
    void *packed;
    moeblock_dtype rounds; // logits and weights to this type; NONE: they stay float32
    float *vectors;        // one allocation that holds the four below; each NULL when the description has none
    float *linear_bias;    // [classes]
    float *selection_bias; // [classes]
    float *input_scale;    // [hidden]
    float *factors;        // [classes]; 1 for null experts
};

// --- create ---------------------------------------------------------------------------------------------------------

// The relations that choosing relies on: k ids can be found whatever the scores are.
static moeblock_status check_counts(const struct pipeline *self, moeblock_error *error)
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

static moeblock_status create(void *user, const moeblock_router_build *build, void **out, moeblock_error *error)
{
    (void)user;
    const struct pipeline made = {
        .context = build->context,
        .config = build->config,
        .hidden = build->hidden,
        .experts = build->experts,
        .classes = build->experts + build->config->router.null_experts,
        .k = build->top_k,
        // Until a load tells the stored format: what scratch_bytes goes by where sizes are asked for without one.
        .packing = {.format = MB_PACKED_BF16,
                    .parts = 1,
                    .n = build->experts + build->config->router.null_experts,
                    .k = build->hidden},
    };
    *out = NULL;
    MB_TRY(check_counts(&made, error));
    struct pipeline *self = mb_alloc(&build->context->allocator, sizeof *self);
    if (!self) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "making the router: no memory");
    *self = made;
    *out = self;
    return MOEBLOCK_OK;
}

static void destroy(void *object)
{
    struct pipeline *self = object;
    if (!self) return;
    const moeblock_allocator *allocator = &self->context->allocator;
    mb_free(allocator, self->packed);
    mb_free(allocator, self->vectors);
    mb_free(allocator, self);
}

// --- tensors --------------------------------------------------------------------------------------------------------

static int need(const void *object, int64_t layer, int i, moeblock_tensor_need *out)
{
    static const enum mb_role roles[] = {MB_ROLE_ROUTER, MB_ROLE_ROUTER_BIAS, MB_ROLE_SELECTION_BIAS,
                                         MB_ROLE_INPUT_SCALE, MB_ROLE_PER_EXPERT_SCALE};
    const struct pipeline *self = object;
    const int64_t lengths[] = {0, self->classes, self->classes, self->hidden, self->experts};
    for (size_t r = 0; r < sizeof roles / sizeof *roles; r++) {
        if (!mb_role_wanted(self->config, roles[r]) || i-- > 0) continue;
        *out = (moeblock_tensor_need){.dtype = MOEBLOCK_F32, .rank = 1, .dims = {lengths[r]}};
        if (roles[r] == MB_ROLE_ROUTER) {
            const bool transposed = self->config->router.transposed;
            out->dtype = MOEBLOCK_DTYPE_NONE;
            out->rank = 2;
            out->dims[0] = transposed ? self->hidden : self->classes;
            out->dims[1] = transposed ? self->classes : self->hidden;
        }
        mb_role_name(self->config, roles[r], layer, 0, out->name);
        return 1;
    }
    return 0;
}

// Packs the weight in its stored number format, some rows at a time.
static moeblock_status pack_pieces(struct pipeline *self, moeblock_weights *weights, const struct mb_matrix *matrix,
                                   moeblock_error *error)
{
    const struct mb_kernels *kernels = self->context->kernels;
    const int64_t count = mb_matrix_pieces(matrix, &self->packing, kernels->granule, PIECE_BYTES);
    int64_t n0, n1, k0, k1;
    size_t staging_bytes = 0;
    for (int64_t i = 0; i < count; i++) {
        mb_matrix_piece(matrix, &self->packing, kernels->granule, PIECE_BYTES, i, &n0, &n1, &k0, &k1);
        const size_t bytes = mb_stage_bytes(matrix, n0, n1, k0, k1);
        if (bytes > staging_bytes) staging_bytes = bytes;
    }
    void *staging = mb_alloc(&self->context->allocator, staging_bytes);
    if (!staging)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the router: no memory for %zu bytes", staging_bytes);
    const struct mb_target target = {.kernels = kernels, .packing = &self->packing, .packed = self->packed};
    moeblock_status status = MOEBLOCK_OK;
    for (int64_t i = 0; i < count && status == MOEBLOCK_OK; i++) {
        mb_matrix_piece(matrix, &self->packing, kernels->granule, PIECE_BYTES, i, &n0, &n1, &k0, &k1);
        status = mb_matrix_pack(weights, matrix, &target, n0, n1, k0, k1, staging, error);
    }
    mb_free(&self->context->allocator, staging);
    return status;
}

static moeblock_status load_matrix(struct pipeline *self, moeblock_weights *weights, int64_t layer,
                                   moeblock_error *error)
{
    struct mb_matrix matrix;
    MB_TRY(mb_projection_find(self->config, weights, MB_PROJ_ROUTER, layer, 0, &matrix, error));
    const struct mb_format_info *format = &mb_format_table[matrix.format];
    if (self->config->router.precision == MB_PRECISION_MODEL) self->rounds = matrix.codes.dtype;
    self->packing = (struct mb_packing){
        .format = format->packed, .parts = 1, .n = self->classes, .k = self->hidden, .group = format->column_tile};
    const size_t bytes = self->context->kernels->packed_bytes(&self->packing);
    self->packed = mb_alloc_zero(&self->context->allocator, bytes);
    if (!self->packed)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the router: no memory for %zu bytes", bytes);
    return pack_pieces(self, weights, &matrix, error);
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

static moeblock_status load_vectors(struct pipeline *self, moeblock_weights *weights, int64_t layer,
                                    moeblock_error *error)
{
    const moeblock_config *config = self->config;
    const struct mb_router_config *router = &config->router;
    const size_t floats = (size_t)(3 * self->classes + self->hidden);
    self->vectors = mb_alloc(&self->context->allocator, floats * sizeof(float));
    if (!self->vectors) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the router: no memory for its vectors");
    if (router->linear_bias) {
        self->linear_bias = self->vectors;
        MB_TRY(mb_role_floats(config, weights, MB_ROLE_ROUTER_BIAS, layer, self->classes, self->linear_bias, error));
    }
    if (router->selection_bias) {
        self->selection_bias = self->vectors + self->classes;
        MB_TRY(
            mb_role_floats(config, weights, MB_ROLE_SELECTION_BIAS, layer, self->classes, self->selection_bias, error));
        if (router->selection_bias_subtract_mean) subtract_mean(self->selection_bias, self->classes);
    }
    if (router->per_expert_scale) {
        self->factors = self->vectors + 2 * self->classes;
        MB_TRY(mb_role_floats(config, weights, MB_ROLE_PER_EXPERT_SCALE, layer, self->experts, self->factors, error));
        for (int64_t i = self->experts; i < self->classes; i++) self->factors[i] = 1.0f;
    }
    if (router->input_scale_vector) {
        self->input_scale = self->vectors + 3 * self->classes;
        MB_TRY(mb_role_floats(config, weights, MB_ROLE_INPUT_SCALE, layer, self->hidden, self->input_scale, error));
    }
    return MOEBLOCK_OK;
}

static moeblock_status load(void *object, moeblock_weights *weights, int64_t layer, moeblock_error *error)
{
    struct pipeline *self = object;
    MB_TRY(load_matrix(self, weights, layer, error));
    return load_vectors(self, weights, layer, error);
}

// --- scratch --------------------------------------------------------------------------------------------------------

// Takes `count` elements of `size` bytes from the running offset; with a NULL base only the offset moves.
static void *carve(void *base, size_t *offset, int64_t count, size_t size)
{
    void *memory = base ? (char *)base + *offset : NULL;
    *offset += mb_round_up((size_t)count * size, 64);
    return memory;
}

struct logits_scratch {
    int64_t tile;      // rows a product takes
    const void **rows; // [tile]
    float *changed;    // [tile][hidden] when the input changes
    void *kernel;
};

static size_t place_logits(const struct pipeline *self, void *base, struct logits_scratch *out)
{
    const bool changes = mb_router_input_changes(&self->config->router);
    const int64_t tile = changes ? CHANGED_TILE : PLAIN_TILE;
    size_t offset = 0;
    out->tile = tile;
    out->rows = carve(base, &offset, tile, sizeof *out->rows);
    out->changed = carve(base, &offset, changes ? tile * self->hidden : 0, sizeof *out->changed);
    const size_t kernel_bytes = self->context->kernels->scratch_bytes(&self->packing, tile);
    out->kernel = carve(base, &offset, 1, kernel_bytes);
    return offset;
}

struct select_scratch {
    float *scores;   // [classes]
    float *choice;   // [classes]
    float *weights;  // [k], by ascending id
    int32_t *chosen; // [k], ascending
    int32_t *order;  // [k]: slots, best weight first
    struct mb_choose_scratch choose;
};

static size_t place_select(const struct pipeline *self, void *base, struct select_scratch *out)
{
    const int64_t classes = self->classes, groups = self->config->router.n_group;
    size_t offset = 0;
    out->scores = carve(base, &offset, classes, sizeof *out->scores);
    out->choice = carve(base, &offset, classes, sizeof *out->choice);
    out->weights = carve(base, &offset, self->k, sizeof *out->weights);
    out->chosen = carve(base, &offset, self->k, sizeof *out->chosen);
    out->order = carve(base, &offset, self->k, sizeof *out->order);
    out->choose.values = carve(base, &offset, classes, sizeof *out->choose.values);
    out->choose.candidates = carve(base, &offset, classes, sizeof *out->choose.candidates);
    out->choose.group_scores = carve(base, &offset, groups, sizeof *out->choose.group_scores);
    out->choose.groups = carve(base, &offset, groups, sizeof *out->choose.groups);
    out->choose.marks = carve(base, &offset, classes, sizeof *out->choose.marks);
    return offset;
}

static size_t scratch_bytes(const void *object)
{
    struct logits_scratch logits;
    struct select_scratch select;
    const size_t first = place_logits(object, NULL, &logits), second = place_select(object, NULL, &select);
    return first > second ? first : second;
}

// --- the chain ------------------------------------------------------------------------------------------------------

static int64_t width(const void *object) { return ((const struct pipeline *)object)->classes; }

static moeblock_status logits(const void *object, const moeblock_router_input *input, int64_t c0, int64_t c1,
                              float *out, int64_t stride, moeblock_error *error)
{
    const struct pipeline *self = object;
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
        const struct mb_project_call call = {
            .separate = true,
            .packing = &self->packing,
            .packed = self->packed,
            .rows = {scratch.rows, m, false},
            .n0 = c0,
            .n1 = c1,
            .bias = self->linear_bias,
            .out = out + t * stride + c0,
            .out_stride = stride,
            .scratch = scratch.kernel,
        };
        self->context->kernels->project(&call);
        for (int64_t i = 0; i < m; i++) {
            mb_router_round(self->rounds, call.out + i * stride, c1 - c0);
            mb_router_logits(router, call.out + i * stride, c1 - c0);
        }
    }
    return MOEBLOCK_OK;
}

// One token: `values` are its logits.
static void select_row(const struct pipeline *self, const float *values, const struct select_scratch *scratch,
                       int32_t *ids, float *weights)
{
    const struct mb_router_config *router = &self->config->router;
    const int64_t classes = self->classes, k = self->k;
    mb_router_score(router->score, values, classes, scratch->scores);
    if (router->select_score == router->score)
        memcpy(scratch->choice, scratch->scores, (size_t)classes * sizeof *scratch->choice);
    else
        mb_router_score(router->select_score, values, classes, scratch->choice);
    if (self->selection_bias)
        for (int64_t i = 0; i < classes; i++) scratch->choice[i] = scratch->choice[i] + self->selection_bias[i];
    mb_router_choose(router, scratch->choice, classes, k, &scratch->choose, scratch->chosen);
    mb_router_weigh(router, values, scratch->scores, self->factors, scratch->chosen, k, scratch->weights);
    mb_router_round(self->rounds, scratch->weights, k);
    mb_top_k(scratch->weights, k, k, scratch->order);
    for (int64_t j = 0; j < k; j++) {
        ids[j] = scratch->chosen[scratch->order[j]];
        weights[j] = scratch->weights[scratch->order[j]];
    }
}

static moeblock_status select_rows(const void *object, const moeblock_router_input *input, const float *values,
                                   int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    (void)error;
    const struct pipeline *self = object;
    struct select_scratch scratch;
    place_select(self, input->scratch, &scratch);
    for (int64_t t = 0; t < input->tokens; t++)
        select_row(self, values + t * stride, &scratch, ids + t * self->k, weights + t * self->k);
    return MOEBLOCK_OK;
}

const moeblock_router_class mb_router_pipeline = {
    .struct_size = sizeof(moeblock_router_class),
    .create = create,
    .destroy = destroy,
    .need = need,
    .load = load,
    .width = width,
    .scratch_bytes = scratch_bytes,
    .logits = logits,
    .select = select_rows,
};
