// SPDX-License-Identifier: Apache-2.0
// An opened checkpoint: named tensors in safetensors files, or in the caller's memory.
#ifndef MOEBLOCK_WEIGHTS_H
#define MOEBLOCK_WEIGHTS_H

#include "moeblock/context.h"
#include "moeblock/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moeblock_weights moeblock_weights;

// What is known of a tensor without reading its data. `file` is the shard's path, NULL for caller memory.
typedef struct moeblock_tensor_info {
    const char *name;
    moeblock_dtype dtype;
    const char *dtype_name; // as written in the file
    int rank;
    int64_t dims[MOEBLOCK_MAX_RANK];
    uint64_t bytes;
    const char *file;
    uint64_t file_offset; // of the first data byte
} moeblock_tensor_info;

// Opens `path`: a .safetensors file, a folder with model.safetensors.index.json, or a folder with
// model.safetensors. Reads headers only; with an index, a shard's header is read when a tensor of it is first asked
// for. Errors: NOT_FOUND, INVALID_FILE, UNSUPPORTED (.bin, .pt, .gguf by name), LIMIT, IO, OUT_OF_MEMORY.
MOEBLOCK_API moeblock_status moeblock_weights_open(moeblock_context *context, const char *path, moeblock_weights **out,
                                                   moeblock_error *error);

// The same over tensors in the caller's memory. Names and data are borrowed until the object is destroyed.
// Errors: INVALID_ARGUMENT (bad rank, dims, bytes, dtype, duplicate name), OUT_OF_MEMORY.
MOEBLOCK_API moeblock_status moeblock_weights_from_tensors(moeblock_context *context, const moeblock_tensor *tensors,
                                                           size_t count, moeblock_weights **out, moeblock_error *error);

MOEBLOCK_API void moeblock_weights_destroy(moeblock_weights **weights);

// Number of tensors, and the i-th in the order of the files. With an index this opens every shard.
MOEBLOCK_API moeblock_status moeblock_weights_count(moeblock_weights *weights, size_t *out, moeblock_error *error);
MOEBLOCK_API moeblock_status moeblock_weights_at(moeblock_weights *weights, size_t i, moeblock_tensor_info *out,
                                                 moeblock_error *error);

// Finds a tensor by its full name. NOT_FOUND (with *out zeroed) when there is none. Thread-safe.
// The strings of *out live as long as `weights`.
MOEBLOCK_API moeblock_status moeblock_weights_find(moeblock_weights *weights, const char *name,
                                                   moeblock_tensor_info *out, moeblock_error *error);

// Copies bytes [offset, offset + bytes) of a tensor's data to `to`. Thread-safe. Errors: INVALID_ARGUMENT (a range
// outside the tensor), IO, INVALID_FILE (the file changed since it was opened).
MOEBLOCK_API moeblock_status moeblock_weights_read(moeblock_weights *weights, const moeblock_tensor_info *tensor,
                                                   uint64_t offset, size_t bytes, void *to, moeblock_error *error);

// Checks the whole set: every shard's header and size, every tensor of the index present in its shard and nowhere
// else, total_size. The first violation is the error.
MOEBLOCK_API moeblock_status moeblock_weights_validate(moeblock_weights *weights, moeblock_error *error);

// Bytes read from files through this object so far, and the number of shards whose header was read.
MOEBLOCK_API uint64_t moeblock_weights_bytes_read(const moeblock_weights *weights);
MOEBLOCK_API size_t moeblock_weights_shards_opened(const moeblock_weights *weights);

#ifdef __cplusplus
}
#endif
#endif
