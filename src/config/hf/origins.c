// SPDX-License-Identifier: Apache-2.0
// Which key of a config.json gave each value of the description: a row per meaning that becomes a key of ours. What a
// family's row says without a key has none.
#include "config/hf/map.h"

static const struct {
    enum mb_hf_meaning meaning;
    const char *path;
} rows[] = {
    {MB_HF_HIDDEN_SIZE, "model.hidden_size"},
    {MB_HF_EXPERTS, "model.num_experts"},
    {MB_HF_TOP_K, "model.num_experts_per_tok"},
    {MB_HF_LAYERS, "model.num_layers"},
    {MB_HF_RMS_EPS, "model.rms_norm_eps"},
    {MB_HF_RMS_EPS, "router.config.input_norm_eps"},
    {MB_HF_ROUTER_BIAS, "router.config.linear_bias"},
    {MB_HF_LOGIT_SCALE, "router.config.logit_scale"},
    {MB_HF_SOFTCAP, "router.config.softcap"},
    {MB_HF_SELECTION_BIAS, "router.config.score_correction_bias"},
    {MB_HF_GROUPS, "router.config.n_group"},
    {MB_HF_TOPK_GROUP, "router.config.topk_group"},
    {MB_HF_RENORMALISE, "router.config.norm"},
    {MB_HF_NORM_MINIMUM, "router.config.norm_eps"},
    {MB_HF_NORM_P, "router.config.norm_p"},
    {MB_HF_SCALE, "router.config.routed_scaling_factor"},
    {MB_HF_NULL_COUNT, "router.config.null_experts"},
    {MB_HF_NULL_KIND, "router.config.null_kind"},
    {MB_HF_VOCABULARY, "router.config.table_size"},
    {MB_HF_JITTER, "router.config.jitter_eps"},
    {MB_HF_CAPACITY, "router.config.capacity"},
    {MB_HF_CAPACITY_FRACTION, "router.config.capacity_fraction"},
    {MB_HF_NORM_BEFORE_DROP, "router.config.norm_kept"},
    {MB_HF_BEST_FIRST, "router.config.capacity_order"},
    {MB_HF_STATE_SIZE, "router.config.state_size"},
    {MB_HF_POST_NORM_EPS, "experts.post_norm_eps"},
    {MB_HF_ACTIVATION, "experts.distributed.activation"},
    {MB_HF_LIMIT, "experts.distributed.limit"},
    {MB_HF_ALPHA, "experts.distributed.alpha"},
    {MB_HF_BETA, "experts.distributed.beta"},
    {MB_HF_LINEAR_BETA, "experts.distributed.linear_beta"},
    {MB_HF_LATENT, "experts.latent.size"},
    {MB_HF_LATENT_NORM, "experts.latent.out_norm"},
    {MB_HF_SHARED_LIMIT, "experts.shared.limit"},
    {MB_HF_SHARED_BIAS, "experts.shared.bias"},
    {MB_HF_MLP_BIAS, "experts.shared.bias"},
    {MB_HF_MLP_BIAS, "experts.latent.bias"},
    {MB_HF_SHARED_MIX, "experts.shared.mix"},
    {MB_HF_SHARED_WIDTH, "experts.shared.intermediate_size"},
    {MB_HF_SHARED_COUNT, "experts.shared.intermediate_size"},
    {MB_HF_BANKS, "weights.banks"},
    {MB_HF_OUTPUT_SCALED, "experts.output_scale"},
    {MB_HF_QUANTIZATION, "weights.format"},
};

// Whether the family reads the key: what it does not read has no say in the value.
static bool reads(const struct mb_hf_family *family, enum mb_hf_meaning meaning)
{
    const struct mb_router_config *router = family->router;
    switch (meaning) {
    case MB_HF_RENORMALISE:
        return family->flags & MB_HF_READS_NORM;
    case MB_HF_SCALE:
        return family->flags & MB_HF_READS_SCALE;
    case MB_HF_ROUTER_BIAS:
        return family->flags & MB_HF_READS_ROUTER_BIAS;
    case MB_HF_SHARED_BIAS:
        return family->flags & MB_HF_READS_SHARED_BIAS;
    case MB_HF_MLP_BIAS:
        return family->flags & MB_HF_READS_MLP_BIAS;
    case MB_HF_LOGIT_SCALE:
        return family->flags & MB_HF_READS_LOGIT_SCALE;
    case MB_HF_SELECTION_BIAS:
        return router->selection_bias;
    case MB_HF_GROUPS:
    case MB_HF_TOPK_GROUP:
        return router->groups != MB_GROUPS_NONE;
    case MB_HF_NORM_MINIMUM:
        return router->norm == MB_NORM_SUM_CLAMPED;
    case MB_HF_LIMIT:
        return family->expert->clamp != MB_CLAMP_NONE;
    case MB_HF_ACTIVATION:
        return !family->expert->activation;
    case MB_HF_SHARED_WIDTH:
        return family->shared == MB_HF_SHARED_BY_WIDTH;
    case MB_HF_SHARED_COUNT:
        return family->shared == MB_HF_SHARED_BY_COUNT || family->shared == MB_HF_SHARED_ONE_OR_COUNT;
    default:
        return true;
    }
}

static void note(const struct mb_hf_source *source, enum mb_hf_meaning meaning, const char *path,
                 moeblock_config *config)
{
    const char *key;
    const int row = mb_schema_find(path);
    if (row < 0 || config->given[row] != MB_FROM_MODEL || !reads(source->family, meaning)) return;
    if (mb_hf_find(source, meaning, &key)) config->model_key[row] = key;
}

void mb_hf_note_keys(const struct mb_hf_source *source, moeblock_config *config)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) note(source, rows[i].meaning, rows[i].path, config);
    if (!source->family->expert->fixed_width)
        note(source, mb_hf_width_meaning(source), "experts.distributed.intermediate_size", config);
    config->model_scope = source->scope_name;
}
