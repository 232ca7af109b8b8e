// SPDX-License-Identifier: Apache-2.0
// The block object: create, load, info, destroy.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "base/status.h"
#include "base/words.h"
#include "block.h"
#include "config/schema.h"

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
    block->may_be_int16 = context->prefers_int16;
    block->may_be_bf16x2 = context->prefers_bf16x2;
    return block;
}

moeblock_status mb_block_fill(moeblock_block *block, const moeblock_config *config, moeblock_error *error)
{
    block->config = mb_config_copy(config, &block->context->allocator);
    if (!block->config) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating a block: no memory");
    block->routed_width = config->latent_size ? config->latent_size : config->hidden_size;
    MB_TRY(mb_share_make(block->config, block->mesh, &block->share, error));
    if (block->mesh && mb_config_origin(block->config, &block->config->deadline) > MB_FROM_DEFAULT)
        block->mesh->deadline = block->config->deadline;
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
    moeblock_error reason = {MOEBLOCK_OK, ""};
    moeblock_block_options chosen;
    moeblock_status status = mb_options_read(&chosen, sizeof chosen, options, "moeblock_block_options", &reason);
    if (status == MOEBLOCK_OK &&
        ((int)chosen.compute < MOEBLOCK_COMPUTE_AUTO || chosen.compute > MOEBLOCK_COMPUTE_BF16X2))
        status =
            mb_fail(&reason, MOEBLOCK_INVALID_ARGUMENT,
                    "creating a block: compute is %d, expected AUTO, F32, BF16, INT16 or BF16X2", (int)chosen.compute);
    moeblock_block *block = mb_block_new(context, mesh, chosen.compute, error);
    if (!block) return MOEBLOCK_OUT_OF_MEMORY;
    if (status == MOEBLOCK_OK) status = mb_block_fill(block, config, &reason);
    status = mb_agree_created(block, status, &reason);
    if (status == MOEBLOCK_OK) {
        *out = block;
        return MOEBLOCK_OK;
    }
    if (error) *error = reason;
    moeblock_block_destroy(&block);
    return status;
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

// Loads from an opened checkpoint; `opened` and *reason say how opening it went. On a mesh all ranks load or none does.
static moeblock_status load(moeblock_block *block, moeblock_weights *weights, const moeblock_load_options *options,
                            moeblock_status opened, moeblock_error *reason, moeblock_error *error)
{
    struct mb_weight_set *set = NULL;
    moeblock_load_options chosen;
    moeblock_status status = opened;
    if (status == MOEBLOCK_OK)
        status = mb_options_read(&chosen, sizeof chosen, options, "moeblock_load_options", reason);
    if (status == MOEBLOCK_OK)
        status = block->backend->load(block, weights, mb_block_layer(block->config), &chosen, &set, reason);
    status = mb_agree_loaded(block, weights, set, status, reason);
    if (status != MOEBLOCK_OK) {
        if (error) *error = *reason;
        block->backend->unload(block, set);
        return status;
    }
    block->backend->unload(block, block->set);
    set->serial = atomic_fetch_add(&block->context->loads, 1) + 1;
    block->set = set;
    return MOEBLOCK_OK;
}

moeblock_status moeblock_block_load(moeblock_block *block, moeblock_weights *weights,
                                    const moeblock_load_options *options, moeblock_error *error)
{
    moeblock_error reason = {MOEBLOCK_OK, ""};
    if (!block) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "loading weights: block is NULL");
    const moeblock_status status =
        weights ? MOEBLOCK_OK : mb_fail(&reason, MOEBLOCK_INVALID_ARGUMENT, "loading weights: weights is NULL");
    return load(block, weights, options, status, &reason, error);
}

static moeblock_status open_files(const moeblock_block *block, const char *path, moeblock_weights **out,
                                  moeblock_error *error)
{
    if (!path && !block->config->weight_path[0])
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "loading weights: no path was given and the configuration %s has no weight_path",
                       block->config->source);
    return moeblock_weights_open(block->context, path ? path : block->config->weight_path, out, error);
}

moeblock_status moeblock_block_load_files(moeblock_block *block, const char *path, const moeblock_load_options *options,
                                          moeblock_error *error)
{
    moeblock_error reason = {MOEBLOCK_OK, ""};
    moeblock_weights *weights = NULL;
    if (!block) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "loading weights: block is NULL");
    const moeblock_status opened = open_files(block, path, &weights, &reason);
    const moeblock_status status = load(block, weights, options, opened, &reason, error);
    moeblock_weights_destroy(&weights);
    return status;
}

moeblock_status moeblock_block_load_weights(moeblock_block *block, const moeblock_tensor *tensors, size_t count,
                                            moeblock_error *error)
{
    moeblock_error reason = {MOEBLOCK_OK, ""};
    moeblock_weights *weights = NULL;
    if (!block) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "loading weights: block is NULL");
    const moeblock_status opened = moeblock_weights_from_tensors(block->context, tensors, count, &weights, &reason);
    const moeblock_status status = load(block, weights, NULL, opened, &reason, error);
    moeblock_weights_destroy(&weights);
    return status;
}

void moeblock_block_get_info(const moeblock_block *block, moeblock_block_info *out)
{
    moeblock_block_info info = {.struct_size = sizeof info, .format = "", .level = ""};
    if (block) info.compute = block->requested;
    if (block && block->set) {
        info.compute = block->set->compute;
        info.format = block->set->format;
        info.level = mb_set_kernels(block, block->set)->name;
        info.packed_bytes = block->set->packed_bytes;
        info.expert_packed_bytes = block->set->expert_packed_bytes;
        info.chunk_tokens = block->backend->chunk_tokens(block);
    }
    mb_options_write(out, &info, sizeof info);
}
