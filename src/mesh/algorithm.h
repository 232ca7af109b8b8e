// SPDX-License-Identifier: Apache-2.0
// How rows may travel over the expert-parallel axis, what each way costs, and which one `auto` takes. Bits never depend
// on it.
#ifndef MB_MESH_ALGORITHM_H
#define MB_MESH_ALGORITHM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"

enum { MB_ALGORITHMS = MB_ALGORITHM_AUTO };

// One pass of the flow. Times are alpha seconds a message and beta bytes a second each way, of one rank.
struct mb_travel {
    int ranks;          // of the axis
    int64_t tokens;     // of a rank, the most of any
    int64_t experts, k; // k chosen a token
    size_t row, output; // bytes of a row on its way there, of one output on its way back
    bool sums;          // experts' ranks return one row a token (MB_REPRODUCIBLE_BATCH)
    bool same_tokens;   // all ranks hold the same: nothing is dispatched
    double alpha, beta;
};

// Of dispatch and combine together, a rank's mean with uniform routing, headers included.
struct mb_travel_cost {
    double messages, bytes, seconds;
};

extern const char *const mb_algorithm_names[MB_ALGORITHMS + 1];

// Rows that a rank's token sends to other ranks, and that these send back where they sum: the mean.
double mb_travel_rows(const struct mb_travel *travel);
void mb_travel_costs(const struct mb_travel *travel, struct mb_travel_cost out[MB_ALGORITHMS]);
// What `asked` stands for. AUTO is the quickest; allgather never is, since it sends as many messages as alltoall.
enum mb_algorithm mb_travel_choose(enum mb_algorithm asked, const struct mb_travel *travel);
// A sentence with the way taken, its bytes and time beside the others', and why.
void mb_travel_explain(enum mb_algorithm asked, const struct mb_travel *travel, char *to, size_t capacity);

// Ranks of one machine exchange through its memory.
void mb_travel_rates(bool one_machine, struct mb_travel *out);

#endif
