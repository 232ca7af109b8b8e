// SPDX-License-Identifier: Apache-2.0
// Workspaces: the memory of one forward at a time, sized by the backend and bounded by its chunk.
#include <inttypes.h>

#include "base/status.h"
#include "block.h"

static int64_t tokens_held(const moeblock_block *block, int64_t tokens)
{
    const int64_t chunk = block->backend->chunk_tokens(block);
    return mb_max(1, mb_min(tokens, chunk));
}

size_t moeblock_workspace_bytes(const moeblock_block *block, int64_t tokens)
{
    if (!block || !block->set || tokens < 0) return 0;
    return block->backend->workspace_bytes(block, tokens_held(block, tokens), mb_workers(block->context));
}

moeblock_status moeblock_workspace_create(const moeblock_block *block, int64_t tokens, void *memory, size_t bytes,
                                          moeblock_workspace **out, moeblock_error *error)
{
    if (!out) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating a workspace: out is NULL");
    *out = NULL;
    if (!block) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating a workspace: block is NULL");
    if (tokens < 0)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating a workspace: tokens is %" PRId64 ", expected >= 0",
                       tokens);
    if (!block->set)
        return mb_fail(error, MOEBLOCK_WRONG_STATE,
                       "creating a workspace: the block has no weights yet; load them first");
    const size_t need = moeblock_workspace_bytes(block, tokens);
    if (memory && (bytes < need || (uintptr_t)memory % 64))
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "creating a workspace: memory of %zu bytes at %s address, expected %zu bytes 64-byte aligned",
                       bytes, (uintptr_t)memory % 64 ? "an unaligned" : "an aligned", need);
    moeblock_workspace *workspace = mb_alloc_zero(&block->context->allocator, sizeof *workspace);
    if (workspace) workspace->memory = memory ? memory : mb_alloc(&block->context->allocator, need);
    if (!workspace || !workspace->memory) {
        mb_free(&block->context->allocator, workspace);
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating a workspace: no memory for %zu bytes", need);
    }
    workspace->block = block;
    workspace->allocator = block->context->allocator; // the block may go first
    workspace->serial = block->set->serial;
    workspace->tokens = tokens_held(block, tokens);
    workspace->workers = mb_workers(block->context);
    workspace->owned = memory == NULL;
    block->backend->workspace_place(workspace);
    *out = workspace;
    return MOEBLOCK_OK;
}

void moeblock_workspace_destroy(moeblock_workspace **workspace)
{
    if (!workspace || !*workspace) return;
    const moeblock_allocator allocator = (*workspace)->allocator;
    if ((*workspace)->owned) mb_free(&allocator, (*workspace)->memory);
    mb_free(&allocator, *workspace);
    *workspace = NULL;
}
