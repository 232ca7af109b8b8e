// SPDX-License-Identifier: Apache-2.0
// One table row per configuration key.
#ifndef MB_CONFIG_SCHEMA_H
#define MB_CONFIG_SCHEMA_H

#include <stddef.h>

#include "config/config.h"

enum mb_type {
    MB_TYPE_BOOL,
    MB_TYPE_INT,
    MB_TYPE_NUMBER,
    MB_TYPE_TEXT,
    MB_TYPE_ENUM,
    MB_TYPE_IGNORED,
    MB_TYPE_SPECIAL
};

// Where a value comes from, weakest first.
enum mb_origin { MB_FROM_NOWHERE, MB_FROM_DEFAULT, MB_FROM_PRESET, MB_FROM_MODEL, MB_FROM_FILE, MB_FROM_DERIVED };

struct mb_schema_row {
    const char *path; // canonical, "router.config.n_group"
    enum mb_type type;
    size_t offset; // into moeblock_config
    double minimum, maximum;
    const char *const *names; // ENUM: NULL-ended, in the order of the C enum
    const char *fallback;     // default as JSON text; NULL: none
    bool required;
    const char *help;
    const char *const *aliases; // other paths with the same meaning, NULL-ended; or NULL
};

extern const struct mb_schema_row mb_schema[];
extern const size_t mb_schema_count;

#endif
