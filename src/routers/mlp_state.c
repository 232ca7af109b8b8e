// SPDX-License-Identifier: Apache-2.0
// A router that is a small network and carries a state from block to block (zaya, moe-families 1.8):
// r = down(x) + d [+ r of the block before * s], handed on; l = out(gelu(fc2(gelu(fc1(norm(r)))))); from l on it is the
// pipeline. The pipeline's logits are one linear map of one token's row.
#include <math.h>
#include <string.h>

#include "base/context.h"
#include "base/status.h"
#include "kernels/activation.h"
#include "kernels/math_inline.h"
#include "routers/pipeline.h"

enum { TILE = 16 };

struct mlp_state {
    struct mb_pipeline pipeline; // its linear map is `out`
    struct mb_router_linear down, fc1, fc2;
    struct mb_activation gelu;
    int64_t width;
    float *scale, *norm; // [width] each, one allocation; scale NULL: the first block of the model
    float *vectors;
};

static moeblock_status create(void *user, const moeblock_router_build *build, void **out, moeblock_error *error)
{
    (void)user;
    MB_TRY(mb_router_new(build, sizeof(struct mlp_state), out, error));
    struct mlp_state *self = *out;
    self->width = build->config->router.state_size;
    self->down = mb_router_linear_sized(build->context, self->width, build->hidden);
    self->fc1 = self->fc2 = mb_router_linear_sized(build->context, self->width, self->width);
    self->gelu = (struct mb_activation){.kind = mb_activation_find("gelu")};
    return MOEBLOCK_OK;
}

static void destroy(void *object)
{
    struct mlp_state *self = object;
    if (!self) return;
    mb_router_linear_free(&self->down);
    mb_router_linear_free(&self->fc1);
    mb_router_linear_free(&self->fc2);
    mb_free(&self->pipeline.context->allocator, self->vectors);
    mb_pipeline_destroy(self);
}

static moeblock_status load(void *object, moeblock_weights *weights, int64_t layer, moeblock_error *error)
{
    struct mlp_state *self = object;
    const moeblock_context *context = self->pipeline.context;
    const moeblock_config *config = self->pipeline.config;
    MB_TRY(mb_pipeline_load(object, weights, layer, error));
    MB_TRY(mb_router_linear_load(&self->down, context, config, weights, MB_PROJ_STATE_DOWN, layer, true, error));
    MB_TRY(mb_router_linear_load(&self->fc1, context, config, weights, MB_PROJ_STATE_FC1, layer, true, error));
    MB_TRY(mb_router_linear_load(&self->fc2, context, config, weights, MB_PROJ_STATE_FC2, layer, true, error));
    self->vectors = mb_alloc(&context->allocator, 2 * (size_t)self->width * sizeof(float));
    if (!self->vectors) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading the router: no memory for its vectors");
    self->norm = self->vectors;
    MB_TRY(mb_role_floats(config, weights, MB_ROLE_STATE_NORM, layer, self->width, self->norm, error));
    if (!config->router.state_carried) return MOEBLOCK_OK;
    self->scale = self->vectors + self->width;
    return mb_role_floats(config, weights, MB_ROLE_STATE_SCALE, layer, self->width, self->scale, error);
}

static int64_t state_width(const void *object) { return ((const struct mlp_state *)object)->width; }

struct scratch {
    const void **rows; // [TILE]
    float *state;      // [TILE][width]: r where nobody wants it
    float *a, *b;      // [TILE][width]
    float *logits;     // [TILE][classes]
    void *kernel;
    struct mb_select_scratch select;
};

static size_t place(const struct mlp_state *self, void *base, struct scratch *out)
{
    const struct mb_router_linear *maps[] = {&self->down, &self->fc1, &self->fc2, &self->pipeline.linear};
    size_t offset = mb_pipeline_place(&self->pipeline, base, &out->select), kernel = 0;
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++) {
        const size_t bytes = mb_router_linear_scratch(maps[i], TILE);
        kernel = bytes > kernel ? bytes : kernel;
    }
    out->rows = mb_carve(base, &offset, TILE, sizeof *out->rows);
    out->state = mb_carve(base, &offset, TILE * self->width, sizeof(float));
    out->a = mb_carve(base, &offset, TILE * self->width, sizeof(float));
    out->b = mb_carve(base, &offset, TILE * self->width, sizeof(float));
    out->logits = mb_carve(base, &offset, TILE * self->pipeline.classes, sizeof(float));
    out->kernel = mb_carve(base, &offset, 1, kernel);
    return offset;
}

static size_t scratch_bytes(const void *object)
{
    struct scratch scratch;
    return place(object, NULL, &scratch);
}

static void apply(const struct mb_router_linear *map, const float *from, int64_t stride, int64_t m, float *to,
                  struct scratch *s)
{
    for (int64_t i = 0; i < m; i++) s->rows[i] = from + i * stride;
    mb_router_linear_apply(map, s->rows, m, 0, map->packing.n, to, map->packing.n, s->kernel);
}

// r / sqrt(mean(r^2) + eps) * weight.
static void rms_norm(const struct mlp_state *self, const float *r, float *out)
{
    float sum = 0.0f;
    for (int64_t i = 0; i < self->width; i++) sum = sum + r[i] * r[i];
    const float factor = 1.0f / sqrtf(sum / (float)self->width + (float)self->pipeline.config->rms_norm_eps);
    for (int64_t i = 0; i < self->width; i++) out[i] = r[i] * factor * self->norm[i];
}

static void gelu(const struct mlp_state *self, float *values, int64_t n)
{
    mb_activation_apply(&self->gelu, NULL, values, values, n);
}

// Logits of m tokens, and their state.
static void network(const struct mlp_state *self, const moeblock_router_input *input, int64_t t, int64_t m,
                    struct scratch *s)
{
    const int64_t width = self->width;
    float *state = input->state_out ? input->state_out + t * width : s->state;
    apply(&self->down, input->x + t * input->x_stride, input->x_stride, m, state, s);
    for (int64_t i = 0; self->scale && i < m * width; i++)
        state[i] = mb_one_nan(state[i] + input->state[t * width + i] * self->scale[i % width]);
    for (int64_t i = 0; i < m; i++) rms_norm(self, state + i * width, s->a + i * width);
    apply(&self->fc1, s->a, width, m, s->b, s);
    gelu(self, s->b, m * width);
    apply(&self->fc2, s->b, width, m, s->a, s);
    gelu(self, s->a, m * width);
    apply(&self->pipeline.linear, s->a, width, m, s->logits, s);
    for (int64_t i = 0; i < m; i++) {
        mb_router_round(self->pipeline.rounds, s->logits + i * self->pipeline.classes, self->pipeline.classes);
        mb_router_logits(&self->pipeline.config->router, s->logits + i * self->pipeline.classes,
                         self->pipeline.classes);
    }
}

static moeblock_status select_rows(const void *object, const moeblock_router_input *input, const float *values,
                                   int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    (void)values, (void)stride;
    const struct mlp_state *self = object;
    const struct mb_pipeline *base = &self->pipeline;
    struct scratch s;
    if (self->scale && !input->state)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "routing: router.config.state_carried is true and the call has no router_state; give the state "
                       "that the block before handed on");
    place(self, input->scratch, &s);
    for (int64_t t = 0; t < input->tokens; t += TILE) {
        const int64_t m = input->tokens - t < TILE ? input->tokens - t : TILE;
        network(self, input, t, m, &s);
        for (int64_t i = 0; i < m; i++) {
            const int32_t *given;
            const int64_t at = (t + i) * base->slots;
            MB_TRY(mb_pipeline_given(base, input, t + i, &given, error));
            mb_pipeline_select_row(base, s.logits + i * base->classes, given, &s.select, ids + at, weights + at);
        }
    }
    return MOEBLOCK_OK;
}

const moeblock_router_class mb_router_mlp_state = {
    .struct_size = sizeof(moeblock_router_class),
    .create = create,
    .destroy = destroy,
    .need = mb_pipeline_need,
    .load = load,
    .scratch_bytes = scratch_bytes,
    .select = select_rows,
    .state_width = state_width,
};
