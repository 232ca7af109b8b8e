// SPDX-License-Identifier: Apache-2.0
// Whether a config.json says all that its family needs: sizes, and the keys whose absence would leave a value to the
// model's code that this library does not know (families.c lists them). All that is missing is named at once.
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "config/hf/source.h"

struct missing {
    char keys[800];
    int count;
};

// Appends "n_group (or num_expert_group)".
static void name(struct missing *missing, enum mb_hf_meaning meaning)
{
    const char *const *keys = mb_hf_spellings[meaning].keys;
    for (int i = 0; i < MB_HF_SPELLINGS_MAX && keys[i]; i++) {
        const size_t used = strlen(missing->keys);
        const char *before = i > 0 ? i == 1 ? " (or " : ", " : missing->count ? " and " : "";
        const bool last = i + 1 == MB_HF_SPELLINGS_MAX || !keys[i + 1];
        snprintf(missing->keys + used, sizeof missing->keys - used, "%s%s%s", before, keys[i], i && last ? ")" : "");
    }
    missing->count++;
}

// Whether an object of each layer has what is read at the layer, which is not known yet.
static bool by_block(const struct mb_hf_source *source)
{
    return json_is_array(mb_hf_at(source->scope, "block_configs"));
}

static void check_sizes(const struct mb_hf_source *source, struct missing *missing)
{
    const enum mb_hf_meaning sizes[] = {MB_HF_HIDDEN_SIZE, MB_HF_EXPERTS, MB_HF_TOP_K, mb_hf_width_meaning(source),
                                        MB_HF_LAYERS};
    const char *key;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        // The list of blocks has a letter or word a layer.
        if (sizes[i] == MB_HF_LAYERS && source->family->layers == MB_HF_BLOCK_LETTERS) continue;
        if ((sizes[i] == MB_HF_TOP_K && source->family->expert->fixed_k) ||
            (i == 3 && (source->family->expert->fixed_width || source->family->flags & MB_HF_WIDTH_OF_HIDDEN)))
            continue;
        if (i && i < 4 && by_block(source)) continue;
        if (!mb_hf_find(source, sizes[i], &key)) name(missing, sizes[i]);
    }
}

// The conditions of enum mb_hf_when that hold for this file.
static unsigned conditions(const struct mb_hf_source *source)
{
    const char *key, *method = json_string_value(mb_hf_find(source, MB_HF_TOPK_METHOD, &key));
    const json_t *groups = mb_hf_find(source, MB_HF_GROUPS, &key);
    bool ungrouped = false;
    for (const struct mb_hf_value *value = source->family->values; method && value && value->text; value++)
        ungrouped |= value->effect == MB_HF_NO_GROUPS && !strcmp(value->text, method);
    unsigned hold = MB_HF_ALWAYS;
    if (!ungrouped && json_integer_value(groups) > 1) hold |= MB_HF_WITH_GROUPS;
    if (!ungrouped && method) hold |= MB_HF_WITH_GROUP_METHOD;
    return hold;
}

moeblock_status mb_hf_check_complete(const struct mb_hf_source *source)
{
    struct missing missing = {.count = 0};
    const unsigned hold = conditions(source);
    check_sizes(source, &missing);
    for (const struct mb_hf_need *need = source->family->needs; need && need->when; need++)
        if ((need->when & hold) && !mb_hf_said(source, need->meaning) && !by_block(source))
            name(&missing, need->meaning);
    if (!missing.count) return MOEBLOCK_OK;
    return mb_fail(source->error, MOEBLOCK_INVALID_CONFIG,
                   "%s: model type %s needs %s, which the file does not give; take %s from the published config.json",
                   source->name, source->model_type, missing.keys, missing.count > 1 ? "them" : "it");
}
