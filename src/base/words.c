// SPDX-License-Identifier: Apache-2.0
// The distance between words.
#include "base/words.h"

#include <string.h>

enum { WORD_MAX = 64, FAR = 1000 };

// One row of the table at a time.
int mb_edit_distance(const char *a, const char *b)
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

int mb_edit_tolerance(const char *word)
{
    const int third = (int)strlen(word) / 3;
    return third < 1 ? 1 : third > 4 ? 4 : third;
}

const char *mb_nearest_name(const char *name, const char *const *names)
{
    const char *best = NULL;
    int least = mb_edit_tolerance(name) + 1;
    for (; *names; names++) {
        const int distance = mb_edit_distance(name, *names);
        if (distance >= least) continue;
        least = distance;
        best = *names;
    }
    return best;
}
