// SPDX-License-Identifier: Apache-2.0
// The weights of the chosen experts: from the unbiased score (or the logit), normalised and scaled. Sums run over
// ascending expert id. Normalisation divides whenever it is asked for, also for a single expert per token, as the
// transformers library does in every family (DeepSeek's own code skips it for k = 1; moe-families section 7).
#include <math.h>

#include "kernels/math_inline.h"
#include "routers/primitives.h"

// weights in place: softmax or sigmoid of the kept logits.
static void post(enum mb_post kind, float *weights, int64_t k)
{
    if (kind == MB_POST_SOFTMAX_K) mb_softmax(weights, k, weights);
    if (kind == MB_POST_SIGMOID_K)
        for (int64_t j = 0; j < k; j++) weights[j] = mb_sigmoid_body(weights[j]);
}

static float sum_of(const float *weights, int64_t k)
{
    float sum = 0.0f;
    for (int64_t j = 0; j < k; j++) sum = sum + weights[j];
    return sum;
}

// (sum |w|^p)^(1/p); p = 1 and 2, the ones in use, without exp and log.
static float p_norm(const float *weights, int64_t k, float p)
{
    float sum = 0.0f;
    for (int64_t j = 0; j < k; j++) {
        const float magnitude = fabsf(weights[j]);
        sum = sum + (p == 1.0f   ? magnitude
                     : p == 2.0f ? magnitude * magnitude
                                 : mb_exp_body(p * mb_log_body(magnitude)));
    }
    return p == 1.0f ? sum : p == 2.0f ? sqrtf(sum) : mb_exp_body(mb_log_body(sum) / p);
}

static void normalise(const struct mb_router_config *config, float *weights, int64_t k)
{
    const float eps = (float)config->norm_eps;
    float divisor = 1.0f;
    switch (config->norm) {
    case MB_NORM_NONE:
        return;
    case MB_NORM_SUM:
        divisor = sum_of(weights, k) + eps;
        break;
    case MB_NORM_SUM_CLAMPED:
        divisor = sum_of(weights, k);
        if (divisor < eps) divisor = eps; // a NaN stays
        break;
    case MB_NORM_P:
        divisor = p_norm(weights, k, (float)config->norm_p);
        break;
    }
    for (int64_t j = 0; j < k; j++) weights[j] = weights[j] / divisor;
}

// weights in place, from the score or logit of each.
static void finish(const struct mb_router_config *config, const float *factors, const int32_t *ids, int64_t k,
                   float *weights)
{
    post(config->post, weights, k);
    normalise(config, weights, k);
    if (config->scale_on == MB_SCALE_WEIGHTS)
        for (int64_t j = 0; j < k; j++) weights[j] = weights[j] * (float)config->scale;
    if (factors)
        for (int64_t j = 0; j < k; j++) weights[j] = weights[j] * factors[ids[j]];
    for (int64_t j = 0; j < k; j++) weights[j] = mb_one_nan(weights[j]);
}

void mb_router_weigh(const struct mb_router_config *config, const float *logits, const float *scores,
                     const float *factors, const int32_t *ids, int64_t k, float *weights)
{
    const float *source = config->post == MB_POST_NONE ? scores : logits;
    for (int64_t j = 0; j < k; j++) weights[j] = source[ids[j]];
    finish(config, factors, ids, k, weights);
}

void mb_router_weigh_kept(const struct mb_router_config *config, const float *logits, const float *factors,
                          const int32_t *ids, int64_t k, float *weights)
{
    for (int64_t j = 0; j < k; j++) weights[j] = logits[j];
    finish(config, factors, ids, k, weights);
}
