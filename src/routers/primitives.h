// SPDX-License-Identifier: Apache-2.0
// The primitives that the router pipeline is a chain of, one function each, on one token at a time. Everything is
// float32, multiply and add rounded separately, sums in ascending order: the bits of a token depend on nothing else.
#ifndef MB_ROUTERS_PRIMITIVES_H
#define MB_ROUTERS_PRIMITIVES_H

#include "config/config.h"
#include "moeblock/tensor.h"

// input.c. What the linear reads in place of the caller's row.
bool mb_router_input_changes(const struct mb_router_config *config);
// out = row, [RMS-normalised without weight,] [times vector[hidden],] times the constant.
void mb_router_input_row(const struct mb_router_config *config, const float *row, const float *vector, int64_t hidden,
                         float *out);

// score.c. Logits in place: times logit_scale, then softcap * tanh(logit / softcap).
void mb_router_logits(const struct mb_router_config *config, float *logits, int64_t n);
// Values in place to the nearest BF16 or F16; any other dtype leaves them alone.
void mb_router_round(moeblock_dtype dtype, float *values, int64_t n);
// scores[i] from logits[i] (softmax: over all n classes, null experts included).
void mb_router_score(enum mb_score score, const float *logits, int64_t n, float *scores);
// Softmax of n values; out may be values. A NaN or +infinity among them makes every result NaN.
void mb_softmax(const float *values, int64_t n, float *out);

// choose.c. Memory that choosing needs besides its output.
struct mb_choose_scratch {
    float *values;       // [classes]
    int32_t *candidates; // [classes]
    float *group_scores; // [n_group]
    int32_t *groups;     // [n_group], best first
    uint8_t *marks;      // [classes]
};
// Writes the k chosen classes in ascending id: k distinct ids below `classes` for any scores.
void mb_router_choose(const struct mb_router_config *config, const float *choice, int64_t classes, int64_t k,
                      const struct mb_choose_scratch *scratch, int32_t *ids);

// weigh.c. weights[j] of class ids[j] from its score or logit: post, normalise, scale, factor of the expert (`factors`
// NULL or [classes]).
void mb_router_weigh(const struct mb_router_config *config, const float *logits, const float *scores,
                     const float *factors, const int32_t *ids, int64_t k, float *weights);
// The same where logits[j] is already that of ids[j].
void mb_router_weigh_kept(const struct mb_router_config *config, const float *logits, const float *factors,
                          const int32_t *ids, int64_t k, float *weights);

#endif
