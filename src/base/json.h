// SPDX-License-Identifier: Apache-2.0
// Strict JSON: jansson behind one function, with limits. Nothing else calls jansson's parser.
#ifndef MB_BASE_JSON_H
#define MB_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "moeblock/status.h"

struct mb_json_options {
    bool comments;           // blank // and /* */ outside strings, keeping line numbers
    bool infinity;           // Infinity and -Infinity, which Python writes, stand for null
    size_t max_bytes;        // LIMIT beyond; 0: 32 MiB
    int max_depth;           // LIMIT beyond; 0: 32
    moeblock_status invalid; // the status of malformed text: INVALID_CONFIG or INVALID_FILE
};

// Parses one object. Refuses duplicate keys, NaN, a byte-order mark, text after the object, NUL, bad
// UTF-8, strings above 64 KiB. `name` stands for the file in messages, which give line and column.
// *out is owned by the caller (json_decref).
moeblock_status mb_json_parse(const char *text, size_t bytes, const char *name, const struct mb_json_options *options,
                              json_t **out, moeblock_error *error);

// Line (from 1) of the value at a key path such as "router.config.n_group" or "a.list[2]" in the text it came
// from; of the deepest part that exists when the whole path does not. Comments are understood.
int mb_json_line(const char *text, size_t bytes, const char *path);

#endif
