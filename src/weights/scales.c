// SPDX-License-Identifier: Apache-2.0
// The scales, exponents, zero points and total scales of a rectangle, as kernels take them: whatever the tiles and the
// orientation on disk, one value per output and group.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"
#include "weights/checkpoint.h"
#include "weights/matrix_load.h"

static const struct mb_format_info *format_of(const struct mb_matrix *matrix)
{
    return &mb_format_table[matrix->format];
}

// Four-bit zero points share words along the outputs, in AWQ in the order of its codes.
static const int across_position[8] = {0, 4, 1, 5, 2, 6, 3, 7};

// The stored elements that a rectangle touches: rows [row0, row1), of them elements [column0, column1) at `stride`.
struct tiles {
    int64_t row0, row1, column0, column1, row_stride, column_stride;
};

static int64_t span_of(int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride)
{
    return (rows - 1) * row_stride + (columns - 1) * column_stride + 1;
}

static int64_t tile_row(const struct mb_matrix *matrix, int64_t n)
{
    return (matrix->scale_row_first + n * matrix->scale_row_step) / format_of(matrix)->row_tile;
}

static struct tiles scale_tiles(const struct mb_matrix *matrix, const struct mb_rectangle *r)
{
    const int64_t group = mb_matrix_group(matrix);
    return (struct tiles){.row0 = tile_row(matrix, r->n0),
                          .row1 = tile_row(matrix, r->n1 - 1) + 1,
                          .column0 = r->k0 / group,
                          .column1 = mb_ceil_div(r->k1, group),
                          .row_stride = matrix->scale_row_stride,
                          .column_stride = mb_max(matrix->scale_column_stride, 1)};
}

// Zero points lie in words of several outputs. Their words have the strides of the scales, outputs taken together.
static struct tiles zero_tiles(const struct mb_matrix *matrix, const struct mb_rectangle *r)
{
    const int64_t codes = mb_format_word_codes(matrix->format);
    struct tiles t = scale_tiles(matrix, r);
    t.row0 = (matrix->scale_row_first + r->n0 * matrix->scale_row_step) / codes;
    t.row1 = (matrix->scale_row_first + (r->n1 - 1) * matrix->scale_row_step) / codes + 1;
    if (t.column_stride > 1) t.column_stride = mb_ceil_div(t.column_stride, codes);
    return t;
}

// Whether the groups of an output do not lie side by side.
static bool turned(const struct mb_matrix *matrix) { return matrix->scale_column_stride > 1; }

// Staging: raw scales, raw zero points, one float a tile, one float and one zero point an output and group. Sizes
// depend on the rectangle's size only, so that one buffer serves every piece of a matrix.
struct sections {
    size_t zeros_raw, tiles, expanded, zeros, end; // zeros: or the factors
};

static struct sections lay_out(const struct mb_matrix *matrix, const struct mb_rectangle *r)
{
    const struct mb_format_info *format = format_of(matrix);
    const struct tiles scales = scale_tiles(matrix, r), zeros = zero_tiles(matrix, r);
    const int64_t groups = mb_ceil_div(r->k1 - r->k0, mb_matrix_group(matrix)), outputs = r->n1 - r->n0;
    // The most rows of tiles or words that so many outputs can touch, wherever they start.
    const int64_t stored_rows = (outputs - 1) * matrix->scale_row_step + 1;
    const int64_t tile_rows = mb_ceil_div(stored_rows - 1, format->row_tile) + 1;
    const int64_t word_rows = mb_ceil_div(stored_rows - 1, mb_format_word_codes(matrix->format)) + 1;
    const size_t raw = (size_t)span_of(tile_rows, groups, scales.row_stride, scales.column_stride);
    const size_t words = (size_t)span_of(word_rows, groups, zeros.row_stride, zeros.column_stride);
    const bool scaled = mb_packed_info_of(format->packed).scaled && format->packed != MB_PACKED_NVFP4;
    const bool integers = format->packed == MB_PACKED_INT4 || format->packed == MB_PACKED_INT8;
    const bool bytes = integers || (!scaled && turned(matrix)); // zero points, or factors in another order
    const size_t values = (size_t)(outputs * groups);
    struct sections s;
    s.zeros_raw = mb_round_up(raw * moeblock_dtype_bytes(matrix->scales.dtype), MB_STAGING_ALIGNMENT);
    s.tiles = s.zeros_raw + (matrix->zeros.name ? mb_round_up(words * 4, MB_STAGING_ALIGNMENT) : 0);
    s.expanded = s.tiles + (scaled ? mb_round_up((size_t)(tile_rows * groups) * 4, MB_STAGING_ALIGNMENT) : 0);
    s.zeros = s.expanded + (scaled ? mb_round_up(values * sizeof(float), MB_STAGING_ALIGNMENT) : 0);
    s.end = s.zeros + (bytes ? mb_round_up(values, MB_STAGING_ALIGNMENT) : 0);
    return s;
}

size_t mb_load_scales_bytes(const struct mb_matrix *matrix, const struct mb_rectangle *rectangle)
{
    return format_of(matrix)->scale_suffix ? lay_out(matrix, rectangle).end : 0;
}

// Elements of the covering range of the tiles: viewed in place or read into `staging`.
static moeblock_status read_tiles(moeblock_weights *weights, const moeblock_tensor_info *tensor, uint64_t offset,
                                  const struct tiles *t, void *staging, const void **raw, moeblock_error *error)
{
    const size_t element = moeblock_dtype_bytes(tensor->dtype);
    const uint64_t first = offset + (uint64_t)(t->row0 * t->row_stride + t->column0 * t->column_stride);
    const int64_t span = span_of(t->row1 - t->row0, t->column1 - t->column0, t->row_stride, t->column_stride);
    const struct mb_lines lines = {.first = first * element, .bytes = (size_t)span * element, .count = 1};
    MB_TRY(mb_weights_view_lines(weights, tensor, &lines, raw, error));
    if (*raw) return MOEBLOCK_OK;
    *raw = staging;
    return mb_weights_read_lines(weights, tensor, &lines, staging, error);
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

static moeblock_status bad_scale(const moeblock_tensor_info *tensor, int64_t row, int64_t column, float value,
                                 moeblock_error *error)
{
    return mb_fail(error, MOEBLOCK_INVALID_FILE,
                   "%s: tensor '%.300s': the scale of tile (%" PRId64 ", %" PRId64 ") is %g, expected a finite number",
                   tensor->file ? tensor->file : "memory", tensor->name, row, column, (double)value);
}

// A float for each tile, then one for each output and group, so that kernels know nothing of tile rows.
static moeblock_status expand_scales(const struct mb_matrix *matrix, const struct mb_rectangle *r, const void *raw,
                                     float *tile_values, float *expanded, moeblock_error *error)
{
    const struct tiles t = scale_tiles(matrix, r);
    const int64_t groups = t.column1 - t.column0;
    for (int64_t row = t.row0; row < t.row1; row++)
        for (int64_t g = 0; g < groups; g++) {
            const int64_t at = (row - t.row0) * t.row_stride + g * t.column_stride;
            const float value = scale_value(matrix->scales.dtype, raw, at);
            if (!isfinite(value)) return bad_scale(&matrix->scales, row, t.column0 + g, value, error);
            tile_values[(row - t.row0) * groups + g] = value;
        }
    for (int64_t n = r->n0; n < r->n1; n++)
        memcpy(expanded + (n - r->n0) * groups, tile_values + (tile_row(matrix, n) - t.row0) * groups,
               (size_t)groups * sizeof(float));
    return MOEBLOCK_OK;
}

// Bytes of [groups, outputs] to those of [outputs, groups].
static void turn_factors(const struct mb_matrix *matrix, const struct mb_rectangle *r, const uint8_t *raw, uint8_t *to)
{
    const struct tiles t = scale_tiles(matrix, r);
    const int64_t groups = t.column1 - t.column0;
    for (int64_t n = r->n0; n < r->n1; n++)
        for (int64_t g = 0; g < groups; g++)
            to[(n - r->n0) * groups + g] = raw[(tile_row(matrix, n) - t.row0) * t.row_stride + g * t.column_stride];
}

// Exponents and e4m3 factors as stored; only NaN is refused.
static moeblock_status check_factors(const struct mb_matrix *matrix, const struct mb_rectangle *r,
                                     const uint8_t *factors, ptrdiff_t stride, moeblock_error *error)
{
    const struct tiles t = scale_tiles(matrix, r);
    const int64_t groups = t.column1 - t.column0;
    const bool e4m3 = format_of(matrix)->scales == MB_SCALE_E4M3;
    for (int64_t n = r->n0; n < r->n1; n++) {
        const uint8_t *row = factors + (n - r->n0) * stride;
        for (int64_t g = 0; g < groups; g++) {
            if (e4m3 ? (row[g] & 0x7f) != 0x7f : row[g] != 255) continue;
            return bad_scale(&matrix->scales, tile_row(matrix, n), t.column0 + g, mb_from_e8m0(255), error);
        }
    }
    return MOEBLOCK_OK;
}

// One byte an output and group. Without stored ones codes lie around half their range.
static void expand_zeros(const struct mb_matrix *matrix, const struct mb_rectangle *r, const void *raw, uint8_t *zeros)
{
    const struct mb_format_info *format = format_of(matrix);
    const struct tiles t = zero_tiles(matrix, r);
    const int64_t groups = t.column1 - t.column0, codes = mb_format_word_codes(matrix->format);
    const uint32_t mask = format->packed == MB_PACKED_INT4 ? 15 : 255, bits = 32 / (uint32_t)codes;
    if (!raw) memset(zeros, (int)(mask + 1) / 2, (size_t)((r->n1 - r->n0) * groups));
    for (int64_t n = r->n0; raw && n < r->n1; n++) {
        const int64_t row = matrix->scale_row_first + n * matrix->scale_row_step;
        const int place = (int)(row % codes);
        const uint32_t shift =
            bits * (uint32_t)(format->order == MB_CODES_WORDS_ACROSS ? across_position[place] : place);
        for (int64_t g = 0; g < groups; g++) {
            uint32_t word;
            memcpy(&word, (const char *)raw + 4 * ((row / codes - t.row0) * t.row_stride + g * t.column_stride), 4);
            zeros[(n - r->n0) * groups + g] = (uint8_t)(((word >> shift) + format->zero_offset) & mask);
        }
    }
}

static moeblock_status load_total(moeblock_weights *weights, const struct mb_matrix *matrix, float *out,
                                  moeblock_error *error)
{
    float total;
    MB_TRY(moeblock_weights_read(weights, &matrix->total, matrix->total_offset * sizeof total, sizeof total, &total,
                                 error));
    *out = format_of(matrix)->divides ? 1.0f / total : total;
    return isfinite(*out) ? MOEBLOCK_OK : bad_scale(&matrix->total, 0, 0, *out, error);
}

moeblock_status mb_load_scales(moeblock_weights *weights, const struct mb_matrix *matrix, const struct mb_rectangle *r,
                               void *staging, struct mb_loaded *out, moeblock_error *error)
{
    const struct tiles t = scale_tiles(matrix, r), z = zero_tiles(matrix, r);
    const struct sections s = lay_out(matrix, r);
    const enum mb_packed_format packed = format_of(matrix)->packed;
    char *memory = staging;
    const void *raw = NULL, *zeros_raw = NULL;
    MB_TRY(read_tiles(weights, &matrix->scales, matrix->scale_offset, &t, memory, &raw, error));
    if (matrix->total.name) MB_TRY(load_total(weights, matrix, &out->total, error));
    if (!mb_packed_info_of(packed).scaled || packed == MB_PACKED_NVFP4) {
        out->exponents = raw;
        out->scale_stride = (ptrdiff_t)(matrix->scale_row_step * matrix->scale_row_stride);
        if (turned(matrix)) {
            turn_factors(matrix, r, raw, (uint8_t *)memory + s.zeros);
            out->exponents = (uint8_t *)memory + s.zeros;
            out->scale_stride = (ptrdiff_t)(t.column1 - t.column0);
        }
        return check_factors(matrix, r, out->exponents, out->scale_stride, error);
    }
    float *expanded = (float *)(void *)(memory + s.expanded);
    out->scales = expanded;
    out->scale_stride = (ptrdiff_t)(t.column1 - t.column0);
    MB_TRY(expand_scales(matrix, r, raw, (float *)(void *)(memory + s.tiles), expanded, error));
    if (packed == MB_PACKED_FP8) return MOEBLOCK_OK;
    if (matrix->zeros.name)
        MB_TRY(read_tiles(weights, &matrix->zeros, matrix->zero_offset, &z, memory + s.zeros_raw, &zeros_raw, error));
    out->zeros = (uint8_t *)memory + s.zeros;
    expand_zeros(matrix, r, zeros_raw, (uint8_t *)memory + s.zeros);
    return MOEBLOCK_OK;
}
