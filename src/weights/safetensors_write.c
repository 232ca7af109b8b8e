// SPDX-License-Identifier: Apache-2.0
// The header that a writer of safetensors puts in front of its data: tensors in the given order, offsets derived.
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/arith.h"
#include "base/status.h"
#include "weights/dtype.h"
#include "weights/safetensors.h"

// Counts the text's bytes while `output` is NULL, so that the length can be written before the text.
struct sink {
    struct mb_output *output;
    uint64_t bytes;
};

static moeblock_status put(struct sink *sink, const char *text, size_t bytes, moeblock_error *error)
{
    sink->bytes += bytes;
    return sink->output ? mb_output_write(sink->output, text, bytes, error) : MOEBLOCK_OK;
}

static moeblock_status put_format(struct sink *sink, moeblock_error *error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static moeblock_status put_format(struct sink *sink, moeblock_error *error, const char *format, ...)
{
    char text[128]; // the longest piece is two 20-digit numbers and a key
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return put(sink, text, (size_t)length, error);
}

static moeblock_status put_name(struct sink *sink, const char *name, moeblock_error *error)
{
    MB_TRY(put(sink, "\"", 1, error));
    for (const char *c = name; *c; c++) {
        if ((unsigned char)*c < 0x20)
            MB_TRY(put_format(sink, error, "\\u%04x", (unsigned)*c));
        else if (*c == '"' || *c == '\\')
            MB_TRY(put_format(sink, error, "\\%c", *c));
        else
            MB_TRY(put(sink, c, 1, error));
    }
    return put(sink, "\":", 2, error);
}

static moeblock_status put_tensor(struct sink *sink, const moeblock_tensor_info *tensor, uint64_t *position,
                                  moeblock_error *error)
{
    uint64_t bytes = 0;
    const size_t element = moeblock_dtype_bytes(tensor->dtype);
    const char *wrong = mb_tensor_bytes((uint32_t)element * 8, tensor->rank, tensor->dims, &bytes);
    if (!element) wrong = "the element type cannot be written";
    if (wrong)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "cannot write tensor '%.300s': %s", tensor->name, wrong);
    MB_TRY(put_name(sink, tensor->name, error));
    MB_TRY(put_format(sink, error, "{\"dtype\":\"%s\",\"shape\":[", moeblock_dtype_name(tensor->dtype)));
    for (int i = 0; i < tensor->rank; i++) MB_TRY(put_format(sink, error, "%s%" PRId64, i ? "," : "", tensor->dims[i]));
    MB_TRY(put_format(sink, error, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", *position, *position + bytes));
    *position += bytes;
    return MOEBLOCK_OK;
}

static moeblock_status put_header(struct sink *sink, const moeblock_tensor_info *tensors, size_t count,
                                  moeblock_error *error)
{
    uint64_t position = 0;
    for (size_t i = 0; i < count; i++) {
        MB_TRY(put(sink, i ? "," : "{", 1, error));
        MB_TRY(put_tensor(sink, &tensors[i], &position, error));
    }
    return put(sink, count ? "}" : "{}", count ? 1 : 2, error);
}

moeblock_status mb_safetensors_write_header(struct mb_output *output, const moeblock_tensor_info *tensors, size_t count,
                                            moeblock_error *error)
{
    struct sink measure = {0};
    MB_TRY(put_header(&measure, tensors, count, error));
    const uint64_t padded = mb_round_up(measure.bytes, 8); // so that the data section is aligned
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)(padded >> (8 * i));
    MB_TRY(mb_output_write(output, length, sizeof length, error));
    struct sink sink = {.output = output};
    MB_TRY(put_header(&sink, tensors, count, error));
    return mb_output_write(output, "       ", (size_t)(padded - measure.bytes), error);
}
