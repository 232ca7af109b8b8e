// SPDX-License-Identifier: Apache-2.0
// Decides what each key of a document of ours means: walks the JSON, finds rows by path, and refuses what it does not
// know.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "base/words.h"
#include "config/preset.h"
#include "config/reader.h"
#include "config/value.h"

enum { ACTIVATIONS_MAX = 32 };

// Where the walk stands: the document's path, and the same without a leading "moe_block.".
struct place {
    struct mb_reader *reader;
    bool from_file;
    char path[MB_PATH_TEXT];
};

static const char *meant(const char *path) { return strncmp(path, "moe_block.", 10) ? path : path + 10; }

static int line_of(const struct mb_reader *reader, const char *path)
{
    return reader->text && path[0] ? mb_json_line(reader->text, reader->bytes, path) : 0;
}

moeblock_status mb_reader_fail(const struct mb_reader *reader, moeblock_error *error, int row, const char *format, ...)
{
    char message[900];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    const int line = row < 0 ? 0 : line_of(reader, reader->spelled[row]);
    if (line > 0) return mb_fail(error, MOEBLOCK_INVALID_CONFIG, "%s:%d: %s", reader->name, line, message);
    return mb_fail(error, MOEBLOCK_INVALID_CONFIG, "%s: %s", reader->name, message);
}

// The same for a path of the document itself. A --set has no lines: the path is enough.
static moeblock_status fail_at(const struct place *at, moeblock_error *error, const char *message)
{
    const int line = at->from_file ? line_of(at->reader, at->path) : 0;
    if (line > 0) return mb_fail(error, MOEBLOCK_INVALID_CONFIG, "%s:%d: %s", at->reader->name, line, message);
    return mb_fail(error, MOEBLOCK_INVALID_CONFIG, "%s: %s", at->from_file ? at->reader->name : "--set", message);
}

static moeblock_status unknown_key(const struct place *at, moeblock_error *error)
{
    char message[3 * MB_PATH_TEXT], nearest[MB_PATH_TEXT];
    if (mb_nearest_key(meant(at->path), nearest))
        snprintf(message, sizeof message, "unknown key \"%s\"; did you mean \"%s\"?", at->path, nearest);
    else
        snprintf(message, sizeof message, "unknown key \"%s\"; docs/config.md lists the keys", at->path);
    return fail_at(at, error, message);
}

// A key that could be mistaken for a path, or be no part of one.
static moeblock_status impossible_key(const struct place *at, const char *key, moeblock_error *error)
{
    char message[3 * MB_PATH_TEXT];
    const char *fault = strchr(key, '.') ? "has a dot in its name; write nested objects"
                        : key[0]         ? "is too long"
                                         : "is empty";
    snprintf(message, sizeof message, "key \"%.64s\"%s%s %s", key, at->path[0] ? " in " : "", at->path, fault);
    return fail_at(at, error, message);
}

static const char *nearest_choice(int row, const char *name)
{
    const char *kinds[ACTIVATIONS_MAX + 1] = {NULL};
    if (mb_schema[row].type == MB_TYPE_ENUM) return mb_nearest_name(name, mb_schema[row].names);
    if (mb_schema[row].type != MB_TYPE_SPECIAL) return NULL;
    for (int i = 0; i < ACTIVATIONS_MAX && mb_activation_kinds[i].name; i++) kinds[i] = mb_activation_kinds[i].name;
    return mb_nearest_name(name, kinds);
}

// A value that its row refuses: what was found, what is allowed, and the nearest name of a choice.
static moeblock_status unsuitable(const struct place *at, int row, const json_t *value, moeblock_error *error)
{
    char found[96], allowed[512], message[900];
    const char *nearest = NULL;
    mb_value_found(value, found);
    mb_value_allowed(row, allowed, sizeof allowed);
    if (json_is_string(value)) nearest = nearest_choice(row, json_string_value(value));
    snprintf(message, sizeof message, "%s is %s, expected %s%s%s%s", at->path, found, allowed,
             nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
    return fail_at(at, error, message);
}

// Two spellings of one key may stand side by side when they say the same.
static moeblock_status check_spellings(const struct place *at, int row, const char *before, moeblock_error *error)
{
    char after[MB_VALUE_TEXT], message[900];
    const char *first = at->reader->spelled[row];
    if (!at->from_file || !first[0]) return MOEBLOCK_OK;
    mb_value_text(at->reader->config, row, true, after);
    if (!strcmp(before, after)) return MOEBLOCK_OK;
    snprintf(message, sizeof message, "%s is %.200s but %s, another spelling of the same key, is %.200s; keep one",
             at->path, after, first, before);
    return fail_at(at, error, message);
}

static moeblock_status assign(const struct place *at, int row, const json_t *value, moeblock_error *error)
{
    struct mb_reader *reader = at->reader;
    char before[MB_VALUE_TEXT] = "";
    if (mb_schema[row].type == MB_TYPE_IGNORED) return MOEBLOCK_OK;
    if (reader->spelled[row][0]) mb_value_text(reader->config, row, true, before);
    if (!mb_value_set(reader->config, row, value)) return unsuitable(at, row, value, error);
    MB_TRY(check_spellings(at, row, before, error));
    reader->config->given[row] = MB_FROM_FILE;
    snprintf(reader->spelled[row], MB_PATH_TEXT, "%s", at->from_file ? at->path : "");
    return MOEBLOCK_OK;
}

// Whether keys are known below this path.
static bool is_object_path(const char *path)
{
    const size_t length = strlen(path);
    if (!strcmp(path, "model_params") || !strcmp(path, "moe_block")) return true;
    if (!strcmp(path, "router.config") || !strcmp(path, "experts.config")) return true;
    for (size_t i = 0; i < mb_schema_count; i++) {
        if (!strncmp(mb_schema[i].path, path, length) && mb_schema[i].path[length] == '.') return true;
        for (const char *const *alias = mb_schema[i].aliases; alias && *alias; alias++)
            if (!strncmp(*alias, path, length) && (*alias)[length] == '.') return true;
    }
    return false;
}

// Keys under router.config that the block itself obeys, whatever the router: they are read for an outside type too.
static bool block_obeys(int row)
{
    static const char *const paths[] = {"router.config.input",     "router.config.routed_scaling_factor",
                                        "router.config.scale_on",  "router.config.null_experts",
                                        "router.config.null_kind", "router.config.apply_weight"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        if (!strcmp(mb_schema[row].path, paths[i])) return true;
    return !strncmp(mb_schema[row].path, "model.", 6);
}

// Whether a key belongs to an outside router or expert kind, which reads it itself.
static bool is_theirs(const struct mb_reader *reader, const char *path, int row)
{
    if (reader->outside_expert && !strncmp(path, "experts.config.", 15)) return true;
    return reader->outside_router && !strncmp(path, "router.config.", 14) && (row < 0 || !block_obeys(row));
}

static moeblock_status keep_object(struct mb_reader *reader, const char *path, json_t *value, moeblock_error *error)
{
    json_t **kept = !strcmp(path, "router.config")    ? &reader->router_object
                    : !strcmp(path, "experts.config") ? &reader->expert_object
                                                      : NULL;
    if (!kept) return MOEBLOCK_OK;
    if (!*kept) *kept = json_object();
    if (!*kept || json_object_update(*kept, value))
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory for %s", reader->name, path);
    return MOEBLOCK_OK;
}

static moeblock_status walk(struct place *at, json_t *object, moeblock_error *error);

static moeblock_status walk_value(struct place *at, json_t *value, moeblock_error *error)
{
    const char *path = meant(at->path);
    const int row = mb_schema_find(path);
    const bool object = json_is_object(value);
    if (is_theirs(at->reader, path, row)) return MOEBLOCK_OK;
    if (!strcmp(path, "weights.names") && json_is_string(value)) return MOEBLOCK_OK; // read first, by read_names
    if (row >= 0 && !(object && is_object_path(path))) return assign(at, row, value, error);
    if (!is_object_path(path)) return unknown_key(at, error);
    if (object) {
        MB_TRY(keep_object(at->reader, path, value, error));
        return walk(at, value, error);
    }
    char found[96], message[3 * MB_PATH_TEXT];
    mb_value_found(value, found);
    snprintf(message, sizeof message, "%s is %s, expected an object", at->path, found);
    return fail_at(at, error, message);
}

// Every level is a known object, so the depth is that of the schema.
static moeblock_status walk(struct place *at, json_t *object, moeblock_error *error)
{
    const size_t length = strlen(at->path);
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        const char *dot = length ? "." : "";
        const int written = snprintf(at->path + length, sizeof at->path - length, "%s%s", dot, key);
        if (written < 0 || (size_t)written >= sizeof at->path - length || !key[0] || strchr(key, '.')) {
            at->path[length] = 0;
            return impossible_key(at, key, error);
        }
        MB_TRY(walk_value(at, value, error));
        at->path[length] = 0;
    }
    return MOEBLOCK_OK;
}

static const json_t *lookup(const json_t *root, const char *path)
{
    char word[MB_PATH_TEXT];
    while (root && *path) {
        const size_t length = strcspn(path, ".");
        if (length >= sizeof word) return NULL;
        memcpy(word, path, length);
        word[length] = 0;
        root = json_object_get(root, word);
        path += length + (path[length] == '.');
    }
    return root;
}

const char *mb_reader_string(const json_t *root, const char *path)
{
    const char *text = json_string_value(lookup(root, path));
    return text ? text : json_string_value(lookup(json_object_get(root, "moe_block"), path));
}

// "names": "mixtral" gives all name patterns and the layout at once; single keys override it.
static moeblock_status read_names(struct place *at, const json_t *root, moeblock_error *error)
{
    const char *name = mb_reader_string(root, "weights.names");
    char message[512];
    if (!name || mb_names_preset(at->reader->config, name, MB_FROM_FILE)) return MOEBLOCK_OK;
    int used = snprintf(message, sizeof message, "weights.names is \"%.64s\", expected an object or one of", name);
    for (int i = 0; mb_names_preset_name(i) && (size_t)used < sizeof message; i++)
        used +=
            snprintf(message + used, sizeof message - (size_t)used, "%s \"%s\"", i ? "," : "", mb_names_preset_name(i));
    snprintf(at->path, sizeof at->path, "%sweights.names", json_object_get(root, "weights") ? "" : "moe_block.");
    return fail_at(at, error, message);
}

moeblock_status mb_reader_document(struct mb_reader *reader, json_t *root, bool from_file, moeblock_error *error)
{
    struct place at = {.reader = reader, .from_file = from_file};
    MB_TRY(read_names(&at, root, error));
    at.path[0] = 0;
    return walk(&at, root, error);
}
