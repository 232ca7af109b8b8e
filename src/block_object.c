// SPDX-License-Identifier: Apache-2.0
// The block object: create, load, info, destroy.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "base/status.h"
#include "base/words.h"
#include "block.h"

enum { KINDS_LISTED = 16 }; // of the registered names, in a message

int64_t mb_block_layer(const moeblock_config *config)
{
    if (config->layer_index >= 0) return config->layer_index;
    return config->moe_layers[0] ? strtoll(config->moe_layers, NULL, 10) : 0;
}

void mb_block_set_trace(moeblock_block *block, mb_trace trace, void *user)
{
    block->trace = trace;
    block->trace_user = user;
}

static moeblock_status find_kind(const moeblock_context *context, enum mb_registry_kind kind, const char *key,
                                 const char *name, const struct mb_registered **out, moeblock_error *error)
{
    *out = mb_registered_find(context, kind, name);
    if (*out) return MOEBLOCK_OK;
    const char *names[KINDS_LISTED + 1] = {NULL};
    char list[600] = "";
    size_t used = 0;
    int count = 0;
    for (const struct mb_registered *entry = context->registry[kind]; entry && count < KINDS_LISTED;
         entry = entry->next) {
        names[count++] = entry->name;
        used += (size_t)snprintf(list + used, sizeof list - used, "\"%.32s\", ", entry->name);
    }
    const char *nearest = mb_nearest_name(name, names);
    return mb_fail(
        error, MOEBLOCK_INVALID_CONFIG,
        "creating a block: %s is \"%s\"%s%s%s, expected %sor a kind that is registered in this context before "
        "the block is created",
        key, name, nearest ? " (did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?)" : "", list);
}

static moeblock_status find_kinds(moeblock_block *block, moeblock_error *error)
{
    const moeblock_config *config = block->config;
    if (config->routed_enabled) {
        MB_TRY(
            find_kind(block->context, MB_ROUTER_KIND, "router.type", config->router.type, &block->router_kind, error));
        MB_TRY(
            find_kind(block->context, MB_EXPERT_KIND, "experts.type", config->expert_type, &block->routed_kind, error));
    }
    if (config->shared_enabled) block->shared_kind = &mb_expert_shared;
    return MOEBLOCK_OK;
}

moeblock_block *mb_block_new(moeblock_context *context, moeblock_mesh *mesh, moeblock_compute compute,
                             moeblock_error *error)
{
    moeblock_block *block = mb_alloc_zero(&context->allocator, sizeof *block);
    if (!block) {
        mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating a block: no memory");
        return NULL;
    }
    block->context = context;
    block->mesh = mesh;
    block->backend = &mb_backend_cpu;
    block->requested = compute;
    return block;
}

moeblock_status mb_block_fill(moeblock_block *block, const moeblock_config *config, moeblock_error *error)
{
    block->config = mb_config_copy(config, &block->context->allocator);
    if (!block->config) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating a block: no memory");
    block->routed_width = config->latent_size ? config->latent_size : config->hidden_size;
    MB_TRY(mb_share_make(block->config, block->mesh, &block->share, error));
    MB_TRY(find_kinds(block, error));
    return mb_share_place(block, error);
}

moeblock_status moeblock_block_create(moeblock_context *context, const moeblock_config *config, moeblock_mesh *mesh,
                                      const moeblock_block_options *options, moeblock_block **out,
                                      moeblock_error *error)
{
    if (!out) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating a block: out is NULL");
    *out = NULL;
    if (!context || !config)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating a block: %s is NULL",
                       context ? "config" : "context");
    moeblock_block_options chosen;
    MB_TRY(mb_options_read(&chosen, sizeof chosen, options, "moeblock_block_options", error));
    if ((int)chosen.compute < MOEBLOCK_COMPUTE_AUTO || chosen.compute > MOEBLOCK_COMPUTE_INT16)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "creating a block: compute is %d, expected AUTO, F32, BF16 or INT16", (int)chosen.compute);

    moeblock_block *block = mb_block_new(context, mesh, chosen.compute, error);
    if (!block) return MOEBLOCK_OUT_OF_MEMORY;
    const moeblock_status status = mb_block_fill(block, config, error);
    if (status != MOEBLOCK_OK) {
        moeblock_block_destroy(&block);
        return status;
    }
    *out = block;
    return MOEBLOCK_OK;
}

void moeblock_block_destroy(moeblock_block **block)
{
    if (!block || !*block) return;
    const moeblock_allocator *allocator = &(*block)->context->allocator;
    (*block)->backend->unload(*block, (*block)->set);
    moeblock_config_destroy(&(*block)->config);
    mb_placement_free(&(*block)->placement);
    mb_free(allocator, (*block)->owns);
    mb_free(allocator, *block);
    *block = NULL;
}

moeblock_status moeblock_block_load(moeblock_block *block, moeblock_weights *weights,
                                    const moeblock_load_options *options, moeblock_error *error)
{
    if (!block || !weights)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "loading weights: %s is NULL", block ? "weights" : "block");
    moeblock_load_options chosen;
    MB_TRY(mb_options_read(&chosen, sizeof chosen, options, "moeblock_load_options", error));
    struct mb_weight_set *set;
    MB_TRY(block->backend->load(block, weights, mb_block_layer(block->config), &chosen, &set, error));
    block->backend->unload(block, block->set);
    set->serial = atomic_fetch_add(&block->context->loads, 1) + 1;
    block->set = set;
    return MOEBLOCK_OK;
}

moeblock_status moeblock_block_load_files(moeblock_block *block, const char *path, const moeblock_load_options *options,
                                          moeblock_error *error)
{
    if (!block) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "loading weights: block is NULL");
    if (!path && !block->config->weight_path[0])
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "loading weights: no path was given and the configuration %s has no weight_path",
                       block->config->source);
    moeblock_weights *weights = NULL;
    MB_TRY(moeblock_weights_open(block->context, path ? path : block->config->weight_path, &weights, error));
    const moeblock_status status = moeblock_block_load(block, weights, options, error);
    moeblock_weights_destroy(&weights);
    return status;
}

moeblock_status moeblock_block_load_weights(moeblock_block *block, const moeblock_tensor *tensors, size_t count,
                                            moeblock_error *error)
{
    if (!block) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "loading weights: block is NULL");
    moeblock_weights *weights = NULL;
    MB_TRY(moeblock_weights_from_tensors(block->context, tensors, count, &weights, error));
    const moeblock_status status = moeblock_block_load(block, weights, NULL, error);
    moeblock_weights_destroy(&weights);
    return status;
}

void moeblock_block_get_info(const moeblock_block *block, moeblock_block_info *out)
{
    moeblock_block_info info = {.struct_size = sizeof info, .format = ""};
    if (block) info.compute = block->requested;
    if (block && block->set) {
        info.compute = block->set->compute;
        info.format = block->set->format;
        info.packed_bytes = block->set->packed_bytes;
        info.expert_packed_bytes = block->set->expert_packed_bytes;
        info.chunk_tokens = block->backend->chunk_tokens(block);
    }
    mb_options_write(out, &info, sizeof info);
}
