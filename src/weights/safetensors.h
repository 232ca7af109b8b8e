// SPDX-License-Identifier: Apache-2.0
// safetensors headers: strict parsing, and writing for synth. Rules: SECURITY.md.
#ifndef MB_WEIGHTS_SAFETENSORS_H
#define MB_WEIGHTS_SAFETENSORS_H

#include "base/file.h"
#include "moeblock/weights.h"

// A parsed header: entries in file order; names and everything else live in one allocation.
struct mb_safetensors {
    size_t count;
    moeblock_tensor_info *tensors; // file_offset absolute; file NULL
    char *strings;
    uint64_t data_start;
};

// Parses the header `text` of `bytes` bytes of a file of file_bytes bytes in all.
moeblock_status mb_safetensors_parse(const moeblock_allocator *allocator, const char *text, size_t bytes,
                                     uint64_t file_bytes, const char *name, struct mb_safetensors *out,
                                     moeblock_error *error);
// Reads the header of an open file: first the length, checked against the file before anything is allocated.
moeblock_status mb_safetensors_read(const moeblock_allocator *allocator, const struct mb_file *file, const char *path,
                                    struct mb_safetensors *out, moeblock_error *error);
void mb_safetensors_free(const moeblock_allocator *allocator, struct mb_safetensors *header);

// Writing: the header for `count` tensors (name, dtype, rank, dims used; data follows in this order).
moeblock_status mb_safetensors_write_header(struct mb_output *output, const moeblock_tensor_info *tensors, size_t count,
                                            moeblock_error *error);

#endif
