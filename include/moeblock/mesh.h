// SPDX-License-Identifier: Apache-2.0
// The mesh a block runs on: R rows (expert parallel, dispatch) x C columns (tensor parallel). A host fills this
// struct with its own collectives; NULL in place of a mesh means one process.
#ifndef MOEBLOCK_MESH_H
#define MOEBLOCK_MESH_H

#include <stddef.h>
#include <stdint.h>

#include "moeblock/status.h"

#ifdef __cplusplus
extern "C" {
#endif

// Axes of the mesh: along axis 0 the row changes, along axis 1 the column. Every call below is collective over the
// ranks of that axis (agree: over all ranks), is made by one thread of each rank in the same order, and returns the
// same status on every rank that took part, as far as the transport allows.
typedef struct moeblock_mesh {
    uint32_t struct_size;
    void *user;
    int rows, columns; // shape, both at least 1
    int row, column;   // this rank's place

    // Every rank of the axis gives bytes[own index] bytes; `all` receives them one after the other in axis order.
    moeblock_status (*all_gather)(void *user, int axis, const void *mine, const size_t *bytes, void *all,
                                  moeblock_error *error);
    // Rank i of the axis gets the send_bytes[i] bytes that follow those of rank i - 1 in `send`.
    moeblock_status (*all_to_all)(void *user, int axis, const void *send, const size_t *send_bytes, void *receive,
                                  const size_t *receive_bytes, moeblock_error *error);
    // The last step when x came hidden-sharded. Each rank holds finished values of its own columns only (every
    // output column has exactly one owner, so the sum over the ranks has one term): `mine` becomes `scattered`.
    moeblock_status (*reduce_scatter)(void *user, int axis, const void *mine, size_t bytes, void *scattered,
                                      moeblock_error *error);
    // Largest of the values that all ranks of the mesh give.
    moeblock_status (*agree)(void *user, int64_t mine, int64_t *largest, moeblock_error *error);
} moeblock_mesh;

// How an input of last dimension `width` lies on `columns` tensor-parallel ranks.
typedef enum moeblock_sharding {
    MOEBLOCK_REPLICATED = 0, // width == hidden
    MOEBLOCK_SHARDED = 1     // width == hidden / columns, columns > 1, tensor parallelism enabled
} moeblock_sharding;

// The TP-sharding detection of the original block, as a pure function. Any other width is INVALID_ARGUMENT with both
// widths in the message.
MOEBLOCK_API moeblock_status moeblock_tp_sharding(int64_t width, int64_t hidden, int columns, int enabled,
                                                  moeblock_sharding *out, moeblock_error *error);

#ifdef __cplusplus
}
#endif
#endif
