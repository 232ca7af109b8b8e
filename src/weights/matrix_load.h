// SPDX-License-Identifier: Apache-2.0
// Bringing a rectangle of one stored matrix into memory, whatever its orientation, interleaving and scales.
#ifndef MB_WEIGHTS_MATRIX_LOAD_H
#define MB_WEIGHTS_MATRIX_LOAD_H

#include "weights/format.h"

// Outputs [n0, n1) x inputs [k0, k1); k0 is a multiple of the format's column_tile.
struct mb_rectangle {
    int64_t n0, n1, k0, k1;
};

// Codes and scales with the meaning that they have in struct mb_piece.
struct mb_loaded {
    const void *codes;
    ptrdiff_t row_stride, column_stride;
    const float *scales;
    const uint8_t *exponents;
    ptrdiff_t scale_stride;
};

// Bytes of staging that mb_load uses. Tensors in caller memory whose data is aligned are not copied into it.
size_t mb_load_bytes(const struct mb_matrix *matrix, const struct mb_rectangle *rectangle);
moeblock_status mb_load(moeblock_weights *weights, const struct mb_matrix *matrix, const struct mb_rectangle *rectangle,
                        void *staging, struct mb_loaded *out, moeblock_error *error);

// Whether a row of inputs lies together on disk (else a column of outputs does).
static inline bool mb_output_major(const struct mb_matrix *matrix) { return matrix->column_stride == 1; }

// Bits of one stored code.
uint32_t mb_code_bits(const struct mb_matrix *matrix);

#endif
