// SPDX-License-Identifier: Apache-2.0
// One table row per configuration key.
#ifndef MB_CONFIG_SCHEMA_H
#define MB_CONFIG_SCHEMA_H

#include <stddef.h>

#include "config/config.h"

enum mb_type {
    MB_TYPE_BOOL,
    MB_TYPE_INT,
    MB_TYPE_NUMBER, // double
    MB_TYPE_FLOAT,  // a number kept as float
    MB_TYPE_TEXT,
    MB_TYPE_ENUM,
    MB_TYPE_IGNORED,
    MB_TYPE_SPECIAL // the name of an activation, kept as its row
};

// Where a value comes from, weakest first.
enum mb_origin { MB_FROM_NOWHERE, MB_FROM_DEFAULT, MB_FROM_PRESET, MB_FROM_MODEL, MB_FROM_FILE, MB_FROM_DERIVED };

struct mb_schema_row {
    const char *path; // canonical, "router.config.n_group"
    enum mb_type type;
    size_t offset;            // into moeblock_config
    double minimum, maximum;  // of numbers; TEXT: of its length in bytes
    const char *const *names; // ENUM: NULL-ended, in the order of the C enum
    const char *fallback;     // default as JSON text; NULL: none
    bool required;
    const char *help;
    const char *const *aliases;                     // other paths with the same meaning, NULL-ended; or NULL
    bool (*matters)(const moeblock_config *config); // whether the printer shows it; NULL: always
    bool folded; // a further spelling: finish.c turns it into another key, so it is never printed
};

extern const struct mb_schema_row mb_schema[];
extern const size_t mb_schema_count;

// Row of a key path, aliases included: "model_params.X" is "model.X", and "router.X" is "router.config.X". -1: none.
int mb_schema_find(const char *path);
// Row whose value lies at `field` of `config` (for example &config->hidden_size), -1 when there is none.
int mb_schema_row_of(const moeblock_config *config, const void *field);
// Records where the value at `field` comes from. Everything that fills a description by hand calls it.
void mb_config_mark(moeblock_config *config, const void *field, enum mb_origin origin);
// Where the value at `field` comes from.
enum mb_origin mb_config_origin(const moeblock_config *config, const void *field);

#endif
