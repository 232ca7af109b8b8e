// SPDX-License-Identifier: Apache-2.0
// From stored matrices to packed ones: how a matrix is cut into pieces that are read in one go, and the conversion of a
// piece when the packed format is not the stored one.
#include <string.h>

#include "base/arith.h"
#include "base/float.h"
#include "base/status.h"
#include "weights/format.h"
#include "weights/matrix_load.h"

enum {
    COLUMN_STEP = 16,       // the least k step of a piece, a multiple of every kernel's
    UNPACKED_STEP = 128,    // the same of rows that are put together first: as many as kernels transpose at a time
    PART_BYTES = 512 << 10, // of a piece whose only group is larger: read and packed part after part
};

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

// Whether pieces are ranges of outputs. Permuted inputs are needed together.
static bool cut_by_rows(const struct mb_matrix *matrix) { return mb_output_major(matrix) || matrix->permutation; }

static int64_t column_step(const struct mb_matrix *matrix)
{
    return mb_needs_unpack(matrix) ? UNPACKED_STEP : COLUMN_STEP;
}

// Where the part of a piece that begins at input k ends. One scale an output makes a piece of all columns of outputs,
// of which as many are read at a time as PART_BYTES hold; a part is of one group.
static int64_t part_end(const struct mb_matrix *matrix, int64_t outputs, int64_t k, int64_t k1)
{
    const int64_t group = mb_matrix_group(matrix);
    const int64_t column_bits = outputs * (int64_t)mb_packed_info_of(mb_format_table[matrix->format].packed).code_bits;
    const int64_t step = column_step(matrix);
    const int64_t columns = mb_max(1, (int64_t)PART_BYTES * 8 / column_bits / step) * step;
    if (cut_by_rows(matrix) || columns >= group) return k1; // no group: 0
    return mb_min(mb_min(k1, k + columns), (k / group + 1) * group);
}

size_t mb_stage_bytes(const struct mb_matrix *matrix, int64_t n0, int64_t n1, int64_t k0, int64_t k1)
{
    if (n0 >= n1 || k0 >= k1) return 0;
    const struct mb_rectangle rectangle = {n0, n1, k0, part_end(matrix, n1 - n0, k0, k1)};
    return mb_round_up(mb_load_bytes(matrix, &rectangle), MB_STAGING_ALIGNMENT) + mb_unpack_bytes(matrix, &rectangle) +
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
    char *to = (char *)staging + mb_round_up(mb_load_bytes(matrix, rectangle), MB_STAGING_ALIGNMENT);
    if (mb_needs_unpack(matrix)) mb_unpack(matrix, rectangle, loaded, (uint8_t *)to);
    if (packing->format != format->packed) convert(conversion, rectangle, mb_output_major(matrix), loaded, to);
    return MOEBLOCK_OK;
}

// Packs outputs [n0, n1) of a part from what was loaded, where output n lies in row first + (n - bounds->n0) * step.
static void pack_rows(const struct mb_target *target, const struct mb_loaded *loaded, const struct mb_piece *bounds,
                      int64_t n0, int64_t n1, int64_t first, int64_t step)
{
    const size_t bits = mb_packed_info_of(target->packing->format).code_bits;
    const ptrdiff_t code_bytes = bits < 8 ? 1 : (ptrdiff_t)bits / 8,
                    row = (ptrdiff_t)(first + (n0 - bounds->n0) * step);
    struct mb_piece piece = *bounds;
    if (n0 >= n1) return;
    piece.n0 = n0;
    piece.n1 = n1;
    piece.codes = (const char *)loaded->codes + row * loaded->row_stride * code_bytes;
    piece.row_stride = (ptrdiff_t)step * loaded->row_stride;
    piece.column_stride = loaded->column_stride;
    piece.scales = loaded->scales ? loaded->scales + row * loaded->scale_stride : NULL;
    piece.exponents = loaded->exponents ? loaded->exponents + row * loaded->scale_stride : NULL;
    piece.zeros = loaded->zeros ? loaded->zeros + row * loaded->scale_stride : NULL;
    piece.scale_stride = (ptrdiff_t)step * loaded->scale_stride;
    piece.total = loaded->total;
    target->kernels->pack(target->packing, target->packed, &piece);
}

// The output that is packed first: the whole range's start for turn 0, its middle for 1, then quarters, eighths, so
// that any number of threads at consecutive turns are far from each other. On fresh memory they would else touch the
// same huge pages at the same time, and the system would clear each page for each of them.
static int64_t first_output(const struct mb_target *target, const struct mb_piece *bounds)
{
    uint32_t fraction = 0;
    for (int bit = 0; bit < 8; bit++) fraction |= (uint32_t)(target->turn >> bit & 1) << (7 - bit);
    const int64_t granule = target->kernels->granule;
    return bounds->n0 + (bounds->n1 - bounds->n0) * fraction / 256 / granule * granule;
}

static void pack_part(const struct mb_target *target, const struct mb_loaded *loaded, const struct mb_piece *bounds,
                      int64_t first, int64_t step)
{
    const int64_t start = first_output(target, bounds);
    pack_rows(target, loaded, bounds, start, bounds->n1, first, step);
    pack_rows(target, loaded, bounds, bounds->n0, start, first, step);
}

// Where outputs [n0, n1) x inputs [k0, k1) of the matrix lie in the packing.
static struct mb_piece place(const struct mb_target *target, int part, int64_t n0, int64_t n1, int64_t k0, int64_t k1)
{
    return (struct mb_piece){.part = part,
                             .n0 = n0 - target->row0,
                             .n1 = n1 - target->row0,
                             .k0 = k0 - target->column0,
                             .k1 = k1 - target->column0};
}

moeblock_status mb_matrix_pack(moeblock_weights *weights, const struct mb_matrix *matrix,
                               const struct mb_target *target, int64_t n0, int64_t n1, int64_t k0, int64_t k1,
                               void *staging, moeblock_error *error)
{
    struct mb_loaded loaded;
    if (n0 >= n1) return MOEBLOCK_OK;
    for (int64_t k = k0, end; k < k1; k = end) {
        end = part_end(matrix, n1 - n0, k, k1);
        const struct mb_rectangle rectangle = {n0, n1, k, end};
        MB_TRY(stage(weights, matrix, target->packing, &rectangle, staging, &loaded, error));
        const struct mb_piece bounds = place(target, target->part, n0, n1, k, end);
        pack_part(target, &loaded, &bounds, 0, 1);
    }
    return MOEBLOCK_OK;
}

bool mb_matrix_pair(const struct mb_matrix *gate, const struct mb_matrix *up, struct mb_pair *out)
{
    const int64_t apart = (int64_t)(up->code_offset - gate->code_offset);
    *out = (struct mb_pair){.joint = *gate};
    if (strcmp(gate->codes.name, up->codes.name) != 0) return false;
    if (gate->scale_offset != up->scale_offset || gate->total_offset != up->total_offset) return false;
    out->joint.rows *= 2;
    if (gate->row_stride % 2 == 0 && apart == gate->row_stride / 2) {
        out->row_step = 2;
        out->part_step = 1;
        out->joint.row_stride /= 2;
        out->joint.scale_row_step = 1;
        return true;
    }
    out->row_step = 1;
    out->part_step = gate->rows;
    return !mb_output_major(gate) && apart == gate->rows * gate->row_stride;
}

void mb_pair_rows(const struct mb_pair *pair, int64_t n0, int64_t n1, int64_t *first, int64_t *end)
{
    *first = n0 * pair->row_step;
    *end = (n1 - 1) * pair->row_step + pair->part_step + 1;
}

moeblock_status mb_matrix_pack_pair(moeblock_weights *weights, const struct mb_pair *pair,
                                    const struct mb_target *target, int64_t n0, int64_t n1, int64_t k0, int64_t k1,
                                    void *staging, moeblock_error *error)
{
    struct mb_rectangle rectangle;
    struct mb_loaded loaded;
    if (n0 >= n1) return MOEBLOCK_OK;
    mb_pair_rows(pair, n0, n1, &rectangle.n0, &rectangle.n1);
    for (int64_t k = k0; k < k1; k = rectangle.k1) {
        rectangle.k0 = k;
        rectangle.k1 = part_end(&pair->joint, rectangle.n1 - rectangle.n0, k, k1);
        MB_TRY(stage(weights, &pair->joint, target->packing, &rectangle, staging, &loaded, error));
        for (int part = 0; part < 2; part++) {
            const struct mb_piece bounds = place(target, part, n0, n1, k, rectangle.k1);
            pack_part(target, &loaded, &bounds, part * pair->part_step, pair->row_step);
        }
    }
    return MOEBLOCK_OK;
}

// Lines (rows, or columns of outputs) of one piece: about `bytes` stored bytes, a multiple of what pieces must keep to.
static int64_t piece_lines(const struct mb_matrix *matrix, const struct mb_packing *packing, int64_t granule,
                           size_t bytes)
{
    const int64_t length = cut_by_rows(matrix) ? packing->k : packing->n;
    int64_t multiple = cut_by_rows(matrix) ? granule : mb_max(packing->group, 1);
    while (!cut_by_rows(matrix) && multiple % column_step(matrix)) multiple += mb_max(packing->group, 1);
    const int64_t bits = (int64_t)mb_packed_info_of(mb_format_table[matrix->format].packed).code_bits;
    const int64_t line_bytes = mb_max(1, length * bits / 8);
    return mb_max(1, (int64_t)bytes / line_bytes / multiple) * multiple;
}

int64_t mb_matrix_pieces(const struct mb_matrix *matrix, const struct mb_packing *packing, int64_t granule,
                         size_t bytes)
{
    const int64_t lines = cut_by_rows(matrix) ? packing->n : packing->k;
    return mb_ceil_div(lines, piece_lines(matrix, packing, granule, bytes));
}

void mb_matrix_piece(const struct mb_matrix *matrix, const struct mb_packing *packing, int64_t granule, size_t bytes,
                     int64_t i, int64_t *n0, int64_t *n1, int64_t *k0, int64_t *k1)
{
    const int64_t lines = piece_lines(matrix, packing, granule, bytes), first = i * lines;
    const bool rows = cut_by_rows(matrix);
    *n0 = rows ? first : 0;
    *n1 = rows ? mb_min(packing->n, first + lines) : packing->n;
    *k0 = rows ? 0 : first;
    *k1 = rows ? packing->k : mb_min(packing->k, first + lines);
}
