// SPDX-License-Identifier: Apache-2.0
// The reference's named router operators: the formulas of moe-families section 1.8 in plain loops, on the logits of one
// token.
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "kernels/activation.h"
#include "kernels/math.h"
#include "kernels/math_inline.h"
#include "reference_parts.h"

moeblock_status mb_reference_load_operator(struct mb_reference *r, struct mb_reference_router *router)
{
    const struct mb_router_config *config = router->config;
    const int64_t d = config->state_size;
    float *learned;
    MB_TRY(mb_reference_vector(r, MB_ROLE_LEARNED_SCALE, 1, &learned));
    router->learned = learned ? learned[0] : 1.0f;
    if (config->ids == MB_IDS_TOKEN_TABLE) {
        MB_TRY(mb_reference_take(r, config->table_size * r->k, sizeof *router->table, &router->table));
        MB_TRY(mb_token_table(r->config, r->weights, r->layer, router->table, r->error));
    }
    if (strcmp(config->type, "mlp_state")) return MOEBLOCK_OK;
    MB_TRY(mb_reference_linear(r, MB_PROJ_STATE_DOWN, 0, true, false, &router->down));
    MB_TRY(mb_reference_linear(r, MB_PROJ_STATE_FC1, 0, true, false, &router->fc1));
    MB_TRY(mb_reference_linear(r, MB_PROJ_STATE_FC2, 0, true, false, &router->fc2));
    MB_TRY(mb_reference_vector(r, MB_ROLE_STATE_SCALE, d, &router->state_scale));
    MB_TRY(mb_reference_vector(r, MB_ROLE_STATE_NORM, d, &router->state_norm));
    MB_TRY(mb_reference_take(r, d, sizeof(float), &router->state));
    MB_TRY(mb_reference_take(r, d, sizeof(float), &router->a));
    return mb_reference_take(r, d, sizeof(float), &router->b);
}

static void gelu_layer(const struct mb_linear *linear, const float *from, float *to)
{
    const struct mb_activation gelu = {.kind = mb_activation_find("gelu")};
    for (int64_t i = 0; i < linear->rows; i++) to[i] = mb_reference_dot(linear, i, from);
    mb_activation_apply(&gelu, NULL, to, to, linear->rows);
}

// zaya: r = down x [+ r_before * s]; l = out(gelu(fc2(gelu(fc1(norm r))))).
void mb_reference_network(const struct mb_reference *r, const struct mb_reference_router *router, int64_t t)
{
    const int64_t d = router->config->state_size;
    const float *before = r->input->router_state;
    for (int64_t i = 0; i < d; i++) {
        router->state[i] = mb_reference_dot(&router->down, i, r->input->x + t * r->hidden);
        if (router->state_scale)
            router->state[i] = mb_one_nan(router->state[i] + before[t * d + i] * router->state_scale[i]);
        if (r->input->router_state_out) r->input->router_state_out[t * d + i] = router->state[i];
    }
    mb_reference_rms_norm(router->state, d, r->config->rms_norm_eps);
    for (int64_t i = 0; i < d; i++) router->a[i] = router->state[i] * router->state_norm[i];
    gelu_layer(&router->fc1, router->a, router->b);
    gelu_layer(&router->fc2, router->b, router->a);
    for (int64_t i = 0; i < router->linear.rows; i++) {
        const float dot = mb_reference_rounded(router->rounds, mb_reference_dot(&router->linear, i, router->a));
        const float logit = dot * (float)router->config->logit_scale, cap = (float)router->config->softcap;
        router->logits[i] = cap != 0.0f ? cap * mb_tanh(logit / cap) : logit;
    }
}

// softmax over the logits that come near the best one, which is `best`; `without` takes no part.
static float masked_weight(const struct mb_reference *r, const struct mb_reference_router *router, int64_t best,
                           int64_t without)
{
    const float threshold = 2.0f * (float)router->config->jitter_eps, m = router->logits[best];
    float sum = 0.0f;
    for (int64_t i = 0; i < r->classes; i++) {
        const float l = router->logits[i], size = fabsf(l) > m ? fabsf(l) : m;
        const bool dropped = i == without || (i != best && (m - l) / size > threshold);
        if (!dropped) sum = sum + mb_exp(l - m);
    }
    return mb_one_nan(1.0f / sum);
}

// sparsemixer: two picks.
void mb_reference_mix(const struct mb_reference *r, const struct mb_reference_router *router, int32_t *ids, float *w)
{
    memset(router->closed, 0, (size_t)r->classes);
    const int64_t first = mb_reference_best(router->logits, router->closed, 0, r->classes);
    router->closed[first] = 1;
    const int64_t second = mb_reference_best(router->logits, router->closed, 0, r->classes);
    const bool swap = first > second;
    ids[swap] = (int32_t)first;
    ids[!swap] = (int32_t)second;
    w[swap] = mb_reference_rounded(router->rounds, masked_weight(r, router, first, -1));
    w[!swap] = mb_reference_rounded(router->rounds, masked_weight(r, router, second, first));
}

// inkling: the softmax of log(sigmoid) over the chosen and the shared experts together.
void mb_reference_join(const struct mb_reference *r, const struct mb_reference_router *router, int32_t *ids, float *w)
{
    const float scale = (float)router->config->scale * router->learned;
    for (int64_t j = 0; j < r->slots; j++) {
        if (j >= r->k) ids[j] = (int32_t)(r->config->num_experts + j - r->k);
        w[j] = -mb_softplus(-router->logits[ids[j]]);
    }
    mb_reference_softmax(w, r->slots, w);
    for (int64_t j = 0; j < r->slots; j++) w[j] = mb_reference_rounded(router->rounds, mb_one_nan(w[j] * scale));
}

// doge: an expert is a pair of keys. Only pairs of the best k of either half are looked at, in the order of both.
void mb_reference_keys(const struct mb_reference *r, const struct mb_reference_router *router, int32_t *ids, float *w)
{
    const int64_t keys = router->linear.rows / 2, best = r->k < keys ? r->k : keys;
    float *rank = router->scores; // -place of a key among the best of its half, so that equal sums have an order
    memset(router->closed, 0, (size_t)(2 * keys));
    for (int half = 0; half < 2; half++)
        for (int64_t j = 0; j < best; j++) {
            const int64_t at = mb_reference_best(router->logits, router->closed, half * keys, (half + 1) * keys);
            router->closed[at] = 1;
            rank[half * keys + j] = (float)at;
        }
    for (int64_t j = 0; j < r->k; j++) {
        int64_t x = -1, y = -1;
        float sum = 0;
        for (int64_t pair = 0; pair < best * best; pair++) {
            const int64_t a = (int64_t)rank[pair / best], b = (int64_t)rank[keys + pair % best];
            const float value = router->logits[a] + router->logits[b];
            bool taken = false;
            for (int64_t i = 0; i < j; i++) taken |= ids[i] == a * keys + b - keys;
            if (taken || !(x < 0 || value > sum || (isnan(sum) && !isnan(value)))) continue;
            x = a, y = b, sum = value;
        }
        ids[j] = (int32_t)(x * keys + y - keys);
        w[j] = sum;
    }
    for (int64_t i = 1; i < r->k; i++) // into ascending id
        for (int64_t j = i; j > 0 && ids[j - 1] > ids[j]; j--) {
            const int32_t id = ids[j];
            const float weight = w[j];
            ids[j] = ids[j - 1], ids[j - 1] = id;
            w[j] = w[j - 1], w[j - 1] = weight;
        }
    mb_reference_weigh_kept(r, router, ids, r->k, w);
}

// grovemoe: the second bank's expert of each group that was chosen from, once, with the sum of the weights.
void mb_reference_adjugate(const struct mb_reference *r, int32_t *ids, float *w)
{
    const int64_t experts = r->config->num_experts, group = experts / r->config->second.count;
    int64_t used = r->k - 1;
    for (int64_t j = r->k; j < r->slots; j++) ids[j] = -1, w[j] = 0.0f;
    for (int64_t j = 0; j < r->k; j++) {
        const int32_t id = (int32_t)(experts + ids[j] / group);
        if (used < r->k || ids[used] != id) ids[++used] = id;
        w[used] = mb_one_nan(w[used] + (float)r->config->second.scale * w[j]);
    }
}

// switch: per sequence and expert the first `capacity` tokens stay.
void mb_reference_drop(const struct mb_reference *r, int64_t *taken, int32_t *ids, float *w)
{
    int64_t sequence = 0, end = r->input->seq_lens && r->input->n_seq ? r->input->seq_lens[0] : r->tokens;
    for (int64_t t = 0; t < r->tokens; t++) {
        while (t >= end) {
            end += r->input->seq_lens[++sequence];
            memset(taken, 0, (size_t)r->classes * sizeof *taken);
        }
        for (int64_t j = t * r->slots; j < t * r->slots + r->k; j++)
            if (++taken[ids[j]] > r->config->router.capacity) ids[j] = -1, w[j] = 0.0f;
    }
}

static float nan_least(float value) { return isnan(value) ? -INFINITY : value; }

// nllb: where the choice in slot j of a token stands among its own: 0 for the best raw weight.
static int64_t rank_of(const struct mb_reference *r, const int32_t *ids, const float *w, int64_t j)
{
    const float mine = nan_least(w[j]);
    int64_t rank = 0;
    for (int64_t i = 0; i < r->k; i++) {
        const float other = nan_least(w[i]);
        rank += i != j && (other > mine || (other == mine && ids[i] < ids[j]));
    }
    return rank;
}

static float best_of(const struct mb_reference *r, const float *w)
{
    float best = -INFINITY;
    for (int64_t j = 0; j < r->k; j++) best = nan_least(w[j]) > best ? nan_least(w[j]) : best;
    return best;
}

// Choices of a sequence's tokens [t0, t1) that stand in the queue of an expert before the one in slot j of token t.
static int64_t place_of(const struct mb_reference *r, int64_t t0, int64_t t1, int64_t t, int64_t j, const int32_t *ids,
                        const float *w)
{
    const bool arrival = r->config->router.capacity_order == MB_ORDER_ARRIVAL;
    const int32_t expert = ids[t * r->slots + j];
    const int64_t rank = rank_of(r, ids + t * r->slots, w + t * r->slots, j);
    const float mine = best_of(r, w + t * r->slots);
    int64_t place = 0;
    for (int64_t u = t0; u < t1; u++) {
        const int32_t *other = ids + u * r->slots;
        const float best = best_of(r, w + u * r->slots);
        for (int64_t i = 0; i < r->k; i++) {
            if (other[i] != expert || (u == t && i == j)) continue;
            const int64_t its = rank_of(r, other, w + u * r->slots, i);
            place += its < rank || (its == rank && (arrival || best == mine ? u < t : best > mine));
        }
    }
    return place;
}

// nllb: first choices of a sequence before all second ones; then the weights, of all choices or of those that stay.
moeblock_status mb_reference_queue(struct mb_reference *r, const struct mb_reference_router *router, int32_t *ids,
                                   float *w)
{
    const struct mb_router_config *config = router->config;
    const int64_t *lengths = r->input->seq_lens;
    uint8_t *drops;
    MB_TRY(mb_reference_take(r, r->tokens * r->k + 1, 1, &drops));
    for (int64_t t0 = 0, t1, sequence = 0; t0 < r->tokens; t0 = t1) {
        const int64_t n = lengths && r->input->n_seq ? lengths[sequence++] : r->tokens;
        const int64_t share = 2 * ((n + r->config->num_experts - 1) / r->config->num_experts);
        const int64_t capacity = config->capacity_fraction > 0 ? (int64_t)ceil(config->capacity_fraction * (double)n)
                                 : config->capacity            ? config->capacity
                                                               : share;
        t1 = t0 + n;
        for (int64_t t = t0; t < t1; t++)
            for (int64_t j = 0; j < r->k; j++) drops[t * r->k + j] = place_of(r, t0, t1, t, j, ids, w) >= capacity;
    }
    for (int64_t t = 0; t < r->tokens; t++) {
        int32_t *id = ids + t * r->slots;
        float *weight = w + t * r->slots;
        int64_t kept = 0;
        if (!config->norm_kept) mb_reference_weigh_kept(r, router, id, r->k, weight);
        for (int64_t j = 0; j < r->k; j++) {
            if (drops[t * r->k + j]) continue;
            id[kept] = id[j];
            weight[kept++] = weight[j];
        }
        if (config->norm_kept) mb_reference_weigh_kept(r, router, id, kept, weight);
        for (; kept < r->k; kept++) id[kept] = -1, weight[kept] = 0.0f;
    }
    return MOEBLOCK_OK;
}
