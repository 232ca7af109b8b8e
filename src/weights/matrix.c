// SPDX-License-Identifier: Apache-2.0
// From stored matrices to packed ones: how a matrix is cut into pieces that are read in one go, and the conversion of a
// piece when the packed format is not the stored one.
#include <string.h>

#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"
#include "weights/format.h"
#include "weights/matrix_load.h"

enum { STAGING_ALIGNMENT = 64, COLUMN_STEP = 16 }; // the least k step of a piece, a multiple of every kernel's

// Converts `count` codes that are `step` elements apart into consecutive ones.
typedef void (*convert_line)(void *to, const void *from, ptrdiff_t step, int64_t count);

static void f32_to_bf16(void *to, const void *from, ptrdiff_t step, int64_t count)
{
    const float *source = from;
    uint16_t *target = to;
    for (int64_t i = 0; i < count; i++) target[i] = mb_to_bf16(source[i * step]);
}

static void f16_to_bf16(void *to, const void *from, ptrdiff_t step, int64_t count)
{
    const uint16_t *source = from;
    uint16_t *target = to;
    for (int64_t i = 0; i < count; i++) target[i] = mb_to_bf16(mb_from_f16(source[i * step]));
}

static void f16_to_f32(void *to, const void *from, ptrdiff_t step, int64_t count)
{
    const uint16_t *source = from;
    float *target = to;
    for (int64_t i = 0; i < count; i++) target[i] = mb_from_f16(source[i * step]);
}

static void bf16_to_f32(void *to, const void *from, ptrdiff_t step, int64_t count)
{
    const uint16_t *source = from;
    float *target = to;
    for (int64_t i = 0; i < count; i++) target[i] = mb_from_bf16(source[i * step]);
}

struct conversion {
    enum mb_format from;
    enum mb_packed_format to;
    convert_line line;
    size_t from_bytes, to_bytes;
};

static const struct conversion conversions[] = {
    {MB_FORMAT_F32, MB_PACKED_BF16, f32_to_bf16, 4, 2},
    {MB_FORMAT_F16, MB_PACKED_BF16, f16_to_bf16, 2, 2},
    {MB_FORMAT_F16, MB_PACKED_F32, f16_to_f32, 2, 4},
    {MB_FORMAT_BF16, MB_PACKED_F32, bf16_to_f32, 2, 4},
};

enum { CONVERSIONS = sizeof conversions / sizeof conversions[0] };

// Row of the conversion, NULL when there is none.
static const struct conversion *find_conversion(enum mb_format from, enum mb_packed_format to)
{
    for (int i = 0; i < CONVERSIONS; i++)
        if (conversions[i].from == from && conversions[i].to == to) return &conversions[i];
    return NULL;
}

// The most that any conversion from this format writes for a code.
static size_t converted_bytes(enum mb_format from)
{
    size_t bytes = 0;
    for (int i = 0; i < CONVERSIONS; i++)
        if (conversions[i].from == from && conversions[i].to_bytes > bytes) bytes = conversions[i].to_bytes;
    return bytes;
}

size_t mb_stage_bytes(const struct mb_matrix *matrix, int64_t n0, int64_t n1, int64_t k0, int64_t k1)
{
    const struct mb_rectangle rectangle = {n0, n1, k0, k1};
    if (n0 >= n1 || k0 >= k1) return 0;
    return mb_round_up(mb_load_bytes(matrix, &rectangle), STAGING_ALIGNMENT) +
           (size_t)(n1 - n0) * (size_t)(k1 - k0) * converted_bytes(matrix->format);
}

// Lines keep their direction: rows of inputs, or columns of outputs.
static void convert(const struct conversion *conversion, const struct mb_rectangle *r, bool output_major,
                    struct mb_loaded *loaded, char *to)
{
    const int64_t count = output_major ? r->n1 - r->n0 : r->k1 - r->k0;
    const int64_t length = output_major ? r->k1 - r->k0 : r->n1 - r->n0;
    const ptrdiff_t stride = output_major ? loaded->row_stride : loaded->column_stride;
    const ptrdiff_t step = output_major ? loaded->column_stride : loaded->row_stride;
    const char *from = loaded->codes;
    for (int64_t i = 0; i < count; i++)
        conversion->line(to + (size_t)(i * length) * conversion->to_bytes,
                         from + i * stride * (ptrdiff_t)conversion->from_bytes, step, length);
    loaded->codes = to;
    loaded->row_stride = (ptrdiff_t)(output_major ? length : 1);
    loaded->column_stride = (ptrdiff_t)(output_major ? 1 : length);
}

// Reads a rectangle and brings its codes to the packed format.
static moeblock_status stage(moeblock_weights *weights, const struct mb_matrix *matrix,
                             const struct mb_packing *packing, const struct mb_rectangle *rectangle, void *staging,
                             struct mb_loaded *loaded, moeblock_error *error)
{
    const struct mb_format_info *format = &mb_format_table[matrix->format];
    const struct conversion *conversion = find_conversion(matrix->format, packing->format);
    if (packing->format != format->packed && !conversion)
        return mb_fail(error, MOEBLOCK_INTERNAL, "tensor '%.300s': %s weights cannot be packed as format %d",
                       matrix->codes.name, format->name, (int)packing->format);
    MB_TRY(mb_load(weights, matrix, rectangle, staging, loaded, error));
    if (packing->format != format->packed) {
        char *to = (char *)staging + mb_round_up(mb_load_bytes(matrix, rectangle), STAGING_ALIGNMENT);
        convert(conversion, rectangle, mb_output_major(matrix), loaded, to);
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_matrix_pack(moeblock_weights *weights, const struct mb_matrix *matrix,
                               const struct mb_kernels *kernels, const struct mb_packing *packing, void *packed,
                               int part, int64_t row0, int64_t n0, int64_t n1, int64_t k0, int64_t k1, void *staging,
                               moeblock_error *error)
{
    const struct mb_rectangle rectangle = {n0, n1, k0, k1};
    struct mb_loaded loaded;
    if (n0 >= n1 || k0 >= k1) return MOEBLOCK_OK;
    MB_TRY(stage(weights, matrix, packing, &rectangle, staging, &loaded, error));
    const struct mb_piece piece = {.part = part,
                                   .n0 = n0 - row0,
                                   .n1 = n1 - row0,
                                   .k0 = k0,
                                   .k1 = k1,
                                   .codes = loaded.codes,
                                   .row_stride = loaded.row_stride,
                                   .column_stride = loaded.column_stride,
                                   .scales = loaded.scales,
                                   .exponents = loaded.exponents,
                                   .scale_stride = loaded.scale_stride};
    kernels->pack(packing, packed, &piece);
    return MOEBLOCK_OK;
}

bool mb_matrix_interleaved(const struct mb_matrix *gate, const struct mb_matrix *up)
{
    return !strcmp(gate->codes.name, up->codes.name) && gate->row_stride % 2 == 0 &&
           up->code_offset == gate->code_offset + (uint64_t)gate->row_stride / 2;
}

struct mb_matrix mb_matrix_joint(const struct mb_matrix *gate)
{
    struct mb_matrix joint = *gate;
    joint.rows *= 2;
    joint.row_stride /= 2;
    joint.scale_row_step = 1;
    return joint;
}

moeblock_status mb_matrix_pack_pair(moeblock_weights *weights, const struct mb_matrix *gate,
                                    const struct mb_kernels *kernels, const struct mb_packing *packing, void *packed,
                                    int64_t row0, int64_t n0, int64_t n1, int64_t k0, int64_t k1, void *staging,
                                    moeblock_error *error)
{
    const struct mb_matrix joint = mb_matrix_joint(gate);
    const struct mb_rectangle rectangle = {2 * n0, 2 * n1, k0, k1};
    struct mb_loaded loaded;
    if (n0 >= n1 || k0 >= k1) return MOEBLOCK_OK;
    MB_TRY(stage(weights, &joint, packing, &rectangle, staging, &loaded, error));
    static const ptrdiff_t code_bytes[MB_PACKED_FORMATS] = {
        [MB_PACKED_F32] = 4, [MB_PACKED_F16] = 2, [MB_PACKED_BF16] = 2, [MB_PACKED_FP8] = 1, [MB_PACKED_FP4] = 1};
    for (int part = 0; part < 2; part++) {
        const struct mb_piece piece = {
            .part = part,
            .n0 = n0 - row0,
            .n1 = n1 - row0,
            .k0 = k0,
            .k1 = k1,
            .codes = (const char *)loaded.codes + part * loaded.row_stride * code_bytes[packing->format],
            .row_stride = 2 * loaded.row_stride,
            .column_stride = loaded.column_stride,
            .scales = loaded.scales ? loaded.scales + part * loaded.scale_stride : NULL,
            .exponents = loaded.exponents ? loaded.exponents + part * loaded.scale_stride : NULL,
            .scale_stride = 2 * loaded.scale_stride};
        kernels->pack(packing, packed, &piece);
    }
    return MOEBLOCK_OK;
}

// Lines (rows, or columns of outputs) of one piece: about `bytes` stored bytes, a multiple of what pieces must keep to.
static int64_t piece_lines(const struct mb_matrix *matrix, const struct mb_packing *packing, int64_t granule,
                           size_t bytes)
{
    const int64_t length = mb_output_major(matrix) ? packing->k : packing->n;
    const int64_t multiple = mb_output_major(matrix) ? granule : mb_max(packing->group, COLUMN_STEP);
    const int64_t line_bytes = mb_max(1, length * mb_code_bits(matrix) / 8);
    return mb_max(1, (int64_t)bytes / line_bytes / multiple) * multiple;
}

int64_t mb_matrix_pieces(const struct mb_matrix *matrix, const struct mb_packing *packing, int64_t granule,
                         size_t bytes)
{
    const int64_t lines = mb_output_major(matrix) ? packing->n : packing->k;
    return mb_ceil_div(lines, piece_lines(matrix, packing, granule, bytes));
}

void mb_matrix_piece(const struct mb_matrix *matrix, const struct mb_packing *packing, int64_t granule, size_t bytes,
                     int64_t i, int64_t *n0, int64_t *n1, int64_t *k0, int64_t *k1)
{
    const int64_t lines = piece_lines(matrix, packing, granule, bytes), first = i * lines;
    const bool rows = mb_output_major(matrix);
    *n0 = rows ? first : 0;
    *n1 = rows ? mb_min(packing->n, first + lines) : packing->n;
    *k0 = rows ? 0 : first;
    *k1 = rows ? packing->k : mb_min(packing->k, first + lines);
}
