// SPDX-License-Identifier: Apache-2.0
// Packing of level `generic`: 16 output rows become lines of 16 columns, a transposition in vectors where the source
// holds a row's inputs side by side.
#include <string.h>

#include "kernels/generic/layout.h"

enum { COLUMNS = MB_GENERIC_COLUMNS };

size_t mb_generic_packed_bytes(const struct mb_packing *packing)
{
    return mb_generic_layout_of(packing).panel_bytes * (size_t)mb_ceil_div(packing->n, COLUMNS);
}

typedef uint8_t v16u8 __attribute__((vector_size(16)));
typedef uint16_t v8u16 __attribute__((vector_size(16)));
typedef uint32_t v4u32 __attribute__((vector_size(16)));

#define LOW8(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH8(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define LOW16(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH16(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define LOW32(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH32(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)

// 16 rows of 16 bytes, row c at from + c * stride, to lines of 16 columns. Seen as one array, an element's index is
// (column, k); interleaving the first half with the second moves the top bit of the index to the bottom, so four such
// steps give (k, column), whatever the size of an element.
#define MB_TRANSPOSE(NAME, VECTOR, LOW, HIGH)                                                                          \
    static void NAME(uint8_t *to, const uint8_t *from, ptrdiff_t stride)                                               \
    {                                                                                                                  \
        VECTOR v[16], w[16];                                                                                           \
        for (int c = 0; c < 16; c++) memcpy(&v[c], from + c * stride, 16);                                             \
        for (int step = 0; step < 2; step++) {                                                                         \
            for (int c = 0; c < 8; c++) w[2 * c] = LOW(v[c], v[c + 8]), w[2 * c + 1] = HIGH(v[c], v[c + 8]);           \
            for (int c = 0; c < 8; c++) v[2 * c] = LOW(w[c], w[c + 8]), v[2 * c + 1] = HIGH(w[c], w[c + 8]);           \
        }                                                                                                              \
        memcpy(to, v, sizeof v);                                                                                       \
    }

MB_TRANSPOSE(transpose8, v16u8, LOW8, HIGH8)
MB_TRANSPOSE(transpose16, v8u16, LOW16, HIGH16)
MB_TRANSPOSE(transpose32, v4u32, LOW32, HIGH32)

// Codes of `size` bytes: code (c, k) of the panel from base + c * row_stride + k * column_stride bytes to line k.
// Columns from `columns` on do not exist and become zero.
static void pack_lines(uint8_t *to, const uint8_t *base, size_t size, ptrdiff_t row_stride, ptrdiff_t column_stride,
                       int64_t columns, int64_t count)
{
    int64_t k = 0;
    if (columns == COLUMNS && column_stride == (ptrdiff_t)size) {
        const int64_t step = 16 / (int64_t)size;
        for (; k + step <= count; k += step) {
            uint8_t *block = to + (size_t)k * COLUMNS * size;
            const uint8_t *from = base + k * column_stride;
            if (size == 1) transpose8(block, from, row_stride);
            if (size == 2) transpose16(block, from, row_stride);
            if (size == 4) transpose32(block, from, row_stride);
        }
    }
    for (; k < count; k++) {
        uint8_t *line = to + (size_t)k * COLUMNS * size;
        const uint8_t *from = base + k * column_stride;
        if (columns < COLUMNS) memset(line, 0, COLUMNS * size);
        if (row_stride == (ptrdiff_t)size) {
            memcpy(line, from, (size_t)columns * size);
        } else if (size == 1) {
            for (int64_t c = 0; c < columns; c++) line[c] = from[c * row_stride];
        } else if (size == 2) {
            for (int64_t c = 0; c < columns; c++) memcpy(line + c * 2, from + c * row_stride, 2);
        } else {
            for (int64_t c = 0; c < columns; c++) memcpy(line + c * 4, from + c * row_stride, 4);
        }
    }
}

// 32 inputs of 16 columns, 16 bytes a row (even k low, odd k high), to 32 lines of 8 bytes: first the nibbles of
// columns 2b and 2b + 1 meet, even and odd k apart, then one transposition makes two lines of every byte position.
static void pack_nibbles_32(uint8_t *to, const uint8_t *from, ptrdiff_t row_stride)
{
    v16u8 met[16];
    for (int b = 0; b < 8; b++) {
        v16u8 low, high;
        memcpy(&low, from + 2 * b * row_stride, sizeof low);
        memcpy(&high, from + (2 * b + 1) * row_stride, sizeof high);
        met[b] = (low & 15) | (high << 4);
        met[8 + b] = (low >> 4) | (high & 0xf0);
    }
    transpose8(to, (const uint8_t *)met, sizeof met[0]);
}

// Columns from `columns` on do not exist and become zero; so does the half byte behind an odd count.
static void pack_nibbles(uint8_t *to, const uint8_t *base, ptrdiff_t row_stride, int64_t columns, int64_t count)
{
    for (int64_t k = 0; k < count; k += 32) {
        const int64_t length = mb_min(32, count - k);
        if (columns == COLUMNS && length == 32) {
            pack_nibbles_32(to + (size_t)k * 8, base + k / 2, row_stride);
            continue;
        }
        uint8_t rows[COLUMNS][16] = {{0}}, lines[32 * 8];
        for (int64_t c = 0; c < columns; c++)
            memcpy(rows[c], base + k / 2 + c * row_stride, (size_t)mb_ceil_div(length, 2));
        pack_nibbles_32(lines, rows[0], sizeof rows[0]);
        memcpy(to + (size_t)k * 8, lines, (size_t)length * 8);
    }
}

// A line of 16 scales, one a column, of 1 or 4 bytes; columns that do not exist get zero.
static void pack_scale_line(uint8_t *line, const uint8_t *from, size_t size, ptrdiff_t stride, int64_t columns)
{
    if (columns < COLUMNS) memset(line, 0, COLUMNS * size);
    if (size == 1) {
        for (int64_t c = 0; c < columns; c++) line[c] = from[c * stride];
    } else {
        for (int64_t c = 0; c < columns; c++) memcpy(line + 4 * c, from + 4 * c * stride, 4);
    }
}

// Scales and factors of the groups that a piece covers.
static void pack_scales(const struct mb_packing *packing, const struct mb_generic_layout *layout, uint8_t *part,
                        const struct mb_piece *piece, int64_t n, int64_t columns)
{
    const int64_t g0 = piece->k0 / packing->group, g1 = mb_ceil_div(piece->k1, packing->group);
    const ptrdiff_t stride = piece->scale_stride, row = (n - piece->n0) * stride;
    const uint8_t *factors = piece->zeros ? piece->zeros : piece->exponents;
    uint8_t *scales = part + layout->scales;
    if (packing->format == MB_PACKED_NVFP4 && piece->k0 == 0) {
        float line[COLUMNS] = {0};
        for (int64_t c = 0; c < columns; c++) line[c] = piece->total;
        memcpy(scales, line, sizeof line);
    }
    for (int64_t g = g0; g < g1; g++) {
        if (layout->scaled && packing->format != MB_PACKED_NVFP4)
            pack_scale_line(scales + (size_t)(g * COLUMNS) * sizeof(float),
                            (const uint8_t *)(piece->scales + row + (g - g0)), sizeof(float), stride, columns);
        if (layout->has_factors)
            pack_scale_line(part + layout->factors + g * COLUMNS, factors + row + (g - g0), 1, stride, columns);
    }
}

void mb_generic_pack(const struct mb_packing *packing, void *packed, const struct mb_piece *piece)
{
    const struct mb_generic_layout layout = mb_generic_layout_of(packing);
    const bool nibbles = mb_packed_info_of(packing->format).code_bits == 4;
    const size_t size = nibbles ? 1 : layout.line_bytes / COLUMNS;
    const ptrdiff_t row_stride = piece->row_stride * (ptrdiff_t)size;
    const ptrdiff_t column_stride = piece->column_stride * (ptrdiff_t)size;
    for (int64_t n = piece->n0; n < piece->n1; n += COLUMNS) {
        const int64_t columns = mb_min(COLUMNS, piece->n1 - n);
        uint8_t *part =
            (uint8_t *)packed + (size_t)(n / COLUMNS) * layout.panel_bytes + (size_t)piece->part * layout.part_bytes;
        uint8_t *to = part + (size_t)piece->k0 * layout.line_bytes;
        const uint8_t *from = (const uint8_t *)piece->codes + (n - piece->n0) * row_stride;
        if (nibbles) {
            pack_nibbles(to, from, row_stride, columns, piece->k1 - piece->k0);
        } else {
            pack_lines(to, from, size, row_stride, column_stride, columns, piece->k1 - piece->k0);
        }
        if (packing->group) pack_scales(packing, &layout, part, piece, n, columns);
    }
}
