// SPDX-License-Identifier: Apache-2.0
// Published number formats: one table row each, how a projection is recognised among the stored tensors, and the
// packed format it becomes. Adding a format is adding a row (CONTRIBUTING.md).
#ifndef MB_WEIGHTS_FORMAT_H
#define MB_WEIGHTS_FORMAT_H

#include "kernels/kernels.h"
#include "moeblock/weights.h"

enum mb_format { MB_FORMAT_F32, MB_FORMAT_F16, MB_FORMAT_BF16, MB_FORMAT_FP8, MB_FORMAT_MXFP4, MB_FORMATS };

struct mb_format_info {
    const char *name;              // "f32", "f16", "bf16", "fp8", "mxfp4"
    moeblock_dtype dtype;          // of the codes
    const char *codes_suffix;      // appended to the projection's tensor name: "", or "_blocks"
    const char *scale_suffix;      // "_scale_inv", "_scales", or NULL
    int64_t row_tile, column_tile; // weights per scale: 128 x 128, 1 x 32; 0 when there is none
    enum mb_packed_format packed;  // in the compute type that `auto` chooses
    bool f32_compute;              // what `auto` chooses
};

extern const struct mb_format_info mb_format_table[MB_FORMATS];

int mb_format_find(const char *name); // enum mb_format, or -1

// Where one projection of one expert (or of the shared expert, or a plain linear) lies: rows are outputs, columns are
// inputs, whatever the orientation on disk.
struct mb_matrix {
    enum mb_format format;
    int64_t rows, columns;
    moeblock_tensor_info codes, scales; // scales.name is NULL when the format has none
    uint64_t code_offset;               // elements from the tensor's start to (0, 0)
    int64_t row_stride, column_stride;  // elements; FP4: row_stride in codes, column_stride 1
    uint64_t scale_offset;              // elements of the scale tensor to tile (0, 0)
    int64_t scale_row_stride;           // elements from tile row to tile row
    int64_t scale_row_step;             // stored rows per logical row (2 for interleaved gate/up), for tile indices
    int64_t scale_row_first;            // stored row of logical row 0
};

// Where packed weights go.
struct mb_target {
    const struct mb_kernels *kernels;
    const struct mb_packing *packing;
    void *packed;
    int part;     // of the packing
    int64_t row0; // the matrix's row that is output 0: a rank's own range starts there
    int64_t turn; // threads that pack all outputs of neighbouring inputs start at different outputs by it
};

// Reads and packs outputs [n0, n1) x inputs [k0, k1) of `matrix`. Converts when the packed format differs from the
// stored one (bf16 compute of f32 weights). `staging` has mb_stage_bytes bytes. A scale that is NaN or infinite is
// INVALID_FILE.
moeblock_status mb_matrix_pack(moeblock_weights *weights, const struct mb_matrix *matrix,
                               const struct mb_target *target, int64_t n0, int64_t n1, int64_t k0, int64_t k1,
                               void *staging, moeblock_error *error);
// Gate and up in one tensor where one reading can serve both: their rows take turns, or lie in the two halves of each
// input's line. Row i of part p is row i * row_step + p * part_step of `joint`.
struct mb_pair {
    struct mb_matrix joint;
    int64_t row_step, part_step;
};
bool mb_matrix_pair(const struct mb_matrix *gate, const struct mb_matrix *up, struct mb_pair *out);
// Rows of `joint` that rows [n0, n1) of both parts span: the bounds for mb_stage_bytes.
void mb_pair_rows(const struct mb_pair *pair, int64_t n0, int64_t n1, int64_t *first, int64_t *end);
// As mb_matrix_pack for both parts of a pair.
moeblock_status mb_matrix_pack_pair(moeblock_weights *weights, const struct mb_pair *pair,
                                    const struct mb_target *target, int64_t n0, int64_t n1, int64_t k0, int64_t k1,
                                    void *staging, moeblock_error *error);
size_t mb_stage_bytes(const struct mb_matrix *matrix, int64_t n0, int64_t n1, int64_t k0, int64_t k1);

// Splits a matrix's outputs [0, n) and inputs [0, k) into pieces of about `bytes` stored bytes that can be read in one
// go and packed independently: whole rows in output-major storage, whole columns in input-major. Returns the number of
// pieces; the i-th is written to the four bounds.
int64_t mb_matrix_pieces(const struct mb_matrix *matrix, const struct mb_packing *packing, int64_t granule,
                         size_t bytes);
void mb_matrix_piece(const struct mb_matrix *matrix, const struct mb_packing *packing, int64_t granule, size_t bytes,
                     int64_t i, int64_t *n0, int64_t *n1, int64_t *k0, int64_t *k1);

// Decodes outputs [n0, n1) to float32 rows [n1 - n0][columns]: code times scale in float32. For the reference, for
// biases and small tensors. Slow.
moeblock_status mb_matrix_decode(moeblock_weights *weights, const moeblock_allocator *allocator,
                                 const struct mb_matrix *matrix, int64_t n0, int64_t n1, float *out,
                                 moeblock_error *error);

// Reads a whole float tensor (F32, F16, BF16) of `count` elements as float32.
moeblock_status mb_read_floats(moeblock_weights *weights, const moeblock_allocator *allocator,
                               const moeblock_tensor_info *tensor, uint64_t first, int64_t count, float *out,
                               moeblock_error *error);

#endif
