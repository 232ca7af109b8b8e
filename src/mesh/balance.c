// SPDX-License-Identifier: Apache-2.0
// A placement from measured loads: copies go to the experts with the most load per copy, then the heaviest copy first
// to the least loaded rank with room.
#include <inttypes.h>

#include "base/arith.h"
#include "base/status.h"
#include "mesh/placement.h"

struct rank_state {
    double load;
    int64_t count;
};

struct balance {
    const int64_t *load;
    int64_t experts, most; // most: experts that a rank may hold
    int ranks;
    int64_t *copies;         // [experts]
    int64_t *order;          // [experts], heaviest copy first
    uint8_t *held;           // [experts][ranks]
    struct rank_state *rank; // [ranks]
};

static double per_copy(const struct balance *b, int64_t expert)
{
    return (double)b->load[expert] / (double)b->copies[expert];
}

// One copy at a time to the expert that has the most load per copy.
static void spread_copies(struct balance *b)
{
    for (int64_t e = 0; e < b->experts; e++) b->copies[e] = 1;
    for (int64_t spare = b->most * b->ranks - b->experts; spare > 0; spare--) {
        int64_t hottest = -1;
        for (int64_t e = 0; e < b->experts; e++)
            if (b->copies[e] < b->ranks && b->load[e] > 0 && (hottest < 0 || per_copy(b, e) > per_copy(b, hottest)))
                hottest = e;
        if (hottest < 0) return;
        b->copies[hottest]++;
    }
}

static void sort_by_weight(struct balance *b)
{
    for (int64_t e = 0; e < b->experts; e++) {
        int64_t at = e;
        for (; at > 0 && per_copy(b, b->order[at - 1]) < per_copy(b, e); at--) b->order[at] = b->order[at - 1];
        b->order[at] = e;
    }
}

// The least loaded rank with room that does not hold the expert; -1: none.
static int lightest(const struct balance *b, int64_t expert)
{
    int best = -1;
    for (int r = 0; r < b->ranks; r++) {
        if (b->rank[r].count == b->most || b->held[expert * b->ranks + r]) continue;
        if (best < 0 || b->rank[r].load < b->rank[best].load ||
            (b->rank[r].load == b->rank[best].load && b->rank[r].count < b->rank[best].count))
            best = r;
    }
    return best;
}

// Every expert that still waits for its first rank keeps a place; a copy beyond that is left out.
static int64_t place(struct balance *b)
{
    int64_t room = b->most * b->ranks, holders = 0;
    for (int64_t i = 0; i < b->experts; i++) {
        const int64_t e = b->order[i], waiting = b->experts - i - 1;
        for (int64_t copy = 0; copy < b->copies[e]; copy++) {
            const int r = copy && room <= waiting ? -1 : lightest(b, e);
            if (r < 0) break;
            b->held[e * b->ranks + r] = 1;
            b->rank[r].load += per_copy(b, e);
            b->rank[r].count++;
            room--;
            holders++;
        }
    }
    return holders;
}

static moeblock_status as_table(const struct balance *b, const moeblock_allocator *allocator, int64_t holders,
                                struct mb_placement_table *out, moeblock_error *error)
{
    MB_TRY(mb_placement_allocate(allocator, b->experts, b->ranks, holders, out, error));
    int64_t at = 0;
    for (int64_t e = 0; e < b->experts; e++) {
        for (int r = 0; r < b->ranks; r++)
            if (b->held[e * b->ranks + r]) out->holder[at++] = r;
        out->begin[e + 1] = at;
    }
    return MOEBLOCK_OK;
}

// Leaves the better of the two tables in *out.
static moeblock_status keep_better(const moeblock_allocator *allocator, const struct balance *b,
                                   struct mb_placement_table *out, moeblock_error *error)
{
    struct mb_placement_table runs;
    double *loads = mb_alloc(allocator, 2 * (size_t)b->ranks * sizeof *loads);
    if (!loads) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "balancing experts: no memory");
    const moeblock_status status = mb_placement_contiguous(allocator, b->experts, b->ranks, &runs, error);
    if (status == MOEBLOCK_OK) {
        double most[2] = {0, 0};
        mb_placement_loads(out, b->load, loads);
        mb_placement_loads(&runs, b->load, loads + b->ranks);
        for (int i = 0; i < 2 * b->ranks; i++)
            if (loads[i] > most[i / b->ranks]) most[i / b->ranks] = loads[i];
        struct mb_placement_table worse = most[0] < most[1] ? runs : *out;
        if (most[0] >= most[1]) *out = runs;
        mb_placement_free(&worse);
    }
    mb_free(allocator, loads);
    return status;
}

moeblock_status mb_placement_balanced(const moeblock_allocator *allocator, const int64_t *load, int64_t experts,
                                      int ranks, int64_t copies, struct mb_placement_table *out, moeblock_error *error)
{
    struct balance b = {.load = load,
                        .experts = experts,
                        .ranks = ranks,
                        .most = mb_min(experts, mb_ceil_div(experts, ranks) + mb_max(copies, 0)),
                        .copies = mb_alloc(allocator, (size_t)experts * sizeof *b.copies),
                        .order = mb_alloc(allocator, (size_t)experts * sizeof *b.order),
                        .held = mb_alloc_zero(allocator, (size_t)(experts * ranks)),
                        .rank = mb_alloc_zero(allocator, (size_t)ranks * sizeof *b.rank)};
    moeblock_status status = MOEBLOCK_OK;
    *out = (struct mb_placement_table){.allocator = *allocator};
    if (!b.copies || !b.order || !b.held || !b.rank) {
        status = mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "balancing %" PRId64 " experts: no memory", experts);
    } else {
        spread_copies(&b);
        sort_by_weight(&b);
        status = as_table(&b, allocator, place(&b), out, error);
        if (status == MOEBLOCK_OK) status = keep_better(allocator, &b, out, error);
        if (status != MOEBLOCK_OK) mb_placement_free(out);
    }
    mb_free(allocator, b.copies);
    mb_free(allocator, b.order);
    mb_free(allocator, b.held);
    mb_free(allocator, b.rank);
    return status;
}
