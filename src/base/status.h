// SPDX-License-Identifier: Apache-2.0
// Filling the error object.
#ifndef MB_BASE_STATUS_H
#define MB_BASE_STATUS_H

#include <stdarg.h>
#include <stddef.h>

#include "moeblock/status.h"

// Writes code and message into *error (which may be NULL) and returns code. The message is one sentence; bytes
// outside printable ASCII and UTF-8 letters in names are escaped as \xNN so that a terminal stays safe.
moeblock_status mb_fail(moeblock_error *error, moeblock_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Copies text with the same escapes, cut to `capacity` bytes with "..." at the end when it does not fit.
void mb_escape(char *to, size_t capacity, const char *from);

// Returns from the calling function when the expression is not OK.
#define MB_TRY(expression)                                                                                             \
    do {                                                                                                               \
        const moeblock_status mb_try_status = (expression);                                                            \
        if (mb_try_status != MOEBLOCK_OK) return mb_try_status;                                                        \
    } while (0)

#endif
