// SPDX-License-Identifier: Apache-2.0
// Which experts a token goes to, from its selection scores: the best k of all, of the best groups, or of every group.
// Groups are runs of classes / n_group consecutive ids.
#include <string.h>

#include "routers/primitives.h"
#include "routers/router.h"

// Fills group_scores with the best score of each group, or with the sum of the best two (DeepSeek-V3).
static void score_groups(const struct mb_router_config *config, const float *choice, int64_t size, float *group_scores)
{
    const int64_t best = config->group_score == MB_GROUP_SUM_TOP2 && size > 1 ? 2 : 1;
    for (int64_t g = 0; g < config->n_group; g++) {
        int32_t top[2];
        const float *member = choice + g * size;
        mb_top_k(member, size, best, top);
        group_scores[g] = best == 2 ? member[top[0]] + member[top[1]] : member[top[0]];
    }
}

// Masked experts keep a score of 0 and compete: one of them wins over an allowed expert whose biased score is negative
// (axk2, moe-families section 7).
static void choose_over_zeros(const float *choice, int64_t classes, int64_t size, int64_t k,
                              const struct mb_choose_scratch *scratch, int64_t groups, int32_t *ids)
{
    memset(scratch->values, 0, (size_t)classes * sizeof *scratch->values);
    for (int64_t j = 0; j < groups; j++) {
        const int64_t first = scratch->groups[j] * size;
        memcpy(scratch->values + first, choice + first, (size_t)size * sizeof *choice);
    }
    mb_top_k(scratch->values, classes, k, ids);
}

// Masked experts stand at -infinity, that is, only members of the kept groups are candidates, even those whose score is
// NaN. Marks keep the candidates in ascending id, so that ties still go to the lower one.
static void choose_among_kept(const float *choice, int64_t size, int64_t k, const struct mb_router_config *config,
                              const struct mb_choose_scratch *scratch, int32_t *ids)
{
    memset(scratch->marks, 0, (size_t)config->n_group);
    for (int64_t j = 0; j < config->topk_group; j++) scratch->marks[scratch->groups[j]] = 1;
    int64_t count = 0;
    for (int64_t g = 0; g < config->n_group; g++) {
        if (!scratch->marks[g]) continue;
        for (int64_t i = g * size; i < (g + 1) * size; i++) {
            scratch->candidates[count] = (int32_t)i;
            scratch->values[count++] = choice[i];
        }
    }
    mb_top_k(scratch->values, count, k, ids);
    for (int64_t j = 0; j < k; j++) ids[j] = scratch->candidates[ids[j]];
}

static void choose_limited(const struct mb_router_config *config, const float *choice, int64_t classes, int64_t k,
                           const struct mb_choose_scratch *scratch, int32_t *ids)
{
    const int64_t size = classes / config->n_group;
    score_groups(config, choice, size, scratch->group_scores);
    mb_top_k(scratch->group_scores, config->n_group, config->topk_group, scratch->groups);
    if (config->group_fill == MB_FILL_ZERO)
        choose_over_zeros(choice, classes, size, k, scratch, config->topk_group, ids);
    else
        choose_among_kept(choice, size, k, config, scratch, ids);
}

static void choose_per_group(const struct mb_router_config *config, const float *choice, int64_t classes, int64_t k,
                             int32_t *ids)
{
    const int64_t size = classes / config->n_group, each = k / config->n_group;
    for (int64_t g = 0; g < config->n_group; g++) {
        int32_t *chosen = ids + g * each;
        mb_top_k(choice + g * size, size, each, chosen);
        for (int64_t j = 0; j < each; j++) chosen[j] += (int32_t)(g * size);
    }
}

// A pass over marks sorts any number of ids in time linear in the classes.
static void sort_ids(uint8_t *marks, int64_t classes, int64_t k, int32_t *ids)
{
    memset(marks, 0, (size_t)classes);
    for (int64_t j = 0; j < k; j++) marks[ids[j]] = 1;
    int64_t count = 0;
    for (int64_t i = 0; i < classes && count < k; i++)
        if (marks[i]) ids[count++] = (int32_t)i;
}

void mb_router_choose(const struct mb_router_config *config, const float *choice, int64_t classes, int64_t k,
                      const struct mb_choose_scratch *scratch, int32_t *ids)
{
    if (config->groups == MB_GROUPS_LIMITED)
        choose_limited(config, choice, classes, k, scratch, ids);
    else if (config->groups == MB_GROUPS_PER_GROUP)
        choose_per_group(config, choice, classes, k, ids);
    else
        mb_top_k(choice, classes, k, ids);
    sort_ids(scratch->marks, classes, k, ids);
}
