// SPDX-License-Identifier: Apache-2.0
// Bringing a rectangle of one stored matrix into memory, whatever its orientation, interleaving and scales.
#ifndef MB_WEIGHTS_MATRIX_LOAD_H
#define MB_WEIGHTS_MATRIX_LOAD_H

#include "weights/format.h"

enum { MB_STAGING_ALIGNMENT = 64 };

// Outputs [n0, n1) x inputs [k0, k1); k0 is a multiple of the group.
struct mb_rectangle {
    int64_t n0, n1, k0, k1;
};

// Codes, scales, exponents and zero points with the meaning that they have in struct mb_piece; codes in bytes down,
// words down or across, or of permuted inputs, only after mb_unpack.
struct mb_loaded {
    const void *codes;
    ptrdiff_t row_stride, column_stride;
    const float *scales;
    const uint8_t *exponents, *zeros;
    ptrdiff_t scale_stride;
    float total;
};

// Bytes of staging that mb_load uses. Tensors in caller memory whose data is aligned are not copied into it.
size_t mb_load_bytes(const struct mb_matrix *matrix, const struct mb_rectangle *rectangle);
moeblock_status mb_load(moeblock_weights *weights, const struct mb_matrix *matrix, const struct mb_rectangle *rectangle,
                        void *staging, struct mb_loaded *out, moeblock_error *error);

// Whether a row of inputs lies together on disk (else a column of outputs does).
static inline bool mb_output_major(const struct mb_matrix *matrix) { return matrix->column_stride == 1; }

// Whether an element is a byte of two inputs of one output, below it the next two.
static inline bool mb_bytes_down(const struct mb_matrix *matrix)
{
    return mb_format_table[matrix->format].order == MB_CODES_NIBBLES && !mb_output_major(matrix);
}

// Bits of one stored element: a code, or a byte or word of them.
uint32_t mb_code_bits(const struct mb_matrix *matrix);

// scales.c: scales, exponents and zero points of a rectangle, and the staging that they need.
size_t mb_load_scales_bytes(const struct mb_matrix *matrix, const struct mb_rectangle *rectangle);
moeblock_status mb_load_scales(moeblock_weights *weights, const struct mb_matrix *matrix,
                               const struct mb_rectangle *rectangle, void *staging, struct mb_loaded *out,
                               moeblock_error *error);

// unpack.c: whether loaded codes still have to be brought into a piece's order, the bytes that takes, and doing it.
bool mb_needs_unpack(const struct mb_matrix *matrix);
size_t mb_unpack_bytes(const struct mb_matrix *matrix, const struct mb_rectangle *rectangle);
void mb_unpack(const struct mb_matrix *matrix, const struct mb_rectangle *rectangle, struct mb_loaded *loaded,
               uint8_t *to);

#endif
