// SPDX-License-Identifier: Apache-2.0
// The steps from documents to a checked description, in the order in which open.c takes them.
#ifndef MB_CONFIG_READER_H
#define MB_CONFIG_READER_H

#include "base/json.h"
#include "config/schema.h"

enum { MB_PATH_TEXT = 128 };

// One reading: a description under construction, and what messages need to say where a value stands.
struct mb_reader {
    moeblock_config *config;
    const char *name, *text; // our file; text NULL: the values come from a config.json, and lines are not known
    size_t bytes;
    char spelled[MB_SCHEMA_ROWS_MAX][MB_PATH_TEXT]; // path in our file that gave each row; empty: none
    bool outside_router, outside_expert;            // their config objects are theirs
    json_t *router_object, *expert_object;          // router.config and experts.config, all documents merged
};

// parse.c: reads one document of ours (the file, or one --set) into the description as MB_FROM_FILE.
// `from_file`: lines are known and a key spelled twice must have one value.
moeblock_status mb_reader_document(struct mb_reader *reader, json_t *root, bool from_file, moeblock_error *error);
// The string at a path of ours ("router.type"), also under "moe_block"; NULL when there is none.
const char *mb_reader_string(const json_t *root, const char *path);

// finish.c: presets, further spellings and derived values, once all documents are read.
moeblock_status mb_reader_finish(struct mb_reader *reader, moeblock_error *error);

// validate.c: ranges, missing keys, and rules between keys.
moeblock_status mb_reader_validate(const struct mb_reader *reader, moeblock_error *error);

// INVALID_CONFIG "NAME:LINE: message" with the line of the row's value (row -1, or not from our file: no line).
moeblock_status mb_reader_fail(const struct mb_reader *reader, moeblock_error *error, int row, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// suggest.c: writes the path of the known key nearest to an unknown one; false when none is near.
bool mb_nearest_key(const char *path, char out[MB_PATH_TEXT]);

#endif
