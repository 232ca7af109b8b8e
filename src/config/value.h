// SPDX-License-Identifier: Apache-2.0
// One key's value: from JSON into the description, and from the description to text.
#ifndef MB_CONFIG_VALUE_H
#define MB_CONFIG_VALUE_H

#include "base/json.h"
#include "config/schema.h"

enum { MB_VALUE_TEXT = 1100 }; // the longest value is a path

// Puts a JSON value into the field of `row`. False when its type or range does not suit (the field is unchanged).
bool mb_value_set(moeblock_config *config, int row, const json_t *value);
// The same from a schema default or a preset, JSON text that is known to suit.
void mb_value_set_text(moeblock_config *config, int row, const char *json);
// Gives the row `to` the value of the row `from`, which has the same type.
void mb_value_move(moeblock_config *config, int from, int to);

// The value as text; `quoted`: as JSON, else bare.
void mb_value_text(const moeblock_config *config, int row, bool quoted, char out[MB_VALUE_TEXT]);
// Whether the printer shows the row.
bool mb_value_matters(const moeblock_config *config, int row);

// "an integer from 1 to 4096", "one of a, b, c", ... for messages and documents.
void mb_value_allowed(int row, char *out, size_t capacity);
// A JSON value for messages: compact, cut when long.
void mb_value_found(const json_t *value, char out[96]);

// The shortest decimal text that reads back as the same double (or float).
void mb_number_text(double value, bool as_float, char out[40]);

// The JSON string of a text, quotes included; cut silently only when out is too small.
void mb_quote(const char *text, char *out, size_t capacity);

#endif
