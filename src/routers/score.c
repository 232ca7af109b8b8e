// SPDX-License-Identifier: Apache-2.0
// From logits to scores: the functions of moe-families section 3.2, `softcap` and `score`; the roundings of
// `precision`.
#include <math.h>
#include <string.h>

#include "base/float.h"
#include "kernels/math_inline.h"
#include "routers/primitives.h"

void mb_router_logits(const struct mb_router_config *config, float *logits, int64_t n)
{
    const float scale = (float)config->logit_scale, cap = (float)config->softcap;
    if (scale != 1.0f)
        for (int64_t i = 0; i < n; i++) logits[i] = logits[i] * scale;
    if (cap != 0.0f)
        for (int64_t i = 0; i < n; i++) logits[i] = cap * mb_tanh_body(logits[i] / cap);
}

void mb_router_round(moeblock_dtype dtype, float *values, int64_t n)
{
    if (dtype == MOEBLOCK_BF16)
        for (int64_t i = 0; i < n; i++) values[i] = mb_round_bf16(values[i]);
    if (dtype == MOEBLOCK_F16)
        for (int64_t i = 0; i < n; i++) values[i] = mb_from_f16(mb_to_f16(values[i]));
}

// The maximum is subtracted first, so that exp cannot overflow.
void mb_softmax(const float *values, int64_t n, float *out)
{
    float maximum = -INFINITY, sum = 0.0f;
    for (int64_t i = 0; i < n; i++)
        if (values[i] > maximum) maximum = values[i];
    for (int64_t i = 0; i < n; i++) {
        out[i] = mb_exp_body(values[i] - maximum);
        sum = sum + out[i];
    }
    for (int64_t i = 0; i < n; i++) out[i] = out[i] / sum;
}

static void sigmoid(const float *logits, int64_t n, float *scores)
{
    for (int64_t i = 0; i < n; i++) scores[i] = mb_sigmoid_body(logits[i]);
}

static void sqrt_softplus(const float *logits, int64_t n, float *scores)
{
    for (int64_t i = 0; i < n; i++) scores[i] = sqrtf(mb_softplus_body(logits[i]));
}

static void identity(const float *logits, int64_t n, float *scores)
{
    memcpy(scores, logits, (size_t)n * sizeof *scores);
}

void mb_router_score(enum mb_score score, const float *logits, int64_t n, float *scores)
{
    static void (*const functions[])(const float *logits, int64_t n, float *scores) = {
        [MB_SCORE_SOFTMAX] = mb_softmax,
        [MB_SCORE_SIGMOID] = sigmoid,
        [MB_SCORE_SQRT_SOFTPLUS] = sqrt_softplus,
        [MB_SCORE_IDENTITY] = identity,
    };
    functions[score](logits, n, scores);
}
