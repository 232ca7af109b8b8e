// SPDX-License-Identifier: Apache-2.0
// Sizes of a rank, from a block that is filled like any other but has sizes in place of weights.
#include "sizes.h"

#include "base/memory.h"
#include "base/status.h"
#include "block.h"

static moeblock_status measure(moeblock_block *block, const struct mb_size_question *question, struct mb_sizes *out,
                               moeblock_error *error)
{
    MB_TRY(block->backend->size(block, question->format, &block->set, error));
    *out = (struct mb_sizes){
        .columns = block->set->columns,
        .experts = block->share.owned,
        .packed_bytes = block->set->packed_bytes,
        .expert_bytes = block->set->expert_packed_bytes,
        .workspace = moeblock_workspace_bytes(block, question->tokens),
        .chunk_tokens = block->backend->chunk_tokens(block),
        .compute = block->set->compute,
    };
    block->backend->travel(block, block->set, question->tokens, &out->travel);
    return MOEBLOCK_OK;
}

moeblock_status mb_sizes_of(moeblock_context *context, const moeblock_config *config,
                            const struct mb_size_question *question, struct mb_sizes *out, moeblock_error *error)
{
    moeblock_mesh mesh = {.rows = question->rows,
                          .columns = question->columns,
                          .row = question->row,
                          .column = question->column,
                          .size = question->rows * question->columns};
    moeblock_block *block = mb_block_new(context, &mesh, question->compute, error);
    if (!block) return MOEBLOCK_OUT_OF_MEMORY;
    moeblock_status status = mb_block_fill(block, config, error);
    if (status == MOEBLOCK_OK) status = measure(block, question, out, error);
    moeblock_block_destroy(&block);
    return status;
}
