// SPDX-License-Identifier: Apache-2.0
// The original's adapter: a configuration, a block and one growing workspace behind two forward calls.
#include "moeblock/adapter.h"

#include <string.h>

#include "backend/array.h"
#include "base/context.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/status.h"
#include "block.h"

struct moeblock_adapter {
    moeblock_allocator allocator;
    moeblock_config *config;
    moeblock_block *block;
    moeblock_workspace *workspace; // NULL until the first forward, and after each load
    int64_t workspace_tokens;
};

void moeblock_adapter_destroy(moeblock_adapter **adapter)
{
    if (!adapter || !*adapter) return;
    const moeblock_allocator allocator = (*adapter)->allocator;
    moeblock_workspace_destroy(&(*adapter)->workspace);
    moeblock_block_destroy(&(*adapter)->block);
    moeblock_config_destroy(&(*adapter)->config);
    mb_free(&allocator, *adapter);
    *adapter = NULL;
}

static moeblock_status begin(moeblock_context *context, const char *from, const char *what, moeblock_adapter **out,
                             moeblock_error *error)
{
    if (!out) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating an adapter: out is NULL");
    *out = NULL;
    if (!context) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating an adapter: context is NULL");
    if (!from) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating an adapter: %s is NULL", what);
    moeblock_adapter *adapter = mb_alloc_zero(&context->allocator, sizeof *adapter);
    if (!adapter)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating an adapter: no memory for %zu bytes", sizeof *adapter);
    adapter->allocator = context->allocator;
    *out = adapter;
    return MOEBLOCK_OK;
}

// Makes the block of adapter->config; `status` is that of reading the configuration. Destroys the adapter on failure.
static moeblock_status finish(moeblock_context *context, moeblock_status status, moeblock_mesh *mesh,
                              const moeblock_block_options *options, moeblock_adapter **adapter, moeblock_error *error)
{
    if (status == MOEBLOCK_OK)
        status = moeblock_block_create(context, (*adapter)->config, mesh, options, &(*adapter)->block, error);
    if (status != MOEBLOCK_OK) moeblock_adapter_destroy(adapter);
    return status;
}

moeblock_status moeblock_adapter_create(moeblock_context *context, const char *hf_config_text, int64_t layer,
                                        moeblock_mesh *mesh, const moeblock_block_options *options,
                                        moeblock_adapter **out, moeblock_error *error)
{
    MB_TRY(begin(context, hf_config_text, "hf_config_text", out, error));
    const moeblock_config_options reading = {.struct_size = sizeof reading, .layer = layer};
    const moeblock_status status = moeblock_config_parse(context, hf_config_text, strlen(hf_config_text), "config.json",
                                                         &reading, &(*out)->config, error);
    return finish(context, status, mesh, options, out, error);
}

moeblock_status moeblock_adapter_create_from_file(moeblock_context *context, const char *path, int64_t layer,
                                                  moeblock_mesh *mesh, const moeblock_block_options *options,
                                                  moeblock_adapter **out, moeblock_error *error)
{
    MB_TRY(begin(context, path, "path", out, error));
    const moeblock_config_options reading = {.struct_size = sizeof reading, .layer = layer};
    const moeblock_status status = moeblock_config_open(context, path, &reading, &(*out)->config, error);
    return finish(context, status, mesh, options, out, error);
}

moeblock_status moeblock_adapter_open(moeblock_context *context, const char *folder, int64_t layer, moeblock_mesh *mesh,
                                      const moeblock_block_options *options, moeblock_adapter **out,
                                      moeblock_error *error)
{
    MB_TRY(moeblock_adapter_create_from_file(context, folder, layer, mesh, options, out, error));
    const moeblock_status status = moeblock_block_load_files((*out)->block, folder, NULL, error);
    if (status != MOEBLOCK_OK) moeblock_adapter_destroy(out);
    return status;
}

moeblock_status moeblock_adapter_load_weights(moeblock_adapter *adapter, const moeblock_tensor *tensors, size_t count,
                                              moeblock_error *error)
{
    if (!adapter) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "loading weights: adapter is NULL");
    MB_TRY(moeblock_block_load_weights(adapter->block, tensors, count, error));
    moeblock_workspace_destroy(&adapter->workspace); // a workspace belongs to the weights it was made for
    return MOEBLOCK_OK;
}

static moeblock_status hold_workspace(moeblock_adapter *adapter, const moeblock_array *x, moeblock_error *error)
{
    moeblock_mesh *mesh = adapter->block->mesh;
    int64_t tokens = 0;
    moeblock_error reason = {MOEBLOCK_OK, ""};
    moeblock_status status = mb_array_check(x, "x", &tokens, &reason);
    // Ranks with fewer tokens compute for the others: all hold the same workspace.
    if (mesh) status = mb_mesh_agree(mesh, &tokens, 1, status, &reason);
    if (status != MOEBLOCK_OK) {
        if (error) *error = reason;
        return status;
    }
    if (adapter->workspace && tokens <= adapter->workspace_tokens) return MOEBLOCK_OK;
    moeblock_workspace_destroy(&adapter->workspace);
    MB_TRY(moeblock_workspace_create(adapter->block, tokens, NULL, 0, &adapter->workspace, error));
    adapter->workspace_tokens = tokens;
    return MOEBLOCK_OK;
}

static moeblock_status forward(moeblock_adapter *adapter, const moeblock_array *x, moeblock_mode mode,
                               const moeblock_adapter_options *cfg, moeblock_array *y, moeblock_error *error)
{
    if (!adapter || !x || !y)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "running an adapter: %s is NULL",
                       !adapter ? "adapter"
                       : !x     ? "x"
                                : "y");
    moeblock_adapter_options options;
    MB_TRY(mb_options_read(&options, sizeof options, cfg, "moeblock_adapter_options", error));
    MB_TRY(hold_workspace(adapter, x, error));
    const moeblock_forward_input input = {.struct_size = sizeof input, .mode = mode, .x = *x};
    const moeblock_forward_output output = {
        .struct_size = sizeof output, .y = *y, .ids = options.ids, .weights = options.weights, .stats = options.stats};
    return moeblock_block_forward(adapter->block, adapter->workspace, &input, &output, error);
}

moeblock_status moeblock_adapter_forward_mlp_prefill(moeblock_adapter *adapter, const moeblock_array *x,
                                                     const moeblock_adapter_options *cfg, moeblock_array *y,
                                                     moeblock_error *error)
{
    return forward(adapter, x, MOEBLOCK_PREFILL, cfg, y, error);
}

moeblock_status moeblock_adapter_forward_mlp_decode(moeblock_adapter *adapter, const moeblock_array *x,
                                                    const moeblock_adapter_options *cfg, moeblock_array *y,
                                                    moeblock_error *error)
{
    return forward(adapter, x, MOEBLOCK_DECODE, cfg, y, error);
}

moeblock_block *moeblock_adapter_block(moeblock_adapter *adapter) { return adapter ? adapter->block : NULL; }

const moeblock_config *moeblock_adapter_config(const moeblock_adapter *adapter)
{
    return adapter ? adapter->config : NULL;
}
