// SPDX-License-Identifier: Apache-2.0
// A placement from measured loads: copies go to the experts with the most load per copy, then the heaviest copy first
// to the least loaded rank with room.
#include <inttypes.h>
#include <string.h>

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

static double worst_load(const struct mb_placement_table *table, const int64_t *load, double *loads)
{
    double most = 0;
    mb_placement_loads(table, load, loads);
    for (int r = 0; r < table->ranks; r++) most = loads[r] > most ? loads[r] : most;
    return most;
}

// One table with `most` experts a rank. It takes the place of *out when its worst rank has less to do.
static moeblock_status try_table(struct balance *b, const moeblock_allocator *allocator, int64_t most, double *loads,
                                 struct mb_placement_table *out, moeblock_error *error)
{
    struct mb_placement_table made;
    b->most = most;
    memset(b->held, 0, (size_t)(b->experts * b->ranks));
    memset(b->rank, 0, (size_t)b->ranks * sizeof *b->rank);
    spread_copies(b);
    sort_by_weight(b);
    MB_TRY(as_table(b, allocator, place(b), &made, error));
    const bool better = worst_load(&made, b->load, loads) < worst_load(out, b->load, loads);
    struct mb_placement_table worse = better ? *out : made;
    if (better) *out = made;
    mb_placement_free(&worse);
    return MOEBLOCK_OK;
}

// Greedy is not always better with more room: every small number of copies is tried, and the largest.
static moeblock_status try_all(struct balance *b, const moeblock_allocator *allocator, int64_t copies, double *loads,
                               struct mb_placement_table *out, moeblock_error *error)
{
    enum { TRIED = 8 };
    const int64_t even = mb_ceil_div(b->experts, b->ranks), most = mb_min(mb_max(copies, 0), b->experts - even);
    moeblock_status status = mb_placement_contiguous(allocator, b->experts, b->ranks, out, error);
    for (int64_t c = 0; status == MOEBLOCK_OK && c <= most; c = c < TRIED || c == most ? c + 1 : most)
        status = try_table(b, allocator, even + c, loads, out, error);
    return status;
}

moeblock_status mb_placement_balanced(const moeblock_allocator *allocator, const int64_t *load, int64_t experts,
                                      int ranks, int64_t copies, struct mb_placement_table *out, moeblock_error *error)
{
    struct balance b = {.load = load,
                        .experts = experts,
                        .ranks = ranks,
                        .copies = mb_alloc(allocator, (size_t)experts * sizeof *b.copies),
                        .order = mb_alloc(allocator, (size_t)experts * sizeof *b.order),
                        .held = mb_alloc(allocator, (size_t)(experts * ranks)),
                        .rank = mb_alloc(allocator, (size_t)ranks * sizeof *b.rank)};
    double *loads = mb_alloc(allocator, (size_t)ranks * sizeof *loads);
    moeblock_status status = MOEBLOCK_OK;
    *out = (struct mb_placement_table){.allocator = *allocator};
    if (!b.copies || !b.order || !b.held || !b.rank || !loads)
        status = mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "balancing %" PRId64 " experts: no memory", experts);
    else
        status = try_all(&b, allocator, copies, loads, out, error);
    if (status != MOEBLOCK_OK) mb_placement_free(out);
    void *const used[] = {b.copies, b.order, b.held, b.rank, loads};
    for (size_t i = 0; i < sizeof used / sizeof *used; i++) mb_free(allocator, used[i]);
    return status;
}
