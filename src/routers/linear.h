// SPDX-License-Identifier: Apache-2.0
// A linear map of a router, packed in its stored number format and computed in fp32 from unrounded rows: products and
// sums rounded separately, so that routing has the same bits at every level.
#ifndef MB_ROUTERS_LINEAR_H
#define MB_ROUTERS_LINEAR_H

#include "config/tensors.h"
#include "kernels/kernels.h"

struct mb_router_linear {
    const moeblock_context *context;
    struct mb_packing packing; // n outputs, k inputs
    void *packed;
    float *bias;           // [n] or NULL
    moeblock_dtype stored; // of the weight
};

// Reads a projection, and its bias when `has_bias`. A map that failed to load is freed like any other.
moeblock_status mb_router_linear_load(struct mb_router_linear *linear, const moeblock_context *context,
                                      const moeblock_config *config, moeblock_weights *weights,
                                      enum mb_projection projection, int64_t layer, bool has_bias,
                                      moeblock_error *error);
// What scratch goes by before a load tells the stored format.
struct mb_router_linear mb_router_linear_sized(const moeblock_context *context, int64_t outputs, int64_t inputs);
void mb_router_linear_free(struct mb_router_linear *linear);

size_t mb_router_linear_scratch(const struct mb_router_linear *linear, int64_t m);
// out[i * stride + c - c0] of m rows for columns [c0, c1).
void mb_router_linear_apply(const struct mb_router_linear *linear, const void *const *rows, int64_t m, int64_t c0,
                            int64_t c1, float *out, int64_t stride, void *scratch);

// Takes `count` elements of `size` bytes from the running offset of a scratch; with a NULL base only the offset moves.
void *mb_carve(void *base, size_t *offset, int64_t count, size_t size);

#endif
