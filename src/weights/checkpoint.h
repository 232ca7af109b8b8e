// SPDX-License-Identifier: Apache-2.0
// Inside an opened checkpoint: shards, the sorted list of names, and reads that the packing uses directly.
#ifndef MB_WEIGHTS_CHECKPOINT_H
#define MB_WEIGHTS_CHECKPOINT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/file.h"
#include "moeblock/weights.h"
#include "weights/safetensors.h"

enum { MB_SHARDS_MAX = 65536 };
#define MB_UNRESOLVED UINT32_MAX // tensor number of a name whose shard has not been opened, or lacks it

// One name of the checkpoint and where it is.
struct mb_name {
    const char *name;
    uint32_t shard, tensor;
};

// One file, or the caller's memory as a whole. Its header may be read once `opened` is set.
struct mb_shard {
    const char *path; // NULL: caller memory
    struct mb_file file;
    struct mb_safetensors header;
    const void **data; // caller memory: where each tensor's data is
    atomic_bool opened;
};

struct mb_index {
    char *strings; // owns the names and paths below
    struct mb_name *names;
    size_t name_count;
    const char **paths; // of the shards, in ascending order
    size_t shard_count;
    bool total_given, total_valid; // metadata.total_size is there, and is a non-negative integer
    uint64_t total;
};

struct moeblock_weights {
    moeblock_allocator allocator;
    struct mb_index index; // strings NULL when there is no index file
    char *path;            // of the index file or the one shard; "memory"
    struct mb_shard *shards;
    size_t shard_count;
    struct mb_name *names; // sorted by name
    size_t name_count;
    pthread_mutex_t lock; // held while a shard is opened
    atomic_uint_fast64_t bytes_read;
    atomic_size_t shards_opened;
};

// index.c: reads model.safetensors.index.json; every shard a plain file name beside it.
moeblock_status mb_index_read(const moeblock_allocator *allocator, const char *path, const char *folder,
                              struct mb_index *out, moeblock_error *error);
void mb_index_free(const moeblock_allocator *allocator, struct mb_index *index);

// shards.c: opens shard `i` unless it is open, and resolves the names that the index places in it. Thread-safe.
moeblock_status mb_shard_open(moeblock_weights *weights, size_t i, moeblock_error *error);
// Lists the names of one open shard as the checkpoint's names. Duplicate names are refused with `invalid`.
moeblock_status mb_names_from_shard(moeblock_weights *weights, moeblock_status invalid, moeblock_error *error);
void mb_names_sort(struct mb_name *names, size_t count);
struct mb_name *mb_names_find(const moeblock_weights *weights, const char *name);
// The name that shares the longest beginning with `name`; NULL when there are none.
const char *mb_names_nearest(const moeblock_weights *weights, const char *name);
// UNSUPPORTED for file names of other formats (.bin, .pt, .gguf, ...), with what to do.
moeblock_status mb_refuse_other_formats(const char *path, moeblock_error *error);

// A stored tensor behind a name.
struct mb_located {
    const struct mb_shard *shard;
    const moeblock_tensor_info *info;
    const void *data; // NULL unless in caller memory
};
moeblock_status mb_weights_locate(moeblock_weights *weights, const char *name, struct mb_located *out,
                                  moeblock_error *error);

// Equal pieces of a tensor at equal distances, in bytes.
struct mb_lines {
    uint64_t first, stride;
    size_t bytes;
    int64_t count;
};
// Copies the lines one after the other to `to`. Errors as moeblock_weights_read.
moeblock_status mb_weights_read_lines(moeblock_weights *weights, const moeblock_tensor_info *tensor,
                                      const struct mb_lines *lines, void *to, moeblock_error *error);
// Where the first line lies when the tensor is in caller memory; NULL when it is in a file. The same range check.
moeblock_status mb_weights_view_lines(moeblock_weights *weights, const moeblock_tensor_info *tensor,
                                      const struct mb_lines *lines, const void **out, moeblock_error *error);

#endif
