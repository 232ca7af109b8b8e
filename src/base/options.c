// SPDX-License-Identifier: Apache-2.0
// How structs of older and newer callers are accepted: fields that are missing count as zero, fields that we do not
// know must be zero.
#include "base/options.h"

#include <stdint.h>
#include <string.h>

#include "base/status.h"

// No struct of the API comes near this; a larger size is an uninitialised field, and reading that far would be unsafe.
enum { LARGEST_STRUCT = 4096 };

moeblock_status mb_options_read(void *to, size_t to_bytes, const void *from, const char *name, moeblock_error *error)
{
    const uint32_t own_size = (uint32_t)to_bytes;
    memset(to, 0, to_bytes);
    if (from) {
        uint32_t size;
        memcpy(&size, from, sizeof size);
        if (size < sizeof size || size > LARGEST_STRUCT) {
            return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                           "%s: struct_size is %u; set it to sizeof(%s), which is %u in this library", name, size, name,
                           own_size);
        }
        for (size_t i = to_bytes; i < size; i++) {
            if (((const unsigned char *)from)[i] == 0) continue;
            return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                           "%s: a field at byte %zu is set, but this library knows only the first %u bytes; "
                           "use a newer library or leave the field zero",
                           name, i, own_size);
        }
        memcpy(to, from, size < to_bytes ? size : to_bytes);
    }
    memcpy(to, &own_size, sizeof own_size);
    return MOEBLOCK_OK;
}

void mb_options_write(void *to, const void *from, size_t from_bytes)
{
    uint32_t size;
    if (!to) return;
    memcpy(&size, to, sizeof size);
    if (size < sizeof size) return;
    memcpy((char *)to + sizeof size, (const char *)from + sizeof size,
           (size < from_bytes ? size : from_bytes) - sizeof size);
}
