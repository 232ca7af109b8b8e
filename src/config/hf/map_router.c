// SPDX-License-Identifier: Apache-2.0
// Applies a family's router: the row's settings, changed by the keys that count. Knows no model by name.
#include <string.h>

#include "base/status.h"
#include "config/hf/map.h"

// What the family's operator reads.
static moeblock_status read_operator(const struct mb_hf_source *source, struct mb_router_config *router)
{
    if (!strcmp(router->type, "sparsemixer")) return mb_hf_number(source, MB_HF_JITTER, &router->jitter_eps);
    if (!strcmp(router->type, "capacity")) return mb_hf_int_required(source, MB_HF_CAPACITY, &router->capacity);
    if (!strcmp(router->type, "joint")) {
        bool sink = true;
        MB_TRY(mb_hf_flag(source, MB_HF_SINK, &sink));
        if (!sink)
            return mb_fail(
                source->error, MOEBLOCK_UNSUPPORTED,
                "%s: shared_expert_sink (%s) is false, expected true: the shared experts then have weights of "
                "another formula, which is not known",
                source->name, source->model_type);
    }
    if (!strcmp(router->type, "mlp_state")) {
        router->state_carried = source->layer > 0; // the first block has no block before it
        return mb_hf_int_required(source, MB_HF_STATE_SIZE, &router->state_size);
    }
    return MOEBLOCK_OK;
}

// deepseek_v4's first layers: the choice is stored, so that no bias takes part in it.
static moeblock_status read_table(const struct mb_hf_source *source, struct mb_router_config *router)
{
    if (!source->hashed) return MOEBLOCK_OK;
    router->ids = MB_IDS_TOKEN_TABLE;
    router->selection_bias = false;
    return mb_hf_int_required(source, MB_HF_VOCABULARY, &router->table_size);
}

// p of the p-norm; null: the weights stay as they are.
static moeblock_status read_p(const struct mb_hf_source *source, struct mb_router_config *router)
{
    const char *key;
    if (router->norm != MB_NORM_P) return MOEBLOCK_OK;
    if (mb_hf_said(source, MB_HF_NORM_P) && !mb_hf_find(source, MB_HF_NORM_P, &key)) router->norm = MB_NORM_NONE;
    return mb_hf_number(source, MB_HF_NORM_P, &router->norm_p);
}

// nllb: what an expert takes of a sequence. From 1 on that is every token that chooses it, and nothing need be counted.
static moeblock_status read_fraction(const struct mb_hf_source *source, struct mb_router_config *router)
{
    double fraction = 1.0;
    bool before = false, best_first = false;
    MB_TRY(mb_hf_number(source, MB_HF_CAPACITY_FRACTION, &fraction));
    if (fraction >= 1.0) return MOEBLOCK_OK;
    strcpy(router->type, "capacity_by_choice");
    MB_TRY(mb_hf_flag(source, MB_HF_NORM_BEFORE_DROP, &before));
    MB_TRY(mb_hf_flag(source, MB_HF_BEST_FIRST, &best_first));
    router->norm_kept = !before;
    router->capacity_order = best_first ? MB_ORDER_PROBABILITY : MB_ORDER_ARRIVAL;
    router->capacity_fraction = fraction > 0 ? fraction : 0.0;
    const char *key; // null: an even share's double
    if (fraction > 0 || (mb_hf_said(source, MB_HF_CAPACITY) && !mb_hf_find(source, MB_HF_CAPACITY, &key)))
        return MOEBLOCK_OK;
    return mb_hf_int_required(source, MB_HF_CAPACITY, &router->capacity);
}

// nllb: the routed sum is multiplied by what the dropout of tokens leaves on average.
static moeblock_status read_dropout(const struct mb_hf_source *source, struct mb_router_config *router)
{
    double dropout = 0.2;
    if (!(source->family->flags & MB_HF_READS_DROPOUT)) return MOEBLOCK_OK;
    MB_TRY(mb_hf_number(source, MB_HF_DROPOUT, &dropout));
    router->scale = 1.0 - dropout;
    return read_fraction(source, router);
}

// The keys that change a setting of the family's router.
static moeblock_status read_router(const struct mb_hf_source *source, struct mb_router_config *router)
{
    const unsigned flags = source->family->flags;
    bool renormalise = !(flags & MB_HF_NORM_IF_SAID), grouped = true;
    if (flags & MB_HF_READS_NORM) MB_TRY(mb_hf_flag(source, MB_HF_RENORMALISE, &renormalise));
    if (!renormalise) router->norm = MB_NORM_NONE;
    if (router->norm == MB_NORM_SUM_CLAMPED) MB_TRY(mb_hf_number(source, MB_HF_NORM_MINIMUM, &router->norm_eps));
    if (flags & MB_HF_READS_SCALE) MB_TRY(mb_hf_number(source, MB_HF_SCALE, &router->scale));
    if (router->selection_bias) MB_TRY(mb_hf_flag(source, MB_HF_SELECTION_BIAS, &router->selection_bias));
    if (flags & MB_HF_READS_ROUTER_BIAS) MB_TRY(mb_hf_flag(source, MB_HF_ROUTER_BIAS, &router->linear_bias));
    if (router->input_norm) MB_TRY(mb_hf_number(source, MB_HF_RMS_EPS, &router->input_norm_eps));
    if (flags & MB_HF_READS_LOGIT_SCALE) MB_TRY(mb_hf_number(source, MB_HF_LOGIT_SCALE, &router->logit_scale));
    bool softmax_of_k = false;
    MB_TRY(mb_hf_flag(source, MB_HF_SOFTMAX_OF_K, &softmax_of_k));
    if (softmax_of_k) router->post = MB_POST_SOFTMAX_K, router->norm = MB_NORM_NONE; // the k weights sum to 1
    MB_TRY(read_p(source, router));
    MB_TRY(read_operator(source, router));
    MB_TRY(read_table(source, router));
    MB_TRY(read_dropout(source, router));
    MB_TRY(mb_hf_number(source, MB_HF_SOFTCAP, &router->softcap));
    MB_TRY(mb_hf_int(source, MB_HF_NULL_COUNT, &router->null_experts));
    if (router->groups == MB_GROUPS_NONE) return MOEBLOCK_OK;
    if (flags & MB_HF_GROUPS_BY_K) MB_TRY(mb_hf_int(source, MB_HF_TOP_K, &router->n_group));
    MB_TRY(mb_hf_int(source, MB_HF_GROUPS, &router->n_group));
    MB_TRY(mb_hf_int(source, MB_HF_TOPK_GROUP, &router->topk_group));
    MB_TRY(mb_hf_flag(source, MB_HF_GROUPED, &grouped));
    if (!grouped) router->n_group = router->topk_group = 1;
    return MOEBLOCK_OK;
}

static void apply_effect(enum mb_hf_effect effect, moeblock_config *config, struct mb_router_config *router)
{
    switch (effect) {
    case MB_HF_NO_GROUPS:
        router->n_group = router->topk_group = 1;
        return;
    case MB_HF_SOFTMAX_K:
        router->post = MB_POST_SOFTMAX_K;
        router->norm = MB_NORM_NONE; // the k weights already sum to 1
        return;
    case MB_HF_SIGMOID_K:
        router->post = MB_POST_SIGMOID_K;
        return;
    case MB_HF_SOFTMAX_SCORE:
        router->score = router->select_score = MB_SCORE_SOFTMAX;
        router->selection_bias = false;
        router->n_group = router->topk_group = 1;
        return;
    case MB_HF_SIGMOID_SCORE:
        router->score = router->select_score = MB_SCORE_SIGMOID;
        return;
    case MB_HF_MIX_SUM:
        config->mix = MB_MIX_SUM;
        return;
    case MB_HF_MIX_AVERAGE:
        if (config->shared_enabled) config->mix = MB_MIX_AVERAGE;
        return;
    case MB_HF_AS_IS:
        return;
    }
}

// Applies the value of one text key; the family's list holds all values that are known.
static moeblock_status apply_value(const struct mb_hf_source *source, enum mb_hf_meaning meaning,
                                   moeblock_config *config, struct mb_router_config *router)
{
    const char *key, *found = NULL;
    char allowed[160] = "";
    MB_TRY(mb_hf_text(source, meaning, &found));
    if (!found) return MOEBLOCK_OK;
    for (const struct mb_hf_value *value = source->family->values; value->text; value++) {
        if (value->meaning != meaning) continue;
        if (!strcmp(value->text, found)) {
            apply_effect(value->effect, config, router);
            return MOEBLOCK_OK;
        }
        const size_t used = strlen(allowed);
        snprintf(allowed + used, sizeof allowed - used, "%s\"%s\"", used ? " or " : "", value->text);
    }
    mb_hf_find(source, meaning, &key);
    return mb_fail(source->error, MOEBLOCK_UNSUPPORTED, "%s: %s (%s) is \"%.40s\", expected %s", source->name, key,
                   source->model_type, found, allowed);
}

static moeblock_status apply_values(const struct mb_hf_source *source, moeblock_config *config,
                                    struct mb_router_config *router)
{
    const struct mb_hf_value *values = source->family->values;
    for (const struct mb_hf_value *value = values; value && value->text; value++)
        if (value == values || value[-1].meaning != value->meaning)
            MB_TRY(apply_value(source, value->meaning, config, router));
    return MOEBLOCK_OK;
}

static void set_router_input(moeblock_config *config, const struct mb_router_config *router)
{
    SET(config, router.input, router->input);
    SET(config, router.input_norm, router->input_norm);
    if (router->input_norm) SET(config, router.input_norm_eps, router->input_norm_eps);
    SET(config, router.input_scale_vector, router->input_scale_vector);
    SET(config, router.input_scale, router->input_scale);
    SET(config, router.linear_bias, router->linear_bias);
    SET(config, router.transposed, router->transposed);
    SET(config, router.logit_scale, router->logit_scale);
    SET(config, router.softcap, router->softcap);
}

static void set_operator(moeblock_config *config, const struct mb_router_config *router)
{
    SET(config, router.ids, router->ids);
    if (router->table_size) SET(config, router.table_size, router->table_size);
    if (router->jitter_eps != 0) SET(config, router.jitter_eps, router->jitter_eps);
    if (router->capacity) SET(config, router.capacity, router->capacity);
    if (router->capacity_fraction != 0) SET(config, router.capacity_fraction, router->capacity_fraction);
    SET(config, router.capacity_order, router->capacity_order);
    SET(config, router.norm_kept, router->norm_kept);
    if (router->state_size) SET(config, router.state_size, router->state_size);
    SET(config, router.state_carried, router->state_carried);
    SET(config, router.learned_scale, router->learned_scale);
    if (router->selection_bias_subtract_mean) SET(config, router.selection_bias_subtract_mean, true);
}

static void set_router(moeblock_config *config, const struct mb_router_config *router)
{
    mb_hf_set_text(config, config->router.type, sizeof config->router.type, router->type);
    set_router_input(config, router);
    SET(config, router.score, router->score);
    SET(config, router.select_score, router->select_score);
    SET(config, router.selection_bias, router->selection_bias);
    SET(config, router.groups, router->n_group > 1 ? router->groups : MB_GROUPS_NONE);
    SET(config, router.n_group, router->n_group);
    SET(config, router.topk_group, router->n_group > 1 ? router->topk_group : 1);
    SET(config, router.group_score, router->group_score);
    SET(config, router.group_fill, router->group_fill);
    SET(config, router.post, router->post);
    SET(config, router.norm, router->norm);
    SET(config, router.norm_eps, router->norm_eps);
    if (router->norm == MB_NORM_P) SET(config, router.norm_p, router->norm_p);
    SET(config, router.scale, router->scale);
    SET(config, router.scale_on, router->scale_on);
    SET(config, router.per_expert_scale, router->per_expert_scale);
    SET(config, router.null_experts, router->null_experts);
    if (router->null_experts) SET(config, router.null_kind, router->null_kind);
    SET(config, router.apply_weight, router->apply_weight);
    set_operator(config, router);
}

moeblock_status mb_hf_map_router(const struct mb_hf_source *source, moeblock_config *config)
{
    struct mb_router_config router = *source->family->router;
    MB_TRY(read_router(source, &router));
    MB_TRY(apply_values(source, config, &router));
    set_router(config, &router);
    return MOEBLOCK_OK;
}
