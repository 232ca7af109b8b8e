// SPDX-License-Identifier: Apache-2.0
// Applies a family's row to a config.json: sizes, router, experts, shared expert, storage. Knows no model by name.
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "config/hf/hf.h"
#include "config/hf/source.h"
#include "config/schema.h"

#define SET(config, field, value) ((config)->field = (value), mb_config_mark(config, &(config)->field, MB_FROM_MODEL))

// Activation names of published files and ours.
static const char *const activations[][2] = {
    {"silu", "silu"},           {"swish", "silu"},          {"swiglu", "silu"},
    {"gelu", "gelu"},           {"gelu_new", "gelu_new"},   {"gelu_pytorch_tanh", "gelu_tanh"},
    {"gelu_tanh", "gelu_tanh"}, {"gelu_fast", "gelu_tanh"}, {"relu", "relu"},
    {"relu2", "relu2"},
};

static void set_text(moeblock_config *config, char *field, size_t capacity, const char *text)
{
    snprintf(field, capacity, "%s", text);
    mb_config_mark(config, field, MB_FROM_MODEL);
}

static const struct mb_hf_family *find_family(const char *model_type)
{
    for (const struct mb_hf_family *family = mb_hf_families; family->model_type; family++)
        if (!strcmp(family->model_type, model_type)) return family;
    return NULL;
}

const char *mb_hf_model_type(int i)
{
    for (int j = 0; mb_hf_families[j].model_type; j++)
        if (j == i) return mb_hf_families[j].model_type;
    return NULL;
}

bool mb_hf_is_config(const json_t *root)
{
    return json_object_get(root, "model_type") || mb_hf_at(root, "text_config.model_type");
}

static moeblock_status unknown_model(const struct mb_hf_source *source)
{
    for (const struct mb_hf_refused *refused = mb_hf_refused_families; refused->model_type; refused++)
        if (!strcmp(refused->model_type, source->model_type))
            return mb_fail(source->error, MOEBLOCK_UNSUPPORTED, "%s: model type %s needs %s, which is not supported",
                           source->name, source->model_type, refused->needs);
    return mb_fail(source->error, MOEBLOCK_UNSUPPORTED,
                   "%s: model type \"%.60s\" is not known; known are deepseek_v3, gpt_oss, mixtral, qwen3_moe and the "
                   "others of docs/models.md, and a block of any other model can be described in moeblock's own JSON",
                   source->name, source->model_type);
}

static moeblock_status find_source(struct mb_hf_source *source)
{
    const json_t *type = mb_hf_at(source->root, "model_type");
    source->scope = source->root;
    if (!type) {
        source->scope = mb_hf_at(source->root, "text_config");
        type = mb_hf_at(source->scope, "model_type");
    }
    if (!type) return mb_fail(source->error, MOEBLOCK_INVALID_CONFIG, "%s: there is no model_type", source->name);
    if (!json_is_string(type))
        return mb_hf_wrong(source, source->scope == source->root ? "model_type" : "text_config.model_type", type,
                           "the name of a model type such as \"deepseek_v3\"");
    source->model_type = json_string_value(type);
    source->family = find_family(source->model_type);
    if (!source->family) return unknown_model(source);
    const json_t *inner = source->family->scope ? mb_hf_at(source->root, source->family->scope) : NULL;
    if (inner && !json_is_object(inner)) return mb_hf_wrong(source, source->family->scope, inner, "an object");
    if (inner) source->scope = inner;
    return MOEBLOCK_OK;
}

static moeblock_status map_sizes(struct mb_hf_source *source, int64_t layer, moeblock_config *config)
{
    int64_t layers, hidden, experts, top_k, width;
    char list[sizeof config->moe_layers];
    MB_TRY(mb_hf_layer_count(source, &layers));
    MB_TRY(mb_hf_choose_layer(source, layer, layers, list, sizeof list));
    MB_TRY(mb_hf_int_required(source, MB_HF_HIDDEN_SIZE, &hidden));
    MB_TRY(mb_hf_int_required(source, MB_HF_EXPERTS, &experts));
    MB_TRY(mb_hf_int_required(source, MB_HF_TOP_K, &top_k));
    const bool general = source->family->flags & MB_HF_GENERAL_IS_EXPERT;
    MB_TRY(mb_hf_int_required(source, general ? MB_HF_GENERAL_WIDTH : MB_HF_EXPERT_WIDTH, &width));
    set_text(config, config->model_type, sizeof config->model_type, source->model_type);
    SET(config, hidden_size, hidden);
    SET(config, num_experts, experts);
    SET(config, num_experts_per_tok, top_k);
    SET(config, num_layers, layers);
    if (list[0]) set_text(config, config->moe_layers, sizeof config->moe_layers, list);
    SET(config, layer_index, source->layer);
    SET(config, routed.intermediate_size, width);
    return MOEBLOCK_OK;
}

static moeblock_status map_activation(const struct mb_hf_source *source, const char **name)
{
    const struct mb_hf_expert *expert = source->family->expert;
    const char *key, *found = NULL;
    *name = expert->activation ? expert->activation : "silu";
    if (expert->activation) return MOEBLOCK_OK;
    MB_TRY(mb_hf_text(source, MB_HF_ACTIVATION, &found));
    if (!found) return MOEBLOCK_OK;
    for (size_t i = 0; i < sizeof activations / sizeof activations[0]; i++) {
        if (strcmp(activations[i][0], found)) continue;
        *name = activations[i][1];
        return MOEBLOCK_OK;
    }
    mb_hf_find(source, MB_HF_ACTIVATION, &key);
    return mb_fail(source->error, MOEBLOCK_UNSUPPORTED,
                   "%s: %s (%s) is \"%.40s\", expected silu, swish, gelu, gelu_new, gelu_pytorch_tanh, relu or relu2",
                   source->name, key, source->model_type, found);
}

static void set_feed_forward(moeblock_config *config, struct mb_ffn_config *ffn, const struct mb_hf_expert *expert,
                             int kind, double limit, double alpha, bool bias)
{
    ffn->activation.kind = kind;
    ffn->activation.clamp = limit > 0 ? expert->clamp : MB_CLAMP_NONE;
    ffn->gated = !expert->ungated;
    ffn->bias = bias;
    mb_config_mark(config, &ffn->activation.kind, MB_FROM_MODEL);
    mb_config_mark(config, &ffn->activation.clamp, MB_FROM_MODEL);
    mb_config_mark(config, &ffn->gated, MB_FROM_MODEL);
    mb_config_mark(config, &ffn->bias, MB_FROM_MODEL);
    if (ffn->activation.clamp != MB_CLAMP_NONE) {
        ffn->activation.limit = (float)limit;
        mb_config_mark(config, &ffn->activation.limit, MB_FROM_MODEL);
    }
    if (alpha != 0) {
        ffn->activation.alpha = (float)alpha;
        mb_config_mark(config, &ffn->activation.alpha, MB_FROM_MODEL);
    }
}

static moeblock_status map_shared_width(const struct mb_hf_source *source, const moeblock_config *config,
                                        int64_t *width)
{
    const enum mb_hf_shared_rule rule = source->family->shared;
    *width = 0;
    if (rule == MB_HF_NO_SHARED) return MOEBLOCK_OK;
    if (rule == MB_HF_SHARED_BY_WIDTH) return mb_hf_int(source, MB_HF_SHARED_WIDTH, width);
    int64_t count = rule == MB_HF_SHARED_ONE_OR_COUNT;
    MB_TRY(mb_hf_int(source, MB_HF_SHARED_COUNT, &count));
    *width = count * config->routed.intermediate_size; // below 2^32
    if ((double)*width <= mb_hf_spellings[MB_HF_SHARED_WIDTH].maximum) return MOEBLOCK_OK;
    return mb_fail(source->error, MOEBLOCK_INVALID_CONFIG,
                   "%s: %lld shared experts of width %lld make %lld, expected no more than %.0f in all", source->name,
                   (long long)count, (long long)config->routed.intermediate_size, (long long)*width,
                   mb_hf_spellings[MB_HF_SHARED_WIDTH].maximum);
}

static moeblock_status map_experts(const struct mb_hf_source *source, moeblock_config *config)
{
    const struct mb_hf_expert *expert = source->family->expert;
    const char *activation;
    double limit = (double)expert->limit, alpha = (double)expert->alpha;
    bool shared_bias = false;
    int64_t shared_width, latent = 0;
    MB_TRY(map_activation(source, &activation));
    const int kind = mb_activation_find(activation);
    if (kind < 0)
        return mb_fail(source->error, MOEBLOCK_INTERNAL, "%s: the activation %s has no row", source->name, activation);
    if (expert->clamp != MB_CLAMP_NONE) MB_TRY(mb_hf_number(source, MB_HF_LIMIT, &limit));
    if (alpha != 0) MB_TRY(mb_hf_number(source, MB_HF_ALPHA, &alpha));
    double shared_limit = expert->shared_own_limit ? 0 : limit;
    if (expert->shared_own_limit) MB_TRY(mb_hf_number(source, MB_HF_SHARED_LIMIT, &shared_limit));
    if (source->family->flags & MB_HF_READS_SHARED_BIAS) MB_TRY(mb_hf_flag(source, MB_HF_SHARED_BIAS, &shared_bias));
    MB_TRY(map_shared_width(source, config, &shared_width));
    if (source->family->storage->pattern[MB_ROLE_LATENT_DOWN]) MB_TRY(mb_hf_int(source, MB_HF_LATENT, &latent));

    set_text(config, config->expert_type, sizeof config->expert_type, "distributed");
    SET(config, routed_enabled, true);
    set_feed_forward(config, &config->routed, expert, kind, limit, alpha, expert->bias);
    SET(config, output_bias, expert->output_bias);
    SET(config, out_norm, expert->out_norm);
    if (expert->out_norm) {
        MB_TRY(mb_hf_number(source, MB_HF_RMS_EPS, &config->rms_norm_eps));
        SET(config, rms_norm_eps, config->rms_norm_eps);
    }
    if (latent) SET(config, latent_size, latent);
    SET(config, shared_enabled, shared_width > 0);
    if (!config->shared_enabled) return MOEBLOCK_OK;
    SET(config, shared.intermediate_size, shared_width);
    set_feed_forward(config, &config->shared, expert, kind, shared_limit, alpha, shared_bias);
    SET(config, shared_gate, source->family->flags & MB_HF_SIGMOID_SHARED ? MB_SHARED_SIGMOID : MB_SHARED_UNGATED);
    SET(config, mix, MB_MIX_SUM);
    return MOEBLOCK_OK;
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
    MB_TRY(mb_hf_number(source, MB_HF_SOFTCAP, &router->softcap));
    MB_TRY(mb_hf_int(source, MB_HF_NULL_COUNT, &router->null_experts));
    if (router->groups == MB_GROUPS_NONE) return MOEBLOCK_OK;
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

static void set_router(moeblock_config *config, const struct mb_router_config *router)
{
    set_text(config, config->router.type, sizeof config->router.type, router->type);
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
    SET(config, router.scale, router->scale);
    SET(config, router.scale_on, router->scale_on);
    SET(config, router.per_expert_scale, router->per_expert_scale);
    SET(config, router.null_experts, router->null_experts);
    if (router->null_experts) SET(config, router.null_kind, router->null_kind);
    SET(config, router.apply_weight, router->apply_weight);
}

static moeblock_status map_router(const struct mb_hf_source *source, moeblock_config *config)
{
    struct mb_router_config router = *source->family->router;
    MB_TRY(read_router(source, &router));
    MB_TRY(apply_values(source, config, &router));
    set_router(config, &router);
    return MOEBLOCK_OK;
}

// Whether the checkpoint has the layer's down projections under this form's name, in any number format.
static bool holds_form(moeblock_config *config, moeblock_weights *weights, int64_t layer,
                       const struct mb_hf_storage *storage)
{
    moeblock_tensor_info found;
    char *down = config->tensor[MB_ROLE_DOWN];
    snprintf(down, sizeof config->tensor[0], "%s", storage->pattern[MB_ROLE_DOWN]);
    for (int f = 0; f < MB_FORMATS; f++)
        if (mb_role_find(config, weights, MB_ROLE_DOWN, mb_format_table[f].codes_suffix, layer, 0, &found, NULL) ==
            MOEBLOCK_OK)
            return true;
    return false;
}

// The form in which the checkpoint stores the model type: the first of the list that it holds. Opens it only for types
// that have a choice. One that cannot be opened says nothing here; whoever loads it gets the error.
static const struct mb_hf_storage *choose_storage(const struct mb_hf_source *source, const struct mb_hf_input *input,
                                                  moeblock_config *config)
{
    const struct mb_hf_storage *first = source->family->storage, *chosen = NULL;
    moeblock_weights *weights = NULL;
    for (const struct mb_hf_alternative *a = mb_hf_alternatives; a->model_type && input->checkpoint && !chosen; a++) {
        if (strcmp(a->model_type, source->model_type)) continue;
        if (!weights && moeblock_weights_open(input->context, input->checkpoint, &weights, NULL) != MOEBLOCK_OK) break;
        if (holds_form(config, weights, source->layer, first)) break;
        if (holds_form(config, weights, source->layer, a->storage)) chosen = a->storage;
    }
    moeblock_weights_destroy(&weights);
    return chosen ? chosen : first;
}

static moeblock_status map_storage(const struct mb_hf_source *source, const struct mb_hf_input *input,
                                   moeblock_config *config)
{
    const char *format;
    MB_TRY(mb_hf_format(source, &format));
    set_text(config, config->format, sizeof config->format, format);
    set_text(config, config->module_prefix, sizeof config->module_prefix, source->family->prefix);
    const struct mb_hf_storage *storage = choose_storage(source, input, config);
    SET(config, layout, storage->layout);
    SET(config, orientation, storage->orientation);
    SET(config, gate_up, storage->gate_up);
    SET(config, shared_gate_up, storage->shared_gate_up);
    for (int role = 0; role < MB_ROLES; role++)
        if (storage->pattern[role])
            set_text(config, config->tensor[role], sizeof config->tensor[role], storage->pattern[role]);
    return MOEBLOCK_OK;
}

moeblock_status mb_hf_map(const struct mb_hf_input *input, moeblock_config *out, moeblock_error *error)
{
    struct mb_hf_source source = {
        .root = input->root, .name = input->name, .layer = -1, .model_type = "", .error = error};
    MB_TRY(find_source(&source));
    MB_TRY(mb_hf_check_complete(&source));
    MB_TRY(map_sizes(&source, input->layer, out));
    MB_TRY(map_experts(&source, out));
    MB_TRY(map_router(&source, out));
    MB_TRY(map_storage(&source, input, out));
    snprintf(out->source, sizeof out->source, "%s", input->name);
    return MOEBLOCK_OK;
}
