// SPDX-License-Identifier: Apache-2.0
// What each step of the flow moves between the ranks of a mesh, computed from the routing alone: the prediction of
// `moeblock plan`, in bytes exactly what a real run counts for the same routing.
#ifndef MB_TRAFFIC_H
#define MB_TRAFFIC_H

#include "backend/backend.h"

// Who needs what in one pass of the flow. Matrices are [home][rank] of the expert-parallel axis.
struct mb_routing {
    moeblock_allocator allocator;
    int ep;
    int64_t experts;
    int64_t *tokens;              // [ep] of each home
    int64_t *asking, *asked;      // [ep] tokens of each home that ask any rank, and their (token, expert) pairs
    int64_t *rows;                // tokens of `home` with an expert on `rank`
    int64_t *slots;               // (token, expert) pairs of `home` computed on `rank`
    int64_t *own_busy, *far_busy; // [ep] experts that a rank computes for its own rows, for those of others
    uint8_t *busy;                // [experts][ep] which of the two
};

// k ids of each of `rows` tokens; an input longer than that repeats them. `replicated`: all homes hold the same tokens.
struct mb_choices {
    const int32_t *ids;
    int64_t rows, k;
    bool replicated;
};

moeblock_status mb_routing_create(const moeblock_allocator *allocator, int ep, int64_t experts, struct mb_routing *out,
                                  moeblock_error *error);
void mb_routing_free(struct mb_routing *routing);
// The pass in which home h has the tokens [first[h], first[h] + count[h]) of the whole input.
void mb_routing_fill(struct mb_routing *routing, const struct mb_placement_table *placement,
                     const struct mb_choices *choices, const int64_t *first, const int64_t *count);

// What the formulas need of a block and its input.
struct mb_traffic_shape {
    const moeblock_config *config;
    int ep, tp;
    moeblock_compute compute;    // no AUTO
    size_t x_bytes, y_bytes;     // of an element
    bool sharded;                // x comes hidden-sharded
    bool sums;                   // columns exchange partial sums
    enum mb_algorithm algorithm; // no AUTO
};

struct mb_traffic {
    uint64_t messages, sent, received; // headers included
    uint64_t bound;                    // DISPATCH: the least for this routing
};

// Adds one pass of the rank at places `e` and `c` of the expert- and the tensor-parallel axis to
// out[MOEBLOCK_TRAFFIC_STEPS].
void mb_traffic_add(const struct mb_traffic_shape *shape, const struct mb_routing *routing, int e, int c,
                    struct mb_traffic *out);

#endif
