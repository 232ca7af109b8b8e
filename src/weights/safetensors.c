// SPDX-License-Identifier: Apache-2.0
// safetensors headers. Parsing accepts exactly the files whose tensors tile the data section from its first to its last
// byte; every number is range-checked before arithmetic, and nothing is allocated that the file's size does not
// warrant. SECURITY.md lists the rules.
#include "weights/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/json.h"
#include "base/status.h"
#include "weights/dtype.h"

enum { LENGTH_BYTES = 8, HEADER_BYTES_MAX = 32 << 20, METADATA_BYTES_MAX = 1 << 20, NAME_BYTES_MAX = 1024 };

// What messages about one tensor start with. Names are cut so that the rest of the sentence fits.
#define TENSOR_OF "%s: tensor '%.300s': "

static const char metadata_key[] = "__metadata__";

static uint64_t little_endian(const unsigned char bytes[LENGTH_BYTES])
{
    uint64_t value = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

// The text is one object from the first byte on, followed by nothing but spaces.
static moeblock_status check_frame(const char *text, size_t bytes, uint64_t file_bytes, const char *name,
                                   moeblock_error *error)
{
    if (bytes > HEADER_BYTES_MAX)
        return mb_fail(error, MOEBLOCK_LIMIT, "%s: the header has %zu bytes, the ceiling is %d", name, bytes,
                       HEADER_BYTES_MAX);
    if (bytes < 2)
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s: the header has %zu bytes, expected at least 2", name, bytes);
    if (file_bytes < LENGTH_BYTES || bytes > file_bytes - LENGTH_BYTES)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "%s: the header length is %zu but the file has %" PRIu64
                       " bytes in all; the file is truncated or not safetensors",
                       name, bytes, file_bytes);
    if (text[0] != '{')
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "%s: the header starts with byte 0x%02x, expected '{'; the file is not safetensors", name,
                       (unsigned)(unsigned char)text[0]);
    size_t end = bytes;
    while (end > 0 && text[end - 1] == ' ') end--;
    if (text[end - 1] != '}')
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "%s: the header ends with byte 0x%02x, expected '}' and spaces after it", name,
                       (unsigned)(unsigned char)text[end - 1]);
    return MOEBLOCK_OK;
}

// __metadata__, where present: strings only, small in all.
static moeblock_status check_metadata(json_t *metadata, const char *name, moeblock_error *error)
{
    if (!metadata) return MOEBLOCK_OK;
    if (!json_is_object(metadata))
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s: __metadata__ is not an object of strings", name);
    uint64_t total = 0;
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s: __metadata__ '%.300s' is not a string", name, key);
        total += strlen(key) + json_string_length(value);
    }
    if (total > METADATA_BYTES_MAX)
        return mb_fail(error, MOEBLOCK_LIMIT, "%s: __metadata__ holds %" PRIu64 " bytes, the ceiling is %d", name,
                       total, METADATA_BYTES_MAX);
    return MOEBLOCK_OK;
}

static moeblock_status read_shape(json_t *shape, const char *name, moeblock_tensor_info *tensor, moeblock_error *error)
{
    if (!json_is_array(shape))
        return mb_fail(error, MOEBLOCK_INVALID_FILE, TENSOR_OF "shape is missing or not a list of integers", name,
                       tensor->name);
    const size_t rank = json_array_size(shape);
    if (rank > MOEBLOCK_MAX_RANK)
        return mb_fail(error, MOEBLOCK_INVALID_FILE, TENSOR_OF "shape has %zu dimensions, at most %d are allowed", name,
                       tensor->name, rank, MOEBLOCK_MAX_RANK);
    tensor->rank = (int)rank;
    for (size_t i = 0; i < rank; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0 || json_integer_value(dim) > MB_DIM_MAX)
            return mb_fail(
                error, MOEBLOCK_INVALID_FILE,
                TENSOR_OF "dimension %zu of shape is %" JSON_INTEGER_FORMAT "%s, expected an integer from 0 to 2^48",
                name, tensor->name, i, json_integer_value(dim), json_is_integer(dim) ? "" : " (not an integer)");
        tensor->dims[i] = json_integer_value(dim);
    }
    return MOEBLOCK_OK;
}

// data_offsets become file_offset (still relative to the data section) and bytes.
static moeblock_status read_offsets(json_t *offsets, const char *name, moeblock_tensor_info *tensor,
                                    moeblock_error *error)
{
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return mb_fail(error, MOEBLOCK_INVALID_FILE, TENSOR_OF "data_offsets is missing or not a list of two integers",
                       name, tensor->name);
    const json_int_t first = json_integer_value(begin), last = json_integer_value(end);
    if (first < 0 || last < first)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       TENSOR_OF "data_offsets are [%" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT
                                 "], expected 0 <= begin <= end",
                       name, tensor->name, first, last);
    tensor->file_offset = (uint64_t)first;
    tensor->bytes = (uint64_t)(last - first);
    return MOEBLOCK_OK;
}

static moeblock_status read_tensor(json_t *entry, const char *name, moeblock_tensor_info *tensor, moeblock_error *error)
{
    if (!json_is_object(entry) || json_object_size(entry) != 3)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       TENSOR_OF "the entry has %zu keys, expected exactly dtype, shape and data_offsets", name,
                       tensor->name, json_object_size(entry));
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    const struct mb_dtype_info *dtype = type ? mb_dtype_find(type) : NULL;
    if (!dtype)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       TENSOR_OF "dtype is %.40s, expected a type of safetensors such as BF16", name, tensor->name,
                       type ? type : "missing or not a string");
    tensor->dtype = dtype->dtype;
    tensor->dtype_name = dtype->name;
    MB_TRY(read_shape(json_object_get(entry, "shape"), name, tensor, error));
    MB_TRY(read_offsets(json_object_get(entry, "data_offsets"), name, tensor, error));
    uint64_t bytes = 0;
    const char *wrong = mb_tensor_bytes(dtype->bits, tensor->rank, tensor->dims, &bytes);
    if (wrong) return mb_fail(error, MOEBLOCK_INVALID_FILE, TENSOR_OF "%s", name, tensor->name, wrong);
    if (bytes != tensor->bytes)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       TENSOR_OF "data_offsets span %" PRIu64 " bytes but dtype %s and shape need %" PRIu64, name,
                       tensor->name, tensor->bytes, dtype->name, bytes);
    return MOEBLOCK_OK;
}

// By begin, then end (empty tensors share their offset with the next one), then as they stand in the header.
static int by_offset(const void *a, const void *b)
{
    const moeblock_tensor_info *x = a, *y = b;
    if (x->file_offset != y->file_offset) return x->file_offset < y->file_offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return (x->name > y->name) - (x->name < y->name); // names lie in header order in one allocation
}

// Sorted tensors must cover the data section without a hole, an overlap or bytes left over.
static moeblock_status check_cover(struct mb_safetensors *header, uint64_t data_bytes, const char *name,
                                   moeblock_error *error)
{
    uint64_t position = 0;
    for (size_t i = 0; i < header->count; i++) {
        moeblock_tensor_info *tensor = &header->tensors[i];
        if (tensor->file_offset != position)
            return mb_fail(error, MOEBLOCK_INVALID_FILE,
                           TENSOR_OF "data starts at offset %" PRIu64 ", expected %" PRIu64
                                     " where the tensor before it ends (%s)",
                           name, tensor->name, tensor->file_offset, position,
                           tensor->file_offset > position ? "a hole" : "an overlap");
        if (tensor->bytes > data_bytes - position)
            return mb_fail(error, MOEBLOCK_INVALID_FILE,
                           TENSOR_OF "data ends at offset %" PRIu64 " but the file's data section has %" PRIu64
                                     " bytes; the file is truncated",
                           name, tensor->name, tensor->file_offset + tensor->bytes, data_bytes);
        position += tensor->bytes;
        tensor->file_offset += header->data_start;
    }
    if (position != data_bytes)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "%s: the tensors end at offset %" PRIu64 " but the file's data section has %" PRIu64
                       " bytes; bytes that belong to no tensor are not allowed",
                       name, position, data_bytes);
    return MOEBLOCK_OK;
}

// One allocation: the tensors, then their names.
static moeblock_status allocate(const moeblock_allocator *allocator, json_t *root, const char *name,
                                struct mb_safetensors *out, moeblock_error *error)
{
    size_t string_bytes = 0;
    const char *key;
    json_t *entry;
    json_object_foreach(root, key, entry)
    {
        const size_t length = strlen(key);
        if (length > NAME_BYTES_MAX)
            return mb_fail(error, MOEBLOCK_LIMIT, TENSOR_OF "the name has %zu bytes, at most %d are allowed", name, key,
                           length, NAME_BYTES_MAX);
        string_bytes += length + 1;
    }
    const size_t array_bytes = json_object_size(root) * sizeof *out->tensors;
    out->tensors = mb_alloc_zero(allocator, array_bytes + string_bytes);
    if (!out->tensors)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory for a list of %zu tensors", name,
                       json_object_size(root));
    out->strings = (char *)out->tensors + array_bytes;
    return MOEBLOCK_OK;
}

static moeblock_status read_tensors(const moeblock_allocator *allocator, json_t *root, uint64_t data_bytes,
                                    const char *name, struct mb_safetensors *out, moeblock_error *error)
{
    MB_TRY(check_metadata(json_object_get(root, metadata_key), name, error));
    MB_TRY(allocate(allocator, root, name, out, error));
    char *string = out->strings;
    const char *key;
    json_t *entry;
    json_object_foreach(root, key, entry)
    {
        if (strcmp(key, metadata_key) == 0) continue;
        moeblock_tensor_info *tensor = &out->tensors[out->count++];
        const size_t length = strlen(key) + 1;
        tensor->name = memcpy(string, key, length);
        string += length;
        MB_TRY(read_tensor(entry, name, tensor, error));
    }
    if (out->count) qsort(out->tensors, out->count, sizeof *out->tensors, by_offset);
    return check_cover(out, data_bytes, name, error);
}

moeblock_status mb_safetensors_parse(const moeblock_allocator *allocator, const char *text, size_t bytes,
                                     uint64_t file_bytes, const char *name, struct mb_safetensors *out,
                                     moeblock_error *error)
{
    *out = (struct mb_safetensors){.data_start = LENGTH_BYTES + (uint64_t)bytes};
    MB_TRY(check_frame(text, bytes, file_bytes, name, error));
    const struct mb_json_options options = {.max_bytes = HEADER_BYTES_MAX, .invalid = MOEBLOCK_INVALID_FILE};
    json_t *root = NULL;
    MB_TRY(mb_json_parse(text, bytes, name, &options, &root, error));
    const moeblock_status status = read_tensors(allocator, root, file_bytes - out->data_start, name, out, error);
    json_decref(root);
    if (status != MOEBLOCK_OK) mb_safetensors_free(allocator, out);
    return status;
}

moeblock_status mb_safetensors_read(const moeblock_allocator *allocator, const struct mb_file *file, const char *path,
                                    struct mb_safetensors *out, moeblock_error *error)
{
    *out = (struct mb_safetensors){0};
    unsigned char prefix[LENGTH_BYTES];
    if (file->bytes < LENGTH_BYTES)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "%s: the file has %" PRIu64 " bytes, a safetensors file has at least 10", path, file->bytes);
    MB_TRY(mb_file_read(file, path, 0, LENGTH_BYTES, prefix, error));
    const uint64_t length = little_endian(prefix);
    if (length > file->bytes - LENGTH_BYTES)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "%s: the header length is %" PRIu64 " but the file has %" PRIu64
                       " bytes in all; the file is truncated or not safetensors",
                       path, length, file->bytes);
    if (length > HEADER_BYTES_MAX)
        return mb_fail(error, MOEBLOCK_LIMIT, "%s: the header has %" PRIu64 " bytes, the ceiling is %d", path, length,
                       HEADER_BYTES_MAX);
    char *text = mb_alloc(allocator, (size_t)length);
    if (!text)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory for a header of %" PRIu64 " bytes", path, length);
    moeblock_status status = mb_file_read(file, path, LENGTH_BYTES, (size_t)length, text, error);
    if (status == MOEBLOCK_OK)
        status = mb_safetensors_parse(allocator, text, (size_t)length, file->bytes, path, out, error);
    mb_free(allocator, text);
    return status;
}

void mb_safetensors_free(const moeblock_allocator *allocator, struct mb_safetensors *header)
{
    mb_free(allocator, header->tensors);
    *header = (struct mb_safetensors){0};
}
