// SPDX-License-Identifier: Apache-2.0
// model.safetensors.index.json: which shard holds which tensor. Shards are plain file names beside the index, so that a
// checkpoint cannot reach outside its folder.
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/json.h"
#include "base/status.h"
#include "weights/checkpoint.h"

enum { INDEX_BYTES_MAX = 64 << 20, NAME_BYTES_MAX = 1024, FILE_NAME_BYTES_MAX = 255 };

// While the index is read: a tensor's name and the file that the index gives for it.
struct placed {
    const char *name, *file;
};

static int by_file(const void *a, const void *b)
{
    return strcmp(((const struct placed *)a)->file, ((const struct placed *)b)->file);
}

static moeblock_status check_entry(const char *path, const char *name, json_t *value, moeblock_error *error)
{
    if (strlen(name) > NAME_BYTES_MAX)
        return mb_fail(error, MOEBLOCK_LIMIT, "%s: the name of tensor '%.300s' has %zu bytes, at most %d are allowed",
                       path, name, strlen(name), NAME_BYTES_MAX);
    const char *file = json_string_value(value);
    if (!file)
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s: weight_map '%.300s' is not a string, expected a file name",
                       path, name);
    if (!*file || strlen(file) > FILE_NAME_BYTES_MAX || strchr(file, '/') || !strcmp(file, ".") || strstr(file, ".."))
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "%s: weight_map places '%.300s' in '%.300s', expected the plain name of a file beside the index",
                       path, name, file);
    return mb_refuse_other_formats(file, error);
}

static moeblock_status read_total(json_t *root, const char *path, struct mb_index *out, moeblock_error *error)
{
    const json_t *metadata = json_object_get(root, "metadata");
    if (metadata && !json_is_object(metadata))
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s: metadata is not an object", path);
    const json_t *total = json_object_get(metadata, "total_size");
    out->total_given = total != NULL;
    out->total_valid = json_is_integer(total) && json_integer_value(total) >= 0;
    if (out->total_valid) out->total = (uint64_t)json_integer_value(total);
    return MOEBLOCK_OK;
}

// Copies the pairs of weight_map, sorted by file, and sizes what the index will own.
static moeblock_status collect(const moeblock_allocator *allocator, json_t *map, const char *path,
                               struct placed **pairs, size_t *string_bytes, moeblock_error *error)
{
    const size_t count = json_object_size(map);
    *pairs = mb_alloc(allocator, count * sizeof **pairs);
    if (!*pairs)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory for an index of %zu tensors", path, count);
    size_t i = 0;
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value)
    {
        MB_TRY(check_entry(path, name, value, error));
        (*pairs)[i++] = (struct placed){name, json_string_value(value)};
        *string_bytes += strlen(name) + 1;
    }
    qsort(*pairs, count, sizeof **pairs, by_file);
    return MOEBLOCK_OK;
}

static size_t count_files(const struct placed *pairs, size_t count)
{
    size_t files = 0;
    for (size_t i = 0; i < count; i++) files += i == 0 || strcmp(pairs[i].file, pairs[i - 1].file) != 0;
    return files;
}

static moeblock_status build(const moeblock_allocator *allocator, const struct placed *pairs, size_t count,
                             size_t string_bytes, const char *path, const char *folder, struct mb_index *out,
                             moeblock_error *error)
{
    const size_t files = count_files(pairs, count);
    if (files > MB_SHARDS_MAX)
        return mb_fail(error, MOEBLOCK_LIMIT, "%s: weight_map names %zu files, at most %d are allowed", path, files,
                       MB_SHARDS_MAX);
    const size_t path_bytes = strlen(folder) + 1 + FILE_NAME_BYTES_MAX + 1;
    out->strings = mb_alloc(allocator, string_bytes + files * path_bytes);
    out->names = mb_alloc(allocator, count * sizeof *out->names);
    out->paths = mb_alloc(allocator, files * sizeof *out->paths);
    if (!out->strings || !out->names || !out->paths)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory for an index of %zu tensors", path, count);
    out->name_count = count;
    char *string = out->strings;
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || strcmp(pairs[i].file, pairs[i - 1].file) != 0) {
            MB_TRY(mb_path_join(folder, pairs[i].file, string, path_bytes, error));
            out->paths[out->shard_count++] = string;
            string += strlen(string) + 1;
        }
        const size_t length = strlen(pairs[i].name) + 1;
        out->names[i] =
            (struct mb_name){memcpy(string, pairs[i].name, length), (uint32_t)out->shard_count - 1, MB_UNRESOLVED};
        string += length;
    }
    mb_names_sort(out->names, count);
    return MOEBLOCK_OK;
}

static moeblock_status read_map(const moeblock_allocator *allocator, json_t *root, const char *path, const char *folder,
                                struct mb_index *out, moeblock_error *error)
{
    MB_TRY(read_total(root, path, out, error));
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map))
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s: weight_map is missing or not an object of file names", path);
    struct placed *pairs = NULL;
    size_t string_bytes = 0;
    moeblock_status status = collect(allocator, map, path, &pairs, &string_bytes, error);
    if (status == MOEBLOCK_OK)
        status = build(allocator, pairs, json_object_size(map), string_bytes, path, folder, out, error);
    mb_free(allocator, pairs);
    return status;
}

moeblock_status mb_index_read(const moeblock_allocator *allocator, const char *path, const char *folder,
                              struct mb_index *out, moeblock_error *error)
{
    *out = (struct mb_index){0};
    char *text = NULL;
    size_t bytes = 0;
    MB_TRY(mb_file_read_text(allocator, path, INDEX_BYTES_MAX, &text, &bytes, error));
    const struct mb_json_options options = {.max_bytes = INDEX_BYTES_MAX, .invalid = MOEBLOCK_INVALID_FILE};
    json_t *root = NULL;
    moeblock_status status = mb_json_parse(text, bytes, path, &options, &root, error);
    mb_free(allocator, text);
    if (status != MOEBLOCK_OK) return status;
    status = read_map(allocator, root, path, folder, out, error);
    json_decref(root);
    if (status != MOEBLOCK_OK) mb_index_free(allocator, out);
    return status;
}

void mb_index_free(const moeblock_allocator *allocator, struct mb_index *index)
{
    mb_free(allocator, index->strings);
    mb_free(allocator, index->names);
    mb_free(allocator, index->paths);
    *index = (struct mb_index){0};
}
