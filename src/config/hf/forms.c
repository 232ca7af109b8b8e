// SPDX-License-Identifier: Apache-2.0
// How the checkpoint stores the layer: the family's names and layout, or another published form that it has.
#include <string.h>

#include "base/context.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "config/hf/map.h"
#include "config/roles.h"

// Rank of a role's tensor under this pattern in the checkpoint, in any number format; 0: there is none.
static int holds(moeblock_config *config, moeblock_weights *weights, int64_t layer, enum mb_role role,
                 const char *pattern)
{
    moeblock_tensor_info found;
    char *place = config->tensor[role], kept[sizeof config->tensor[0]];
    if (!pattern) return 0;
    memcpy(kept, place, sizeof kept);
    if (pattern != place) snprintf(place, sizeof kept, "%s", pattern);
    bool there = false;
    for (int f = 0; f < MB_FORMATS && !there; f++)
        there =
            mb_role_find(config, weights, role, mb_format_table[f].codes_suffix, layer, 0, &found, NULL) == MOEBLOCK_OK;
    memcpy(place, kept, sizeof kept);
    return there ? found.rank : 0;
}

static bool holds_form(moeblock_config *config, moeblock_weights *weights, int64_t layer,
                       const struct mb_hf_storage *storage)
{
    return holds(config, weights, layer, MB_ROLE_DOWN, storage->pattern[MB_ROLE_DOWN]);
}

// --- what the checkpoint has, where it is not what the family publishes ---------------------------------------------

// Where a layer of a text model stands in published files.
static const char *const prefixes[] = {
    "model.layers.{layer}",
    "model.language_model.layers.{layer}",
    "language_model.model.layers.{layer}",
    "model.llm.layers.{layer}",
    "model.text_model.layers.{layer}",
    "language_model.layers.{layer}",
    "thinker.model.layers.{layer}",
    "talker.model.layers.{layer}",
    "model.decoder.layers.{layer}",
    "backbone.layers.{layer}",
    "layers.{layer}",
    "transformer.layers.{layer}",
    "encoder.block.{layer}.layer.1",
    "decoder.block.{layer}.layer.2",
    "model.encoder.layers.{layer}",
};

// What a wrapper puts before the prefix of its text model.
static const char *const outer[] = {"language_model.", "model.", "llm."};

// The block's module in its layer.
static const char *const modules[] = {"mlp.", "block_sparse_moe.", "feed_forward.", "moe.", "ffn.", "mixer.", ""};

// Published forms of the routed experts, after the module (moe-families 1.11).
static const struct form {
    enum mb_layout layout;
    enum mb_gate_up gate_up;
    const char *gate, *up, *joint, *down; // joint: gate and up in one
} forms[] = {
    {MB_LAYOUT_PER_EXPERT, MB_GATE_UP_SEPARATE, "experts.{expert}.gate_proj.weight", "experts.{expert}.up_proj.weight",
     NULL, "experts.{expert}.down_proj.weight"},
    {MB_LAYOUT_PER_EXPERT, MB_GATE_UP_SEPARATE, "experts.{expert}.w1.weight", "experts.{expert}.w3.weight", NULL,
     "experts.{expert}.w2.weight"},
    {MB_LAYOUT_STACKED, MB_GATE_UP_CONCATENATED, NULL, "experts.up_proj", "experts.gate_up_proj", "experts.down_proj"},
    {MB_LAYOUT_STACKED, MB_GATE_UP_INTERLEAVED, NULL, NULL, "experts.w13_weight", "experts.w2_weight"},
    {MB_LAYOUT_STACKED, MB_GATE_UP_SEPARATE, "gate_proj.weight", "up_proj.weight", NULL, "down_proj.weight"},
    {MB_LAYOUT_STACKED, MB_GATE_UP_SEPARATE, "gate_proj", "up_proj", NULL, "down_proj"},
};

// Published names of the other tensors, after the module.
static const struct {
    enum mb_role role;
    const char *names[12];
} spellings[] = {
    {MB_ROLE_ROUTER,
     {"gate.weight", "router.weight", "router.gate.weight", "router.layer.weight", "gate.wg.weight",
      "router.classifier.weight", "primary_router.weight", "gate_weight"}},
    {MB_ROLE_SELECTION_BIAS,
     {"gate.e_score_correction_bias", "e_score_correction_bias", "gate.expert_bias", "expert_bias",
      "router.expert_bias", "router_bias", "router.e_score_correction_bias", "experts.e_score_correction_bias",
      "moe_statics.e_score_correction_bias", "gate.balancing_biases"}},
    {MB_ROLE_SHARED_GATE,
     {"shared_experts.gate_proj.weight", "shared_expert.gate_proj.weight", "shared_mlp.gate_proj.weight",
      "share_expert.gate_proj.weight", "shared_experts.w1.weight", "shared_experts.linear_gate.weight"}},
    {MB_ROLE_SHARED_UP,
     {"shared_experts.up_proj.weight", "shared_expert.up_proj.weight", "shared_mlp.up_proj.weight",
      "share_expert.up_proj.weight", "shared_experts.w3.weight"}},
    {MB_ROLE_SHARED_DOWN,
     {"shared_experts.down_proj.weight", "shared_expert.down_proj.weight", "shared_mlp.down_proj.weight",
      "share_expert.down_proj.weight", "shared_experts.w2.weight"}},
    {MB_ROLE_SHARED_SIGMOID, {"shared_expert_gate.weight", "shared_experts_gate.weight"}},
    {MB_ROLE_LATENT_OUT_NORM,
     {"routed_expert_norm.weight", "routed_norm.weight", "latent_norm.weight", "routed_expert_out_norm.weight"}},
};

static void set_pattern(moeblock_config *config, enum mb_role role, const char *module, const char *name)
{
    char pattern[sizeof config->tensor[0]];
    snprintf(pattern, sizeof pattern, "%s%s", module, name);
    mb_hf_set_text(config, config->tensor[role], sizeof config->tensor[role], pattern);
}

static void take_form(moeblock_config *config, const char *module, const struct form *form)
{
    const bool joint = config->routed.gated && form->joint;
    SET(config, layout, form->layout);
    SET(config, orientation, MB_OUTPUT_MAJOR);
    SET(config, down_orientation, MB_OUTPUT_MAJOR);
    SET(config, gate_up, joint ? form->gate_up : MB_GATE_UP_SEPARATE);
    if (joint) set_pattern(config, MB_ROLE_GATE_UP, module, form->joint);
    if (form->gate) set_pattern(config, MB_ROLE_GATE, module, form->gate);
    if (form->up) set_pattern(config, MB_ROLE_UP, module, form->up);
    set_pattern(config, MB_ROLE_DOWN, module, form->down);
}

static int form_rank(const struct form *form) { return form->layout == MB_LAYOUT_STACKED ? 3 : 1; }

// Finds the experts in a published form under a module.
static bool find_form(moeblock_config *config, moeblock_weights *weights, int64_t layer, const char *module)
{
    for (size_t f = 0; f < sizeof forms / sizeof forms[0]; f++) {
        char down[sizeof config->tensor[0]];
        const enum mb_layout kept = config->layout;
        snprintf(down, sizeof down, "%s%s", module, forms[f].down);
        config->layout = forms[f].layout;
        const int rank = holds(config, weights, layer, MB_ROLE_DOWN, down);
        config->layout = kept;
        const bool alike = form_rank(&forms[f]) <= rank; // or a dense layer's projection has the name
        if (!rank || !alike || (config->routed.gated && !forms[f].joint && !forms[f].gate)) continue;
        take_form(config, module, &forms[f]);
        return true;
    }
    return false;
}

// Finds the experts under a prefix: in the form that is set, else in another published one.
static bool find_experts(moeblock_config *config, moeblock_weights *weights, int64_t layer)
{
    if (holds(config, weights, layer, MB_ROLE_DOWN, config->tensor[MB_ROLE_DOWN])) return true;
    for (size_t m = 0; m < sizeof modules / sizeof modules[0]; m++)
        if (find_form(config, weights, layer, modules[m])) return true;
    return false;
}

static bool find_prefix(moeblock_config *config, moeblock_weights *weights, int64_t layer)
{
    enum { SIZE = sizeof config->module_prefix, OUTER = sizeof outer / sizeof outer[0] };
    char own[SIZE], longer[2 * SIZE];
    if (find_experts(config, weights, layer)) return true;
    memcpy(own, config->module_prefix, sizeof own);
    for (size_t p = 0; p < OUTER + sizeof prefixes / sizeof prefixes[0]; p++) {
        snprintf(longer, sizeof longer, "%s%s", p < OUTER ? outer[p] : "", p < OUTER ? own : prefixes[p - OUTER]);
        if (strlen(longer) >= SIZE) continue;
        mb_hf_set_text(config, config->module_prefix, SIZE, longer);
        if (find_experts(config, weights, layer)) return true;
    }
    mb_hf_set_text(config, config->module_prefix, SIZE, own);
    return false;
}

static bool find_spelling(moeblock_config *config, moeblock_weights *weights, int64_t layer, enum mb_role role,
                          const char *const *names)
{
    for (size_t m = 0; m < sizeof modules / sizeof modules[0]; m++)
        for (const char *const *name = names; *name; name++) {
            char pattern[sizeof config->tensor[0]];
            snprintf(pattern, sizeof pattern, "%s%s", modules[m], *name);
            if (!holds(config, weights, layer, role, pattern)) continue;
            mb_hf_set_text(config, config->tensor[role], sizeof config->tensor[role], pattern);
            return true;
        }
    return false;
}

// Whether a stacked tensor of the routed experts has the shape of its role in this description.
static bool shaped(const moeblock_config *config, moeblock_weights *weights, int64_t layer, enum mb_role role)
{
    moeblock_tensor_info found;
    int64_t dims[MOEBLOCK_MAX_RANK];
    if (!mb_role_wanted(config, role)) return true;
    if (mb_role_find(config, weights, role, "", layer, 0, &found, NULL) != MOEBLOCK_OK) return false;
    const bool floats = found.dtype == MOEBLOCK_BF16 || found.dtype == MOEBLOCK_F16 || found.dtype == MOEBLOCK_F32;
    const int rank = mb_role_dims(config, role, MB_FORMAT_BF16, MB_PART_CODES, 0, dims);
    return floats && mb_check_dims(&found, rank, dims, NULL) == MOEBLOCK_OK;
}

// Stacked experts in 16 or 32 bits are published input-major and, saved again, output-major under the same names: the
// shapes tell, where they fit one of the two alone.
static void settle_orientation(moeblock_config *config, moeblock_weights *weights, int64_t layer)
{
    static const enum mb_role roles[] = {MB_ROLE_GATE_UP, MB_ROLE_GATE, MB_ROLE_UP, MB_ROLE_DOWN};
    if (config->layout != MB_LAYOUT_STACKED || config->orientation != config->down_orientation) return;
    const enum mb_orientation own = config->orientation;
    for (int turned = 0; turned < 2; turned++) {
        config->orientation = config->down_orientation = turned ? MB_OUTPUT_MAJOR + MB_INPUT_MAJOR - own : own;
        bool all = true;
        for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) all &= shaped(config, weights, layer, roles[i]);
        if (all) return;
    }
    config->orientation = config->down_orientation = own; // neither: whoever loads names what is wrong
}

// Settles the names on those that the checkpoint has, as far as it has any of them; whoever loads names what is
// missing.
static void settle(const struct mb_hf_input *input, moeblock_config *config, moeblock_weights *weights, int64_t layer)
{
    bool changed = !holds(config, weights, layer, MB_ROLE_DOWN, config->tensor[MB_ROLE_DOWN]);
    if (changed && !find_prefix(config, weights, layer)) return;
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++) {
        const enum mb_role role = spellings[i].role;
        if (!mb_role_wanted(config, role) || holds(config, weights, layer, role, config->tensor[role])) continue;
        changed |= find_spelling(config, weights, layer, role, spellings[i].names);
    }
    if (changed)
        mb_log_line(input->context, "%s: the checkpoint has other published names than model type %s; prefix \"%s\"",
                    input->name, config->model_type, config->module_prefix);
}

// --- the family's forms ---------------------------------------------------------------------------------------------

// The form in which the checkpoint stores the model type: the first of the list that it holds.
static const struct mb_hf_storage *choose_storage(const struct mb_hf_source *source, moeblock_weights *weights,
                                                  moeblock_config *config)
{
    const struct mb_hf_storage *first = source->family->storage;
    if (!weights || holds_form(config, weights, source->layer, first)) return first;
    for (const struct mb_hf_alternative *a = mb_hf_alternatives; a->model_type; a++)
        if (!strcmp(a->model_type, source->family->model_type) &&
            holds_form(config, weights, source->layer, a->storage))
            return a->storage;
    return first;
}

// hf_quant_config.json beside the checkpoint, where ModelOpt writes it.
static moeblock_status read_beside(const struct mb_hf_source *source, const struct mb_hf_input *input, json_t **out)
{
    char path[1280];
    *out = NULL;
    if (!input->context || !input->checkpoint || !mb_is_directory(input->checkpoint)) return MOEBLOCK_OK;
    MB_TRY(mb_path_join(input->checkpoint, "hf_quant_config.json", path, sizeof path, source->error));
    if (!mb_exists(path)) return MOEBLOCK_OK;
    const struct mb_json_options options = {.invalid = MOEBLOCK_INVALID_CONFIG};
    const moeblock_allocator *allocator = &input->context->allocator;
    char *text;
    size_t bytes;
    MB_TRY(mb_file_read_text(allocator, path, (size_t)32 << 20, &text, &bytes, source->error));
    const moeblock_status status = mb_json_parse(text, bytes, path, &options, out, source->error);
    mb_free(allocator, text);
    return status;
}

// The number format, by the name of the down projections' module: lists of modules that are left alone may say "gate"
// for the router.
static moeblock_status map_format(const struct mb_hf_source *source, const struct mb_hf_input *input,
                                  moeblock_config *config)
{
    const char *format;
    char module[256];
    int64_t group;
    json_t *beside;
    mb_role_name(config, MB_ROLE_DOWN, source->layer, 0, module);
    const size_t length = strlen(module);
    if (length > 7 && !strcmp(module + length - 7, ".weight")) module[length - 7] = '\0';
    MB_TRY(read_beside(source, input, &beside));
    const moeblock_status status = mb_hf_format(source, beside, module, &format, &group);
    json_decref(beside);
    MB_TRY(status);
    mb_hf_set_text(config, config->format, sizeof config->format, format);
    if (group) SET(config, group_size, group);
    return MOEBLOCK_OK;
}

static void take_storage(moeblock_config *config, const struct mb_hf_storage *storage)
{
    SET(config, layout, storage->layout);
    SET(config, orientation, storage->orientation);
    SET(config, down_orientation, mb_hf_down_orientation(storage));
    SET(config, gate_up, storage->gate_up);
    SET(config, shared_gate_up, storage->shared_gate_up);
    for (int role = 0; role < MB_ROLES; role++)
        if (storage->pattern[role])
            mb_hf_set_text(config, config->tensor[role], sizeof config->tensor[role], storage->pattern[role]);
}

// Banks that the layers share, and whether the layer has factors of its output's channels: where no key says so,
// whether the checkpoint has them.
static moeblock_status map_banks(const struct mb_hf_source *source, moeblock_config *config, moeblock_weights *weights)
{
    int64_t banks = 1;
    char module[sizeof config->tensor[0]];
    MB_TRY(mb_hf_int_required(source, MB_HF_BANKS, &banks));
    SET(config, banks, banks);
    MB_TRY(mb_hf_find_banks(source, config, weights, module));
    if (weights && !holds(config, weights, source->layer, MB_ROLE_DOWN, config->tensor[MB_ROLE_DOWN]))
        find_form(config, weights, source->layer, module);
    bool scaled =
        weights && holds(config, weights, source->layer, MB_ROLE_OUTPUT_SCALE, config->tensor[MB_ROLE_OUTPUT_SCALE]);
    MB_TRY(mb_hf_flag(source, MB_HF_OUTPUT_SCALED, &scaled));
    SET(config, output_scale, scaled);
    return MOEBLOCK_OK;
}

// A bias is published beside its weight.
static void name_biases(moeblock_config *config)
{
    static const enum mb_role biases[][2] = {{MB_ROLE_SHARED_GATE, MB_ROLE_SHARED_GATE_BIAS},
                                             {MB_ROLE_SHARED_UP, MB_ROLE_SHARED_UP_BIAS},
                                             {MB_ROLE_SHARED_DOWN, MB_ROLE_SHARED_DOWN_BIAS},
                                             {MB_ROLE_LATENT_DOWN, MB_ROLE_LATENT_DOWN_BIAS},
                                             {MB_ROLE_LATENT_UP, MB_ROLE_LATENT_UP_BIAS}};
    for (size_t i = 0; i < sizeof biases / sizeof biases[0]; i++) {
        enum { SIZE = sizeof config->tensor[0] };
        const char *weight = config->tensor[biases[i][0]];
        char pattern[SIZE];
        if (!mb_role_wanted(config, biases[i][1])) continue;
        size_t length = strlen(weight);
        if (length > 7 && !strcmp(weight + length - 7, ".weight")) length -= 7;
        snprintf(pattern, sizeof pattern, "%.*s.bias", (int)(length < SIZE - 6 ? length : SIZE - 6), weight);
        mb_hf_set_text(config, config->tensor[biases[i][1]], SIZE, pattern);
    }
}

moeblock_status mb_hf_map_storage(const struct mb_hf_source *source, const struct mb_hf_input *input,
                                  moeblock_config *config)
{
    moeblock_weights *weights = NULL;
    mb_hf_set_text(config, config->module_prefix, sizeof config->module_prefix, source->family->prefix);
    // A checkpoint that cannot be opened says nothing here; whoever loads it gets the error.
    if (input->checkpoint && moeblock_weights_open(input->context, input->checkpoint, &weights, NULL) != MOEBLOCK_OK)
        weights = NULL;
    const struct mb_hf_storage *storage = choose_storage(source, weights, config);
    take_storage(config, storage);
    moeblock_status status = MOEBLOCK_OK;
    if (source->family->flags & MB_HF_SHARES_BANKS) status = map_banks(source, config, weights);
    if (weights) settle(input, config, weights, source->layer);
    if (weights) settle_orientation(config, weights, source->layer);
    name_biases(config);
    moeblock_weights_destroy(&weights);
    MB_TRY(status);
    return map_format(source, input, config);
}
