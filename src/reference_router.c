// SPDX-License-Identifier: Apache-2.0
// The reference's router: the formulas of moe-families sections 3.1 and 3.2 in plain loops, one token after the other.
// Its named operators are in reference_operators.c.
#include <math.h>
#include <string.h>

#include "base/float.h"
#include "base/status.h"
#include "kernels/math.h"
#include "kernels/math_inline.h"
#include "reference_parts.h"

static void subtract_mean(float *values, int64_t n)
{
    float sum = 0.0f;
    for (int64_t i = 0; i < n; i++) sum = sum + values[i];
    for (int64_t i = 0; i < n; i++) values[i] = values[i] - sum / (float)n;
}

// The pipeline's tensors of one bank.
static moeblock_status load_router(struct mb_reference *r, int64_t bank, struct mb_reference_router *out)
{
    const enum mb_projection linear = bank ? MB_PROJ_ROUTER_SECOND : MB_PROJ_ROUTER;
    const int64_t biases = mb_role_wanted(r->config, MB_ROLE_ROUTER_SECOND) ? 2 * r->classes : r->classes;
    struct mb_matrix matrix;
    *out = (struct mb_reference_router){.config = &r->config->router};
    MB_TRY(mb_projection_find(r->config, r->weights, linear, r->layer, 0, &matrix, r->error));
    if (out->config->precision == MB_PRECISION_MODEL) out->rounds = matrix.codes.dtype;
    MB_TRY(mb_reference_linear(r, linear, 0, false, false, &out->linear));
    MB_TRY(mb_reference_vector(r, MB_ROLE_ROUTER_BIAS, matrix.rows, &out->linear.bias));
    MB_TRY(mb_reference_vector(r, MB_ROLE_SELECTION_BIAS, biases, &out->selection_bias));
    if (out->selection_bias) out->selection_bias += bank * r->classes;
    if (out->selection_bias && out->config->selection_bias_subtract_mean)
        subtract_mean(out->selection_bias, r->classes);
    MB_TRY(mb_reference_vector(r, MB_ROLE_INPUT_SCALE, r->hidden, &out->input_scale));
    MB_TRY(mb_reference_vector(r, MB_ROLE_PER_EXPERT_SCALE, r->config->num_experts, &out->factors));
    const int64_t most = r->classes > matrix.rows ? r->classes : matrix.rows;
    MB_TRY(mb_reference_take(r, r->hidden, sizeof(float), &out->input));
    MB_TRY(mb_reference_take(r, most, sizeof(float), &out->logits));
    MB_TRY(mb_reference_take(r, most, sizeof(float), &out->scores));
    MB_TRY(mb_reference_take(r, most, sizeof(float), &out->choice));
    MB_TRY(mb_reference_take(r, most, sizeof(float), &out->group_scores));
    MB_TRY(mb_reference_take(r, most, 1, &out->closed));
    MB_TRY(mb_reference_take(r, most, 1, &out->group_closed));
    return mb_reference_load_operator(r, out);
}

void mb_reference_softmax(const float *values, int64_t n, float *out)
{
    float maximum = -INFINITY, sum = 0.0f;
    for (int64_t i = 0; i < n; i++) maximum = values[i] > maximum ? values[i] : maximum;
    for (int64_t i = 0; i < n; i++) sum = sum + (out[i] = mb_exp(values[i] - maximum));
    for (int64_t i = 0; i < n; i++) out[i] = out[i] / sum;
}

static void score(enum mb_score kind, const float *logits, int64_t n, float *out)
{
    if (kind == MB_SCORE_SOFTMAX) {
        mb_reference_softmax(logits, n, out);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        out[i] = kind == MB_SCORE_SIGMOID         ? mb_sigmoid(logits[i])
                 : kind == MB_SCORE_SQRT_SOFTPLUS ? sqrtf(mb_softplus(logits[i]))
                                                  : logits[i];
}

float mb_reference_rounded(moeblock_dtype dtype, float value)
{
    return dtype == MOEBLOCK_BF16  ? mb_round_bf16(value)
           : dtype == MOEBLOCK_F16 ? mb_from_f16(mb_to_f16(value))
                                   : value;
}

static void compute_logits(const struct mb_reference *r, const struct mb_reference_router *router, const float *x)
{
    const struct mb_router_config *config = router->config;
    const float constant = config->input_scale != 0.0 ? (float)config->input_scale : 1.0f / sqrtf((float)r->hidden);
    memcpy(router->input, x, (size_t)r->hidden * sizeof *x);
    if (config->input_norm) mb_reference_rms_norm(router->input, r->hidden, config->input_norm_eps);
    for (int64_t i = 0; i < r->hidden; i++) {
        if (router->input_scale) router->input[i] = router->input[i] * router->input_scale[i];
        router->input[i] = router->input[i] * constant;
    }
    for (int64_t i = 0; i < router->linear.rows; i++) {
        const float dot = mb_reference_rounded(router->rounds, mb_reference_dot(&router->linear, i, router->input));
        const float logit = dot * (float)config->logit_scale;
        const float cap = (float)config->softcap;
        router->logits[i] = cap != 0.0f ? cap * mb_tanh(logit / cap) : logit;
    }
}

int64_t mb_reference_best(const float *values, const uint8_t *closed, int64_t from, int64_t to)
{
    int64_t found = -1;
    for (int64_t i = from; i < to; i++) {
        if (closed[i]) continue;
        if (found < 0 || values[i] > values[found] || (isnan(values[found]) && !isnan(values[i]))) found = i;
    }
    return found;
}

// Closes (or sets to 0) every expert outside the topk_group best groups.
static void limit_groups(const struct mb_reference *r, const struct mb_reference_router *router)
{
    const struct mb_router_config *config = router->config;
    const int64_t size = r->classes / config->n_group;
    for (int64_t g = 0; g < config->n_group; g++) {
        const int64_t first = mb_reference_best(router->choice, router->closed, g * size, (g + 1) * size);
        router->group_scores[g] = router->choice[first];
        router->closed[first] = 1;
        const int64_t second = mb_reference_best(router->choice, router->closed, g * size, (g + 1) * size);
        if (config->group_score == MB_GROUP_SUM_TOP2 && second >= 0)
            router->group_scores[g] = router->choice[first] + router->choice[second];
        router->closed[first] = 0;
    }
    memset(router->group_closed, 0, (size_t)config->n_group);
    for (int64_t j = 0; j < config->topk_group; j++)
        router->group_closed[mb_reference_best(router->group_scores, router->group_closed, 0, config->n_group)] = 1;
    for (int64_t i = 0; i < r->classes; i++) {
        if (router->group_closed[i / size]) continue; // one of the kept groups
        if (config->group_fill == MB_FILL_ZERO) router->choice[i] = 0.0f;
        if (config->group_fill == MB_FILL_NEGATIVE_INFINITY) router->closed[i] = 1;
    }
}

void mb_reference_weigh_kept(const struct mb_reference *r, const struct mb_reference_router *router, const int32_t *ids,
                             int64_t k, float *w)
{
    const struct mb_router_config *config = router->config;
    const float p = (float)config->norm_p, eps = (float)config->norm_eps;
    if (config->post == MB_POST_SOFTMAX_K) mb_reference_softmax(w, k, w);
    if (config->post == MB_POST_SIGMOID_K) score(MB_SCORE_SIGMOID, w, k, w);
    float sum = 0.0f, powers = 0.0f;
    for (int64_t j = 0; j < k; j++) {
        const float size = fabsf(w[j]);
        sum = sum + w[j];
        powers = powers + (p == 1.0f ? size : p == 2.0f ? size * size : mb_exp(p * mb_log(size)));
    }
    const float root = p == 1.0f ? powers : p == 2.0f ? sqrtf(powers) : mb_exp(mb_log(powers) / p);
    const float divisors[] = {[MB_NORM_NONE] = 1.0f,
                              [MB_NORM_SUM] = sum + eps,
                              [MB_NORM_SUM_CLAMPED] = sum < eps ? eps : sum,
                              [MB_NORM_P] = root};
    for (int64_t j = 0; j < k; j++) {
        w[j] = w[j] / divisors[config->norm];
        if (config->scale_on == MB_SCALE_WEIGHTS) w[j] = w[j] * (float)config->scale;
        if (router->factors && ids[j] < r->config->num_experts) w[j] = w[j] * router->factors[ids[j]];
        const bool nothing = ids[j] >= r->config->num_experts && config->null_kind == MB_NULL_ZERO;
        w[j] = nothing ? 0.0f : mb_reference_rounded(router->rounds, mb_one_nan(w[j]));
    }
}

// Scores or logits of the chosen experts.
static void gather_weights(const struct mb_reference *r, const struct mb_reference_router *router, const int32_t *ids,
                           float *w)
{
    const float *source = router->config->post == MB_POST_NONE ? router->scores : router->logits;
    for (int64_t j = 0; j < r->k; j++) w[j] = source[ids[j]];
}

void mb_reference_weigh(const struct mb_reference *r, const struct mb_reference_router *router, const int32_t *ids,
                        float *w)
{
    gather_weights(r, router, ids, w);
    mb_reference_weigh_kept(r, router, ids, r->k, w);
}

static void sort_ids(int32_t *ids, int64_t k)
{
    for (int64_t i = 1; i < k; i++)
        for (int64_t j = i; j > 0 && ids[j - 1] > ids[j]; j--) {
            const int32_t lower = ids[j];
            ids[j] = ids[j - 1];
            ids[j - 1] = lower;
        }
}

// k ids in ascending order: the best of score + bias.
static void choose(const struct mb_reference *r, const struct mb_reference_router *router, int32_t *ids)
{
    const struct mb_router_config *config = router->config;
    const int64_t classes = r->classes, k = r->k;
    score(config->select_score, router->logits, classes, router->choice);
    for (int64_t i = 0; router->selection_bias && i < classes; i++)
        router->choice[i] = router->choice[i] + router->selection_bias[i];
    memset(router->closed, 0, (size_t)classes);
    if (config->groups == MB_GROUPS_LIMITED) limit_groups(r, router);
    const int64_t runs = config->groups == MB_GROUPS_PER_GROUP ? config->n_group : 1;
    for (int64_t j = 0; j < k; j++) {
        const int64_t run = j / (k / runs), size = classes / runs;
        ids[j] = (int32_t)mb_reference_best(router->choice, router->closed, run * size, (run + 1) * size);
        router->closed[ids[j]] = 1;
    }
    sort_ids(ids, k);
}

// Ids of the token's row of the table.
static moeblock_status look_up(const struct mb_reference *r, const struct mb_reference_router *router, int64_t t,
                               int32_t *ids)
{
    const int64_t id = r->input->token_ids ? r->input->token_ids[t] : -1;
    if (id < 0 || id >= router->config->table_size)
        return mb_fail(r->error, MOEBLOCK_INVALID_ARGUMENT,
                       "computing the reference: token %lld has no usable token id", (long long)t);
    memcpy(ids, router->table + id * r->k, (size_t)r->k * sizeof *ids);
    return MOEBLOCK_OK;
}

// One token: its row -> ids and weights, k slots in ascending id, then those of the second bank.
static moeblock_status route(const struct mb_reference *r, const struct mb_reference_router *router, int64_t t,
                             int32_t *ids, float *w)
{
    const char *type = router->config->type;
    const float *rows = router->config->input == MB_INPUT_AUX ? r->input->aux : r->input->x;
    if (!strcmp(type, "mlp_state"))
        mb_reference_network(r, router, t);
    else
        compute_logits(r, router, rows + t * r->hidden);
    if (!strcmp(type, "sparsemixer")) return mb_reference_mix(r, router, ids, w), MOEBLOCK_OK;
    if (!strcmp(type, "product_keys")) return mb_reference_keys(r, router, ids, w), MOEBLOCK_OK;
    score(router->config->score, router->logits, r->classes, router->scores);
    if (router->table)
        MB_TRY(look_up(r, router, t, ids));
    else
        choose(r, router, ids);
    if (!strcmp(type, "joint")) return mb_reference_join(r, router, ids, w), MOEBLOCK_OK;
    if (!strcmp(type, "capacity_by_choice")) return gather_weights(r, router, ids, w), MOEBLOCK_OK;
    mb_reference_weigh(r, router, ids, w);
    if (!strcmp(type, "adjugate")) mb_reference_adjugate(r, ids, w);
    return MOEBLOCK_OK;
}

// Copies a token's slots from ascending id to descending weight, ties by lower id, empty ones last.
static void publish(int64_t k, const int32_t *ids, const float *w, uint8_t *done, int32_t *ids_out, float *w_out)
{
    int64_t j = 0;
    for (int empty = 0; empty < 2; empty++) {
        for (int64_t i = 0; i < k; i++) done[i] = (ids[i] < 0) != empty;
        for (int64_t i; (i = mb_reference_best(w, done, 0, k)) >= 0; j++) {
            done[i] = 1;
            if (ids_out) ids_out[j] = ids[i];
            if (w_out) w_out[j] = w[i];
        }
    }
}

static moeblock_status check_inputs(const struct mb_reference *r)
{
    const struct mb_router_config *config = &r->config->router;
    const char *missing = config->input == MB_INPUT_AUX && !r->input->aux                 ? "aux"
                          : config->ids == MB_IDS_TOKEN_TABLE && !r->input->token_ids     ? "token_ids"
                          : !strcmp(config->type, "token_type") && !r->input->token_types ? "token_types"
                          : !strcmp(config->type, "mlp_state") && config->state_carried && !r->input->router_state
                              ? "router_state"
                              : NULL;
    if (!missing) return MOEBLOCK_OK;
    return mb_fail(r->error, MOEBLOCK_INVALID_ARGUMENT,
                   "computing the reference: the router reads %s and none is given", missing);
}

moeblock_status mb_reference_route(struct mb_reference *r, int32_t *ids, float *w, int32_t *ids_out, float *w_out)
{
    struct mb_reference_router routers[2];
    int64_t *taken;
    uint8_t *done;
    const struct mb_chunk *before = r->last;
    const bool banks = mb_role_wanted(r->config, MB_ROLE_ROUTER_SECOND);
    MB_TRY(check_inputs(r));
    for (int bank = 0; bank <= banks; bank++) MB_TRY(load_router(r, bank, &routers[bank]));
    MB_TRY(mb_reference_take(r, r->slots, 1, &done));
    MB_TRY(mb_reference_take(r, r->classes, sizeof *taken, &taken));
    for (int64_t t = 0; t < r->tokens; t++) {
        const int64_t at = t * r->slots, bank = banks && r->input->token_types[t] != 0;
        MB_TRY(route(r, &routers[bank], t, ids + at, w + at));
        for (int64_t j = 0; bank && j < r->k; j++) ids[at + j] += (int32_t)r->config->num_experts;
    }
    if (!strcmp(r->config->router.type, "capacity")) mb_reference_drop(r, taken, ids, w);
    if (!strcmp(r->config->router.type, "capacity_by_choice")) MB_TRY(mb_reference_queue(r, &routers[0], ids, w));
    for (int64_t t = 0; t < r->tokens; t++)
        publish(r->k, ids + t * r->slots, w + t * r->slots, done, ids_out ? ids_out + t * r->k : NULL,
                w_out ? w_out + t * r->k : NULL);
    mb_reference_release(r, before);
    return MOEBLOCK_OK;
}
