// SPDX-License-Identifier: Apache-2.0
// Decides what each type of key accepts, and how its value is written.
#include "config/value.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/tensors.h"

static void *field(moeblock_config *config, int row) { return (char *)config + mb_schema[row].offset; }
static const void *const_field(const moeblock_config *config, int row)
{
    return (const char *)config + mb_schema[row].offset;
}

static int name_index(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], name)) return i;
    return -1;
}

static bool in_range(const struct mb_schema_row *row, double value)
{
    return value >= row->minimum && value <= row->maximum;
}

// Stores a named choice: an enum's number, or the row of an activation.
static bool set_name(moeblock_config *config, int row, const char *name)
{
    const struct mb_schema_row *schema = &mb_schema[row];
    const int index = schema->type == MB_TYPE_ENUM ? name_index(schema->names, name) : mb_activation_find(name);
    if (index < 0) return false;
    *(int *)field(config, row) = index;
    return true;
}

static bool set_text(moeblock_config *config, int row, const char *text, size_t length)
{
    if (!in_range(&mb_schema[row], (double)length) || strlen(text) != length) return false;
    memcpy(field(config, row), text, length + 1);
    return true;
}

static bool set_number(moeblock_config *config, int row, double value)
{
    if (!isfinite(value) || !in_range(&mb_schema[row], value)) return false;
    if (mb_schema[row].type == MB_TYPE_FLOAT)
        *(float *)field(config, row) = (float)value;
    else
        *(double *)field(config, row) = value;
    return true;
}

bool mb_value_set(moeblock_config *config, int row, const json_t *value)
{
    switch (mb_schema[row].type) {
    case MB_TYPE_BOOL:
        if (!json_is_boolean(value)) return false;
        *(bool *)field(config, row) = json_is_true(value);
        return true;
    case MB_TYPE_INT:
        if (!json_is_integer(value) || !in_range(&mb_schema[row], (double)json_integer_value(value))) return false;
        *(int64_t *)field(config, row) = json_integer_value(value);
        return true;
    case MB_TYPE_NUMBER:
    case MB_TYPE_FLOAT:
        return json_is_number(value) && set_number(config, row, json_number_value(value));
    case MB_TYPE_TEXT:
        return json_is_string(value) && set_text(config, row, json_string_value(value), json_string_length(value));
    case MB_TYPE_ENUM:
    case MB_TYPE_SPECIAL:
        return json_is_string(value) && set_name(config, row, json_string_value(value));
    case MB_TYPE_IGNORED:
        return true;
    }
    return false;
}

void mb_value_set_text(moeblock_config *config, int row, const char *json)
{
    char bare[MB_TEXT + 1];
    const size_t length = strlen(json);
    switch (mb_schema[row].type) {
    case MB_TYPE_BOOL:
        *(bool *)field(config, row) = json[0] == 't';
        return;
    case MB_TYPE_INT:
        *(int64_t *)field(config, row) = strtoll(json, NULL, 10);
        return;
    case MB_TYPE_NUMBER:
    case MB_TYPE_FLOAT:
        set_number(config, row, strtod(json, NULL));
        return;
    case MB_TYPE_TEXT:
    case MB_TYPE_ENUM:
    case MB_TYPE_SPECIAL:
        if (length < 2 || length - 2 >= sizeof bare) return;
        memcpy(bare, json + 1, length - 2); // without its quotes
        bare[length - 2] = 0;
        if (mb_schema[row].type == MB_TYPE_TEXT)
            set_text(config, row, bare, length - 2);
        else
            set_name(config, row, bare);
        return;
    case MB_TYPE_IGNORED:
        return;
    }
}

void mb_value_move(moeblock_config *config, int from, int to)
{
    static const size_t bytes[] = {
        [MB_TYPE_BOOL] = sizeof(bool),   [MB_TYPE_INT] = sizeof(int64_t), [MB_TYPE_NUMBER] = sizeof(double),
        [MB_TYPE_FLOAT] = sizeof(float), [MB_TYPE_ENUM] = sizeof(int),    [MB_TYPE_SPECIAL] = sizeof(int),
    };
    const enum mb_type type = mb_schema[from].type;
    if (type == mb_schema[to].type && type != MB_TYPE_TEXT && type != MB_TYPE_IGNORED)
        memcpy(field(config, to), const_field(config, from), bytes[type]);
}

void mb_number_text(double value, bool as_float, char out[40])
{
    if (value == floor(value) && fabs(value) < 1e15) {
        snprintf(out, 40, "%.0f", value);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, 40, "%.*g", digits, value);
        if (as_float ? strtof(out, NULL) == (float)value : strtod(out, NULL) == value) return;
    }
}

void mb_quote(const char *text, char *out, size_t capacity)
{
    size_t used = 0;
    out[used++] = '"';
    for (const char *c = text; *c; c++) {
        char piece[8];
        const unsigned char byte = (unsigned char)*c;
        if (byte == '"' || byte == '\\')
            snprintf(piece, sizeof piece, "\\%c", byte);
        else
            snprintf(piece, sizeof piece, byte < 0x20 ? "\\u%04x" : "%c", byte);
        const size_t length = strlen(piece);
        if (used + length + 2 > capacity) break;
        memcpy(out + used, piece, length);
        used += length;
    }
    memcpy(out + used, "\"", 2);
}

// Name of an enum's or activation's value.
static const char *chosen_name(const moeblock_config *config, int row)
{
    const int index = *(const int *)const_field(config, row);
    return mb_schema[row].type == MB_TYPE_ENUM ? mb_schema[row].names[index] : mb_activation_kinds[index].name;
}

void mb_value_text(const moeblock_config *config, int row, bool quoted, char out[MB_VALUE_TEXT])
{
    const struct mb_schema_row *schema = &mb_schema[row];
    const char *text = "";
    switch (schema->type) {
    case MB_TYPE_BOOL:
        snprintf(out, MB_VALUE_TEXT, "%s", *(const bool *)const_field(config, row) ? "true" : "false");
        return;
    case MB_TYPE_INT:
        snprintf(out, MB_VALUE_TEXT, "%" PRId64, *(const int64_t *)const_field(config, row));
        return;
    case MB_TYPE_NUMBER:
        mb_number_text(*(const double *)const_field(config, row), false, out);
        return;
    case MB_TYPE_FLOAT:
        mb_number_text((double)*(const float *)const_field(config, row), true, out);
        return;
    case MB_TYPE_TEXT:
        text = const_field(config, row);
        break;
    case MB_TYPE_ENUM:
    case MB_TYPE_SPECIAL:
        text = chosen_name(config, row);
        break;
    case MB_TYPE_IGNORED:
        break;
    }
    if (quoted)
        mb_quote(text, out, MB_VALUE_TEXT);
    else
        snprintf(out, MB_VALUE_TEXT, "%s", text);
}

bool mb_value_matters(const moeblock_config *config, int row)
{
    const struct mb_schema_row *schema = &mb_schema[row];
    const size_t patterns = offsetof(moeblock_config, tensor);
    if (schema->type == MB_TYPE_IGNORED || schema->folded || config->given[row] == MB_FROM_NOWHERE) return false;
    if (schema->offset >= patterns && schema->offset < patterns + sizeof config->tensor)
        return mb_role_named(config, (enum mb_role)((schema->offset - patterns) / MB_TEXT));
    if (schema->type == MB_TYPE_TEXT && !*(const char *)const_field(config, row) && !schema->fallback) return false;
    return !schema->matters || schema->matters(config);
}

// "one of a, b or c" from names that end with NULL.
static void list_names(const char *first, size_t stride, char *out, size_t capacity)
{
    int used = snprintf(out, capacity, "one of");
    for (size_t i = 0;; i++) {
        const char *name;
        memcpy(&name, first + i * stride, sizeof name);
        if (!name || used < 0 || (size_t)used >= capacity) return;
        used += snprintf(out + used, capacity - (size_t)used, "%s \"%s\"", i ? "," : "", name);
    }
}

void mb_value_allowed(int row, char *out, size_t capacity)
{
    const struct mb_schema_row *schema = &mb_schema[row];
    char low[40], high[40];
    mb_number_text(schema->minimum, false, low);
    mb_number_text(schema->maximum, false, high);
    switch (schema->type) {
    case MB_TYPE_BOOL:
        snprintf(out, capacity, "true or false");
        return;
    case MB_TYPE_INT:
        snprintf(out, capacity, "an integer from %.0f to %.0f", schema->minimum, schema->maximum);
        return;
    case MB_TYPE_NUMBER:
    case MB_TYPE_FLOAT:
        snprintf(out, capacity, "a number from %s to %s", low, high);
        return;
    case MB_TYPE_TEXT:
        snprintf(out, capacity, "a string of %.0f to %.0f bytes", schema->minimum, schema->maximum);
        return;
    case MB_TYPE_ENUM:
        list_names((const char *)schema->names, sizeof schema->names[0], out, capacity);
        return;
    case MB_TYPE_SPECIAL:
        list_names((const char *)&mb_activation_kinds[0].name, sizeof mb_activation_kinds[0], out, capacity);
        return;
    case MB_TYPE_IGNORED:
        snprintf(out, capacity, "anything");
        return;
    }
}

void mb_value_found(const json_t *value, char out[96])
{
    const size_t length = json_dumpb(value, out, 92, JSON_ENCODE_ANY | JSON_COMPACT);
    if (length <= 92)
        out[length] = 0;
    else
        memcpy(out + 89, "...", 4);
}
