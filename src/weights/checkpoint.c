// SPDX-License-Identifier: Apache-2.0
// The public checkpoint object over files or caller memory. Every read finds its tensor by name again, so that no value
// in a caller's copy of the description can move a read outside the tensor.
#include "weights/checkpoint.h"

#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "base/context.h"
#include "base/status.h"
#include "weights/dtype.h"

enum { PATH_BYTES = 4096, NAME_BYTES_MAX = 1024 };

static const char index_name[] = "model.safetensors.index.json", single_name[] = "model.safetensors";

// An empty object with room for its shards and a copy of `path`.
static moeblock_weights *create(const moeblock_context *context, const char *path, size_t shards)
{
    const moeblock_allocator *allocator = &context->allocator;
    moeblock_weights *weights = mb_alloc_zero(allocator, sizeof *weights);
    if (!weights) return NULL;
    weights->allocator = *allocator;
    pthread_mutex_init(&weights->lock, NULL);
    weights->shards = mb_alloc_zero(allocator, shards * sizeof *weights->shards);
    weights->path = mb_alloc(allocator, strlen(path) + 1);
    if (!weights->shards || !weights->path) {
        moeblock_weights_destroy(&weights);
        return NULL;
    }
    weights->shard_count = shards;
    for (size_t i = 0; i < shards; i++) weights->shards[i].file.descriptor = -1;
    memcpy(weights->path, path, strlen(path) + 1);
    return weights;
}

static moeblock_status no_memory(const char *path, moeblock_error *error)
{
    return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory to open the checkpoint", path);
}

static moeblock_status open_single(const moeblock_context *context, const char *path, moeblock_weights **out,
                                   moeblock_error *error)
{
    moeblock_weights *weights = create(context, path, 1);
    if (!weights) return no_memory(path, error);
    weights->shards[0].path = weights->path;
    moeblock_status status = mb_shard_open(weights, 0, error);
    if (status == MOEBLOCK_OK) status = mb_names_from_shard(weights, MOEBLOCK_INVALID_FILE, error);
    if (status != MOEBLOCK_OK)
        moeblock_weights_destroy(&weights);
    else
        *out = weights;
    return status;
}

static moeblock_status open_index(const moeblock_context *context, const char *path, const char *folder,
                                  moeblock_weights **out, moeblock_error *error)
{
    struct mb_index index;
    MB_TRY(mb_index_read(&context->allocator, path, folder, &index, error));
    moeblock_weights *weights = create(context, path, index.shard_count);
    if (!weights) {
        mb_index_free(&context->allocator, &index);
        return no_memory(path, error);
    }
    weights->index = index;
    weights->names = index.names;
    weights->name_count = index.name_count;
    for (size_t i = 0; i < index.shard_count; i++) weights->shards[i].path = index.paths[i];
    *out = weights;
    return MOEBLOCK_OK;
}

// A folder: the index when there is one, else the single file, else an error that says what was looked for.
static moeblock_status open_folder(const moeblock_context *context, const char *folder, moeblock_weights **out,
                                   moeblock_error *error)
{
    static const char *const others[] = {"pytorch_model.bin.index.json", "pytorch_model.bin", "model.gguf"};
    char path[PATH_BYTES];
    MB_TRY(mb_path_join(folder, index_name, path, sizeof path, error));
    if (mb_exists(path)) return open_index(context, path, folder, out, error);
    MB_TRY(mb_path_join(folder, single_name, path, sizeof path, error));
    if (mb_exists(path)) return open_single(context, path, out, error);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        MB_TRY(mb_path_join(folder, others[i], path, sizeof path, error));
        if (mb_exists(path))
            return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                           "%s: the folder holds %s, which is not read; convert the checkpoint to safetensors", folder,
                           others[i]);
    }
    return mb_fail(error, MOEBLOCK_NOT_FOUND, "%s: the folder holds neither %s nor %s", folder, index_name,
                   single_name);
}

static bool ends_with(const char *text, const char *end)
{
    const size_t length = strlen(text), suffix = strlen(end);
    return length >= suffix && strcmp(text + length - suffix, end) == 0;
}

moeblock_status moeblock_weights_open(moeblock_context *context, const char *path, moeblock_weights **out,
                                      moeblock_error *error)
{
    if (!out) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_weights_open: out is NULL");
    *out = NULL;
    if (!context || !path)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_weights_open: %s is NULL",
                       context ? "path" : "context");
    if (mb_is_directory(path)) return open_folder(context, path, out, error);
    MB_TRY(mb_refuse_other_formats(path, error));
    if (!ends_with(path, ".safetensors.index.json")) return open_single(context, path, out, error);
    char folder[PATH_BYTES];
    const char *slash = strrchr(path, '/');
    const size_t length = slash ? (size_t)(slash - path) + (slash == path) : 1;
    if (length >= sizeof folder)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "%.300s...: the path is too long", path);
    memcpy(folder, slash ? path : ".", length);
    folder[length] = 0;
    return open_index(context, path, folder, out, error);
}

static moeblock_status check_tensor(const moeblock_tensor *tensor, size_t i, moeblock_error *error)
{
    if (!tensor->name || strlen(tensor->name) > NAME_BYTES_MAX)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "tensor %zu has %s, expected a name of at most %d bytes", i,
                       tensor->name ? "a longer name" : "no name", NAME_BYTES_MAX);
    const size_t element = moeblock_dtype_bytes(tensor->dtype);
    if (!element)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "tensor '%.300s' has dtype %d, which is not a type of values",
                       tensor->name, (int)tensor->dtype);
    uint64_t bytes = 0;
    const char *wrong = mb_tensor_bytes((uint32_t)element * 8, tensor->rank, tensor->dims, &bytes);
    if (wrong) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "tensor '%.300s': %s", tensor->name, wrong);
    if (bytes != tensor->bytes)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "tensor '%.300s' has %zu bytes of data, expected %" PRIu64 " for its dtype %s and dims",
                       tensor->name, tensor->bytes, bytes, moeblock_dtype_name(tensor->dtype));
    if (bytes && !tensor->data)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "tensor '%.300s' has no data pointer", tensor->name);
    return MOEBLOCK_OK;
}

static moeblock_status adopt(moeblock_weights *weights, const moeblock_tensor *tensors, size_t count,
                             moeblock_error *error)
{
    if (count >= MB_UNRESOLVED)
        return mb_fail(error, MOEBLOCK_LIMIT, "%zu tensors are given, at most %u are allowed", count,
                       MB_UNRESOLVED - 1);
    struct mb_shard *shard = &weights->shards[0];
    shard->header.tensors = mb_alloc_zero(&weights->allocator, count * sizeof *shard->header.tensors);
    shard->data = mb_alloc_zero(&weights->allocator, count * sizeof *shard->data);
    if (!shard->header.tensors || !shard->data) return no_memory(weights->path, error);
    for (size_t i = 0; i < count; i++) {
        MB_TRY(check_tensor(&tensors[i], i, error));
        moeblock_tensor_info *info = &shard->header.tensors[i];
        *info = (moeblock_tensor_info){.name = tensors[i].name,
                                       .dtype = tensors[i].dtype,
                                       .dtype_name = moeblock_dtype_name(tensors[i].dtype),
                                       .rank = tensors[i].rank,
                                       .bytes = tensors[i].bytes};
        memcpy(info->dims, tensors[i].dims, sizeof info->dims);
        shard->data[i] = tensors[i].data;
    }
    shard->header.count = count;
    atomic_store(&shard->opened, true);
    return mb_names_from_shard(weights, MOEBLOCK_INVALID_ARGUMENT, error);
}

moeblock_status moeblock_weights_from_tensors(moeblock_context *context, const moeblock_tensor *tensors, size_t count,
                                              moeblock_weights **out, moeblock_error *error)
{
    if (!out) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_weights_from_tensors: out is NULL");
    *out = NULL;
    if (!context || (count && !tensors))
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_weights_from_tensors: %s is NULL",
                       context ? "tensors" : "context");
    moeblock_weights *weights = create(context, "memory", 1);
    if (!weights) return no_memory("memory", error);
    const moeblock_status status = adopt(weights, tensors, count, error);
    if (status != MOEBLOCK_OK)
        moeblock_weights_destroy(&weights);
    else
        *out = weights;
    return status;
}

void moeblock_weights_destroy(moeblock_weights **weights)
{
    if (!weights || !*weights) return;
    moeblock_weights *self = *weights;
    const moeblock_allocator allocator = self->allocator;
    for (size_t i = 0; i < self->shard_count; i++) {
        mb_safetensors_free(&allocator, &self->shards[i].header);
        mb_file_close(&self->shards[i].file);
        mb_free(&allocator, self->shards[i].data);
    }
    if (!self->index.strings) mb_free(&allocator, self->names);
    mb_index_free(&allocator, &self->index);
    mb_free(&allocator, self->shards);
    mb_free(&allocator, self->path);
    pthread_mutex_destroy(&self->lock);
    mb_free(&allocator, self);
    *weights = NULL;
}

static moeblock_status open_all(moeblock_weights *weights, moeblock_error *error)
{
    for (size_t i = 0; i < weights->shard_count; i++) MB_TRY(mb_shard_open(weights, i, error));
    return MOEBLOCK_OK;
}

moeblock_status moeblock_weights_count(moeblock_weights *weights, size_t *out, moeblock_error *error)
{
    if (!weights || !out)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_weights_count: %s is NULL",
                       weights ? "out" : "weights");
    *out = 0;
    MB_TRY(open_all(weights, error));
    for (size_t i = 0; i < weights->shard_count; i++) *out += weights->shards[i].header.count;
    return MOEBLOCK_OK;
}

moeblock_status moeblock_weights_at(moeblock_weights *weights, size_t i, moeblock_tensor_info *out,
                                    moeblock_error *error)
{
    if (!weights || !out)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_weights_at: %s is NULL",
                       weights ? "out" : "weights");
    *out = (moeblock_tensor_info){0};
    MB_TRY(open_all(weights, error));
    size_t rest = i;
    for (size_t s = 0; s < weights->shard_count; s++) {
        const struct mb_safetensors *header = &weights->shards[s].header;
        if (rest < header->count) {
            *out = header->tensors[rest];
            return MOEBLOCK_OK;
        }
        rest -= header->count;
    }
    return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "%s: there is no tensor number %zu, the checkpoint holds %zu",
                   weights->path, i, i - rest);
}

moeblock_status mb_weights_locate(moeblock_weights *weights, const char *name, struct mb_located *out,
                                  moeblock_error *error)
{
    const struct mb_name *found = mb_names_find(weights, name);
    if (!found) {
        const char *nearest = mb_names_nearest(weights, name);
        return mb_fail(error, MOEBLOCK_NOT_FOUND, "%s: there is no tensor '%.300s'%s%.300s%s", weights->path, name,
                       nearest ? "; the nearest name is '" : " (the checkpoint is empty)", nearest ? nearest : "",
                       nearest ? "'" : "");
    }
    MB_TRY(mb_shard_open(weights, found->shard, error));
    const struct mb_shard *shard = &weights->shards[found->shard];
    if (found->tensor == MB_UNRESOLVED)
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s places tensor '%.300s' in %s, which does not hold it",
                       weights->path, name, shard->path);
    *out = (struct mb_located){.shard = shard,
                               .info = &shard->header.tensors[found->tensor],
                               .data = shard->data ? shard->data[found->tensor] : NULL};
    return MOEBLOCK_OK;
}

moeblock_status moeblock_weights_find(moeblock_weights *weights, const char *name, moeblock_tensor_info *out,
                                      moeblock_error *error)
{
    if (!weights || !name || !out)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_weights_find: %s is NULL",
                       !weights ? "weights"
                       : name   ? "out"
                                : "name");
    *out = (moeblock_tensor_info){0};
    struct mb_located located;
    MB_TRY(mb_weights_locate(weights, name, &located, error));
    *out = *located.info;
    return MOEBLOCK_OK;
}

// Whether the last line ends inside a tensor of `bytes` bytes.
static bool lines_inside(const struct mb_lines *lines, uint64_t bytes)
{
    uint64_t end = 0;
    return lines->count <= 0 ||
           (mb_mul_u64((uint64_t)lines->count - 1, lines->stride, &end) && mb_add_u64(end, lines->first, &end) &&
            mb_add_u64(end, lines->bytes, &end) && end <= bytes);
}

// Finds the tensor behind a description and checks that the lines lie inside it.
static moeblock_status locate_lines(moeblock_weights *weights, const moeblock_tensor_info *tensor,
                                    const struct mb_lines *lines, struct mb_located *out, moeblock_error *error)
{
    MB_TRY(mb_weights_locate(weights, tensor->name, out, error));
    if (lines_inside(lines, out->info->bytes)) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                   "%s: %" PRId64 " x %zu bytes from byte %" PRIu64 " of tensor '%.300s' are wanted, it has %" PRIu64,
                   weights->path, lines->count, lines->bytes, lines->first, tensor->name, out->info->bytes);
}

moeblock_status mb_weights_view_lines(moeblock_weights *weights, const moeblock_tensor_info *tensor,
                                      const struct mb_lines *lines, const void **out, moeblock_error *error)
{
    struct mb_located located;
    MB_TRY(locate_lines(weights, tensor, lines, &located, error));
    *out = located.data ? (const char *)located.data + lines->first : NULL;
    return MOEBLOCK_OK;
}

moeblock_status mb_weights_read_lines(moeblock_weights *weights, const moeblock_tensor_info *tensor,
                                      const struct mb_lines *lines, void *to, moeblock_error *error)
{
    struct mb_located located;
    MB_TRY(locate_lines(weights, tensor, lines, &located, error));
    if (!lines->bytes || lines->count <= 0) return MOEBLOCK_OK;
    const struct mb_shard *shard = located.shard;
    char *target = to;
    for (int64_t i = 0; i < lines->count; i++, target += lines->bytes) {
        const uint64_t offset = lines->first + (uint64_t)i * lines->stride;
        if (located.data)
            memcpy(target, (const char *)located.data + offset, lines->bytes);
        else
            MB_TRY(mb_file_read(&shard->file, shard->path, located.info->file_offset + offset, lines->bytes, target,
                                error));
    }
    if (!shard->path) return MOEBLOCK_OK;
    atomic_fetch_add(&weights->bytes_read, (uint64_t)lines->count * lines->bytes);
    return mb_file_unchanged(&shard->file, shard->path, error);
}

moeblock_status moeblock_weights_read(moeblock_weights *weights, const moeblock_tensor_info *tensor, uint64_t offset,
                                      size_t bytes, void *to, moeblock_error *error)
{
    if (!weights || !tensor || !tensor->name || (bytes && !to))
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_weights_read: %s is NULL",
                       !weights  ? "weights"
                       : !tensor ? "tensor"
                       : to      ? "tensor->name"
                                 : "to");
    const struct mb_lines line = {.first = offset, .bytes = bytes, .count = 1};
    return mb_weights_read_lines(weights, tensor, &line, to, error);
}

// With an index: shard s holds exactly what weight_map places in it. Adds up its data bytes.
static moeblock_status validate_shard(const moeblock_weights *weights, size_t s, uint64_t *total, moeblock_error *error)
{
    const struct mb_shard *shard = &weights->shards[s];
    for (size_t t = 0; t < shard->header.count; t++) {
        const moeblock_tensor_info *tensor = &shard->header.tensors[t];
        const struct mb_name *name = mb_names_find(weights, tensor->name);
        if (!name)
            return mb_fail(error, MOEBLOCK_INVALID_FILE,
                           "%s holds tensor '%.300s', which weight_map of %s does not list", shard->path, tensor->name,
                           weights->path);
        if (name->shard != s)
            return mb_fail(error, MOEBLOCK_INVALID_FILE,
                           "%s holds tensor '%.300s', which weight_map of %s places in %s", shard->path, tensor->name,
                           weights->path, weights->shards[name->shard].path);
        *total += tensor->bytes;
    }
    return MOEBLOCK_OK;
}

static moeblock_status validate_index(const moeblock_weights *weights, uint64_t total, moeblock_error *error)
{
    for (size_t i = 0; i < weights->name_count; i++)
        if (weights->names[i].tensor == MB_UNRESOLVED)
            return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s places tensor '%.300s' in %s, which does not hold it",
                           weights->path, weights->names[i].name, weights->shards[weights->names[i].shard].path);
    const struct mb_index *index = &weights->index;
    if (index->total_given && !index->total_valid)
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s: metadata.total_size is not an integer, expected %" PRIu64,
                       weights->path, total);
    if (index->total_given && index->total != total)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "%s: metadata.total_size is %" PRIu64 " but the tensors have %" PRIu64 " bytes", weights->path,
                       index->total, total);
    return MOEBLOCK_OK;
}

moeblock_status moeblock_weights_validate(moeblock_weights *weights, moeblock_error *error)
{
    if (!weights) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "moeblock_weights_validate: weights is NULL");
    uint64_t total = 0;
    for (size_t i = 0; i < weights->shard_count; i++) {
        MB_TRY(mb_shard_open(weights, i, error));
        if (weights->index.strings) MB_TRY(validate_shard(weights, i, &total, error));
        if (weights->shards[i].path)
            MB_TRY(mb_file_unchanged(&weights->shards[i].file, weights->shards[i].path, error));
    }
    return weights->index.strings ? validate_index(weights, total, error) : MOEBLOCK_OK;
}

uint64_t moeblock_weights_bytes_read(const moeblock_weights *weights)
{
    return weights ? atomic_load(&((moeblock_weights *)(uintptr_t)weights)->bytes_read) : 0;
}

size_t moeblock_weights_shards_opened(const moeblock_weights *weights)
{
    return weights ? atomic_load(&((moeblock_weights *)(uintptr_t)weights)->shards_opened) : 0;
}
