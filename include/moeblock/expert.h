// SPDX-License-Identifier: Apache-2.0
// The expert interface: routed and shared experts use it, and so does a kind that a program registers under a name.
#ifndef MOEBLOCK_EXPERT_H
#define MOEBLOCK_EXPERT_H

#include "moeblock/router.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum moeblock_compute {
    MOEBLOCK_COMPUTE_AUTO = 0, // f32 and f16 weights: f32, all others: bf16, or what docs/numerics.md says instead
    MOEBLOCK_COMPUTE_F32 = 1,
    MOEBLOCK_COMPUTE_BF16 = 2,
    MOEBLOCK_COMPUTE_INT16 = 3, // rows as 16-bit integers, exact sums; for weights with exact integers (mxfp4)
    MOEBLOCK_COMPUTE_BF16X2 = 4 // as BF16, the even and odd ones of each 32 inputs in chains of their own
} moeblock_compute;

// What a set of experts is made for, and which part of it this rank owns. Rows enter and leave at `hidden` (the
// latent width where there is one).
typedef struct moeblock_expert_build {
    uint32_t struct_size;
    moeblock_context *context;
    const moeblock_config *config;
    const char *config_json;  // the object at experts.config, "{}" when absent
    int shared;               // 1: the shared expert (experts is then 1)
    moeblock_compute compute; // F32 or BF16: what float rows are
    int64_t experts, hidden, intermediate;
    int64_t e0, e1; // range that holds every expert owned
    int64_t i0, i1; // columns of the intermediate owned (gate and up rows)
    int64_t h0, h1; // output columns owned (down rows)
    // NULL: the whole range is owned. Else owns[e - e0] tells whether expert e is; a kind that does not look only holds
    // more than it must. Lives as long as the object.
    const uint8_t *owns;
    // 1: float32 products and sums are rounded one by one, since a rank of the mesh cannot fuse them. A kind that does
    // its own arithmetic has nothing to do where that is the same everywhere.
    int rounds_apart;
    // 1, only for kinds whose `splits` is 2: [h0, h1) is everything, and `outer` sums over columns [i0, i1) of the
    // intermediate alone, which are all that its rows hold; it does not round, and adds a bias where i0 is 0.
    int partial;
} moeblock_expert_build;

// One call on rows of one expert. `rows` holds m pointers: to `hidden` elements for inner, to `intermediate`
// elements for outer; elements are float32 in F32 compute and bfloat16 bits in BF16 compute (INT16 is for built-in
// kinds alone). Columns [c0, c1) are
// absolute; out points at column c0 of the first row, out_stride elements from row to row. Of partial sums rows for
// outer hold i1 - i0 elements, the intermediate's from i0 on.
// inner writes activations in the rows' element type; outer writes float32, in BF16 compute rounded to bfloat16.
typedef struct moeblock_expert_call {
    uint32_t struct_size;
    int64_t expert; // absolute id
    int64_t m;
    const void *const *rows;
    int64_t c0, c1;
    void *out;
    int64_t out_stride;
    void *scratch; // scratch_bytes(self) bytes, 64-byte aligned, of this call alone
} moeblock_expert_call;

// The calls of an expert kind: create, destroy, open and outer must be there, the others may be NULL (no tensors to
// look for, nothing to pack, no scratch, any column range, no inner phase). With an intermediate_size of 0 inner is not
// called and outer gets the rows themselves. `inner` and `outer` may come from several threads at once.
typedef struct moeblock_expert_class {
    uint32_t struct_size;
    // 1: inner and outer can compute any column range that is owned. 0: the kind owns everything on every rank and is
    // called for whole rows only (c0 = 0, c1 = intermediate or hidden); each rank takes its slice. 2: as 1, and outer
    // can give partial sums (moeblock_expert_build.partial).
    int splits;
    moeblock_status (*create)(void *user, const moeblock_expert_build *build, void **self, moeblock_error *error);
    void (*destroy)(void *self);
    // As moeblock_router_class.need, for the experts owned. `format` names the number format that a writer writes
    // ("bf16",
    // ...); loading gives NULL: what is there in any format.
    int (*need)(const void *self, int64_t layer, const char *format, int64_t i, moeblock_tensor_need *out);
    // Finds and checks its tensors, allocates, and says in how many independent items packing is done.
    // `weights` is borrowed until the last pack.
    moeblock_status (*open)(void *self, moeblock_weights *weights, int64_t layer, int64_t *items,
                            moeblock_error *error);
    // Reads and packs one item; items may run on several threads at once. Reads only what the rank owns.
    moeblock_status (*pack)(void *self, int64_t item, moeblock_error *error);
    // Bytes that the packed weights take.
    size_t (*packed_bytes)(const void *self);
    // Scratch of one call on at most `m` rows.
    size_t (*scratch_bytes)(const void *self, int64_t m);
    // Smallest sensible column range; ranges start at multiples of it counted from i0 (inner) or h0 (outer).
    int64_t (*granule)(const void *self);
    moeblock_status (*inner)(const void *self, const moeblock_expert_call *call, moeblock_error *error);
    moeblock_status (*outer)(const void *self, const moeblock_expert_call *call, moeblock_error *error);
} moeblock_expert_class;

// Registers an expert kind under `name`, which {"experts": {"type": name}} then selects for the routed experts.
// The class is copied. Errors: INVALID_ARGUMENT (empty or taken name, missing call).
MOEBLOCK_API moeblock_status moeblock_register_expert(moeblock_context *context, const char *name,
                                                      const moeblock_expert_class *expert, void *user,
                                                      moeblock_error *error);

#ifdef __cplusplus
}
#endif
#endif
