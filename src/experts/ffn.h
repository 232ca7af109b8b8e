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
    int64_t first, end;    // rows owned
    int64_t bias;          // place of the own biases among an expert's
    int64_t pieces;        // of one expert, packed one by one; 0 when packed with the gate
    int64_t items;         // packing items of one expert: some pieces each, at least one for the bias
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
    size_t inner_bytes, expert_bytes; // of one expert: inner part, both parts
    char *packed;                     // [owned experts][expert_bytes]
    int64_t bias_stride;              // biases of one expert: gate, up, down
    float *biases;                    // [owned experts][bias_stride], or NULL
};

// need of moeblock_expert_class.
int mb_ffn_need(const void *self, int64_t layer, const char *format, int64_t i, moeblock_tensor_need *out);

#endif
