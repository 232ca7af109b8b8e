// SPDX-License-Identifier: Apache-2.0
// Decides what to read for a rectangle of a matrix: one range that covers it, or line by line when too much of the
// range belongs to others (the other half of a fused gate/up, the other ranks' columns), always when lines are cut.
#include "weights/matrix_load.h"

#include "base/arith.h"
#include "base/status.h"
#include "weights/checkpoint.h"

// Below this a system call per line costs more than reading as much again for nothing.
enum { SHORT_LINE_BYTES = 8192 };

// Where the codes of a rectangle lie, in bytes: lines of `bytes` each.
struct plan {
    struct mb_lines lines; // what to read: one line when a covering range is read
    int64_t line_stride;   // in the tensor, in codes
    int64_t staged_stride; // in staging, in codes
    size_t staged_bytes;
};

uint32_t mb_code_bits(const struct mb_matrix *matrix)
{
    const struct mb_format_info *format = &mb_format_table[matrix->format];
    if (mb_bytes_down(matrix)) return 8;
    const bool words = format->order == MB_CODES_WORDS_DOWN || format->order == MB_CODES_WORDS_ACROSS;
    return words ? 32 : (uint32_t)mb_packed_info_of(format->packed).code_bits;
}

// The elements that hold a rectangle's codes.
static struct mb_rectangle elements_of(const struct mb_matrix *matrix, const struct mb_rectangle *r)
{
    const enum mb_code_order order = mb_format_table[matrix->format].order;
    const int64_t words = order == MB_CODES_WORDS_DOWN ? mb_format_word_codes(matrix->format) : 1;
    const int64_t down = mb_bytes_down(matrix) ? 2 : words;
    const int64_t across = order == MB_CODES_WORDS_ACROSS ? mb_format_word_codes(matrix->format) : 1;
    return (struct mb_rectangle){r->n0 / across, mb_ceil_div(r->n1, across), r->k0 / down, mb_ceil_div(r->k1, down)};
}

static uint64_t bytes_of(const struct mb_matrix *matrix, int64_t codes)
{
    return (uint64_t)codes * mb_code_bits(matrix) / 8;
}

static struct plan plan_codes(const struct mb_matrix *matrix, const struct mb_rectangle *rectangle)
{
    const struct mb_rectangle elements = elements_of(matrix, rectangle), *r = &elements;
    const bool rows = mb_output_major(matrix);
    const int64_t count = rows ? r->n1 - r->n0 : r->k1 - r->k0;
    const int64_t length = rows ? r->k1 - r->k0 : (r->n1 - r->n0 - 1) * matrix->row_stride + 1;
    const int64_t stride = rows ? matrix->row_stride : matrix->column_stride;
    const int64_t first = (int64_t)matrix->code_offset + r->n0 * matrix->row_stride + r->k0 * matrix->column_stride;
    const int64_t covering = (count - 1) * stride + length, wanted = count * length;
    const size_t line_bytes = (size_t)bytes_of(matrix, length);
    const bool part = rows && length < matrix->columns && count > 1; // of its lines; the rest is other ranks'
    const bool cover =
        !part && (covering <= wanted + wanted / 4 || (line_bytes < SHORT_LINE_BYTES && covering <= 2 * wanted));
    struct plan plan = {.line_stride = stride};
    plan.lines.first = bytes_of(matrix, first);
    plan.lines.stride = bytes_of(matrix, stride);
    plan.lines.bytes = cover ? (size_t)bytes_of(matrix, covering) : line_bytes;
    plan.lines.count = cover ? 1 : count;
    plan.staged_stride = cover ? stride : length;
    plan.staged_bytes = plan.lines.bytes * (size_t)plan.lines.count;
    return plan;
}

static size_t code_bytes(const struct mb_matrix *matrix, const struct mb_rectangle *rectangle)
{
    return mb_round_up(plan_codes(matrix, rectangle).staged_bytes, MB_STAGING_ALIGNMENT);
}

size_t mb_load_bytes(const struct mb_matrix *matrix, const struct mb_rectangle *rectangle)
{
    if (rectangle->n0 >= rectangle->n1 || rectangle->k0 >= rectangle->k1) return 0;
    return code_bytes(matrix, rectangle) + mb_load_scales_bytes(matrix, rectangle);
}

static moeblock_status load_codes(moeblock_weights *weights, const struct mb_matrix *matrix, const struct plan *plan,
                                  void *staging, struct mb_loaded *out, moeblock_error *error)
{
    const size_t alignment = mb_code_bits(matrix) < 8 ? 1 : mb_code_bits(matrix) / 8;
    const void *view = NULL;
    int64_t stride = plan->line_stride;
    MB_TRY(mb_weights_view_lines(weights, &matrix->codes, &plan->lines, &view, error));
    if (!view || (uintptr_t)view % alignment) {
        MB_TRY(mb_weights_read_lines(weights, &matrix->codes, &plan->lines, staging, error));
        view = staging;
        stride = plan->staged_stride;
    }
    out->codes = view;
    out->row_stride = (ptrdiff_t)(mb_output_major(matrix) ? stride : matrix->row_stride);
    out->column_stride = (ptrdiff_t)(mb_output_major(matrix) ? 1 : stride);
    if (mb_code_bits(matrix) == 4) out->row_stride /= 2; // bytes of two codes
    return MOEBLOCK_OK;
}

moeblock_status mb_load(moeblock_weights *weights, const struct mb_matrix *matrix, const struct mb_rectangle *rectangle,
                        void *staging, struct mb_loaded *out, moeblock_error *error)
{
    const struct mb_format_info *format = &mb_format_table[matrix->format];
    *out = (struct mb_loaded){0};
    const struct plan plan = plan_codes(matrix, rectangle);
    MB_TRY(load_codes(weights, matrix, &plan, staging, out, error));
    if (!format->scale_suffix) return MOEBLOCK_OK;
    return mb_load_scales(weights, matrix, rectangle, (char *)staging + code_bytes(matrix, rectangle), out, error);
}
