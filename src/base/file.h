// SPDX-License-Identifier: Apache-2.0
// Files: whole reads that survive short reads and EINTR, a check that a file did not change, atomic writing.
#ifndef MB_BASE_FILE_H
#define MB_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/memory.h"
#include "moeblock/status.h"

struct mb_file {
    int descriptor; // -1: closed
    uint64_t bytes;
    int64_t modified_ns;
    uint64_t device, inode;
};

// open(), again after EINTR; the descriptor closes on exec.
int mb_open_retrying(const char *path, int flags, mode_t mode);

// Opens a regular file for reading. NOT_FOUND, or IO with the system's reason (a directory, a FIFO, no permission).
moeblock_status mb_file_open(const char *path, struct mb_file *out, moeblock_error *error);
void mb_file_close(struct mb_file *file);
// Reads exactly `bytes` at `offset`; thread-safe. INVALID_FILE when the file ends before.
moeblock_status mb_file_read(const struct mb_file *file, const char *path, uint64_t offset, size_t bytes, void *to,
                             moeblock_error *error);
// INVALID_FILE "changed while loading" when size, time or identity differ from those at open.
moeblock_status mb_file_unchanged(const struct mb_file *file, const char *path, moeblock_error *error);

// Reads a whole text file of at most max_bytes (LIMIT beyond) into mb_alloc memory with a NUL after it.
moeblock_status mb_file_read_text(const moeblock_allocator *allocator, const char *path, size_t max_bytes, char **text,
                                  size_t *bytes, moeblock_error *error);

// A file that appears under its name only when it is complete: written beside it under a temporary name, synced,
// renamed. mb_output_abort removes the temporary; the target is untouched by every failure.
struct mb_output {
    FILE *stream;
    char path[4096], temporary[4096 + 32];
};
moeblock_status mb_output_open(const char *path, struct mb_output *out, moeblock_error *error);
moeblock_status mb_output_write(struct mb_output *output, const void *data, size_t bytes, moeblock_error *error);
moeblock_status mb_output_commit(struct mb_output *output, moeblock_error *error); // closes; aborts on failure
void mb_output_abort(struct mb_output *output);

bool mb_is_directory(const char *path);
bool mb_exists(const char *path);
// "folder/name" into out; INVALID_ARGUMENT when it does not fit.
moeblock_status mb_path_join(const char *folder, const char *name, char *out, size_t capacity, moeblock_error *error);

#endif
