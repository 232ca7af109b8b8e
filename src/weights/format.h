// SPDX-License-Identifier: Apache-2.0
// Published number formats: one table row each, how a projection is recognised among the stored tensors, and the
// packed format it becomes. Adding a format is adding a row (docs/formats.md).
#ifndef MB_WEIGHTS_FORMAT_H
#define MB_WEIGHTS_FORMAT_H

#include "kernels/kernels.h"
#include "moeblock/weights.h"

enum mb_format {
    MB_FORMAT_F32,
    MB_FORMAT_F16,
    MB_FORMAT_BF16,
    MB_FORMAT_FP8,
    MB_FORMAT_FP8_TENSOR,
    MB_FORMAT_V4_FP8,
    MB_FORMAT_FBGEMM_FP8, // before CT_FP8: square matrices lie as weights.orientation says
    MB_FORMAT_CT_FP8,
    MB_FORMAT_CT_FP8_BLOCK, // before CT_FP8_TENSOR: [2, 1] may be two tiles of rows or a scale for each of gate and up
    MB_FORMAT_CT_FP8_TENSOR,
    MB_FORMAT_MODELOPT_FP8,
    MB_FORMAT_MXFP8,
    MB_FORMAT_CT_MXFP8,
    MB_FORMAT_MXFP4,
    MB_FORMAT_CT_MXFP4,
    MB_FORMAT_V4_FP4,
    MB_FORMAT_NVFP4,
    MB_FORMAT_MODELOPT_NVFP4,
    MB_FORMAT_CT_NVFP4,
    MB_FORMAT_CT_INT4,
    MB_FORMAT_CT_INT4_ASYM,
    MB_FORMAT_CT_INT8,
    MB_FORMAT_CT_INT8_ASYM,
    MB_FORMAT_AWQ,
    MB_FORMAT_GPTQ,
    MB_FORMAT_GPTQ_V2,
    MB_FORMAT_GPTQ_INT8,
    MB_FORMAT_GPTQ_V2_INT8,
    MB_FORMATS
};

// How the codes of a projection lie in their tensor.
enum mb_code_order {
    MB_CODES_ELEMENTS,     // one an element, [out, in] or [in, out]
    MB_CODES_NIBBLES,      // [out, in / 2] or [in / 2, out] bytes of two inputs, low nibble first
    MB_CODES_BLOCKS,       // [out, in / 32, 16] bytes of two, low nibble first
    MB_CODES_WORDS,        // [out, in / c] words of c codes, lowest bits first
    MB_CODES_WORDS_DOWN,   // [in / c, out] words of c inputs of one output, lowest bits first
    MB_CODES_WORDS_ACROSS, // [in, out / 8] words of eight outputs at nibbles 0, 4, 1, 5, 2, 6, 3, 7
};

// What multiplies a tile of codes.
enum mb_scale_kind {
    MB_SCALE_NONE,
    MB_SCALE_FLOATS,
    MB_SCALE_FLOATS_OR_E8M0,
    MB_SCALE_E8M0,
    MB_SCALE_E4M3,
};

// The tensors of a projection.
enum mb_part {
    MB_PART_CODES,
    MB_PART_SCALES,
    MB_PART_ZEROS, // zero points
    MB_PART_TOTAL, // one scale of the whole tensor
    MB_PART_ORDER, // the group of each input
    MB_PART_SHAPE, // [out, in]; says nothing that is not known
    MB_PARTS
};

#define MB_WHOLE (INT64_C(1) << 40) // a tile that is never full: one scale for all

struct mb_format_info {
    const char *name;
    moeblock_dtype dtype; // of the codes
    // Appended to the projection's tensor name; a suffix that begins with a dot replaces a final ".weight", one that
    // begins with "_weight" does not repeat it. NULL: none.
    const char *codes_suffix;
    const char *scale_suffix;
    int64_t row_tile, column_tile; // weights per scale; 0 when there is none
    enum mb_packed_format packed;  // in the compute type that `auto` chooses
    bool f32_compute;              // what `auto` chooses
    enum mb_code_order order;
    enum mb_scale_kind scales;
    const char *suffix[MB_PARTS]; // of the parts behind the scales
    const char *absent;           // suffix of a tensor that a row alike has and this one has not, or NULL
    moeblock_dtype also;          // another type of the same codes, or NONE
    bool any_group;               // column_tile is what synth writes; read is what the scales' shape says
    bool order_optional;          // inputs are in order where the tensor is missing; synth writes it where it is not
    bool divides;                 // the total scale is a divisor
    uint8_t zero_offset;          // added to a stored zero point
    bool told;                    // the tensors look like another row's: `weights.format` must name it
    bool oriented;                // codes and scales lie as weights.orientation says; else always [out, in]
    bool down_scales_upright;     // those of a down projection lie [out, in] even so
    bool same_output_major;       // in output-major storage the next row: found only where that row cannot be meant
};

extern const struct mb_format_info mb_format_table[MB_FORMATS];

int mb_format_find(const char *name); // enum mb_format, or -1

// Suffix of a part's tensor name, NULL when the format has no such part.
const char *mb_format_suffix(enum mb_format format, enum mb_part part);
// Codes in one stored 32-bit word; 1 for formats without words.
int64_t mb_format_word_codes(enum mb_format format);
// Inputs per scale as synth writes it, for a matrix of so many inputs; 0 for formats without scales.
int64_t mb_format_group(enum mb_format format, int64_t columns);
// Dimensions of a part of a matrix of rows outputs and columns inputs, `group` inputs a scale. Returns the rank.
int mb_format_dims(enum mb_format format, enum mb_part part, int64_t rows, int64_t columns, int64_t group,
                   int64_t dims[MOEBLOCK_MAX_RANK]);

// Where one projection of one expert (or of the shared expert, or a plain linear) lies: rows are outputs, columns are
// inputs, whatever the orientation on disk.
struct mb_matrix {
    enum mb_format format;
    int64_t rows, columns;
    int64_t group;                                           // inputs per scale; 0: the format's column_tile
    moeblock_tensor_info codes, scales, zeros, total, order; // name NULL: there is none
    uint64_t code_offset;                                    // elements from the tensor's start to (0, 0)
    int64_t row_stride, column_stride; // elements; four-bit rows: in codes, column_stride 1; words down and across:
                                       // words from one row (of words) to the next; bytes of two down: bytes
    uint64_t scale_offset;             // elements of the scale tensor to tile (0, 0)
    int64_t scale_row_stride;          // elements from tile row to tile row
    int64_t scale_column_stride;       // elements from group to group; 0 means 1
    int64_t scale_row_step;            // stored rows per logical row (2 for interleaved gate/up), for tile indices
    int64_t scale_row_first;           // stored row of logical row 0
    uint64_t zero_offset;              // words of the zero points' tensor to (0, 0)
    uint64_t total_offset;             // elements of the total scale's tensor
    uint64_t order_offset;             // elements of the order's tensor to input 0
    const int32_t *permutation;        // packed input j is stored input permutation[j]; NULL: as stored
};

// Inputs per scale or factor; 0 for formats without.
int64_t mb_matrix_group(const struct mb_matrix *matrix);

// Reads the order of the inputs in which the groups are contiguous: out[j], j < columns, is a stored input; inputs of a
// group keep their order. *sorted: they are so as stored. A group that is not full is INVALID_FILE.
moeblock_status mb_matrix_order(moeblock_weights *weights, const moeblock_allocator *allocator,
                                const struct mb_matrix *matrix, int32_t *out, bool *sorted, moeblock_error *error);

// UNSUPPORTED when the inputs would have to be permuted: for maps that are not an expert's.
moeblock_status mb_matrix_check_order(moeblock_weights *weights, const moeblock_allocator *allocator,
                                      const struct mb_matrix *matrix, moeblock_error *error);

// Where packed weights go.
struct mb_target {
    const struct mb_kernels *kernels;
    const struct mb_packing *packing;
    void *packed;
    int part;        // of the packing
    int64_t row0;    // the matrix's row that is output 0: a rank's own range starts there
    int64_t column0; // and its column that is input 0
    int64_t turn;    // threads that pack all outputs of neighbouring inputs start at different outputs by it
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
// go and packed independently: whole rows in output-major storage and of permuted inputs, whole columns in input-major.
// Returns the number of pieces; the i-th is written to the four bounds.
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
