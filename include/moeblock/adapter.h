// SPDX-License-Identifier: Apache-2.0
// Drop-in for a model's own MoE layer, made from its Hugging Face configuration: the DeepSeekMoEAdapter of the
// original project, for every family that moeblock maps.
#ifndef MOEBLOCK_ADAPTER_H
#define MOEBLOCK_ADAPTER_H

#include "moeblock/block.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moeblock_adapter moeblock_adapter;

// What the original call's `cfg` holds; NULL stands for the defaults.
typedef struct moeblock_adapter_options {
    uint32_t struct_size;
    moeblock_forward_stats *stats;
    int32_t *ids;   // as moeblock_forward_output
    float *weights; // as moeblock_forward_output
} moeblock_adapter_options;

// Makes an adapter from the text of a config.json, or from the path of one (or of a folder that holds one). `layer` -1:
// the first MoE layer. `mesh` and `options` as moeblock_block_create.
MOEBLOCK_API moeblock_status moeblock_adapter_create(moeblock_context *context, const char *hf_config_text,
                                                     int64_t layer, moeblock_mesh *mesh,
                                                     const moeblock_block_options *options, moeblock_adapter **out,
                                                     moeblock_error *error);
MOEBLOCK_API moeblock_status moeblock_adapter_create_from_file(moeblock_context *context, const char *path,
                                                               int64_t layer, moeblock_mesh *mesh,
                                                               const moeblock_block_options *options,
                                                               moeblock_adapter **out, moeblock_error *error);
// The same for a whole Hugging Face folder: configuration and weights in one call.
MOEBLOCK_API moeblock_status moeblock_adapter_open(moeblock_context *context, const char *folder, int64_t layer,
                                                   moeblock_mesh *mesh, const moeblock_block_options *options,
                                                   moeblock_adapter **out, moeblock_error *error);
MOEBLOCK_API void moeblock_adapter_destroy(moeblock_adapter **adapter);

// Loads from the caller's tensors, as moeblock_block_load_weights.
MOEBLOCK_API moeblock_status moeblock_adapter_load_weights(moeblock_adapter *adapter, const moeblock_tensor *tensors,
                                                           size_t count, moeblock_error *error);

// The original's forward_mlp_prefill(x, cfg) and its decode twin. y has x's shape and sharding. These calls own one
// workspace that grows when a longer input comes, so they may allocate and must not run at the same time on one
// adapter; the block itself has no such limits.
MOEBLOCK_API moeblock_status moeblock_adapter_forward_mlp_prefill(moeblock_adapter *adapter, const moeblock_array *x,
                                                                  const moeblock_adapter_options *cfg,
                                                                  moeblock_array *y, moeblock_error *error);
MOEBLOCK_API moeblock_status moeblock_adapter_forward_mlp_decode(moeblock_adapter *adapter, const moeblock_array *x,
                                                                 const moeblock_adapter_options *cfg, moeblock_array *y,
                                                                 moeblock_error *error);

// The block and the configuration inside. Owned by the adapter.
MOEBLOCK_API moeblock_block *moeblock_adapter_block(moeblock_adapter *adapter);
MOEBLOCK_API const moeblock_config *moeblock_adapter_config(const moeblock_adapter *adapter);

#ifdef __cplusplus
}
#endif
#endif
