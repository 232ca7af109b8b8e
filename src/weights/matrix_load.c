// SPDX-License-Identifier: Apache-2.0
// Decides what to read for a rectangle of a matrix: one range that covers it, or line by line when too much of the
// range belongs to others (the other half of a fused gate/up, the other ranks' columns). Scales become what kernels
// take.
#include "weights/matrix_load.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"
#include "weights/checkpoint.h"

// Below this a system call per line costs more than reading as much again for nothing.
enum { SHORT_LINE_BYTES = 8192, SECTION_ALIGNMENT = 64 };

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
    return format->packed == MB_PACKED_FP4 ? 4 : (uint32_t)moeblock_dtype_bytes(format->dtype) * 8;
}

static uint64_t bytes_of(const struct mb_matrix *matrix, int64_t codes)
{
    return (uint64_t)codes * mb_code_bits(matrix) / 8;
}

static struct plan plan_codes(const struct mb_matrix *matrix, const struct mb_rectangle *r)
{
    const bool rows = mb_output_major(matrix);
    const int64_t count = rows ? r->n1 - r->n0 : r->k1 - r->k0;
    const int64_t length = rows ? r->k1 - r->k0 : (r->n1 - r->n0 - 1) * matrix->row_stride + 1;
    const int64_t stride = rows ? matrix->row_stride : matrix->column_stride;
    const int64_t first = (int64_t)matrix->code_offset + r->n0 * matrix->row_stride + r->k0 * matrix->column_stride;
    const int64_t covering = (count - 1) * stride + length, wanted = count * length;
    const size_t line_bytes = (size_t)bytes_of(matrix, length);
    const bool cover = covering <= wanted + wanted / 4 || (line_bytes < SHORT_LINE_BYTES && covering <= 2 * wanted);
    struct plan plan = {.line_stride = stride};
    plan.lines.first = bytes_of(matrix, first);
    plan.lines.stride = bytes_of(matrix, stride);
    plan.lines.bytes = cover ? (size_t)bytes_of(matrix, covering) : line_bytes;
    plan.lines.count = cover ? 1 : count;
    plan.staged_stride = cover ? stride : length;
    plan.staged_bytes = plan.lines.bytes * (size_t)plan.lines.count;
    return plan;
}

// The scale tiles that a rectangle touches: stored tile rows [row0, row1), tile columns [column0, column1).
struct tiles {
    int64_t row0, row1, column0, column1;
    int64_t span; // elements from the first tile to behind the last, in the scale tensor
};

static int64_t tile_row(const struct mb_matrix *matrix, int64_t n)
{
    return (matrix->scale_row_first + n * matrix->scale_row_step) / mb_format_table[matrix->format].row_tile;
}

static struct tiles find_tiles(const struct mb_matrix *matrix, const struct mb_rectangle *r)
{
    const int64_t column_tile = mb_format_table[matrix->format].column_tile;
    struct tiles t = {.row0 = tile_row(matrix, r->n0),
                      .row1 = tile_row(matrix, r->n1 - 1) + 1,
                      .column0 = r->k0 / column_tile,
                      .column1 = mb_ceil_div(r->k1, column_tile)};
    t.span = (t.row1 - t.row0 - 1) * matrix->scale_row_stride + t.column1 - t.column0;
    return t;
}

static bool has_scales(const struct mb_matrix *matrix) { return matrix->scales.name != NULL; }

// Staging: codes, raw scales, one float a tile, one float an output and group. The last two only for FP8. Sizes depend
// on the rectangle's size only, so that one buffer serves every piece of a matrix.
struct sections {
    size_t raw, tiles, expanded, end;
};

static struct sections lay_out(const struct mb_matrix *matrix, const struct mb_rectangle *r, size_t code_bytes)
{
    struct sections s = {.raw = mb_round_up(code_bytes, SECTION_ALIGNMENT)};
    s.tiles = s.expanded = s.end = s.raw;
    if (!has_scales(matrix)) return s;
    const struct mb_format_info *format = &mb_format_table[matrix->format];
    const size_t groups = (size_t)mb_ceil_div(r->k1 - r->k0, format->column_tile);
    // The most tile rows that so many rows can touch, wherever they start.
    const int64_t stored_rows = (r->n1 - r->n0 - 1) * matrix->scale_row_step + 1;
    const size_t tile_rows = (size_t)(mb_ceil_div(stored_rows - 1, format->row_tile) + 1);
    const size_t span = (tile_rows - 1) * (size_t)matrix->scale_row_stride + groups;
    s.tiles = s.raw + mb_round_up(span * moeblock_dtype_bytes(matrix->scales.dtype), SECTION_ALIGNMENT);
    s.expanded = s.end = s.tiles;
    if (format->packed != MB_PACKED_FP8) return s;
    s.expanded = s.tiles + mb_round_up(tile_rows * groups * sizeof(float), SECTION_ALIGNMENT);
    s.end = s.expanded + mb_round_up((size_t)(r->n1 - r->n0) * groups * sizeof(float), SECTION_ALIGNMENT);
    return s;
}

size_t mb_load_bytes(const struct mb_matrix *matrix, const struct mb_rectangle *rectangle)
{
    if (rectangle->n0 >= rectangle->n1 || rectangle->k0 >= rectangle->k1) return 0;
    return lay_out(matrix, rectangle, plan_codes(matrix, rectangle).staged_bytes).end;
}

static moeblock_status load_codes(moeblock_weights *weights, const struct mb_matrix *matrix, const struct plan *plan,
                                  void *staging, struct mb_loaded *out, moeblock_error *error)
{
    const size_t alignment = mb_code_bits(matrix) == 4 ? 1 : mb_code_bits(matrix) / 8;
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

static float scale_value(moeblock_dtype dtype, const unsigned char *raw, int64_t i)
{
    uint16_t half;
    float value;
    switch (dtype) {
    case MOEBLOCK_F32:
        memcpy(&value, raw + 4 * i, sizeof value);
        return value;
    case MOEBLOCK_BF16:
        memcpy(&half, raw + 2 * i, sizeof half);
        return mb_from_bf16(half);
    case MOEBLOCK_F16:
        memcpy(&half, raw + 2 * i, sizeof half);
        return mb_from_f16(half);
    default:
        return mb_from_e8m0(raw[i]); // F8_E8M0, or U8 that holds its codes
    }
}

static moeblock_status bad_scale(const struct mb_matrix *matrix, int64_t row, int64_t column, float value,
                                 moeblock_error *error)
{
    const char *file = matrix->scales.file;
    return mb_fail(error, MOEBLOCK_INVALID_FILE,
                   "%s: tensor '%.300s': the scale of tile (%" PRId64 ", %" PRId64 ") is %g, expected a finite number",
                   file ? file : "memory", matrix->scales.name, row, column, (double)value);
}

// FP8: a float for each tile, then one for each output and group, so that kernels know nothing of tile rows.
static moeblock_status expand_scales(const struct mb_matrix *matrix, const struct mb_rectangle *r, const void *raw,
                                     float *tile_values, float *expanded, moeblock_error *error)
{
    const struct tiles t = find_tiles(matrix, r);
    const int64_t groups = t.column1 - t.column0;
    for (int64_t row = t.row0; row < t.row1; row++)
        for (int64_t g = 0; g < groups; g++) {
            const float value = scale_value(matrix->scales.dtype, raw, (row - t.row0) * matrix->scale_row_stride + g);
            if (!isfinite(value)) return bad_scale(matrix, row, t.column0 + g, value, error);
            tile_values[(row - t.row0) * groups + g] = value;
        }
    for (int64_t n = r->n0; n < r->n1; n++)
        memcpy(expanded + (n - r->n0) * groups, tile_values + (tile_row(matrix, n) - t.row0) * groups,
               (size_t)groups * sizeof(float));
    return MOEBLOCK_OK;
}

// MXFP4: the exponents as stored; only NaN is refused.
static moeblock_status check_exponents(const struct mb_matrix *matrix, const struct mb_rectangle *r,
                                       const uint8_t *exponents, ptrdiff_t stride, moeblock_error *error)
{
    const struct tiles t = find_tiles(matrix, r);
    const size_t groups = (size_t)(t.column1 - t.column0);
    for (int64_t n = r->n0; n < r->n1; n++) {
        const uint8_t *row = exponents + (n - r->n0) * stride;
        const uint8_t *bad = memchr(row, 255, groups);
        if (bad) return bad_scale(matrix, tile_row(matrix, n), t.column0 + (bad - row), mb_from_e8m0(255), error);
    }
    return MOEBLOCK_OK;
}

static moeblock_status load_scales(moeblock_weights *weights, const struct mb_matrix *matrix,
                                   const struct mb_rectangle *r, char *staging, const struct sections *s,
                                   struct mb_loaded *out, moeblock_error *error)
{
    const struct tiles t = find_tiles(matrix, r);
    const size_t element = moeblock_dtype_bytes(matrix->scales.dtype);
    const uint64_t first = matrix->scale_offset + (uint64_t)(t.row0 * matrix->scale_row_stride + t.column0);
    const struct mb_lines lines = {.first = first * element, .bytes = (size_t)t.span * element, .count = 1};
    const void *raw = NULL;
    MB_TRY(mb_weights_view_lines(weights, &matrix->scales, &lines, &raw, error));
    if (!raw) {
        MB_TRY(mb_weights_read_lines(weights, &matrix->scales, &lines, staging + s->raw, error));
        raw = staging + s->raw;
    }
    if (mb_format_table[matrix->format].packed == MB_PACKED_FP4) {
        out->exponents = raw;
        out->scale_stride = (ptrdiff_t)(matrix->scale_row_step * matrix->scale_row_stride);
        return check_exponents(matrix, r, raw, out->scale_stride, error);
    }
    float *expanded = (float *)(void *)(staging + s->expanded);
    out->scales = expanded;
    out->scale_stride = (ptrdiff_t)(t.column1 - t.column0);
    return expand_scales(matrix, r, raw, (float *)(void *)(staging + s->tiles), expanded, error);
}

moeblock_status mb_load(moeblock_weights *weights, const struct mb_matrix *matrix, const struct mb_rectangle *rectangle,
                        void *staging, struct mb_loaded *out, moeblock_error *error)
{
    *out = (struct mb_loaded){0};
    if (has_scales(matrix) && !mb_output_major(matrix))
        return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                       "tensor '%.300s': %s weights that are stored input-major are not read", matrix->codes.name,
                       mb_format_table[matrix->format].name);
    const struct plan plan = plan_codes(matrix, rectangle);
    MB_TRY(load_codes(weights, matrix, &plan, staging, out, error));
    if (!has_scales(matrix)) return MOEBLOCK_OK;
    const struct sections sections = lay_out(matrix, rectangle, plan.staged_bytes);
    return load_scales(weights, matrix, rectangle, staging, &sections, out, error);
}
