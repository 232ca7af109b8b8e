// SPDX-License-Identifier: Apache-2.0
// The base interface of every expert kind is moeblock_expert_class (moeblock/expert.h). The built-in kind, a gated or
// plain feed-forward, serves as routed experts and as shared expert.
#ifndef MB_EXPERTS_EXPERT_H
#define MB_EXPERTS_EXPERT_H

#include "base/context.h"
#include "moeblock/expert.h"
#include "weights/format.h"

// "distributed" and "throughput" (routed), and the shared expert: ffn.c.
extern const moeblock_expert_class mb_expert_ffn;
extern const struct mb_registered mb_expert_shared;
// Around the first: "banked", two banks of them, and "post_normed", a norm of each one's output.
extern const moeblock_expert_class mb_expert_banked, mb_expert_post_normed;

// Fixes the sizes of a created built-in object as a load of `format` would, without tensors: it tells packed_bytes and
// scratch_bytes and can do nothing else. False: the kind comes from outside.
bool mb_expert_size(const moeblock_expert_class *kind, void *self, enum mb_format format);
void mb_ffn_size(void *self, enum mb_format format);
void mb_banked_size(void *self, enum mb_format format);
void mb_post_normed_size(void *self, enum mb_format format);

// Registers the built-in kinds. Called once per context.
moeblock_status mb_experts_register(moeblock_context *context, moeblock_error *error);

// Whether rows of a compute type are bfloat16; else they are float32 or integers.
static inline bool mb_has_bf16_rows(moeblock_compute compute)
{
    return compute == MOEBLOCK_COMPUTE_BF16 || compute == MOEBLOCK_COMPUTE_BF16X2;
}

// Format, group and rows of the packing that a stored format has in a compute type.
void mb_compute_packing(moeblock_compute compute, enum mb_format stored, int64_t group, struct mb_packing *out);
// UNSUPPORTED where a compute type cannot hold a matrix.
moeblock_status mb_compute_check(moeblock_compute compute, const struct mb_matrix *matrix, moeblock_error *error);

// Latent projections around the routed experts (latent.c): down H -> L with optional norm, up L -> H. NULL object where
// the description has none.
struct mb_latent;
moeblock_status mb_latent_create(moeblock_context *context, const moeblock_config *config, moeblock_compute compute,
                                 const struct mb_kernels *kernels, struct mb_latent **out, moeblock_error *error);
void mb_latent_destroy(struct mb_latent *latent);
moeblock_status mb_latent_load(struct mb_latent *latent, moeblock_weights *weights, int64_t layer,
                               moeblock_error *error);
size_t mb_latent_packed_bytes(const struct mb_latent *latent);
size_t mb_latent_scratch_bytes(const struct mb_latent *latent, int64_t m);
// Rows of `hidden` inputs in the compute type's form -> m rows of L in the same form, normed, one after the other.
void mb_latent_down(const struct mb_latent *latent, const void *const *rows, int64_t m, void *out, void *scratch);
// Routed sums [m][L] float32 (not changed) -> float32 [m][H] columns [h0, h1); out points at column h0.
void mb_latent_up(const struct mb_latent *latent, const float *sums, int64_t m, int64_t h0, int64_t h1, float *out,
                  int64_t out_stride, void *scratch);

#endif
