// SPDX-License-Identifier: Apache-2.0
// Status names and the text of errors: bounded, on one line, and safe to print on a terminal whatever bytes a file name
// or a key holds.
#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const char *const status_names[] = {
    "OK", "INVALID_ARGUMENT", "INVALID_CONFIG", "INVALID_FILE", "UNSUPPORTED", "NOT_FOUND", "OUT_OF_MEMORY", "LIMIT",
    "IO", "WRONG_STATE",      "NONFINITE",      "MISMATCH",     "PEER_FAILED", "TIMEOUT",   "CANCELLED",     "INTERNAL",
};

const char *moeblock_status_name(moeblock_status status)
{
    const unsigned i = (unsigned)status;
    return i < sizeof status_names / sizeof *status_names ? status_names[i] : "?";
}

// Characters that move the cursor or reorder a line: C1 controls, bidirectional marks, line separators, zero-width
// ones.
static bool unsafe_on_terminal(uint32_t code)
{
    return (code >= 0x80 && code < 0xa0) || code == 0x61c || (code >= 0x200b && code <= 0x200f) ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) || code == 0xfeff;
}

// Bytes of the well-formed, safe UTF-8 character at `s` (a NUL-terminated string), 0 when there is none.
static size_t safe_character(const unsigned char *s)
{
    if (s[0] < 0x80) return s[0] >= 0x20 && s[0] != 0x7f;
    const size_t bytes = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    uint32_t code = s[0] & (0x7fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (s[i] & 0x3f);
    }
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const bool surrogate = code >= 0xd800 && code < 0xe000;
    return code < smallest[bytes] || code > 0x10ffff || surrogate || unsafe_on_terminal(code) ? 0 : bytes;
}

void mb_escape(char *to, size_t capacity, const char *from)
{
    static const char digits[] = "0123456789abcdef", cut_mark[] = "...";
    const unsigned char *s = (const unsigned char *)from;
    size_t used = 0, cut = 0; // `cut`: where the mark goes when the text does not fit
    if (capacity == 0) return;
    while (*s) {
        const size_t plain = safe_character(s), needed = plain ? plain : 4;
        if (used + needed >= capacity) {
            if (capacity > sizeof cut_mark)
                memcpy(to + cut, cut_mark, sizeof cut_mark);
            else
                to[used] = '\0';
            return;
        }
        if (plain) {
            memcpy(to + used, s, plain);
        } else {
            const char hex[4] = {'\\', 'x', digits[*s >> 4], digits[*s & 15]};
            memcpy(to + used, hex, sizeof hex);
        }
        used += needed;
        s += plain ? plain : 1;
        if (used + sizeof cut_mark <= capacity) cut = used;
    }
    to[used] = '\0';
}

// Every raw byte gives at least one byte of message, so a raw buffer of this size loses nothing that would have fitted.
// The arguments may point into the message itself, so it is built aside.
enum { RAW_BYTES = 2 * sizeof((moeblock_error *)0)->message };

moeblock_status mb_fail(moeblock_error *error, moeblock_status code, const char *format, ...)
{
    if (!error) return code;
    char raw[RAW_BYTES];
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(raw, sizeof raw, format, arguments) < 0) raw[0] = '\0';
    va_end(arguments);
    error->code = code;
    mb_escape(error->message, sizeof error->message, raw);
    return code;
}
