// SPDX-License-Identifier: Apache-2.0
// What a rank of a mesh would hold, without a mesh, weights or the memory itself: the sizes that a real load and a real
// workspace come to.
#ifndef MB_SIZES_H
#define MB_SIZES_H

#include "backend/backend.h"

struct mb_sizes {
    struct mb_columns columns;
    int64_t experts;         // that the rank holds
    size_t packed_bytes;     // experts, shared expert and latent projections
    size_t expert_bytes;     // of one routed expert's columns
    size_t workspace;        // bytes of a forward on up to `tokens` tokens of this rank
    int64_t chunk_tokens;    // most tokens of one pass
    struct mb_travel travel; // of its dispatch and combine
    moeblock_compute compute;
};

struct mb_size_question {
    int rows, columns, row, column; // the mesh, and the rank's place in it
    enum mb_format format;          // of the routed experts as stored
    moeblock_compute compute;
    int64_t tokens;
};

// Errors: as moeblock_block_create; UNSUPPORTED for an expert kind from outside.
moeblock_status mb_sizes_of(moeblock_context *context, const moeblock_config *config,
                            const struct mb_size_question *question, struct mb_sizes *out, moeblock_error *error);

#endif
