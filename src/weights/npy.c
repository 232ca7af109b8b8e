// SPDX-License-Identifier: Apache-2.0
// npy arrays as NumPy writes them: the header's Python literal is read by a scanner that knows its three keys and
// nothing else of the language.
#include "weights/npy.h"

#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"
#include "weights/dtype.h"

enum { MAGIC_BYTES = 8, HEADER_BYTES_MAX = 65536, DESCR_BYTES = 16, WRITE_ALIGNMENT = 64 };

static const char magic[] = "\x93NUMPY";

static const struct descr {
    const char *text;
    moeblock_dtype dtype;
} descrs[] = {
    {"<f4", MOEBLOCK_F32}, {"<f2", MOEBLOCK_F16}, {"<f8", MOEBLOCK_F64}, {"<V2", MOEBLOCK_BF16}, {"|V2", MOEBLOCK_BF16},
    {"|i1", MOEBLOCK_I8},  {"<i2", MOEBLOCK_I16}, {"<i4", MOEBLOCK_I32}, {"<i8", MOEBLOCK_I64},  {"|u1", MOEBLOCK_U8},
    {"<u2", MOEBLOCK_U16}, {"<u4", MOEBLOCK_U32}, {"<u8", MOEBLOCK_U64}, {"|b1", MOEBLOCK_BOOL},
};

enum { DESCRS = sizeof descrs / sizeof descrs[0] };

// What the header says, as far as it has been read.
struct header {
    const char *path;
    const char *at, *end;
    bool has_descr, has_order, has_shape, fortran;
    char descr[DESCR_BYTES];
    int rank;
    int64_t dims[MOEBLOCK_MAX_RANK];
};

static moeblock_status malformed(const struct header *h, const char *expected, moeblock_error *error)
{
    return mb_fail(error, MOEBLOCK_INVALID_FILE,
                   "%s: the npy header does not read as NumPy writes it near '%.*s': expected %s", h->path,
                   (int)mb_min(h->end - h->at, 20), h->at, expected);
}

static void skip_spaces(struct header *h)
{
    while (h->at < h->end && *h->at == ' ') h->at++;
}

static bool accept(struct header *h, const char *text)
{
    skip_spaces(h);
    const size_t length = strlen(text);
    if ((size_t)(h->end - h->at) < length || memcmp(h->at, text, length) != 0) return false;
    h->at += length;
    return true;
}

static moeblock_status read_descr(struct header *h, moeblock_error *error)
{
    skip_spaces(h);
    if (h->at < h->end && *h->at == '[')
        return mb_fail(error, MOEBLOCK_UNSUPPORTED, "%s: arrays of records are not read, only plain numbers", h->path);
    if (!accept(h, "'")) return malformed(h, "a quoted type", error);
    const char *close = memchr(h->at, '\'', (size_t)(h->end - h->at));
    const size_t length = close ? (size_t)(close - h->at) : 0;
    if (length == 0 || length >= DESCR_BYTES) return malformed(h, "a type such as '<f4'", error);
    memcpy(h->descr, h->at, length);
    h->descr[length] = 0;
    h->at = close + 1;
    return MOEBLOCK_OK;
}

static moeblock_status read_dim(struct header *h, moeblock_error *error)
{
    if (h->rank == MOEBLOCK_MAX_RANK)
        return mb_fail(error, MOEBLOCK_LIMIT, "%s: the array has more than %d dimensions", h->path, MOEBLOCK_MAX_RANK);
    int64_t value = 0;
    const char *first = h->at;
    for (; h->at < h->end && *h->at >= '0' && *h->at <= '9'; h->at++) {
        value = value * 10 + (*h->at - '0');
        if (value > MB_DIM_MAX)
            return mb_fail(error, MOEBLOCK_LIMIT, "%s: dimension %d of the array is above 2^48", h->path, h->rank);
    }
    if (h->at == first || (*first == '0' && h->at > first + 1)) return malformed(h, "a dimension", error);
    h->dims[h->rank++] = value;
    return MOEBLOCK_OK;
}

// "()", "(3,)", "(3, 4)": a single dimension needs its comma, more need none at the end.
static moeblock_status read_shape(struct header *h, moeblock_error *error)
{
    if (!accept(h, "(")) return malformed(h, "a tuple of dimensions", error);
    if (accept(h, ")")) return MOEBLOCK_OK;
    for (;;) {
        skip_spaces(h);
        MB_TRY(read_dim(h, error));
        const bool comma = accept(h, ",");
        if (accept(h, ")")) return comma || h->rank > 1 ? MOEBLOCK_OK : malformed(h, "a tuple", error);
        if (!comma) return malformed(h, "',' or ')'", error);
    }
}

static moeblock_status read_order(struct header *h, moeblock_error *error)
{
    h->fortran = accept(h, "True");
    return h->fortran || accept(h, "False") ? MOEBLOCK_OK : malformed(h, "True or False", error);
}

static moeblock_status read_key(struct header *h, moeblock_error *error)
{
    static const struct {
        const char *key;
        size_t seen;
        moeblock_status (*read)(struct header *, moeblock_error *);
    } keys[] = {
        {"'descr':", offsetof(struct header, has_descr), read_descr},
        {"'fortran_order':", offsetof(struct header, has_order), read_order},
        {"'shape':", offsetof(struct header, has_shape), read_shape},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (!accept(h, keys[i].key)) continue;
        bool *seen = (bool *)((char *)h + keys[i].seen);
        if (*seen) return malformed(h, "each key once", error);
        *seen = true;
        return keys[i].read(h, error);
    }
    return malformed(h, "'descr', 'fortran_order' or 'shape'", error);
}

static moeblock_status read_header(struct header *h, moeblock_error *error)
{
    if (!accept(h, "{")) return malformed(h, "'{'", error);
    while (!accept(h, "}")) {
        MB_TRY(read_key(h, error));
        if (accept(h, ",")) continue;
        if (!accept(h, "}")) return malformed(h, "',' or '}'", error);
        break;
    }
    skip_spaces(h);
    if (h->end - h->at != 1 || *h->at != '\n') return malformed(h, "spaces and a line feed at the end", error);
    if (!h->has_descr || !h->has_order || !h->has_shape)
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s: the npy header lacks %s", h->path,
                       !h->has_descr   ? "'descr'"
                       : !h->has_order ? "'fortran_order'"
                                       : "'shape'");
    return MOEBLOCK_OK;
}

static moeblock_status find_dtype(const struct header *h, moeblock_dtype *out, moeblock_error *error)
{
    for (int i = 0; i < DESCRS; i++)
        if (strcmp(h->descr, descrs[i].text) == 0) {
            *out = descrs[i].dtype;
            return MOEBLOCK_OK;
        }
    const char *what = h->descr[0] == '>'      ? "big-endian numbers"
                       : strchr(h->descr, 'O') ? "Python objects"
                                               : "elements of this type";
    return mb_fail(error, MOEBLOCK_UNSUPPORTED, "%s: the array holds %s (descr '%s'), which are not read", h->path,
                   what, h->descr);
}

// The header's text lies at [*start, *start + *length) of the file.
static moeblock_status find_header(const struct mb_file *file, const char *path, uint64_t *start, size_t *length,
                                   moeblock_error *error)
{
    unsigned char head[MAGIC_BYTES + 4] = {0};
    if (file->bytes < MAGIC_BYTES + 2)
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s: the file has %" PRIu64 " bytes, too few for an npy header",
                       path, file->bytes);
    MB_TRY(mb_file_read(file, path, 0, (size_t)mb_min((int64_t)file->bytes, (int64_t)sizeof head), head, error));
    if (memcmp(head, magic, 6) != 0)
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s: the file does not start with the magic of npy", path);
    if (head[6] < 1 || head[6] > 3 || head[7] != 0)
        return mb_fail(error, MOEBLOCK_UNSUPPORTED, "%s: npy version %d.%d is not read, only 1.0, 2.0 and 3.0", path,
                       head[6], head[7]);
    const int field = head[6] == 1 ? 2 : 4;
    uint32_t value = 0;
    for (int i = field - 1; i >= 0; i--) value = value << 8 | head[MAGIC_BYTES + i];
    *start = (uint64_t)(MAGIC_BYTES + field);
    if (file->bytes < *start || value > file->bytes - *start)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "%s: the npy header has %" PRIu32 " bytes but the file has %" PRIu64 " in all", path, value,
                       file->bytes);
    if (value > HEADER_BYTES_MAX)
        return mb_fail(error, MOEBLOCK_LIMIT, "%s: the npy header has %" PRIu32 " bytes, the ceiling is %d", path,
                       value, HEADER_BYTES_MAX);
    *length = value;
    return MOEBLOCK_OK;
}

static moeblock_status parse(const moeblock_allocator *allocator, const struct mb_file *file, const char *path,
                             struct mb_npy *out, uint64_t *data_start, moeblock_error *error)
{
    uint64_t start = 0;
    size_t length = 0;
    MB_TRY(find_header(file, path, &start, &length, error));
    char *text = mb_alloc(allocator, length + 1);
    if (!text) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory for the npy header", path);
    text[length] = 0;
    struct header h = {.path = path, .at = text, .end = text + length};
    moeblock_status status = mb_file_read(file, path, start, length, text, error);
    if (status == MOEBLOCK_OK) status = read_header(&h, error);
    mb_free(allocator, text);
    if (status != MOEBLOCK_OK) return status;
    MB_TRY(find_dtype(&h, &out->dtype, error));
    if (h.fortran)
        return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                       "%s: the array is in Fortran order, which is not read; save numpy.ascontiguousarray(x)", path);
    out->rank = h.rank;
    memcpy(out->dims, h.dims, sizeof out->dims);
    *data_start = start + length;
    return MOEBLOCK_OK;
}

static moeblock_status read_data(const moeblock_allocator *allocator, const struct mb_file *file, const char *path,
                                 uint64_t start, struct mb_npy *out, moeblock_error *error)
{
    const size_t element = moeblock_dtype_bytes(out->dtype);
    uint64_t bytes = 0;
    const char *wrong = mb_tensor_bytes((uint32_t)element * 8, out->rank, out->dims, &bytes);
    if (wrong) return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s: %s", path, wrong);
    if (bytes != file->bytes - start)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "%s: the file has %" PRIu64 " bytes of data but shape and type need %" PRIu64, path,
                       file->bytes - start, bytes);
    out->count = (int64_t)(bytes / element);
    out->data = mb_alloc(allocator, (size_t)bytes);
    if (!out->data)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory for %" PRIu64 " bytes of data", path, bytes);
    MB_TRY(mb_file_read(file, path, start, (size_t)bytes, out->data, error));
    return mb_file_unchanged(file, path, error);
}

moeblock_status mb_npy_read(const moeblock_allocator *allocator, const char *path, struct mb_npy *out,
                            moeblock_error *error)
{
    *out = (struct mb_npy){0};
    struct mb_file file;
    MB_TRY(mb_file_open(path, &file, error));
    uint64_t start = 0;
    moeblock_status status = parse(allocator, &file, path, out, &start, error);
    if (status == MOEBLOCK_OK) status = read_data(allocator, &file, path, start, out, error);
    mb_file_close(&file);
    if (status != MOEBLOCK_OK) mb_npy_free(allocator, out);
    return status;
}

void mb_npy_free(const moeblock_allocator *allocator, struct mb_npy *array)
{
    mb_free(allocator, array->data);
    *array = (struct mb_npy){0};
}

static const char *descr_of(moeblock_dtype dtype)
{
    for (int i = 0; i < DESCRS; i++)
        if (descrs[i].dtype == dtype) return descrs[i].text;
    return NULL;
}

// Magic, version 1.0, length and the padded literal. Returns its bytes.
static size_t compose_header(const char *descr, int rank, const int64_t *dims, char *to, size_t capacity)
{
    enum { TEXT = MAGIC_BYTES + 2 };
    size_t at = TEXT;
    at += (size_t)snprintf(to + at, capacity - at, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int i = 0; i < rank; i++)
        at += (size_t)snprintf(to + at, capacity - at, "%s%" PRId64 "%s", i ? ", " : "", dims[i], rank == 1 ? "," : "");
    at += (size_t)snprintf(to + at, capacity - at, "), }");
    const size_t end = mb_round_up(at + 1, WRITE_ALIGNMENT);
    memset(to + at, ' ', end - at);
    to[end - 1] = '\n';
    memcpy(to, magic, 6);
    to[6] = 1;
    to[7] = 0;
    to[8] = (char)((end - TEXT) & 255);
    to[9] = (char)((end - TEXT) >> 8);
    return end;
}

moeblock_status mb_npy_write(const char *path, moeblock_dtype dtype, int rank, const int64_t *dims, const void *data,
                             moeblock_error *error)
{
    const char *descr = descr_of(dtype);
    uint64_t bytes = 0;
    const char *wrong = mb_tensor_bytes((uint32_t)moeblock_dtype_bytes(dtype) * 8, rank, dims, &bytes);
    if (!descr) wrong = "npy has no such element type";
    if (wrong) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "cannot write %s: %s", path, wrong);
    char header[512]; // at most 8 dimensions of 16 digits
    const size_t header_bytes = compose_header(descr, rank, dims, header, sizeof header);
    struct mb_output output;
    MB_TRY(mb_output_open(path, &output, error));
    moeblock_status status = mb_output_write(&output, header, header_bytes, error);
    if (status == MOEBLOCK_OK) status = mb_output_write(&output, data, (size_t)bytes, error);
    if (status == MOEBLOCK_OK) return mb_output_commit(&output, error);
    mb_output_abort(&output);
    return status;
}

double mb_npy_value(const struct mb_npy *array, int64_t i)
{
    const void *data = array->data;
    switch (array->dtype) {
    case MOEBLOCK_F32:
        return (double)((const float *)data)[i];
    case MOEBLOCK_F16:
        return (double)mb_from_f16(((const uint16_t *)data)[i]);
    case MOEBLOCK_BF16:
        return (double)mb_from_bf16(((const uint16_t *)data)[i]);
    case MOEBLOCK_F64:
        return ((const double *)data)[i];
    case MOEBLOCK_I8:
        return (double)((const int8_t *)data)[i];
    case MOEBLOCK_I16:
        return (double)((const int16_t *)data)[i];
    case MOEBLOCK_I32:
        return (double)((const int32_t *)data)[i];
    case MOEBLOCK_I64:
        return (double)((const int64_t *)data)[i];
    case MOEBLOCK_U16:
        return (double)((const uint16_t *)data)[i];
    case MOEBLOCK_U32:
        return (double)((const uint32_t *)data)[i];
    case MOEBLOCK_U64:
        return (double)((const uint64_t *)data)[i];
    default:
        return (double)((const uint8_t *)data)[i]; // U8, BOOL
    }
}
