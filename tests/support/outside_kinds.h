// SPDX-License-Identifier: Apache-2.0
// A router and an expert kind as a program would bring them, written against the public headers alone: a linear router
// and y = OUT relu(IN x)^2 experts. They write down what they are asked, complain where the interface is not kept, and
// fail or lie where a test says so.
#ifndef TESTS_SUPPORT_OUTSIDE_KINDS_H
#define TESTS_SUPPORT_OUTSIDE_KINDS_H

#include <stdbool.h>

#include "moeblock/moeblock.h"

// The calls that can be told to fail.
enum outside_call {
    OUTSIDE_NO_CALL,
    OUTSIDE_ROUTER_CREATE,
    OUTSIDE_ROUTER_LOAD,
    OUTSIDE_ROUTER_LOGITS,
    OUTSIDE_ROUTER_SELECT,
    OUTSIDE_EXPERT_CREATE,
    OUTSIDE_EXPERT_OPEN,
    OUTSIDE_EXPERT_PACK,
    OUTSIDE_EXPERT_INNER,
    OUTSIDE_EXPERT_OUTER,
    OUTSIDE_CALLS
};

// A token whose x begins with this value is routed to the test's bad_ids.
#define OUTSIDE_MARK 4096.0f

// The `user` of both kinds.
struct outside {
    enum outside_call fails;
    moeblock_status status; // that the failing call returns, with outside_sentence
    bool silent;            // it leaves the error as it is
    int32_t bad_ids[2];
    int64_t granule;

    // What was seen.
    int created, destroyed; // both kinds
    char router_json[256], expert_json[256];
    int64_t router_hidden, router_experts, router_top_k;
    moeblock_expert_build expert_build; // its pointers are stale after create
    _Atomic int broken_promises;
    _Atomic int inner_calls, outer_calls, token_ids_seen, aux_seen;
};

extern const char outside_sentence[];
extern const moeblock_router_class outside_router;
extern const moeblock_expert_class outside_splitting, outside_whole;

// The same block in plain loops, one token: y [hidden]. Tables as the tensors: router.table [experts][hidden],
// experts.E.in [inner][hidden], experts.E.out [hidden][inner].
struct outside_tables {
    int64_t hidden, inner, experts, top_k;
    const float *router, *in, *out; // of all experts, one after the other
};
void outside_expected(const struct outside_tables *tables, moeblock_compute compute, const float *x, float *y);

#endif
