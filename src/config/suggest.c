// SPDX-License-Identifier: Apache-2.0
// Decides which known key an unknown one was probably meant to be.
#include <stdio.h>
#include <string.h>

#include "base/words.h"
#include "config/reader.h"

// Compares level by level up to the depth of `path`; levels before the last must be close too. A known key with the
// same last word elsewhere counts as a little further away.
static int key_distance(const char *path, const char *known)
{
    const char *last = strrchr(path, '.'), *known_last = strrchr(known, '.');
    const int whole = mb_edit_distance(path, known);
    const int word = mb_edit_distance(last ? last + 1 : path, known_last ? known_last + 1 : known);
    const size_t length = strlen(path);
    if (strlen(known) > length && known[length] == '.') return whole; // an object's name
    return whole <= mb_edit_tolerance(path) ? whole : word + 2;
}

static void consider(const char *path, const char *known, int *least, char out[MB_PATH_TEXT])
{
    // An unknown object: compare with the known path cut to the same number of levels.
    char cut[MB_PATH_TEXT];
    size_t levels = 1, i = 0;
    for (const char *c = path; *c; c++) levels += *c == '.';
    for (; known[i] && i + 1 < sizeof cut; i++) {
        if (known[i] == '.' && --levels == 0) break;
        cut[i] = known[i];
    }
    cut[i] = 0;
    const int cut_distance = mb_edit_distance(path, cut), d = key_distance(path, known);
    const bool object = cut_distance <= d;
    if ((object ? cut_distance : d) >= *least) return;
    *least = object ? cut_distance : d;
    snprintf(out, MB_PATH_TEXT, "%s", object ? cut : known);
}

bool mb_nearest_key(const char *path, char out[MB_PATH_TEXT])
{
    const char *last = strrchr(path, '.');
    int least = mb_edit_tolerance(last ? last + 1 : path) + 2;
    out[0] = 0;
    for (size_t i = 0; i < mb_schema_count; i++) {
        consider(path, mb_schema[i].path, &least, out);
        for (const char *const *alias = mb_schema[i].aliases; alias && *alias; alias++)
            consider(path, *alias, &least, out);
    }
    return out[0] != 0;
}
