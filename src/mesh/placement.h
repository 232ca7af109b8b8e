// SPDX-License-Identifier: Apache-2.0
// Which ranks of the expert-parallel axis hold each routed expert: contiguous runs, a table from a file, or a balance
// of measured loads with copies of hot experts. Copies are the same weights, so where an expert is computed never
// changes bits.
#ifndef MB_MESH_PLACEMENT_H
#define MB_MESH_PLACEMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/memory.h"
#include "moeblock/status.h"

// Ranks that hold expert e: holder[begin[e]] .. holder[begin[e + 1] - 1], ascending, at least one.
struct mb_placement_table {
    moeblock_allocator allocator;
    int64_t experts;
    int ranks;
    int64_t *begin;  // [experts + 1]
    int32_t *holder; // [begin[experts]]
};

// Runs of experts whose lengths differ by at most one. Any number of experts and ranks: a rank may hold none.
moeblock_status mb_placement_contiguous(const moeblock_allocator *allocator, int64_t experts, int ranks,
                                        struct mb_placement_table *out, moeblock_error *error);

// What `mesh.placement` means: "contiguous", or the file of a table made for as many experts and ranks.
moeblock_status mb_placement_named(const moeblock_allocator *allocator, const char *name, int64_t experts, int ranks,
                                   struct mb_placement_table *out, moeblock_error *error);

// Greedy: up to `copies` experts a rank beyond the even share hold copies of the experts with the most load per copy;
// then the heaviest copy is placed first, each on the least loaded rank with room. Ties go to the lower id and rank.
// Never worse than contiguous runs for the most loaded rank, and never with more copies than it takes.
moeblock_status mb_placement_balanced(const moeblock_allocator *allocator, const int64_t *load, int64_t experts,
                                      int ranks, int64_t copies, struct mb_placement_table *out, moeblock_error *error);

// An empty table with room for `holders` entries, to be filled.
moeblock_status mb_placement_allocate(const moeblock_allocator *allocator, int64_t experts, int ranks, int64_t holders,
                                      struct mb_placement_table *out, moeblock_error *error);
void mb_placement_free(struct mb_placement_table *placement);

// The rank that computes `expert` for tokens whose home is rank `home`: home itself where it holds the expert, else
// one of the copies, spread over the homes. Every rank comes to the same answer.
static inline int mb_placement_rank(const struct mb_placement_table *placement, int64_t expert, int home)
{
    const int32_t *holder = placement->holder + placement->begin[expert];
    const int64_t n = placement->begin[expert + 1] - placement->begin[expert];
    if (n == 1) return holder[0];
    for (int64_t i = 0; i < n; i++)
        if (holder[i] == home) return home;
    return holder[(home + expert) % n];
}

bool mb_placement_holds(const struct mb_placement_table *placement, int64_t expert, int rank);
// Experts that a rank holds.
int64_t mb_placement_count(const struct mb_placement_table *placement, int rank);

// (token, expert) pairs that each rank computes, out[ranks], when every rank is home to an equal part of `load`.
void mb_placement_loads(const struct mb_placement_table *placement, const int64_t *load, double *out);

// The table as text of the file that mb_placement_named reads: mb_alloc memory of placement->allocator, NULL when
// short.
char *mb_placement_text(const struct mb_placement_table *placement);

#endif
