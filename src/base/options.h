// SPDX-License-Identifier: Apache-2.0
// Reading and filling a caller's struct that starts with `uint32_t struct_size`, so that structs can grow without
// breaking callers.
#ifndef MB_BASE_OPTIONS_H
#define MB_BASE_OPTIONS_H

#include <stddef.h>

#include "moeblock/status.h"

// Copies the struct at `from` into the to_bytes long one at `to`, whose struct_size becomes to_bytes. NULL gives zeros;
// a shorter struct leaves the missing fields zero. `name` is the type's name, for messages.
// Errors: INVALID_ARGUMENT (struct_size 0 or impossible), UNSUPPORTED (a longer struct with a field set that this
// library does not know).
moeblock_status mb_options_read(void *to, size_t to_bytes, const void *from, const char *name, moeblock_error *error);

// The other way round: fills the caller's struct at `to` (NULL, or too short for a struct_size: nothing happens) with
// as much of the one at `from` as it has room for; its struct_size stays.
void mb_options_write(void *to, const void *from, size_t from_bytes);

#endif
