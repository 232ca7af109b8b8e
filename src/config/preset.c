// SPDX-License-Identifier: Apache-2.0
// Named sets of values: what a router type stands for, and how families name their tensors (moe-families 1.2-1.11).
#include "config/preset.h"

#include <string.h>

#include "config/hf/families.h"
#include "config/value.h"

void mb_config_defaults(moeblock_config *config)
{
    for (size_t i = 0; i < mb_schema_count; i++) {
        if (!mb_schema[i].fallback) continue;
        mb_value_set_text(config, (int)i, mb_schema[i].fallback);
        config->given[i] = MB_FROM_DEFAULT;
    }
}

// Settings of the router types: all that their formulas decide, so that a type means the same over any config.json.
// "linear" has none.
static const struct {
    const char *type, *path, *value;
} router_presets[] = {
    // F10, the DeepSeek-V3 line
    {"moe_gate", "router.config.score", "\"sigmoid\""},
    {"moe_gate", "router.config.score_correction_bias", "true"},
    {"moe_gate", "router.config.group_score", "\"sum_top2\""},
    {"moe_gate", "router.config.post", "\"none\""},
    {"moe_gate", "router.config.norm", "\"sum\""},
    {"moe_gate", "router.config.norm_eps", "1e-20"},
    // F3, softmax over the kept logits
    {"topk", "router.config.score", "\"identity\""},
    {"topk", "router.config.score_correction_bias", "false"},
    {"topk", "router.config.selection_bias_subtract_mean", "false"},
    {"topk", "router.config.groups", "\"none\""},
    {"topk", "router.config.n_group", "1"},
    {"topk", "router.config.topk_group", "1"},
    {"topk", "router.config.post", "\"softmax_k\""},
    {"topk", "router.config.norm", "\"none\""},
    // The operators, as far as their formulas are the pipeline's
    {"sparsemixer", "router.config.score", "\"identity\""},
    {"mlp_state", "router.config.score", "\"softmax\""},
    {"joint", "router.config.score", "\"sigmoid\""},
    {"joint", "router.config.score_correction_bias", "true"},
    {"joint", "router.config.norm", "\"none\""},
    {"product_keys", "router.config.score", "\"identity\""},
    {"product_keys", "router.config.post", "\"softmax_k\""},
    {"adjugate", "router.config.score", "\"softmax\""},
    {"adjugate", "router.config.select_score", "\"sigmoid\""},
    {"adjugate", "router.config.norm", "\"sum\""},
};

static const struct {
    const char *name, *meaning; // aliases have the type they stand for
} router_types[] = {
    {"moe_gate", "moe_gate"},
    {"grouped_topk", "moe_gate"},
    {"topk", "topk"},
    {"linear", "linear"},
    {"sparsemixer", "sparsemixer"},
    {"capacity", "capacity"},
    {"capacity_by_choice", "capacity_by_choice"},
    {"mlp_state", "mlp_state"},
    {"joint", "joint"},
    {"product_keys", "product_keys"},
    {"token_type", "token_type"},
    {"adjugate", "adjugate"},
};

static const char *router_meaning(const char *type)
{
    for (size_t i = 0; i < sizeof router_types / sizeof router_types[0]; i++)
        if (!strcmp(router_types[i].name, type)) return router_types[i].meaning;
    return NULL;
}

bool mb_router_is_builtin(const char *type) { return router_meaning(type) != NULL; }

bool mb_expert_is_builtin(const char *type)
{
    static const char *const types[] = {"distributed", "throughput", "banked", "post_normed"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (!strcmp(types[i], type)) return true;
    return false;
}

bool mb_router_preset_at(int i, const char **type, const char **path, const char **value)
{
    if (i < 0 || (size_t)i >= sizeof router_presets / sizeof router_presets[0]) return false;
    *type = router_presets[i].type;
    *path = router_presets[i].path;
    *value = router_presets[i].value;
    return true;
}

void mb_router_preset(moeblock_config *config)
{
    const char *meaning = router_meaning(config->router.type);
    // Whoever names a type means its formula, not the one of the config.json behind it.
    const bool named = config->given[mb_schema_row_of(config, config->router.type)] >= MB_FROM_FILE;
    const uint8_t outranked = named ? MB_FROM_MODEL : MB_FROM_PRESET;
    uint8_t *const select = &config->given[mb_schema_row_of(config, &config->router.select_score)];
    for (size_t i = 0; meaning && i < sizeof router_presets / sizeof router_presets[0]; i++) {
        const int row = mb_schema_find(router_presets[i].path);
        if (strcmp(router_presets[i].type, meaning) || config->given[row] > outranked) continue;
        mb_value_set_text(config, row, router_presets[i].value);
        // As strong as what it replaced, so that nothing else of that config.json overrules it.
        if (config->given[row] < MB_FROM_PRESET) config->given[row] = MB_FROM_PRESET;
        if (mb_schema_row_of(config, &config->router.score) == row && *select == MB_FROM_MODEL)
            *select = MB_FROM_NOWHERE; // follows the score
    }
}

// How families name and store their tensors. What a preset does not name keeps the schema's pattern.
#define LAYERS "model.layers.{layer}"
static const struct names_preset {
    const char *name, *prefix;
    const struct mb_hf_storage *storage;
} names_presets[] = {
    {"deepseek", LAYERS, &mb_hf_deepseek},
    {"qwen", LAYERS, &mb_hf_qwen},
    {"mixtral", LAYERS, &mb_hf_mixtral},
    {"gpt_oss", LAYERS, &mb_hf_gpt_oss},
    {"llama4", "language_model." LAYERS, &mb_hf_llama4},
    {"granite", LAYERS, &mb_hf_granite},
    {"ernie", LAYERS, &mb_hf_ernie},
    {"hunyuan", LAYERS, &mb_hf_hunyuan},
    {"stacked", LAYERS, &mb_hf_mistral4},
};
enum { NAMES_PRESETS = sizeof names_presets / sizeof names_presets[0] };

const char *mb_names_preset_name(int i) { return i >= 0 && i < NAMES_PRESETS ? names_presets[i].name : NULL; }

// Marks a field as set by `origin`, unless a stronger source has spoken: then it is to be left alone.
static bool claim(moeblock_config *config, const void *field, enum mb_origin origin)
{
    const int row = mb_schema_row_of(config, field);
    if (config->given[row] > origin) return false;
    config->given[row] = (uint8_t)origin;
    return true;
}

static const char *preset_pattern(const struct names_preset *preset, const moeblock_config *config, int role)
{
    const char *pattern = preset->storage->pattern[role];
    return pattern ? pattern : mb_schema[mb_schema_row_of(config, config->tensor[role])].fallback;
}

static void set_pattern(char *to, const char *pattern)
{
    const bool quoted = pattern[0] == '"'; // the schema's fallbacks are JSON
    const size_t length = strlen(pattern) - (quoted ? 2 : 0);
    memcpy(to, pattern + quoted, length);
    to[length] = 0;
}

bool mb_names_preset(moeblock_config *config, const char *name, enum mb_origin origin)
{
    const struct names_preset *preset = NULL;
    for (int i = 0; i < NAMES_PRESETS; i++)
        if (!strcmp(names_presets[i].name, name)) preset = &names_presets[i];
    if (!preset) return false;
    if (claim(config, config->module_prefix, origin)) set_pattern(config->module_prefix, preset->prefix);
    if (claim(config, &config->layout, origin)) config->layout = preset->storage->layout;
    if (claim(config, &config->orientation, origin)) config->orientation = preset->storage->orientation;
    if (claim(config, &config->down_orientation, origin))
        config->down_orientation = mb_hf_down_orientation(preset->storage);
    if (claim(config, &config->gate_up, origin)) config->gate_up = preset->storage->gate_up;
    if (claim(config, &config->shared_gate_up, origin)) config->shared_gate_up = preset->storage->shared_gate_up;
    for (int role = 0; role < MB_ROLES; role++) {
        char *pattern = config->tensor[role];
        if (claim(config, pattern, origin)) set_pattern(pattern, preset_pattern(preset, config, role));
    }
    return true;
}
