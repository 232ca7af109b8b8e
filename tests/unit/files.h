// SPDX-License-Identifier: Apache-2.0
// For tests that need files: a folder of their own, files with given bytes, safetensors files from a header text.
#ifndef MB_TESTS_FILES_H
#define MB_TESTS_FILES_H

#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/context.h"

static char files_folder[64];

// A context with nothing but memory: what reading needs.
static inline struct moeblock_context files_context(void)
{
    return (struct moeblock_context){.allocator = mb_default_allocator};
}

static inline int files_begin(void **state)
{
    (void)state;
    strcpy(files_folder, "/tmp/moeblock-test-XXXXXX");
    return mkdtemp(files_folder) ? 0 : -1;
}

static inline int files_remove_one(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)facts;
    (void)kind;
    (void)place;
    return remove(path);
}

static inline int files_end(void **state)
{
    (void)state;
    return nftw(files_folder, files_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

// Path of a file in the folder; four results are valid at a time.
static inline const char *files_path(const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ & 3];
    snprintf(path, sizeof paths[0], "%s/%s", files_folder, name);
    return path;
}

static inline const char *files_put(const char *name, const void *data, size_t bytes)
{
    const char *path = files_path(name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) abort();
    return path;
}

// A header with its length in front, then data bytes 0, 1, 2, ... modulo 251.
static inline const char *files_put_safetensors(const char *name, const char *header, size_t data_bytes)
{
    const size_t length = strlen(header), bytes = 8 + length + data_bytes;
    unsigned char *all = malloc(bytes);
    if (!all) abort();
    for (int i = 0; i < 8; i++) all[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(all + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++) all[8 + length + i] = (unsigned char)(i % 251);
    const char *path = files_put(name, all, bytes);
    free(all);
    return path;
}

#endif
