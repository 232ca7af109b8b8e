// SPDX-License-Identifier: Apache-2.0
// The base interface of every router is moeblock_router_class (moeblock/router.h): built-in routers are registered
// names like an outside user's, and the block knows no other way to a router.
#ifndef MB_ROUTERS_ROUTER_H
#define MB_ROUTERS_ROUTER_H

#include "moeblock/router.h"

// The linear pipeline of primitives (pipeline.c); "linear", "moe_gate", "grouped_topk" and "topk" name it with
// different presets, which the configuration has already turned into settings.
extern const moeblock_router_class mb_router_pipeline;

// The named operators, one file each: formulas that no combination of the pipeline's primitives expresses.
extern const moeblock_router_class mb_router_sparsemixer, mb_router_capacity, mb_router_capacity_by_choice,
    mb_router_mlp_state, mb_router_joint, mb_router_product_keys, mb_router_token_type, mb_router_adjugate;

// Registers the built-in routers. Called once per context.
moeblock_status mb_routers_register(moeblock_context *context, moeblock_error *error);

// Top k of n values: descending, ties to the lower index, NaN below everything, -infinity above NaN. Writes k distinct
// indices for any input (k <= n).
void mb_top_k(const float *values, int64_t n, int64_t k, int32_t *out);

#endif
