// SPDX-License-Identifier: Apache-2.0
// The block in plain scalar C, top to bottom: latent down, experts one after the other, null experts, the end of the
// flow. Slow on purpose. The reference (this file, its router and its tensors) shares elementary functions and tensor
// names with the working path and nothing else: what both compute must agree bit by bit. Numbers: docs/numerics.md.
#include "reference.h"

#include <math.h>
#include <string.h>

#include "base/context.h"
#include "base/float.h"
#include "base/fpmode.h"
#include "base/status.h"
#include "kernels/math_inline.h"
#include "reference_parts.h"

struct ffn {
    const struct mb_ffn_config *config;
    struct mb_linear gate, up, down;
};

static moeblock_status load_ffn(struct mb_reference *r, bool shared, int64_t expert, struct ffn *out)
{
    const enum mb_projection gate = shared ? MB_PROJ_SHARED_GATE : MB_PROJ_GATE;
    const enum mb_projection up = shared ? MB_PROJ_SHARED_UP : MB_PROJ_UP;
    const enum mb_projection down = shared ? MB_PROJ_SHARED_DOWN : MB_PROJ_DOWN;
    out->config = shared ? &r->config->shared : &r->config->routed;
    if (out->config->gated) MB_TRY(mb_reference_linear(r, gate, expert, out->config->bias, true, &out->gate));
    MB_TRY(mb_reference_linear(r, up, expert, out->config->bias, true, &out->up));
    return mb_reference_linear(r, down, expert, out->config->bias, true, &out->down);
}

// An expert's output.
static float rounded(const struct mb_reference *r, float value)
{
    return r->compute == MOEBLOCK_COMPUTE_F32 ? value : mb_round_bf16(value);
}

// y = y + weight * out, multiply and add rounded separately.
static void accumulate(float *y, const float *out, float weight, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = mb_one_nan(y[i] + weight * out[i]);
}

// out = out * weight, then out / sqrt(mean(out^2) + eps), rounded once.
static void norm_expert(const struct mb_reference *r, const float *weight, float *out)
{
    for (int64_t i = 0; i < r->width; i++)
        out[i] = out[i] * (r->config->post_norm_plus_one ? 1.0f + weight[i] : weight[i]);
    mb_reference_rms_norm(out, r->width, r->config->post_norm_eps);
    for (int64_t i = 0; i < r->width; i++) out[i] = rounded(r, mb_one_nan(out[i]));
}

static void apply_linear(const struct mb_reference *r, const struct mb_linear *m, const float *x, float *out)
{
    for (int64_t n = 0; n < m->rows; n++) out[n] = rounded(r, mb_reference_dot(m, n, x));
}

// Floats that apply_ffn works on: the results of gate and up, and down's input.
static int64_t inner_length(const struct mb_reference *r, const struct mb_ffn_config *config)
{
    return 2 * config->intermediate_size + mb_reference_length(r, config->intermediate_size);
}

// out = down(activation(gate x, up x)), normalised when there is a weight for that; row and out in the compute type,
// `inner` holds inner_length.
static void apply_ffn(const struct mb_reference *r, const struct ffn *ffn, const float *row, const float *post_norm,
                      float *inner, float *out)
{
    const int64_t n = ffn->config->intermediate_size;
    float *gate = ffn->config->gated ? inner : NULL, *up = inner + n, *read = up + n;
    for (int64_t i = 0; i < n; i++) {
        if (gate) gate[i] = mb_reference_dot(&ffn->gate, i, row);
        up[i] = mb_reference_dot(&ffn->up, i, row);
    }
    mb_activation_apply(&ffn->config->activation, gate, up, up, n);
    for (int64_t i = 0; i < n; i++) up[i] = mb_one_nan(up[i]);
    mb_reference_row(r, up, n, read);
    if (!post_norm) {
        apply_linear(r, &ffn->down, read, out);
        return;
    }
    for (int64_t i = 0; i < ffn->down.rows; i++) out[i] = mb_reference_dot(&ffn->down, i, read);
    norm_expert(r, post_norm, out);
}

// An expert of either bank, by its id.
static moeblock_status load_expert(struct mb_reference *r, const moeblock_config *second, int64_t id, struct ffn *out)
{
    const moeblock_config *first = r->config;
    if (id < first->num_experts) return load_ffn(r, false, id, out);
    r->config = second;
    const moeblock_status status = load_ffn(r, false, id - first->num_experts, out);
    r->config = first;
    return status;
}

// The projections around the routed experts, each with its RMS norm on the narrow side (or NULL).
struct latent {
    struct mb_linear down, up;
    float *in_norm, *out_norm;
};

static moeblock_status load_latent(struct mb_reference *r, struct latent *out)
{
    const bool bias = r->config->latent_bias;
    MB_TRY(mb_reference_linear(r, MB_PROJ_LATENT_DOWN, 0, bias, true, &out->down));
    MB_TRY(mb_reference_linear(r, MB_PROJ_LATENT_UP, 0, bias, true, &out->up));
    MB_TRY(mb_reference_vector(r, MB_ROLE_LATENT_IN_NORM, r->width, &out->in_norm));
    return mb_reference_vector(r, MB_ROLE_LATENT_OUT_NORM, r->width, &out->out_norm);
}

// Normalises latent values, where the description says so, and makes them a row.
static void norm_latent(const struct mb_reference *r, const float *weight, float *values, float *row)
{
    if (weight) mb_reference_rms_norm(values, r->width, r->config->rms_norm_eps);
    for (int64_t i = 0; weight && i < r->width; i++)
        values[i] = mb_one_nan(values[i] * (r->config->latent_norm_plus_one ? 1.0f + weight[i] : weight[i]));
    mb_reference_row(r, values, r->width, row);
}

// sums [tokens][width] += the routed experts' weighted outputs, experts in ascending id, null experts last.
static moeblock_status add_experts(struct mb_reference *r, const float *rows, const float *x, const int32_t *ids,
                                   const float *w, float *sums)
{
    const moeblock_config *config = r->config;
    const bool on_input = config->router.apply_weight == MB_APPLY_INPUT;
    const int64_t all = mb_all_experts(config), length = mb_reference_length(r, r->width);
    float *row, *inner, *out, *post_norm;
    moeblock_config *second;
    MB_TRY(mb_reference_take(r, 1, sizeof *second, &second));
    mb_second_bank(config, second);
    MB_TRY(mb_reference_vector(r, MB_ROLE_POST_NORM, r->width, &post_norm));
    MB_TRY(mb_reference_take(r, length, sizeof(float), &row));
    MB_TRY(mb_reference_take(r, r->width, sizeof(float), &out));
    MB_TRY(mb_reference_take(r, inner_length(r, &config->routed), sizeof(float), &inner));
    const struct mb_chunk *before = r->last;
    for (int32_t expert = 0; expert < mb_all_classes(config); expert++) {
        const bool null = expert >= all;
        if (null && config->router.null_kind == MB_NULL_ZERO) break;
        struct ffn ffn = {.config = NULL};
        for (int64_t s = 0; s < r->tokens * r->slots; s++) {
            if (ids[s] != expert) continue;
            const int64_t t = s / r->slots;
            if (!null && !ffn.config) MB_TRY(load_expert(r, second, expert, &ffn));
            memcpy(row, rows + t * length, (size_t)length * sizeof *row);
            if (on_input) mb_reference_scale_row(r, rows + t * length, w[s], r->width, row);
            if (!null) apply_ffn(r, &ffn, row, post_norm, inner, out);
            const float weight = on_input && !null ? 1.0f : w[s];
            const float *add = null ? x + t * r->hidden : out;
            accumulate(sums + t * r->width, add, weight, r->width);
        }
        mb_reference_release(r, before);
    }
    return MOEBLOCK_OK;
}

// y = the routed part: latent down, experts, scale on the output, output bias, latent up.
static moeblock_status compute_routed(struct mb_reference *r, const float *rows, const float *x, const int32_t *ids,
                                      const float *w, float *y)
{
    const moeblock_config *config = r->config;
    struct latent latent;
    const int64_t hidden = mb_reference_length(r, r->hidden), width = mb_reference_length(r, r->width);
    float *narrow = NULL, *sums = NULL, *row, *values, *output_bias;
    MB_TRY(mb_reference_take(r, r->tokens * width, sizeof(float), &narrow));
    MB_TRY(mb_reference_take(r, width, sizeof(float), &row));
    MB_TRY(mb_reference_take(r, r->width, sizeof(float), &values));
    MB_TRY(mb_reference_take(r, r->tokens * r->width, sizeof(float), &sums));
    MB_TRY(mb_reference_vector(r, MB_ROLE_OUTPUT_BIAS, r->width, &output_bias));
    if (config->latent_size) MB_TRY(load_latent(r, &latent));
    for (int64_t t = 0; config->latent_size && t < r->tokens; t++) {
        for (int64_t i = 0; i < r->width; i++) values[i] = mb_reference_dot(&latent.down, i, rows + t * hidden);
        norm_latent(r, latent.in_norm, values, narrow + t * width);
    }
    MB_TRY(add_experts(r, config->latent_size ? narrow : rows, x, ids, w, sums));
    for (int64_t t = 0; t < r->tokens; t++) {
        float *sum = sums + t * r->width, *out = y + t * r->hidden;
        for (int64_t i = 0; config->router.scale_on == MB_SCALE_OUTPUT && i < r->width; i++)
            sum[i] = sum[i] * (float)config->router.scale;
        for (int64_t i = 0; output_bias && i < r->width; i++) sum[i] = sum[i] + output_bias[i];
        if (config->latent_size) {
            norm_latent(r, latent.out_norm, sum, row);
            apply_linear(r, &latent.up, row, out);
        } else {
            memcpy(out, sum, (size_t)r->width * sizeof *sum);
        }
    }
    return MOEBLOCK_OK;
}

// c = softmax(logits) over two.
static void mix_coefficients(const struct mb_linear *map, const float *x, float c[2])
{
    const float l0 = mb_reference_dot(map, 0, x), l1 = mb_reference_dot(map, 1, x);
    const float low = l0 > -INFINITY ? l0 : -INFINITY, maximum = l1 > low ? l1 : low;
    const float e0 = mb_exp_body(l0 - maximum), e1 = mb_exp_body(l1 - maximum);
    c[0] = e0 / (e0 + e1);
    c[1] = e1 / (e0 + e1);
}

// y = y + gate * shared(x), times the factor of the mix, or c0 * y + c1 * shared(x); gate and c read the unrounded x.
static moeblock_status add_shared(struct mb_reference *r, const float *rows, const float *x, float *y)
{
    const moeblock_config *config = r->config;
    const bool gated = config->shared_gate == MB_SHARED_SIGMOID, mixed = config->mix == MB_MIX_SOFTMAX_COEF;
    struct ffn ffn;
    struct mb_linear gate, map;
    float *inner = NULL, *out = NULL;
    MB_TRY(load_ffn(r, true, 0, &ffn));
    if (gated) MB_TRY(mb_reference_linear(r, MB_PROJ_SHARED_SIGMOID, 0, false, false, &gate));
    if (mixed) MB_TRY(mb_reference_linear(r, MB_PROJ_MIX_COEFFICIENT, 0, true, false, &map));
    MB_TRY(mb_reference_take(r, inner_length(r, &config->shared), sizeof(float), &inner));
    MB_TRY(mb_reference_take(r, r->hidden, sizeof(float), &out));
    for (int64_t t = 0; t < r->tokens; t++) {
        float *sum = y + t * r->hidden, c[2] = {1.0f, 1.0f};
        if (gated) c[1] = mb_sigmoid_body(mb_reference_dot(&gate, 0, x + t * r->hidden));
        if (mixed) mix_coefficients(&map, x + t * r->hidden, c);
        apply_ffn(r, &ffn, rows + t * mb_reference_length(r, r->hidden), NULL, inner, out);
        for (int64_t i = 0; mixed && i < r->hidden; i++) sum[i] = sum[i] * c[0];
        accumulate(sum, out, c[1], r->hidden);
        for (int64_t i = 0; i < r->hidden; i++) {
            if (config->mix == MB_MIX_AVERAGE) sum[i] = sum[i] * 0.5f;
            if (config->mix == MB_MIX_SUM_OVER_SQRT2) sum[i] = sum[i] * 0.707106781f;
        }
    }
    return MOEBLOCK_OK;
}

// y = y / sqrt(mean(y^2) + eps) * weight, row by row.
static moeblock_status norm_output(struct mb_reference *r, float *y)
{
    float *weight;
    MB_TRY(mb_reference_vector(r, MB_ROLE_OUT_NORM, r->hidden, &weight));
    for (int64_t t = 0; weight && t < r->tokens; t++) {
        float *row = y + t * r->hidden;
        mb_reference_rms_norm(row, r->hidden, r->config->rms_norm_eps);
        for (int64_t i = 0; i < r->hidden; i++) row[i] = mb_one_nan(row[i] * weight[i]);
    }
    return MOEBLOCK_OK;
}

// y = y * (1 + w), channel by channel.
static moeblock_status scale_output(struct mb_reference *r, float *y)
{
    float *weight;
    MB_TRY(mb_reference_vector(r, MB_ROLE_OUTPUT_SCALE, r->hidden, &weight));
    for (int64_t i = 0; weight && i < r->tokens * r->hidden; i++)
        y[i] = mb_one_nan(y[i] * (1.0f + weight[i % r->hidden]));
    return MOEBLOCK_OK;
}

// Rows of x, or of aux, as experts read them.
static moeblock_status make_rows(struct mb_reference *r, const float *x, float **rows)
{
    const int64_t length = mb_reference_length(r, r->hidden);
    MB_TRY(mb_reference_take(r, r->tokens * length, sizeof(float), rows));
    for (int64_t t = 0; t < r->tokens; t++) mb_reference_row(r, x + t * r->hidden, r->hidden, *rows + t * length);
    return MOEBLOCK_OK;
}

// What the shared expert reads: the rows of x, or those of aux.
static moeblock_status shared_rows(struct mb_reference *r, const float *aux, float **rows)
{
    if (r->config->shared_input == MB_INPUT_HIDDEN) return MOEBLOCK_OK;
    if (!aux)
        return mb_fail(r->error, MOEBLOCK_INVALID_ARGUMENT,
                       "computing the reference: experts.shared.input is \"aux\" and no aux tensor is given");
    return make_rows(r, aux, rows);
}

static moeblock_status compute_block(struct mb_reference *r, float *y, int32_t *ids_out, float *w_out)
{
    const moeblock_config *config = r->config;
    const float *x = r->input->x;
    float *rows = NULL, *w = NULL;
    int32_t *ids = NULL;
    MB_TRY(make_rows(r, x, &rows));
    memset(y, 0, (size_t)(r->tokens * r->hidden) * sizeof *y);
    if (config->routed_enabled) {
        MB_TRY(mb_reference_take(r, r->tokens * r->slots, sizeof *ids, &ids));
        MB_TRY(mb_reference_take(r, r->tokens * r->slots, sizeof *w, &w));
        MB_TRY(mb_reference_route(r, ids, w, ids_out, w_out));
        MB_TRY(compute_routed(r, rows, x, ids, w, y));
    }
    if (config->shared_enabled) {
        MB_TRY(shared_rows(r, r->input->aux, &rows));
        MB_TRY(add_shared(r, rows, x, y));
    }
    MB_TRY(norm_output(r, y));
    return scale_output(r, y);
}

moeblock_status mb_reference(moeblock_context *context, const moeblock_config *config, moeblock_weights *weights,
                             int64_t layer, moeblock_compute compute, const struct mb_reference_input *input,
                             int64_t tokens, float *y, int32_t *ids, float *route_weights, moeblock_error *error)
{
    struct mb_reference r = {
        .allocator = &context->allocator,
        .config = config,
        .weights = weights,
        .error = error,
        .input = input,
        .layer = layer,
        .tokens = tokens,
        .hidden = config->hidden_size,
        .width = config->latent_size ? config->latent_size : config->hidden_size,
        .classes = config->num_experts + config->router.null_experts,
        .k = config->num_experts_per_tok,
        .slots = mb_all_slots(config),
        .compute = compute,
    };
    if (compute == MOEBLOCK_COMPUTE_AUTO) {
        struct mb_matrix down;
        const enum mb_projection decides = config->routed_enabled ? MB_PROJ_DOWN : MB_PROJ_SHARED_DOWN;
        MB_TRY(mb_projection_find(config, weights, decides, layer, 0, &down, error));
        r.compute = mb_format_table[down.format].f32_compute ? MOEBLOCK_COMPUTE_F32 : MOEBLOCK_COMPUTE_BF16;
    }
    const uint64_t mode = mb_flush_begin();
    const moeblock_status status = compute_block(&r, y, ids, route_weights);
    mb_flush_end(mode);
    mb_reference_release(&r, NULL);
    return status;
}
