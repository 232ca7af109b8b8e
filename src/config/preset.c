// SPDX-License-Identifier: Apache-2.0
// Named sets of values: what a router type stands for, and how families name their tensors (moe-families 1.2-1.11).
#include "config/preset.h"

#include <string.h>

#include "config/tensors.h"
#include "config/value.h"

void mb_config_defaults(moeblock_config *config)
{
    for (size_t i = 0; i < mb_schema_count; i++) {
        if (!mb_schema[i].fallback) continue;
        mb_value_set_text(config, (int)i, mb_schema[i].fallback);
        config->given[i] = MB_FROM_DEFAULT;
    }
}

// Settings of the router types, beyond the schema's defaults. "linear" has none.
static const struct {
    const char *type, *path, *value;
} router_presets[] = {
    // F10, the DeepSeek-V3 line
    {"moe_gate", "router.config.score", "\"sigmoid\""},
    {"moe_gate", "router.config.score_correction_bias", "true"},
    {"moe_gate", "router.config.group_score", "\"sum_top2\""},
    {"moe_gate", "router.config.norm", "\"sum\""},
    {"moe_gate", "router.config.norm_eps", "1e-20"},
    // F3, softmax over the kept logits
    {"topk", "router.config.score", "\"identity\""},
    {"topk", "router.config.post", "\"softmax_k\""},
};

static const struct {
    const char *name, *meaning; // aliases have the type they stand for
} router_types[] = {{"moe_gate", "moe_gate"}, {"grouped_topk", "moe_gate"}, {"topk", "topk"}, {"linear", "linear"}};

static const char *router_meaning(const char *type)
{
    for (size_t i = 0; i < sizeof router_types / sizeof router_types[0]; i++)
        if (!strcmp(router_types[i].name, type)) return router_types[i].meaning;
    return NULL;
}

bool mb_router_is_builtin(const char *type) { return router_meaning(type) != NULL; }

bool mb_expert_is_builtin(const char *type) { return !strcmp(type, "distributed") || !strcmp(type, "throughput"); }

void mb_router_preset(moeblock_config *config)
{
    const char *meaning = router_meaning(config->router.type);
    for (size_t i = 0; meaning && i < sizeof router_presets / sizeof router_presets[0]; i++) {
        const int row = mb_schema_find(router_presets[i].path);
        if (strcmp(router_presets[i].type, meaning) || config->given[row] > MB_FROM_PRESET) continue;
        mb_value_set_text(config, row, router_presets[i].value);
        config->given[row] = MB_FROM_PRESET;
    }
}

// How families name their tensors. What a preset does not name keeps the schema's pattern, which is DeepSeek's.
enum { RENAMED_MAX = 14 };
struct names_preset {
    const char *name, *prefix;
    enum mb_layout layout;
    enum mb_orientation orientation;
    enum mb_gate_up gate_up, shared_gate_up;
    struct {
        enum mb_role role;
        const char *pattern;
    } renamed[RENAMED_MAX]; // ended by a NULL pattern
};

#define LAYERS "model.layers.{layer}"
static const struct names_preset names_presets[] = {
    {.name = "deepseek", .prefix = LAYERS},
    {.name = "qwen",
     .prefix = LAYERS,
     .renamed = {{MB_ROLE_SHARED_GATE, "mlp.shared_expert.gate_proj.weight"},
                 {MB_ROLE_SHARED_UP, "mlp.shared_expert.up_proj.weight"},
                 {MB_ROLE_SHARED_DOWN, "mlp.shared_expert.down_proj.weight"}}},
    {.name = "mixtral",
     .prefix = LAYERS,
     .renamed = {{MB_ROLE_ROUTER, "block_sparse_moe.gate.weight"},
                 {MB_ROLE_SELECTION_BIAS, "block_sparse_moe.e_score_correction_bias"},
                 {MB_ROLE_GATE, "block_sparse_moe.experts.{expert}.w1.weight"},
                 {MB_ROLE_UP, "block_sparse_moe.experts.{expert}.w3.weight"},
                 {MB_ROLE_DOWN, "block_sparse_moe.experts.{expert}.w2.weight"}}},
    {.name = "gpt_oss",
     .prefix = LAYERS,
     .layout = MB_LAYOUT_STACKED,
     .orientation = MB_INPUT_MAJOR,
     .gate_up = MB_GATE_UP_INTERLEAVED,
     .renamed = {{MB_ROLE_ROUTER, "mlp.router.weight"},
                 {MB_ROLE_ROUTER_BIAS, "mlp.router.bias"},
                 {MB_ROLE_GATE_UP, "mlp.experts.gate_up_proj"},
                 {MB_ROLE_GATE_UP_BIAS, "mlp.experts.gate_up_proj_bias"},
                 {MB_ROLE_DOWN, "mlp.experts.down_proj"},
                 {MB_ROLE_DOWN_BIAS, "mlp.experts.down_proj_bias"}}},
    {.name = "llama4",
     .prefix = "language_model." LAYERS,
     .layout = MB_LAYOUT_STACKED,
     .orientation = MB_INPUT_MAJOR,
     .gate_up = MB_GATE_UP_CONCATENATED,
     .renamed = {{MB_ROLE_ROUTER, "feed_forward.router.weight"},
                 {MB_ROLE_GATE_UP, "feed_forward.experts.gate_up_proj"},
                 {MB_ROLE_DOWN, "feed_forward.experts.down_proj"},
                 {MB_ROLE_SHARED_GATE, "feed_forward.shared_expert.gate_proj.weight"},
                 {MB_ROLE_SHARED_UP, "feed_forward.shared_expert.up_proj.weight"},
                 {MB_ROLE_SHARED_DOWN, "feed_forward.shared_expert.down_proj.weight"}}},
    {.name = "granite",
     .prefix = LAYERS,
     .layout = MB_LAYOUT_STACKED,
     .gate_up = MB_GATE_UP_CONCATENATED,
     .shared_gate_up = MB_GATE_UP_CONCATENATED,
     .renamed = {{MB_ROLE_ROUTER, "block_sparse_moe.router.layer.weight"},
                 {MB_ROLE_GATE_UP, "block_sparse_moe.input_linear.weight"},
                 {MB_ROLE_DOWN, "block_sparse_moe.output_linear.weight"},
                 {MB_ROLE_SHARED_GATE_UP, "shared_mlp.input_linear.weight"},
                 {MB_ROLE_SHARED_DOWN, "shared_mlp.output_linear.weight"}}},
    {.name = "ernie",
     .prefix = LAYERS,
     .renamed = {{MB_ROLE_SELECTION_BIAS, "mlp.moe_statics.e_score_correction_bias"}}},
    {.name = "hunyuan",
     .prefix = LAYERS,
     .renamed = {{MB_ROLE_ROUTER, "mlp.gate.wg.weight"},
                 {MB_ROLE_SHARED_GATE, "mlp.shared_mlp.gate_proj.weight"},
                 {MB_ROLE_SHARED_UP, "mlp.shared_mlp.up_proj.weight"},
                 {MB_ROLE_SHARED_DOWN, "mlp.shared_mlp.down_proj.weight"}}},
    {.name = "stacked",
     .prefix = LAYERS,
     .layout = MB_LAYOUT_STACKED,
     .gate_up = MB_GATE_UP_CONCATENATED,
     .renamed = {{MB_ROLE_GATE, "mlp.experts.gate_proj"},
                 {MB_ROLE_UP, "mlp.experts.up_proj"},
                 {MB_ROLE_GATE_UP, "mlp.experts.gate_up_proj"},
                 {MB_ROLE_DOWN, "mlp.experts.down_proj"},
                 {MB_ROLE_GATE_BIAS, "mlp.experts.gate_proj_bias"},
                 {MB_ROLE_UP_BIAS, "mlp.experts.up_proj_bias"},
                 {MB_ROLE_GATE_UP_BIAS, "mlp.experts.gate_up_proj_bias"},
                 {MB_ROLE_DOWN_BIAS, "mlp.experts.down_proj_bias"}}},
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

static const char *preset_pattern(const struct names_preset *preset, const moeblock_config *config, enum mb_role role)
{
    for (int i = 0; i < RENAMED_MAX && preset->renamed[i].pattern; i++)
        if (preset->renamed[i].role == role) return preset->renamed[i].pattern;
    return mb_schema[mb_schema_row_of(config, config->tensor[role])].fallback;
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
    if (claim(config, &config->layout, origin)) config->layout = preset->layout;
    if (claim(config, &config->orientation, origin)) config->orientation = preset->orientation;
    if (claim(config, &config->gate_up, origin)) config->gate_up = preset->gate_up;
    if (claim(config, &config->shared_gate_up, origin)) config->shared_gate_up = preset->shared_gate_up;
    for (int role = 0; role < MB_ROLES; role++) {
        char *pattern = config->tensor[role];
        if (claim(config, pattern, origin)) set_pattern(pattern, preset_pattern(preset, config, (enum mb_role)role));
    }
    return true;
}
