// SPDX-License-Identifier: Apache-2.0
// Decides which known key or name an unknown one was probably meant to be.
#include <stdio.h>
#include <string.h>

#include "config/reader.h"

enum { WORD_MAX = 64, FAR = 1000 };

// Edit distance (insert, delete, replace), one row at a time.
static int distance(const char *a, const char *b)
{
    const size_t na = strlen(a), nb = strlen(b);
    int row[WORD_MAX + 1];
    if (na > WORD_MAX || nb > WORD_MAX) return FAR;
    for (size_t j = 0; j <= nb; j++) row[j] = (int)j;
    for (size_t i = 0; i < na; i++) {
        int diagonal = row[0];
        row[0] = (int)i + 1;
        for (size_t j = 0; j < nb; j++) {
            const int replaced = diagonal + (a[i] != b[j]);
            const int shorter = (row[j] < row[j + 1] ? row[j] : row[j + 1]) + 1;
            diagonal = row[j + 1];
            row[j + 1] = replaced < shorter ? replaced : shorter;
        }
    }
    return row[nb];
}

// Beyond this many edits a word is another word.
static int tolerance(const char *word)
{
    const int third = (int)strlen(word) / 3;
    return third < 1 ? 1 : third > 4 ? 4 : third;
}

const char *mb_nearest_name(const char *name, const char *const *names)
{
    const char *best = NULL;
    int least = tolerance(name) + 1;
    for (; *names; names++) {
        const int d = distance(name, *names);
        if (d >= least) continue;
        least = d;
        best = *names;
    }
    return best;
}

// Compares level by level up to the depth of `path`; levels before the last must be close too. A known key with the
// same last word elsewhere counts as a little further away.
static int key_distance(const char *path, const char *known)
{
    const char *last = strrchr(path, '.'), *known_last = strrchr(known, '.');
    const int whole = distance(path, known);
    const int word = distance(last ? last + 1 : path, known_last ? known_last + 1 : known);
    const size_t length = strlen(path);
    if (strlen(known) > length && known[length] == '.') return whole; // an object's name
    return whole <= tolerance(path) ? whole : word + 2;
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
    const int cut_distance = distance(path, cut), d = key_distance(path, known);
    const bool object = cut_distance <= d;
    if ((object ? cut_distance : d) >= *least) return;
    *least = object ? cut_distance : d;
    snprintf(out, MB_PATH_TEXT, "%s", object ? cut : known);
}

bool mb_nearest_key(const char *path, char out[MB_PATH_TEXT])
{
    const char *last = strrchr(path, '.');
    int least = tolerance(last ? last + 1 : path) + 2;
    out[0] = 0;
    for (size_t i = 0; i < mb_schema_count; i++) {
        consider(path, mb_schema[i].path, &least, out);
        for (const char *const *alias = mb_schema[i].aliases; alias && *alias; alias++)
            consider(path, *alias, &least, out);
    }
    return out[0] != 0;
}
