// SPDX-License-Identifier: Apache-2.0
// The files of a checkpoint, opened when first needed, and its names in sorted order: 89,000 names need no hash table,
// and a miss finds its neighbour for the message.
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "weights/checkpoint.h"

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct mb_name *)a)->name, ((const struct mb_name *)b)->name);
}

void mb_names_sort(struct mb_name *names, size_t count)
{
    if (count) qsort(names, count, sizeof *names, by_name);
}

// Place of the first name that is not below `name`.
static size_t lower_bound(const moeblock_weights *weights, const char *name)
{
    size_t low = 0, high = weights->name_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (strcmp(weights->names[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct mb_name *mb_names_find(const moeblock_weights *weights, const char *name)
{
    const size_t i = lower_bound(weights, name);
    return i < weights->name_count && strcmp(weights->names[i].name, name) == 0 ? &weights->names[i] : NULL;
}

static size_t common_prefix(const char *a, const char *b)
{
    size_t n = 0;
    while (a[n] && a[n] == b[n]) n++;
    return n;
}

const char *mb_names_nearest(const moeblock_weights *weights, const char *name)
{
    const size_t i = lower_bound(weights, name);
    const char *after = i < weights->name_count ? weights->names[i].name : NULL;
    const char *before = i > 0 ? weights->names[i - 1].name : NULL;
    if (!after || !before) return after ? after : before;
    return common_prefix(before, name) > common_prefix(after, name) ? before : after;
}

moeblock_status mb_names_from_shard(moeblock_weights *weights, moeblock_status invalid, moeblock_error *error)
{
    const struct mb_safetensors *header = &weights->shards[0].header;
    weights->names = mb_alloc(&weights->allocator, header->count * sizeof *weights->names);
    if (!weights->names)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory for %zu names", weights->path, header->count);
    weights->name_count = header->count;
    for (size_t i = 0; i < header->count; i++)
        weights->names[i] = (struct mb_name){header->tensors[i].name, 0, (uint32_t)i};
    mb_names_sort(weights->names, header->count);
    for (size_t i = 1; i < header->count; i++)
        if (strcmp(weights->names[i].name, weights->names[i - 1].name) == 0)
            return mb_fail(error, invalid, "%s: tensor '%.300s' is given twice", weights->path, weights->names[i].name);
    return MOEBLOCK_OK;
}

static moeblock_status open_locked(moeblock_weights *weights, size_t i, moeblock_error *error)
{
    struct mb_shard *shard = &weights->shards[i];
    moeblock_status status = mb_file_open(shard->path, &shard->file, error);
    // NOT_FOUND from a search must only ever mean that the checkpoint has no such tensor.
    if (status == MOEBLOCK_NOT_FOUND && weights->index.strings)
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s names shard %s, which does not exist", weights->path,
                       shard->path);
    if (status != MOEBLOCK_OK) return status;
    status = mb_safetensors_read(&weights->allocator, &shard->file, shard->path, &shard->header, error);
    if (status != MOEBLOCK_OK) {
        mb_file_close(&shard->file);
        return status;
    }
    for (size_t t = 0; t < shard->header.count; t++) {
        shard->header.tensors[t].file = shard->path;
        struct mb_name *name = mb_names_find(weights, shard->header.tensors[t].name);
        if (name && name->shard == i) name->tensor = (uint32_t)t;
    }
    atomic_fetch_add(&weights->bytes_read, shard->header.data_start);
    atomic_fetch_add(&weights->shards_opened, 1);
    atomic_store(&shard->opened, true);
    return MOEBLOCK_OK;
}

moeblock_status mb_shard_open(moeblock_weights *weights, size_t i, moeblock_error *error)
{
    if (atomic_load(&weights->shards[i].opened)) return MOEBLOCK_OK;
    pthread_mutex_lock(&weights->lock);
    moeblock_status status = MOEBLOCK_OK;
    if (!atomic_load(&weights->shards[i].opened)) status = open_locked(weights, i, error);
    pthread_mutex_unlock(&weights->lock);
    return status;
}

moeblock_status mb_refuse_other_formats(const char *path, moeblock_error *error)
{
    static const struct {
        const char *suffix, *kind;
    } others[] = {
        {".bin", "PyTorch pickle"},  {".pt", "PyTorch pickle"}, {".pth", "PyTorch pickle"},
        {".ckpt", "PyTorch pickle"}, {".pkl", "pickle"},        {".gguf", "GGUF"},
        {".ggml", "GGML"},           {".onnx", "ONNX"},         {".h5", "HDF5"},
        {".msgpack", "Flax"},        {".npz", "NumPy archive"},
    };
    const size_t length = strlen(path);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        const size_t suffix = strlen(others[i].suffix);
        if (length >= suffix && strcmp(path + length - suffix, others[i].suffix) == 0)
            return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                           "%s: %s files (%s) are not read, only safetensors; convert the checkpoint first", path,
                           others[i].kind, others[i].suffix);
    }
    return MOEBLOCK_OK;
}
