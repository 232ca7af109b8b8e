// SPDX-License-Identifier: Apache-2.0
// Applies a family's row to a config.json: sizes, experts, shared expert; map_router.c and forms.c the rest. Knows no
// model by name.
#include "config/hf/map.h"

#include <string.h>

#include "base/status.h"

// Activation names of published files and ours.
static const char *const activations[][2] = {
    {"silu", "silu"},           {"swish", "silu"},          {"swiglu", "silu"},
    {"gelu", "gelu"},           {"gelu_new", "gelu_new"},   {"gelu_pytorch_tanh", "gelu_tanh"},
    {"gelu_tanh", "gelu_tanh"}, {"gelu_fast", "gelu_tanh"}, {"relu", "relu"},
    {"relu2", "relu2"},
};

const struct mb_hf_family *mb_hf_find_family(const char *model_type)
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

// "muse_spark_text" is the text model of "muse_spark", stored on its own.
static const struct mb_hf_family *find_text_family(const char *model_type)
{
    char name[64];
    const size_t length = strlen(model_type);
    if (length < 6 || length >= sizeof name || strcmp(model_type + length - 5, "_text")) return NULL;
    snprintf(name, sizeof name, "%.*s", (int)(length - 5), model_type);
    return mb_hf_find_family(name);
}

static const char *const inner_objects[] = {"text_config", "language_config", "llm_config"};

// The text model's keys, where the root has none of them and the family's own object is not there.
static const json_t *find_inner(const json_t *root, const char **name)
{
    if (mb_hf_at(root, "hidden_size")) return NULL;
    for (size_t i = 0; i < sizeof inner_objects / sizeof inner_objects[0]; i++) {
        const json_t *inner = mb_hf_at(root, inner_objects[i]);
        *name = inner_objects[i];
        if (mb_hf_at(inner, "hidden_size")) return inner;
    }
    return NULL;
}

// A wrapper of a text model that is known stands for that one: the object that names its type.
static const json_t *find_wrapped(const struct mb_hf_source *source, const char **name)
{
    for (size_t i = 0; i < sizeof inner_objects / sizeof inner_objects[0]; i++) {
        const json_t *inner = mb_hf_at(source->root, inner_objects[i]);
        const char *type = json_string_value(mb_hf_at(inner, "model_type"));
        *name = inner_objects[i];
        if (type && (mb_hf_find_family(type) || find_text_family(type))) return inner;
    }
    *name = inner_objects[0];
    return NULL;
}

static moeblock_status find_source(struct mb_hf_source *source)
{
    const json_t *type = mb_hf_at(source->root, "model_type");
    const char *type_text = json_string_value(type), *found;
    const json_t *inner = find_wrapped(source, &found);
    const bool known = type_text && (mb_hf_find_family(type_text) || find_text_family(type_text));
    source->scope = source->root;
    if (!type && !inner) inner = mb_hf_at(source->root, found);
    if (!type || (type_text && !known && inner)) {
        source->scope = inner;
        source->scope_name = found;
        type = mb_hf_at(inner, "model_type");
    }
    if (!type) return mb_fail(source->error, MOEBLOCK_INVALID_CONFIG, "%s: there is no model_type", source->name);
    if (!json_is_string(type))
        return mb_hf_wrong(source, source->scope == source->root ? "model_type" : "text_config.model_type", type,
                           "the name of a model type such as \"deepseek_v3\"");
    source->model_type = json_string_value(type);
    source->family = mb_hf_find_family(source->model_type);
    if (!source->family) source->family = find_text_family(source->model_type);
    if (!source->family) return unknown_model(source);
    if (source->scope != source->root) return MOEBLOCK_OK;
    found = source->family->scope;
    inner = found ? mb_hf_at(source->root, found) : NULL;
    if (!inner) inner = find_inner(source->root, &found);
    if (inner && !json_is_object(inner)) return mb_hf_wrong(source, found, inner, "an object");
    if (inner) source->scope = inner, source->scope_name = found;
    return MOEBLOCK_OK;
}

static void set_second(moeblock_config *config, int64_t count, int64_t width, int64_t slots, int64_t first)
{
    SET(config, second.count, count);
    SET(config, second.intermediate_size, width);
    SET(config, second.slots, slots);
    SET(config, second.first, first);
}

// The second bank of experts that the family's operator goes with.
static moeblock_status map_second(struct mb_hf_source *source, moeblock_config *config)
{
    const char *type = source->family->router->type;
    const int64_t experts = config->num_experts, k = config->num_experts_per_tok;
    int64_t width = config->routed.intermediate_size, count = 0;
    if (!strcmp(type, "token_type")) { // lists have an entry a bank; the second bank's names go on counting
        source->bank = 1;
        MB_TRY(mb_hf_int_required(source, MB_HF_EXPERTS, &count));
        MB_TRY(mb_hf_int_required(source, MB_HF_EXPERT_WIDTH, &width));
        source->bank = 0;
        set_second(config, count, width, 0, experts);
    } else if (!strcmp(type, "joint")) { // the shared experts
        MB_TRY(mb_hf_int_required(source, MB_HF_SHARED_COUNT, &count));
        if (count) set_second(config, count, width, count, 0);
    } else if (!strcmp(type, "adjugate")) { // one for two experts, as wide as a head, in the model's own code
        MB_TRY(mb_hf_int_required(source, MB_HF_HEAD_WIDTH, &width));
        set_second(config, experts / 2, width, k, 0);
        SET(config, second.scale, 0.05);
    }
    return MOEBLOCK_OK;
}

static moeblock_status map_width(const struct mb_hf_source *source, int64_t hidden, int64_t *width)
{
    *width = source->family->expert->fixed_width;
    const bool of_hidden = source->family->flags & MB_HF_WIDTH_OF_HIDDEN;
    if (*width) return MOEBLOCK_OK;
    if (of_hidden) {
        *width = 4 * hidden;
        return mb_hf_int(source, MB_HF_GENERAL_WIDTH, width);
    }
    return mb_hf_int_required(source, mb_hf_width_meaning(source), width);
}

// Whether the file has no routed experts and the family allows that.
static bool lacks_experts(const struct mb_hf_source *source)
{
    const char *key;
    const json_t *count = mb_hf_find(source, MB_HF_EXPERTS, &key);
    return source->family->flags & MB_HF_MAY_LACK_EXPERTS && json_is_integer(count) && !json_integer_value(count);
}

static moeblock_status map_sizes(struct mb_hf_source *source, int64_t layer, moeblock_config *config)
{
    int64_t layers, hidden, experts, top_k, width;
    char list[sizeof config->moe_layers];
    MB_TRY(mb_hf_layer_count(source, &layers));
    MB_TRY(mb_hf_choose_layer(source, layer, layers, list, sizeof list));
    MB_TRY(mb_hf_int_required(source, MB_HF_HIDDEN_SIZE, &hidden));
    const bool none = lacks_experts(source);
    experts = none; // one that never runs, which gets all tokens
    if (!none) MB_TRY(mb_hf_int_required(source, MB_HF_EXPERTS, &experts));
    top_k = none ? 1 : source->family->expert->fixed_k;
    if (!top_k) MB_TRY(mb_hf_int_required(source, MB_HF_TOP_K, &top_k));
    MB_TRY(map_width(source, hidden, &width));
    mb_hf_set_text(config, config->model_type, sizeof config->model_type, source->model_type);
    SET(config, hidden_size, hidden);
    SET(config, num_experts, experts);
    SET(config, num_experts_per_tok, top_k);
    SET(config, num_layers, layers);
    if (list[0]) mb_hf_set_text(config, config->moe_layers, sizeof config->moe_layers, list);
    SET(config, layer_index, source->layer);
    SET(config, routed.intermediate_size, width);
    return map_second(source, config);
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
    if (rule == MB_HF_SHARED_GENERAL) return mb_hf_int(source, MB_HF_GENERAL_WIDTH, width);
    if (rule == MB_HF_SHARED_HIDDEN) return *width = config->hidden_size, MOEBLOCK_OK;
    int64_t count = rule == MB_HF_SHARED_ONE_OR_COUNT, part = config->routed.intermediate_size;
    MB_TRY(mb_hf_int(source, MB_HF_SHARED_COUNT, &count));
    MB_TRY(mb_hf_int(source, MB_HF_SHARED_PART, &part));
    *width = count * part; // below 2^33
    if ((double)*width <= mb_hf_spellings[MB_HF_SHARED_WIDTH].maximum) return MOEBLOCK_OK;
    return mb_fail(source->error, MOEBLOCK_INVALID_CONFIG,
                   "%s: %lld shared experts of width %lld make %lld, expected no more than %.0f in all", source->name,
                   (long long)count, (long long)part, (long long)*width, mb_hf_spellings[MB_HF_SHARED_WIDTH].maximum);
}

static moeblock_status map_latent(const struct mb_hf_source *source, int64_t latent, bool bias, moeblock_config *config)
{
    const struct mb_hf_expert *expert = source->family->expert;
    bool out_norm = false;
    if (source->family->storage->pattern[MB_ROLE_LATENT_OUT_NORM])
        MB_TRY(mb_hf_flag(source, MB_HF_LATENT_NORM, &out_norm));
    SET(config, latent_size, latent);
    SET(config, latent_bias, bias);
    SET(config, latent_in_norm, expert->latent_in_norm);
    SET(config, latent_out_norm, out_norm);
    SET(config, latent_norm_plus_one, expert->latent_in_norm); // (1 + w) where the norm is before the experts
    if (expert->latent_in_norm || out_norm) MB_TRY(mb_hf_number(source, MB_HF_RMS_EPS, &config->rms_norm_eps));
    mb_config_mark(config, &config->rms_norm_eps, MB_FROM_MODEL);
    return MOEBLOCK_OK;
}

static moeblock_status map_post_norm(const struct mb_hf_source *source, moeblock_config *config)
{
    SET(config, post_norm, true);
    SET(config, post_norm_plus_one, true);
    MB_TRY(mb_hf_number(source, MB_HF_POST_NORM_EPS, &config->post_norm_eps));
    mb_config_mark(config, &config->post_norm_eps, MB_FROM_MODEL);
    return MOEBLOCK_OK;
}

// Parameters of situ.
static moeblock_status map_betas(const struct mb_hf_source *source, moeblock_config *config)
{
    double beta = 1, linear_beta = 0;
    if (!source->family->expert->activation || strcmp(source->family->expert->activation, "situ")) return MOEBLOCK_OK;
    MB_TRY(mb_hf_number(source, MB_HF_BETA, &beta));
    MB_TRY(mb_hf_number(source, MB_HF_LINEAR_BETA, &linear_beta));
    SET(config, routed.activation.beta, (float)beta);
    SET(config, routed.activation.linear_beta, (float)linear_beta);
    return MOEBLOCK_OK;
}

static moeblock_status map_experts(const struct mb_hf_source *source, moeblock_config *config)
{
    const struct mb_hf_expert *expert = source->family->expert;
    const char *activation;
    double limit = (double)expert->limit, alpha = (double)expert->alpha;
    bool shared_bias = false, mlp_bias = false;
    int64_t shared_width, latent = 0;
    MB_TRY(map_activation(source, &activation));
    const int kind = mb_activation_find(activation);
    if (kind < 0)
        return mb_fail(source->error, MOEBLOCK_INTERNAL, "%s: the activation %s has no row", source->name, activation);
    if (expert->clamp != MB_CLAMP_NONE) MB_TRY(mb_hf_number(source, MB_HF_LIMIT, &limit));
    if (alpha != 0) MB_TRY(mb_hf_number(source, MB_HF_ALPHA, &alpha));
    double shared_limit = expert->shared_own_limit || expert->shared_unclamped ? 0 : limit;
    if (expert->shared_own_limit) MB_TRY(mb_hf_number(source, MB_HF_SHARED_LIMIT, &shared_limit));
    if (source->family->flags & MB_HF_READS_SHARED_BIAS) MB_TRY(mb_hf_flag(source, MB_HF_SHARED_BIAS, &shared_bias));
    if (source->family->flags & MB_HF_READS_MLP_BIAS) MB_TRY(mb_hf_flag(source, MB_HF_MLP_BIAS, &mlp_bias));
    MB_TRY(map_shared_width(source, config, &shared_width));
    if (source->family->storage->pattern[MB_ROLE_LATENT_DOWN]) MB_TRY(mb_hf_int(source, MB_HF_LATENT, &latent));

    mb_hf_set_text(config, config->expert_type, sizeof config->expert_type, "distributed");
    SET(config, routed_enabled, !lacks_experts(source));
    set_feed_forward(config, &config->routed, expert, kind, limit, alpha, expert->bias);
    SET(config, output_bias, expert->output_bias);
    SET(config, out_norm, expert->out_norm);
    MB_TRY(map_betas(source, config));
    if (expert->out_norm || !strcmp(source->family->router->type, "mlp_state")) {
        MB_TRY(mb_hf_number(source, MB_HF_RMS_EPS, &config->rms_norm_eps));
        SET(config, rms_norm_eps, config->rms_norm_eps);
    }
    if (latent) MB_TRY(map_latent(source, latent, mlp_bias, config));
    if (expert->post_norm) MB_TRY(map_post_norm(source, config));
    SET(config, shared_enabled, shared_width > 0);
    if (!config->shared_enabled) return MOEBLOCK_OK;
    SET(config, shared.intermediate_size, shared_width);
    set_feed_forward(config, &config->shared, expert, kind, shared_limit, alpha, shared_bias || mlp_bias);
    if (expert->shared_gated) SET(config, shared.gated, true);
    SET(config, shared_gate, source->family->flags & MB_HF_SIGMOID_SHARED ? MB_SHARED_SIGMOID : MB_SHARED_UNGATED);
    SET(config, shared_input, expert->shared_aux ? MB_INPUT_AUX : MB_INPUT_HIDDEN);
    SET(config, mix, expert->mix);
    if (mb_config_origin(config, &config->routed.activation.beta) == MB_FROM_MODEL) {
        SET(config, shared.activation.beta, config->routed.activation.beta);
        SET(config, shared.activation.linear_beta, config->routed.activation.linear_beta);
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_hf_map(const struct mb_hf_input *input, moeblock_config *out, moeblock_error *error)
{
    struct mb_hf_source source = {
        .root = input->root, .name = input->name, .layer = -1, .model_type = "", .error = error};
    MB_TRY(find_source(&source));
    mb_hf_choose_tower(&source, input);
    MB_TRY(mb_hf_check_complete(&source));
    MB_TRY(map_sizes(&source, input->layer, out));
    MB_TRY(map_experts(&source, out));
    MB_TRY(mb_hf_map_router(&source, out));
    MB_TRY(mb_hf_map_storage(&source, input, out));
    snprintf(out->source, sizeof out->source, "%s", input->name);
    mb_hf_note_keys(&source, out);
    return MOEBLOCK_OK;
}
