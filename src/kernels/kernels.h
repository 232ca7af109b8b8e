// SPDX-License-Identifier: Apache-2.0
// The kernel table: one const table of functions and one packing of weights per CPU level. Everything above works with
// packed matrices through this table and knows no layout.
//
// Numbers (docs/numerics.md): each output is one fp32 chain over ascending k; with group scales
// `acc = acc + scale * chain_of_the_group`, groups ascending, multiply and add rounded separately. In BF16 compute
// (bf16 rows) products are exact, so that a level may fuse multiply and add: every level gives the same bytes as long
// as no product leaves float32's range. In F32 compute `ref` and `generic` round products and sums separately, the
// levels with fused multiply-add agree among themselves. A call marked `separate` gives the same bytes at every level,
// and so does every call on int16 rows: sums of integers are exact, what follows is rounded step by step. Where a
// packing is `even_odd` (BF16X2 compute) a chain is of blocks of 32 inputs, whose even and odd inputs have chains of
// their own: acc = acc + (even + odd), the same bytes at every level as far as in BF16 compute.
// Kernels run with denormals flushed (the caller sets the mode), allocate nothing, read and write only what the
// contract says, and accept any floats; a NaN in row i reaches only row i, and every NaN that leaves a kernel is
// 0x7fc00000.
#ifndef MB_KERNELS_KERNELS_H
#define MB_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/activation.h"
#include "moeblock/status.h"

// How packed weights hold their numbers. Published formats become one of these at load (weights/format.h).
enum mb_packed_format {
    MB_PACKED_F32,
    MB_PACKED_F16, // widened to float32 in the kernel
    MB_PACKED_BF16,
    MB_PACKED_FP8,   // e4m3 codes, one float32 scale per output and group of `group` inputs
    MB_PACKED_FP4,   // e2m1 codes times 2^(e8m0 - 127) per output and group: exact weights in the chain
    MB_PACKED_MXFP8, // e4m3 codes times 2^(e8m0 - 127) per output and group: exact weights in the chain
    MB_PACKED_NVFP4, // e2m1 codes times e4m3 per output and group, exact in the chain; one float32 scale per output
    MB_PACKED_INT4,  // codes of 0..15 less a zero point of 0..15, which and a float32 scale per output and group
    MB_PACKED_INT8,  // the same of 0..255
    MB_PACKED_FORMATS
};

// A matrix of n outputs x k inputs; with parts == 2 a gate and an up matrix of n x k each, packed together.
struct mb_packing {
    enum mb_packed_format format;
    int parts;
    int64_t n, k;
    int64_t group; // inputs per scale, exponent or zero point, k at most; 0 for formats without
    bool int16;    // packed for rows of integers, and for no others
    bool even_odd; // packed for bf16 rows in BF16X2 compute, and for no others; not F32 and F16
};

// Whether weights of a format are exact integers times a scale per 32 inputs, as int16 compute wants them.
static inline bool mb_packed_has_integers(enum mb_packed_format format) { return format == MB_PACKED_FP4; }

// Inputs of a block in BF16X2 compute; the first of a chain begins with it, the last may be shorter.
enum { MB_EVEN_ODD_BLOCK = 32 };

// What a packed format holds beside its codes.
struct mb_packed_info {
    size_t code_bits;
    bool scaled;  // a float32 scale multiplies the chain of a group (NVFP4: of the whole row)
    bool factors; // a byte per output and group that is part of the weight: exponent, e4m3 factor or zero point
};

static inline struct mb_packed_info mb_packed_info_of(enum mb_packed_format format)
{
    static const struct mb_packed_info table[MB_PACKED_FORMATS] = {
        [MB_PACKED_F32] = {32, false, false},  [MB_PACKED_F16] = {16, false, false},
        [MB_PACKED_BF16] = {16, false, false}, [MB_PACKED_FP8] = {8, true, false},
        [MB_PACKED_FP4] = {4, false, true},    [MB_PACKED_MXFP8] = {8, false, true},
        [MB_PACKED_NVFP4] = {4, true, true},   [MB_PACKED_INT4] = {4, true, true},
        [MB_PACKED_INT8] = {8, true, true},
    };
    return table[format];
}

// Groups of inputs along k that share a scale, exponent or zero point.
static inline int64_t mb_packed_groups(const struct mb_packing *packing)
{
    return packing->group ? (packing->k + packing->group - 1) / packing->group : 0;
}

// Inputs whose chain is summed before its float32 scale is applied; k where there is no such scale.
static inline int64_t mb_packed_chain(const struct mb_packing *packing)
{
    const bool by_group = mb_packed_info_of(packing->format).scaled && packing->format != MB_PACKED_NVFP4;
    return by_group ? packing->group : packing->k;
}

// A rectangle of source weights to pack: outputs [n0, n1) x inputs [k0, k1) of one part. Code (n, k) is at
// codes + (n - n0) * row_stride + (k - k0) * column_stride (strides in elements of 4, 2 or 1 bytes). Four-bit codes: a
// row is bytes of two codes, low nibble first, row_stride in bytes, column_stride 1. k0 is a multiple of 16 and of the
// group, and n0 of the level's granule; k1 and n1 likewise unless they are k and n. Pieces may also cut one group of
// more inputs than they have, at multiples of 16: such come one after the other with ascending k0. What belongs to
// output n and group g is at (n - n0) * scale_stride + (g - k0 / group).
struct mb_piece {
    int part;
    int64_t n0, n1, k0, k1;
    const void *codes;
    ptrdiff_t row_stride, column_stride;
    const float *scales;      // FP8, INT4, INT8
    const uint8_t *exponents; // FP4, MXFP8: e8m0; NVFP4: e4m3
    const uint8_t *zeros;     // INT4: 15 at most; INT8
    ptrdiff_t scale_stride;
    float total; // NVFP4: the scale of every output
};

// Rows that enter a product: m pointers to k elements each, float32, or bfloat16 bits when bf16 is set; with int16 to
// rows of kernels/int16.h, aligned to 4 bytes, for matrices packed for them.
struct mb_rows {
    const void *const *row;
    int64_t m;
    bool bf16, int16;
};

struct mb_gate_up_call {
    const struct mb_packing *packing; // parts 2, or 1 for experts without a gate
    const void *packed;
    struct mb_rows rows;
    int64_t n0, n1;                   // columns wanted; n0 is a multiple of the granule
    const float *gate_bias, *up_bias; // NULL or [n], indexed by the absolute column
    const struct mb_activation *activation;
    void *out; // column n0 of row 0; bf16 rows: bfloat16, rounded to nearest even, else float32
    int64_t out_stride;
    void *scratch;
};

struct mb_project_call {
    const struct mb_packing *packing; // parts 1
    const void *packed;
    struct mb_rows rows;
    int64_t n0, n1;
    const float *bias; // NULL or [n]
    bool round;        // round each output to bfloat16 (after the bias)
    bool separate;     // products and sums rounded separately at every level: router logits, shared gates
    float *out;        // column n0 of row 0
    int64_t out_stride;
    void *scratch;
};

struct mb_kernels {
    const char *name;
    uint32_t layout;                     // identifies the packing, for what is stored or exchanged
    int64_t granule;                     // column ranges start at multiples of it
    bool fused;                          // whether multiply and add are one rounding where that is allowed
    bool (*usable)(const char **reason); // whether this machine can run the level, and why

    // Packing. Pieces of one matrix may be packed by several threads at once. Padding is written by the pieces that
    // touch the last column.
    size_t (*packed_bytes)(const struct mb_packing *packing);
    void (*pack)(const struct mb_packing *packing, void *packed, const struct mb_piece *piece);

    // Bytes of scratch that a call on at most m rows needs.
    size_t (*scratch_bytes)(const struct mb_packing *packing, int64_t m);

    // out[r][n] = activation(sum_k gate[n][k] * row[r][k] + gate_bias[n], the same of up)
    void (*gate_up)(const struct mb_gate_up_call *call);
    // out[r][n] = sum_k w[n][k] * row[r][k] + bias[n]
    void (*project)(const struct mb_project_call *call);
    // y[i] = y[i] + weight * out[i], multiply and add rounded separately
    void (*accumulate)(float *y, const float *out, float weight, int64_t n);
    // bf16 bits of n floats, nearest even
    void (*to_bf16)(uint16_t *to, const float *from, int64_t n);
    // a row of n integers (kernels/int16.h)
    void (*to_int16)(void *row, const float *from, int64_t n);
};

extern const struct mb_kernels mb_kernels_ref, mb_kernels_generic;
// x86-64 only
extern const struct mb_kernels mb_kernels_avx2, mb_kernels_avx512, mb_kernels_avx512vnni, mb_kernels_amx,
    mb_kernels_avx512bf16;

// All levels of this build, slowest first, ended by NULL.
extern const struct mb_kernels *const mb_kernel_levels[];

// The level that suits this machine best; *why (unless NULL) becomes the rule's reason.
const struct mb_kernels *mb_kernels_best(const char **why);

// What AUTO stands for on this machine instead of BF16 compute, whatever level is pinned: INT16 where all weights have
// integers, BF16X2.
bool mb_kernels_prefer_int16(void);
bool mb_kernels_prefer_bf16x2(void);

// The level itself, or the fastest one that rounds float32 products and sums apart.
const struct mb_kernels *mb_kernels_apart(const struct mb_kernels *level);

// The level named `name`, or for NULL the one that suits this machine best. NULL with a message when the name is
// unknown or the machine cannot run it.
const struct mb_kernels *mb_kernels_select(const char *name, moeblock_error *error);

#endif
