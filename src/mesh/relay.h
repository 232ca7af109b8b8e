// SPDX-License-Identifier: Apache-2.0
// An exchange in two stages, for an axis of many ranks: they stand in groups of g, and what goes from place i to place
// j of the axis goes first to the rank of i's group that stands where j does in its own, then from there to j. A rank
// sends g + R/g - 2 messages in place of R - 1, and bytes travel up to twice.
#ifndef MB_MESH_RELAY_H
#define MB_MESH_RELAY_H

#include "mesh/exchange.h"

struct mb_relay {
    int group, groups;        // ranks of a group and how many groups there are
    struct mb_exchange stage; // the one under way
    struct mb_peer *peers;    // [the larger of group and groups], the mesh's
    int number;               // of the stage, 1 or 2
    moeblock_status failure;  // of this rank or of another, for the second stage
    int origin;
    size_t first_most, second_most;   // bytes of one message of each stage
    char *first_in, *out, *second_in; // the caller's memory
};

// Ranks of a group: the largest divisor of `ranks` up to its root. 1 (a prime number of ranks): no stages.
int mb_relay_group(int ranks);
// Bytes of memory for an exchange in which a rank sends at most `first` bytes to all ranks of one place in their groups
// together, and ranks of a group at most `second` to any one rank.
size_t mb_relay_bytes(int ranks, size_t first, size_t second);
// The exchange goes in two stages; `memory` has mb_relay_bytes. Peers without a place to receive are pointed to theirs
// in that memory, 64-byte aligned.
void mb_exchange_relay(struct mb_exchange *exchange, size_t first, size_t second, void *memory);

// What mb_exchange_start, _poke and _finish do for such an exchange.
moeblock_status mb_relay_start(struct mb_exchange *exchange, moeblock_status failure, int origin,
                               moeblock_error *error);
moeblock_status mb_relay_poke(struct mb_exchange *exchange, moeblock_error *error);
moeblock_status mb_relay_finish(struct mb_exchange *exchange, moeblock_error *error);

#endif
