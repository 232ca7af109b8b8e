// SPDX-License-Identifier: Apache-2.0
// Which layers of a model are MoE (moe-families 1.2): one function per rule, picked by the family's row.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "config/hf/source.h"

// What the keys of all rules say; absent ones keep the value that makes every layer MoE.
struct layer_keys {
    int64_t count, dense_first, frequency, step, moe_first, moe_last, interval, period, offset, moe_step, hash_layers;
    int64_t sparse_layers, encoder_step;
    bool enabled;
    const json_t *types, *dense_only, *listed, *frequencies, *blocks;
    const char *enumerated, *letters;
};

static bool lists_integer(const json_t *list, int64_t layer)
{
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
    {
        if (json_is_integer(entry) && json_integer_value(entry) == layer) return true;
    }
    return false;
}

// "4,5,6": comma-separated layer numbers.
static bool lists_text(const char *text, int64_t layer)
{
    while (*text) {
        char *end;
        const long long value = strtoll(text, &end, 10);
        if (end == text) return false;
        if (value == layer) return true;
        text = *end == ',' ? end + 1 : end;
    }
    return false;
}

static bool all_layers(const struct layer_keys *keys, int64_t layer)
{
    (void)keys, (void)layer;
    return true;
}
static bool frequency_list(const struct layer_keys *keys, int64_t layer)
{
    if (!keys->frequencies) return true;
    return json_integer_value(json_array_get(keys->frequencies, (size_t)layer)) == 1;
}
static bool after_dense(const struct layer_keys *keys, int64_t layer)
{
    if (keys->frequencies) return layer >= keys->dense_first && frequency_list(keys, layer);
    return layer >= keys->dense_first && keys->frequency > 0 && layer % keys->frequency == 0;
}
static bool sparse_steps(const struct layer_keys *keys, int64_t layer)
{
    return keys->step > 0 && (layer + 1) % keys->step == 0 && !lists_integer(keys->dense_only, layer);
}
static bool between(const struct layer_keys *keys, int64_t layer)
{
    const int64_t last = keys->moe_last < 0 ? keys->count - 1 : keys->moe_last;
    return (layer + 1) % keys->interval == 0 && layer >= keys->moe_first && layer <= last;
}
static bool periodic(const struct layer_keys *keys, int64_t layer)
{
    return layer >= keys->offset && (layer - keys->offset) % keys->period == 0;
}
static bool listed_or_step(const struct layer_keys *keys, int64_t layer)
{
    if (json_array_size(keys->listed)) return lists_integer(keys->listed, layer);
    return (layer + 1) % keys->moe_step == 0;
}
static bool listed_text(const struct layer_keys *keys, int64_t layer)
{
    return !keys->enumerated || lists_text(keys->enumerated, layer);
}
static bool block_letters(const struct layer_keys *keys, int64_t layer)
{
    if (keys->blocks) {
        const char *word = json_string_value(json_array_get(keys->blocks, (size_t)layer));
        return word && !strcmp(word, "moe");
    }
    return keys->letters && (size_t)layer < strlen(keys->letters) && keys->letters[layer] == 'E';
}
static bool when_enabled(const struct layer_keys *keys, int64_t layer)
{
    (void)layer;
    return keys->enabled;
}

static bool every(const struct layer_keys *keys, int64_t layer)
{
    return keys->frequency > 0 && (layer + 1) % keys->frequency == 0;
}
static bool encoder_steps(const struct layer_keys *keys, int64_t layer)
{
    return keys->encoder_step > 0 && (layer + 1) % keys->encoder_step == 0;
}
static bool sparse_count(const struct layer_keys *keys, int64_t layer)
{
    const int64_t step = keys->sparse_layers > 0 ? keys->count / keys->sparse_layers : keys->encoder_step;
    return step == 1 || (step > 0 && layer % step == 1);
}

static bool (*const rules[])(const struct layer_keys *keys, int64_t layer) = {
    [MB_HF_ALL_LAYERS] = all_layers,       [MB_HF_AFTER_DENSE] = after_dense,
    [MB_HF_SPARSE_STEPS] = sparse_steps,   [MB_HF_BETWEEN] = between,
    [MB_HF_PERIODIC] = periodic,           [MB_HF_LISTED_OR_STEP] = listed_or_step,
    [MB_HF_LISTED_TEXT] = listed_text,     [MB_HF_FREQUENCY_LIST] = frequency_list,
    [MB_HF_BLOCK_LETTERS] = block_letters, [MB_HF_WHEN_ENABLED] = when_enabled,
    [MB_HF_AFTER_HASH] = all_layers,       [MB_HF_EVERY] = every,
    [MB_HF_ENCODER_STEPS] = encoder_steps, [MB_HF_SPARSE_COUNT] = sparse_count,
};

static enum mb_hf_layer_kind kind_of(const struct mb_hf_source *source, const struct layer_keys *keys, int64_t layer)
{
    if (keys->types) { // the list that newer files carry instead of a rule
        const char *word = json_string_value(json_array_get(keys->types, (size_t)layer));
        if (!word || !strcmp(word, "dense")) return MB_HF_DENSE;
        return strcmp(word, "hash_moe") ? MB_HF_MOE : MB_HF_HASHED;
    }
    if (source->family->layers == MB_HF_AFTER_HASH && layer < keys->hash_layers) return MB_HF_HASHED;
    return rules[source->family->layers](keys, layer) ? MB_HF_MOE : MB_HF_DENSE;
}

static moeblock_status read_list(const struct mb_hf_source *source, enum mb_hf_meaning meaning, const json_t **list)
{
    const char *key;
    *list = mb_hf_find(source, meaning, &key);
    if (*list && !json_is_array(*list)) return mb_hf_wrong(source, key, *list, "a list");
    return MOEBLOCK_OK;
}

static moeblock_status read_keys(const struct mb_hf_source *source, int64_t count, struct layer_keys *keys)
{
    const char *key;
    *keys = (struct layer_keys){.count = count,
                                .frequency = 1,
                                .step = 1,
                                .moe_last = -1,
                                .interval = 1,
                                .period = 1,
                                .moe_step = 1,
                                .enabled = source->family->layers != MB_HF_WHEN_ENABLED ||
                                           !mb_hf_find(source, MB_HF_MOE_ENABLED, &key)};
    MB_TRY(mb_hf_flag(source, MB_HF_MOE_ENABLED, &keys->enabled));
    MB_TRY(read_list(source, MB_HF_LAYER_TYPES, &keys->types));
    MB_TRY(read_list(source, MB_HF_DENSE_ONLY, &keys->dense_only));
    MB_TRY(read_list(source, MB_HF_MOE_LAYERS, &keys->listed));
    MB_TRY(read_list(source, MB_HF_BLOCK_TYPES, &keys->blocks));
    MB_TRY(mb_hf_text(source, MB_HF_MOE_ENUM, &keys->enumerated));
    MB_TRY(mb_hf_text(source, MB_HF_BLOCK_PATTERN, &keys->letters));
    // An entry a layer, or every how many layers.
    if (source->family->layers == MB_HF_FREQUENCY_LIST ||
        json_is_array(mb_hf_find(source, MB_HF_LAYER_FREQUENCY, &key)))
        MB_TRY(read_list(source, MB_HF_LAYER_FREQUENCY, &keys->frequencies));
    else
        MB_TRY(mb_hf_int(source, MB_HF_LAYER_FREQUENCY, &keys->frequency));
    const json_t *each = mb_hf_find(source, MB_HF_LAYER_FREQUENCY, &key);
    if (keys->frequencies && json_array_size(keys->frequencies) < (size_t)count)
        return mb_hf_wrong(source, key, each, "an entry for each layer");
    MB_TRY(mb_hf_int(source, MB_HF_DENSE_FIRST, &keys->dense_first));
    MB_TRY(mb_hf_int(source, MB_HF_SPARSE_STEP, &keys->step));
    MB_TRY(mb_hf_int(source, MB_HF_MOE_FIRST, &keys->moe_first));
    MB_TRY(mb_hf_int(source, MB_HF_MOE_LAST, &keys->moe_last));
    MB_TRY(mb_hf_int(source, MB_HF_MOE_INTERVAL, &keys->interval));
    MB_TRY(mb_hf_int(source, MB_HF_PERIOD, &keys->period));
    MB_TRY(mb_hf_int(source, MB_HF_OFFSET, &keys->offset));
    MB_TRY(mb_hf_int(source, MB_HF_HASH_LAYERS, &keys->hash_layers));
    MB_TRY(mb_hf_int(source, MB_HF_SPARSE_LAYERS, &keys->sparse_layers));
    MB_TRY(mb_hf_int(source, MB_HF_ENCODER_STEP, &keys->encoder_step));
    return mb_hf_int(source, MB_HF_MOE_STEP, &keys->moe_step);
}

moeblock_status mb_hf_layer_count(const struct mb_hf_source *source, int64_t *count)
{
    const char *key, *letters = NULL;
    if (mb_hf_find(source, MB_HF_LAYERS, &key) || source->family->layers != MB_HF_BLOCK_LETTERS)
        return mb_hf_int_required(source, MB_HF_LAYERS, count);
    const json_t *blocks;
    MB_TRY(read_list(source, MB_HF_BLOCK_TYPES, &blocks));
    MB_TRY(mb_hf_text(source, MB_HF_BLOCK_PATTERN, &letters));
    *count = blocks ? (int64_t)json_array_size(blocks) : letters ? (int64_t)strlen(letters) : 0;
    if (*count > 0 && (double)*count <= mb_hf_spellings[MB_HF_LAYERS].maximum) return MOEBLOCK_OK;
    return mb_hf_int_required(source, MB_HF_LAYERS, count);
}

// Writes the MoE layers as ranges, "1-3,5"; returns false when they do not fit.
static bool write_ranges(const struct mb_hf_source *source, const struct layer_keys *keys, char *out, size_t capacity)
{
    size_t used = 0;
    out[0] = '\0';
    for (int64_t first = 0; first < keys->count; first++) {
        if (kind_of(source, keys, first) == MB_HF_DENSE) continue;
        int64_t last = first;
        while (last + 1 < keys->count && kind_of(source, keys, last + 1) != MB_HF_DENSE) last++;
        const int n = first == last ? snprintf(out + used, capacity - used, "%s%lld", used ? "," : "", (long long)first)
                                    : snprintf(out + used, capacity - used, "%s%lld-%lld", used ? "," : "",
                                               (long long)first, (long long)last);
        if (n < 0 || (size_t)n >= capacity - used) {
            out[0] = '\0';
            return false;
        }
        used += (size_t)n;
        first = last;
    }
    return true;
}

// The first layer of a kind; `count` when there is none.
static int64_t first_of(const struct mb_hf_source *source, const struct layer_keys *keys, enum mb_hf_layer_kind kind)
{
    int64_t layer = 0;
    while (layer < keys->count && kind_of(source, keys, layer) != kind) layer++;
    return layer;
}

moeblock_status mb_hf_choose_layer(struct mb_hf_source *source, int64_t layer, int64_t count, char *list,
                                   size_t capacity)
{
    struct layer_keys keys;
    MB_TRY(read_keys(source, count, &keys));
    write_ranges(source, &keys, list, capacity);
    char shown[512];
    if (!write_ranges(source, &keys, shown, sizeof shown)) snprintf(shown, sizeof shown, "too many to list");
    const int64_t chosen = first_of(source, &keys, MB_HF_MOE), hashed = first_of(source, &keys, MB_HF_HASHED);
    if (chosen == count && hashed == count)
        return mb_fail(source->error, MOEBLOCK_INVALID_CONFIG, "%s: none of the %lld layers of this %s is MoE",
                       source->name, (long long)count, source->model_type);
    if (layer < 0) layer = chosen < count ? chosen : hashed; // one that needs no token ids, where there is a choice
    if (layer >= count)
        return mb_fail(source->error, MOEBLOCK_INVALID_CONFIG,
                       "%s: layer %lld was asked for, this %s has %lld layers; the MoE layers are %s", source->name,
                       (long long)layer, source->model_type, (long long)count, shown);
    const enum mb_hf_layer_kind kind = kind_of(source, &keys, layer);
    if (kind == MB_HF_DENSE)
        return mb_fail(source->error, MOEBLOCK_INVALID_CONFIG,
                       "%s: layer %lld of this %s is dense; the MoE layers are %s", source->name, (long long)layer,
                       source->model_type, shown);
    source->layer = layer;
    source->hashed = kind == MB_HF_HASHED;
    return MOEBLOCK_OK;
}
