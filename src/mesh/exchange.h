// SPDX-License-Identifier: Apache-2.0
// The one way in which ranks of an axis exchange data: to every other rank of the axis goes a header, always, then its
// bytes; the transfers of a few ranks are in flight at a time. A header carries the sender's status, so that a rank
// that fails takes part in the exchanges that the others wait in and all of them learn why.
#ifndef MB_MESH_EXCHANGE_H
#define MB_MESH_EXCHANGE_H

#include <stdbool.h>

#include "moeblock/mesh.h"

struct mb_header {
    uint32_t magic, sequence;
    uint16_t status, step;
    int32_t origin;       // rank whose failure `status` is
    uint64_t rows, bytes; // bytes follow; none from a rank that failed
};
_Static_assert(sizeof(struct mb_header) == 32, "the accounting promises 32 bytes a message");

// What goes to one rank of the axis and what comes from it. The caller sets the first two lines.
struct mb_peer {
    const void *send;
    size_t send_bytes, capacity;
    int64_t send_rows;
    void *receive;
    size_t received; // bytes that came; 0 from a rank that failed
    int64_t rows;    // that its header announced
    struct mb_header out, in;
    size_t sent_so_far, received_so_far;
    bool header_gone;
};

enum { MB_WINDOW = 8, MB_FLIGHTS = 3 * MB_WINDOW };

struct mb_exchange {
    moeblock_mesh *mesh;
    struct mb_relay *relay; // the way in two stages (relay.h); NULL: straight
    int axis, count, index; // ranks that take part and which of them this is; of the axis those at
    int first, stride;      // first + i * stride
    moeblock_traffic_step step;
    struct mb_peer *peers; // [count]; that of this rank itself is left alone
    bool running;
    int next_send, next_receive, sending, receiving; // ranks after this one that were started; those under way
    int open;                                        // sends and receives that are not finished
    int flights;
    uint64_t transfer[MB_FLIGHTS];
    struct mb_flight {
        int peer;
        bool send, header;
    } flight[MB_FLIGHTS];
    double started, moved, ended; // times
    moeblock_status status;       // of the lowest rank whose header brought a failure
    int origin;
};

// The exchange of an axis, its peers zeroed, to be filled before the start. One at a time on each axis.
struct mb_exchange *mb_exchange_begin(moeblock_mesh *mesh, int axis, moeblock_traffic_step step);
// Sends and receives begin. With a `failure` of rank `origin` (OK: none) headers go out that say so, and no data.
// Errors of these three leave the mesh dead. A failure that a peer reports is none of them: it stands in `status`.
moeblock_status mb_exchange_start(struct mb_exchange *exchange, moeblock_status failure, int origin,
                                  moeblock_error *error);
// Moves what can be moved without waiting.
moeblock_status mb_exchange_poke(struct mb_exchange *exchange, moeblock_error *error);
moeblock_status mb_exchange_finish(struct mb_exchange *exchange, moeblock_error *error);
// A failure that a peer reported: that of the lowest rank is kept.
void mb_exchange_keep_failure(struct mb_exchange *exchange, moeblock_status status, int origin);
static inline bool mb_exchange_done(const struct mb_exchange *exchange) { return exchange->open == 0; }

#endif
