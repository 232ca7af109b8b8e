// SPDX-License-Identifier: Apache-2.0
// Values of a config.json by meaning, with messages that name file, key, found and expected.
#include "config/hf/source.h"

#include <stdio.h>
#include <string.h>

#include "base/status.h"

// The value at a dotted path, null included.
static const json_t *written_at(const json_t *object, const char *path)
{
    const char *dot;
    while (object && (dot = strchr(path, '.'))) {
        object = json_object_getn(object, path, (size_t)(dot - path));
        path = dot + 1;
    }
    return json_object_get(object, path);
}

const json_t *mb_hf_at(const json_t *object, const char *path)
{
    const json_t *value = written_at(object, path);
    return json_is_null(value) ? NULL : value;
}

bool mb_hf_said(const struct mb_hf_source *source, enum mb_hf_meaning meaning)
{
    const char *const *keys = mb_hf_spellings[meaning].keys;
    for (int i = 0; i < MB_HF_SPELLINGS_MAX && keys[i]; i++)
        if (written_at(source->scope, keys[i])) return true;
    return false;
}

// The layer's own keys, which go before those of all layers: {"per_layer_config": {"3": {"num_local_experts": 8}}}, or
// the entry of a list block_configs.
static const json_t *of_layer(const struct mb_hf_source *source)
{
    char layer[24];
    if (source->layer < 0) return NULL;
    const json_t *blocks = mb_hf_at(source->scope, "block_configs");
    if (json_is_array(blocks)) return json_array_get(blocks, (size_t)source->layer);
    snprintf(layer, sizeof layer, "%lld", (long long)source->layer);
    return mb_hf_at(mb_hf_at(source->scope, "per_layer_config"), layer);
}

const json_t *mb_hf_find(const struct mb_hf_source *source, enum mb_hf_meaning meaning, const char **key)
{
    const char *const *keys = mb_hf_spellings[meaning].keys;
    const json_t *const objects[] = {of_layer(source), source->scope};
    for (int o = 0; o < 2; o++)
        for (int i = 0; objects[o] && i < MB_HF_SPELLINGS_MAX && keys[i]; i++) {
            const json_t *value = mb_hf_at(objects[o], keys[i]);
            *key = keys[i];
            if (value) return value;
        }
    *key = keys[0];
    return NULL;
}

enum mb_hf_meaning mb_hf_width_meaning(const struct mb_hf_source *source)
{
    const unsigned flags = source->family->flags;
    const char *key;
    const bool apart = flags & MB_HF_DENSE_WIDTH_APART && mb_hf_find(source, MB_HF_DENSE_WIDTH, &key);
    return apart || flags & MB_HF_GENERAL_IS_EXPERT ? MB_HF_GENERAL_WIDTH : MB_HF_EXPERT_WIDTH;
}

static void describe(const json_t *value, char out[80])
{
    switch (json_typeof(value)) {
    case JSON_STRING:
        snprintf(out, 80, "\"%.60s\"", json_string_value(value));
        return;
    case JSON_INTEGER:
        snprintf(out, 80, "%lld", (long long)json_integer_value(value));
        return;
    case JSON_REAL:
        snprintf(out, 80, "%.9g", json_real_value(value));
        return;
    case JSON_TRUE:
        snprintf(out, 80, "true");
        return;
    case JSON_FALSE:
        snprintf(out, 80, "false");
        return;
    case JSON_ARRAY:
        snprintf(out, 80, "a list of %zu", json_array_size(value));
        return;
    case JSON_OBJECT:
        snprintf(out, 80, "an object");
        return;
    default:
        snprintf(out, 80, "null");
        return;
    }
}

moeblock_status mb_hf_wrong(const struct mb_hf_source *source, const char *key, const json_t *found,
                            const char *expected)
{
    char text[80];
    describe(found, text);
    if (!source->family)
        return mb_fail(source->error, MOEBLOCK_INVALID_CONFIG, "%s: %s is %s, expected %s", source->name, key, text,
                       expected);
    return mb_fail(source->error, MOEBLOCK_INVALID_CONFIG, "%s: %s (%s) is %s, expected %s", source->name, key,
                   source->model_type, text, expected);
}

// The value itself, or the layer's entry of a list (the bank's, where there are two); NULL entries count as absent.
static moeblock_status at_layer(const struct mb_hf_source *source, const char *key, const json_t **value)
{
    if (!json_is_array(*value)) return MOEBLOCK_OK;
    if (!strcmp(source->family->router->type, "token_type")) {
        if ((size_t)source->bank >= json_array_size(*value))
            return mb_hf_wrong(source, key, *value, "an entry for each of two banks of experts");
        *value = json_array_get(*value, (size_t)source->bank);
        return MOEBLOCK_OK;
    }
    if (source->layer < 0) return mb_hf_wrong(source, key, *value, "one value for all layers");
    if ((size_t)source->layer >= json_array_size(*value)) {
        char expected[64];
        snprintf(expected, sizeof expected, "an entry for layer %lld", (long long)source->layer);
        return mb_hf_wrong(source, key, *value, expected);
    }
    *value = json_array_get(*value, (size_t)source->layer);
    if (json_is_null(*value)) *value = NULL;
    return MOEBLOCK_OK;
}

// Reads a number; *present says whether there was one. Integers must be written as such.
static moeblock_status read_number(const struct mb_hf_source *source, enum mb_hf_meaning meaning, bool integer,
                                   double *number, bool *present)
{
    const struct mb_hf_spelling *spelling = &mb_hf_spellings[meaning];
    const char *key;
    const json_t *value = mb_hf_find(source, meaning, &key);
    *present = false;
    if (value) MB_TRY(at_layer(source, key, &value));
    if (!value) return MOEBLOCK_OK;
    char expected[96];
    snprintf(expected, sizeof expected, "%s from %.9g to %.9g", integer ? "an integer" : "a number", spelling->minimum,
             spelling->maximum);
    if (integer ? !json_is_integer(value) : !json_is_number(value)) return mb_hf_wrong(source, key, value, expected);
    *number = json_number_value(value);
    if (!(*number >= spelling->minimum && *number <= spelling->maximum))
        return mb_hf_wrong(source, key, value, expected);
    *present = true;
    return MOEBLOCK_OK;
}

moeblock_status mb_hf_int(const struct mb_hf_source *source, enum mb_hf_meaning meaning, int64_t *value)
{
    double number;
    bool present;
    MB_TRY(read_number(source, meaning, true, &number, &present));
    if (present) *value = (int64_t)number; // exact: all ranges end far below 2^53
    return MOEBLOCK_OK;
}

moeblock_status mb_hf_int_required(const struct mb_hf_source *source, enum mb_hf_meaning meaning, int64_t *value)
{
    double number;
    bool present;
    MB_TRY(read_number(source, meaning, true, &number, &present));
    if (present) {
        *value = (int64_t)number;
        return MOEBLOCK_OK;
    }
    char keys[256] = "";
    const char *const *spellings = mb_hf_spellings[meaning].keys;
    for (int i = 0; i < MB_HF_SPELLINGS_MAX && spellings[i]; i++) {
        const size_t used = strlen(keys);
        snprintf(keys + used, sizeof keys - used, "%s%s", i ? " or " : "", spellings[i]);
    }
    return mb_fail(source->error, MOEBLOCK_INVALID_CONFIG, "%s: model type %s needs a key %s, and there is none",
                   source->name, source->model_type, keys);
}

moeblock_status mb_hf_number(const struct mb_hf_source *source, enum mb_hf_meaning meaning, double *value)
{
    double number;
    bool present;
    MB_TRY(read_number(source, meaning, false, &number, &present));
    if (present) *value = number;
    return MOEBLOCK_OK;
}

moeblock_status mb_hf_flag(const struct mb_hf_source *source, enum mb_hf_meaning meaning, bool *value)
{
    const char *key;
    const json_t *found = mb_hf_find(source, meaning, &key);
    if (!found) return MOEBLOCK_OK;
    if (!json_is_boolean(found)) return mb_hf_wrong(source, key, found, "true or false");
    *value = json_is_true(found);
    return MOEBLOCK_OK;
}

moeblock_status mb_hf_text(const struct mb_hf_source *source, enum mb_hf_meaning meaning, const char **value)
{
    const char *key;
    const json_t *found = mb_hf_find(source, meaning, &key);
    if (!found) return MOEBLOCK_OK;
    if (!json_is_string(found)) return mb_hf_wrong(source, key, found, "a string");
    *value = json_string_value(found);
    return MOEBLOCK_OK;
}
