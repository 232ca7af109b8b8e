// SPDX-License-Identifier: Apache-2.0
// The object of the built-in expert kind, shared by ffn.c (loading, computing) and need.c (which tensors).
#ifndef MB_EXPERTS_FFN_H
#define MB_EXPERTS_FFN_H

#include <stdatomic.h>

#include "config/tensors.h"
#include "kernels/kernels.h"
#include "moeblock/expert.h"

enum { PROJECTIONS = 3, SPARES = 16 };

// Gate, up or down of every expert: which rows this rank owns and where they go.
struct projection {
    enum mb_projection kind;
    bool outer;            // packed in `outer` rather than `inner`
    int part;              // of that packing
    int64_t rows, columns; // stored
    int64_t k0, k1;        // columns owned
    int64_t first, end;    // rows owned
    int64_t bias;          // place of the own biases among an expert's
    int64_t pieces;        // of one expert, packed one by one; 0 when packed with the gate
    int64_t items;         // packing items of one expert: some pieces each, at least one for the bias
    int32_t *order;        // [owned experts][columns]: packed input j is stored input order[j]; NULL: as stored
};

struct ffn {
    moeblock_expert_build build;
    const struct mb_ffn_config *config;
    const struct mb_kernels *kernels;
    moeblock_weights *weights; // borrowed until the last pack
    int64_t layer;
    int64_t owned;  // experts
    int32_t *place; // [e1 - e0] where an expert lies among them; -1: elsewhere
    int32_t *id;    // [owned]
    struct projection projections[PROJECTIONS];
    int projection_count;
    int64_t items_per_expert;
    size_t stage_bytes;          // staging of any piece
    void *_Atomic spare[SPARES]; // staging between two items, so that its pages stay warm; gone after the last item
    _Atomic int64_t unpacked;    // items to go
    bool unrounded;              // outer leaves BF16 compute's rounding to its caller
    bool paired;                 // gate and up lie together in one tensor: read once, packed together
    struct mb_packing inner, outer;
    bool apart; // gate and up take their inputs in orders of their own: two matrices of packing `inner`, not one of two
                // parts
    size_t inner_bytes, expert_bytes; // of one expert: inner part, both parts
    char *packed;                     // [owned experts][expert_bytes]
    int64_t bias_stride;              // biases of one expert: gate, up, down
    float *biases;                    // [owned experts][bias_stride], or NULL
};

// Where a projection of an expert lies; rows and columns as expected.
moeblock_status mb_ffn_find(const struct ffn *self, const struct projection *projection, int64_t expert,
                            struct mb_matrix *out, moeblock_error *error);

// order.c: quantised inputs that are packed in another order than they come in (act-order).

// Reads the orders of every projection. Those that change nothing are dropped.
moeblock_status mb_ffn_load_orders(struct ffn *self, moeblock_error *error);
void mb_ffn_free_orders(struct ffn *self);
size_t mb_ffn_order_bytes(const struct ffn *self);
// The order of an expert's inputs, NULL when they are as stored.
const int32_t *mb_ffn_order(const struct ffn *self, const struct projection *projection, int64_t expert);
// Scratch before the kernel's own for m rows into the inner or outer projections; 0 without orders.
size_t mb_ffn_order_scratch(const struct ffn *self, bool outer, int64_t m);
// Rows as the projection's inputs are packed: `rows` itself, or copies in `scratch`.
const void *const *mb_ffn_order_rows(const struct ffn *self, const struct projection *projection, int64_t expert,
                                     const void *const *rows, int64_t m, void *scratch);
// inner of moeblock_expert_class when gate and up are apart. `gate` is the gate's packed weights, up's follow.
void mb_ffn_inner_apart(const struct ffn *self, const moeblock_expert_call *call, const char *gate,
                        const float *gate_bias, const float *up_bias);

// need of moeblock_expert_class.
int mb_ffn_need(const void *self, int64_t layer, const char *format, int64_t i, moeblock_tensor_need *out);

#endif
