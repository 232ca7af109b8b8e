// SPDX-License-Identifier: Apache-2.0
// Reads lists of layers.
#include "config/layers.h"

#include <stddef.h>

enum { LAYER_DIGITS = 6 };

// Reads digits; NULL when there are none or too many.
static const char *number(const char *text, int64_t *out)
{
    const char *c = text;
    *out = 0;
    while (*c >= '0' && *c <= '9' && c - text < LAYER_DIGITS) *out = *out * 10 + (*c++ - '0');
    return c == text || (*c >= '0' && *c <= '9') ? NULL : c;
}

// Reads "3" or "3-60"; NULL when it is neither.
static const char *range(const char *text, int64_t *first, int64_t *last)
{
    const char *end = number(text, first);
    *last = *first;
    if (end && *end == '-') end = number(end + 1, last);
    return end && (*end == ',' || !*end) && *first <= *last ? end : NULL;
}

bool mb_layers_valid(const char *list)
{
    int64_t first, last;
    while (*list) {
        list = range(list, &first, &last);
        if (!list) return false;
        if (*list == ',' && !*++list) return false;
    }
    return true;
}

bool mb_layers_contain(const char *list, int64_t layer)
{
    int64_t first, last;
    while (*list) {
        list = range(list, &first, &last);
        if (!list) return false;
        if (layer >= first && layer <= last) return true;
        list += *list == ',';
    }
    return false;
}
