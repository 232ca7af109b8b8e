// SPDX-License-Identifier: Apache-2.0
// Writes a description as JSON of ours: every key that has a value and can matter, in the order of the table.
#include <stdio.h>
#include <string.h>

#include "config/preset.h"
#include "config/reader.h"
#include "config/value.h"

// Text under construction: counts everything, keeps what fits.
struct writer {
    char *to;
    size_t capacity, length;
    char parent[MB_PATH_TEXT]; // path of the object that is open; empty: the root
    bool first;                // nothing written in it yet
    char note[200];            // of the last value: a comment for the end of its line
};

static void put(struct writer *w, const char *text)
{
    const size_t length = strlen(text);
    if (w->length < w->capacity) {
        const size_t room = w->capacity - w->length;
        memcpy(w->to + w->length, text, length < room ? length : room);
    }
    w->length += length;
}

static int depth_of(const char *path)
{
    int depth = path[0] != 0;
    for (; *path; path++) depth += *path == '.';
    return depth;
}

static void new_line(struct writer *w, int depth)
{
    if (!w->first) put(w, ",");
    if (w->note[0]) put(w, w->note);
    w->note[0] = 0;
    put(w, "\n");
    for (int i = 0; i < depth; i++) put(w, "  ");
    w->first = false;
}

// Closes objects until the open one is `path` or stands above it.
static void close_to(struct writer *w, const char *path)
{
    while (w->parent[0]) {
        const size_t length = strlen(w->parent);
        if (!strncmp(w->parent, path, length) && (!path[length] || path[length] == '.')) return;
        char *dot = strrchr(w->parent, '.');
        *(dot ? dot : w->parent) = 0;
        w->first = true; // no comma before a brace
        new_line(w, depth_of(w->parent) + 1);
        put(w, "}");
    }
}

// Opens the objects down to `path`.
static void open_to(struct writer *w, const char *path)
{
    close_to(w, path);
    while (strcmp(w->parent, path)) {
        const size_t start = strlen(w->parent) + (w->parent[0] != 0);
        const size_t length = strcspn(path + start, ".");
        char name[MB_PATH_TEXT];
        snprintf(name, sizeof name, "\"%.*s\": {", (int)length, path + start);
        new_line(w, depth_of(w->parent) + 1);
        put(w, name);
        snprintf(w->parent, sizeof w->parent, "%.*s", (int)(start + length), path);
        w->first = true;
    }
}

// Writes `"leaf": json` under its objects.
static void put_key(struct writer *w, const char *path, const char *json)
{
    char parent[MB_PATH_TEXT], quoted[MB_PATH_TEXT];
    const char *dot = strrchr(path, '.');
    snprintf(parent, sizeof parent, "%.*s", dot ? (int)(dot - path) : 0, path);
    open_to(w, parent);
    new_line(w, depth_of(parent) + 1);
    mb_quote(dot ? dot + 1 : path, quoted, sizeof quoted);
    put(w, quoted);
    put(w, ": ");
    put(w, json);
}

// "  // config.json: text_config.n_group"
static void note_origin(struct writer *w, const moeblock_config *config, size_t row)
{
    const char *scope = config->model_scope, *key = config->model_key[row];
    switch ((enum mb_origin)config->given[row]) {
    case MB_FROM_NOWHERE:
    case MB_FROM_DEFAULT:
        snprintf(w->note, sizeof w->note, "  // default");
        return;
    case MB_FROM_PRESET:
        snprintf(w->note, sizeof w->note, "  // router.type %s", config->router.type);
        return;
    case MB_FROM_MODEL:
        if (key)
            snprintf(w->note, sizeof w->note, "  // config.json: %s%s%s", scope ? scope : "", scope ? "." : "", key);
        else
            snprintf(w->note, sizeof w->note, "  // model type %s", config->model_type);
        return;
    case MB_FROM_FILE:
        snprintf(w->note, sizeof w->note, "  // given");
        return;
    case MB_FROM_DERIVED:
        snprintf(w->note, sizeof w->note, "  // derived");
        return;
    }
}

static size_t print(const moeblock_config *config, bool origins, char *to, size_t capacity)
{
    struct writer w = {.to = to, .capacity = to ? capacity : 0, .first = true};
    char text[MB_VALUE_TEXT];
    if (w.capacity) to[0] = 0;
    if (!config) return 0;
    put(&w, "{");
    for (size_t i = 0; i < mb_schema_count; i++) {
        const void *at = (const char *)config + mb_schema[i].offset;
        if (!mb_value_matters(config, (int)i)) continue;
        mb_value_text(config, (int)i, true, text);
        put_key(&w, mb_schema[i].path, text);
        if (origins) note_origin(&w, config, i);
        if (at == config->router.type && config->router_json && !mb_router_is_builtin(config->router.type))
            put_key(&w, "router.config", config->router_json);
        if (at == config->expert_type && config->expert_json && !mb_expert_is_builtin(config->expert_type))
            put_key(&w, "experts.config", config->expert_json);
    }
    close_to(&w, "\n"); // a path that no object has
    put(&w, w.note);
    put(&w, "\n}\n");
    if (w.capacity) to[w.length < w.capacity ? w.length : w.capacity - 1] = 0;
    return w.length;
}

size_t moeblock_config_print(const moeblock_config *config, char *to, size_t capacity)
{
    return print(config, false, to, capacity);
}

size_t mb_config_print_origins(const moeblock_config *config, char *to, size_t capacity)
{
    return print(config, true, to, capacity);
}

size_t moeblock_config_value(const moeblock_config *config, const char *key, char *to, size_t capacity)
{
    char text[MB_VALUE_TEXT] = "";
    const int row = config && key ? mb_schema_find(key) : -1;
    if (row >= 0 && mb_schema[row].type != MB_TYPE_IGNORED && config->given[row] != MB_FROM_NOWHERE)
        mb_value_text(config, row, false, text);
    if (to && capacity) snprintf(to, capacity, "%s", text);
    return strlen(text);
}
