// SPDX-License-Identifier: Apache-2.0
// The mesh a block runs on: R rows (expert parallel, dispatch) x C columns (tensor parallel) of processes, above a
// transport that moves bytes between them. moeblock/mpi.h makes a transport from an MPI communicator; a host can fill
// one with its own. NULL in place of a mesh means one process.
#ifndef MOEBLOCK_MESH_H
#define MOEBLOCK_MESH_H

#include <stddef.h>
#include <stdint.h>

#include "moeblock/context.h"

#ifdef __cplusplus
extern "C" {
#endif

// Point-to-point messages between `size` processes. All calls come from the thread that calls the block; none may
// block, except `poll` of a transport that says `blocks`. Arithmetic never happens inside a transport.
typedef struct moeblock_transport {
    uint32_t struct_size;
    void *user;
    const char *name; // for reports, such as "Open MPI 4.1.4"
    int size, rank;   // processes, and which of them this is
    int node_size;    // processes on this machine, this one included; 0: unknown
    int blocks;       // 1: waiting blocks inside `poll` and no deadline is kept, as simulators need it

    // Start to move `bytes` bytes to `peer`, or a message of at most `capacity` bytes from it (a longer one is
    // MISMATCH). Messages of one tag (0 to 7) from one process to another arrive in the order in which they were sent.
    // *transfer names the transfer until `poll` reports it or `abandon` gives it up; until then its memory is in use.
    moeblock_status (*send)(void *user, int peer, int tag, const void *data, size_t bytes, uint64_t *transfer,
                            moeblock_error *error);
    moeblock_status (*receive)(void *user, int peer, int tag, void *data, size_t capacity, uint64_t *transfer,
                               moeblock_error *error);
    // One of `count` transfers that is done: *which is its place, *bytes what a receive moved. *which -1: none yet.
    moeblock_status (*poll)(void *user, uint64_t *transfers, int count, int *which, size_t *bytes,
                            moeblock_error *error);
    // Takes a message of this tag from anyone if one is here; *bytes 0: none. No receive is ever started for the tag.
    moeblock_status (*look)(void *user, int tag, void *data, size_t capacity, size_t *bytes, moeblock_error *error);
    // Gives up transfers that will not end, without communicating.
    void (*abandon)(void *user, uint64_t *transfers, int count);
} moeblock_transport;

typedef struct moeblock_mesh moeblock_mesh;

typedef struct moeblock_mesh_options {
    uint32_t struct_size;
    int rows, columns;                   // rows * columns is the transport's size
    double deadline;                     // seconds that any wait may last; 0: 60. A configuration's mesh.deadline wins
    const moeblock_allocator *allocator; // NULL: the C library; copied
} moeblock_mesh_options;

// Makes a mesh; process p of the transport is row p / columns, column p % columns. Communicates nothing. The struct is
// copied, what its `user` points to must outlive the mesh. One mesh serves any number of blocks; every process makes
// the calls that communicate (creating and loading a block, forward, agree) in the same order, from one thread at a
// time. Errors: INVALID_ARGUMENT (rows * columns differs from the size, a call is missing), OUT_OF_MEMORY.
MOEBLOCK_API moeblock_status moeblock_mesh_create(const moeblock_transport *transport,
                                                  const moeblock_mesh_options *options, moeblock_mesh **out,
                                                  moeblock_error *error);
// Communicates nothing either, whatever state the mesh is in. Blocks on it must have gone before.
MOEBLOCK_API void moeblock_mesh_destroy(moeblock_mesh **mesh);

typedef struct moeblock_mesh_info {
    uint32_t struct_size;
    int rows, columns, row, column;
    int dead;            // 1: a wait ended in an error that leaves the ranks out of step; every further call returns it
    int failed_rank;     // whose failure the last collective call returned; -1: none failed so far
    double wait_seconds; // spent waiting for others
    double travel_seconds; // dispatched rows were on their way
    double hidden_seconds; // of those, computing went on
} moeblock_mesh_info;
MOEBLOCK_API void moeblock_mesh_get_info(const moeblock_mesh *mesh, moeblock_mesh_info *out);

// Tells every process how all of them are: OK when `mine` is OK everywhere, else the status of the lowest process that
// failed, with its text in *error; `error` holds this process's own text when `mine` is not OK. Collective.
MOEBLOCK_API moeblock_status moeblock_mesh_agree(moeblock_mesh *mesh, moeblock_status mine, moeblock_error *error);

// What forward moves, by the step of the flow that moves it.
typedef enum moeblock_traffic_step {
    MOEBLOCK_TRAFFIC_INPUT = 0,       // all-gather of hidden-sharded x (TP)
    MOEBLOCK_TRAFFIC_DISPATCH = 1,    // rows to their experts (EP)
    MOEBLOCK_TRAFFIC_ACTIVATIONS = 2, // all-gather of activations, routed and shared (TP)
    MOEBLOCK_TRAFFIC_COMBINE = 3,     // expert outputs to the rows' homes (EP)
    MOEBLOCK_TRAFFIC_WHOLE_ROWS = 4,  // all-gather for a latent's up projection or an output norm (TP)
    MOEBLOCK_TRAFFIC_OUTPUT = 5,      // all-gather of replicated y (TP)
    MOEBLOCK_TRAFFIC_SUMS = 6,        // reduce-scatter of partial sums (TP)
    MOEBLOCK_TRAFFIC_STEPS = 7
} moeblock_traffic_step;

// Bytes and rows between this rank and others since the mesh was made or the counts were reset, the 32-byte header that
// goes with every message included.
typedef struct moeblock_traffic {
    uint32_t struct_size;
    uint64_t messages_sent, bytes_sent, bytes_received, rows_sent, rows_received;
    // DISPATCH: the least that could be sent for this routing: for each (row, other rank that owns one of its experts)
    // once the row + 8 bytes for each expert there + 4; and 32 bytes for each message. Other steps: 0.
    uint64_t bound_sent;
} moeblock_traffic;

// `axis` 0: ranks of this rank's column, peers are rows; 1: ranks of its row, peers are columns. `peer` -1: all of
// them.
MOEBLOCK_API void moeblock_mesh_get_traffic(const moeblock_mesh *mesh, moeblock_traffic_step step, int axis, int peer,
                                            moeblock_traffic *out);
MOEBLOCK_API void moeblock_mesh_reset_traffic(moeblock_mesh *mesh);

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
