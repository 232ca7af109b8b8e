// SPDX-License-Identifier: Apache-2.0
// The cost of each way: messages times alpha plus bytes over beta. With E experts in runs of m = E / R a token's k
// distinct experts hit a given rank with p = 1 - C(E - m, k) / C(E, k).
#include "mesh/algorithm.h"

#include <stdio.h>

#include "mesh/relay.h"

const char *const mb_algorithm_names[MB_ALGORITHMS + 1] = {"alltoall", "allgather", "twolevel", "auto"};

enum { HEADER = sizeof(struct mb_header), COUNT = 4, PAIR = 8, ENTRY = 16 };

static double hit_chance(const struct mb_travel *t)
{
    const double all = (double)t->experts, here = all / t->ranks;
    double missed = 1;
    for (int64_t i = 0; i < t->k && missed > 0; i++) {
        const double left = all - here - (double)i;
        missed *= left > 0 ? left / (all - (double)i) : 0;
    }
    return 1 - missed;
}

double mb_travel_rows(const struct mb_travel *travel) { return (travel->ranks - 1) * hit_chance(travel); }

void mb_travel_costs(const struct mb_travel *t, struct mb_travel_cost out[MB_ALGORITHMS])
{
    const double tokens = (double)t->tokens, others = t->ranks - 1, k = (double)t->k;
    const double rows = tokens * others * hit_chance(t), pairs = tokens * k * others / t->ranks;
    const double there = t->same_tokens ? 0 : rows * ((double)t->row + COUNT) + pairs * PAIR;
    const double all = t->same_tokens ? 0 : tokens * others * ((double)t->row + COUNT + PAIR * k);
    const double one = t->sums ? tokens * hit_chance(t) : tokens * k / t->ranks;
    // Where all hold the same tokens each rank tells all others its own outputs.
    const double back = (double)t->output * (t->same_tokens ? one * others : t->sums ? rows : pairs);
    const int group = mb_relay_group(t->ranks), groups = t->ranks / group;
    const double hops = group > 1 && others > 0 ? (2.0 * t->ranks - group - groups) / others : 1;
    const double messages = group > 1 ? 2.0 * (group + groups - 2) : 2 * others;
    const double tables = group > 1 ? 2.0 * ENTRY * ((double)groups * (group - 1) + (double)group * (groups - 1)) : 0;
    out[MB_ALLTOALL] = (struct mb_travel_cost){2 * others, there + back + 2 * others * HEADER, 0};
    out[MB_ALLGATHER] = (struct mb_travel_cost){2 * others, all + back + 2 * others * HEADER, 0};
    out[MB_TWOLEVEL] = (struct mb_travel_cost){messages, hops * (there + back) + tables + messages * HEADER, 0};
    for (int i = 0; i < MB_ALGORITHMS; i++) out[i].seconds = out[i].messages * t->alpha + out[i].bytes / t->beta;
}

enum mb_algorithm mb_travel_choose(enum mb_algorithm asked, const struct mb_travel *travel)
{
    struct mb_travel_cost cost[MB_ALGORITHMS];
    if (asked == MB_TWOLEVEL && mb_relay_group(travel->ranks) == 1) return MB_ALLTOALL;
    if (asked != MB_ALGORITHM_AUTO) return asked;
    mb_travel_costs(travel, cost);
    enum mb_algorithm best = MB_ALLTOALL;
    for (int i = 0; i < MB_ALGORITHMS; i++)
        if (cost[i].seconds < cost[best].seconds) best = (enum mb_algorithm)i;
    return best;
}

void mb_travel_explain(enum mb_algorithm asked, const struct mb_travel *travel, char *to, size_t capacity)
{
    const enum mb_algorithm taken = mb_travel_choose(asked, travel);
    struct mb_travel_cost cost[MB_ALGORITHMS];
    mb_travel_costs(travel, cost);
    const char *why = asked == MB_ALGORITHM_AUTO ? "the quickest of the three"
                      : asked != taken           ? "for a prime number of ranks there are no two levels"
                                                 : "as asked";
    const int used = snprintf(
        to, capacity, "%s (%s): %.4g KB and %.0f messages a rank on the expert axis, %.4g us predicted",
        mb_algorithm_names[taken], why, cost[taken].bytes / 1e3, cost[taken].messages, 1e6 * cost[taken].seconds);
    size_t at = used > 0 ? (size_t)used : 0;
    for (int i = 0; i < MB_ALGORITHMS && at < capacity; i++) {
        if (i == (int)taken) continue;
        const int more = snprintf(to + at, capacity - at, "; %s %.4g KB, %.0f, %.4g us", mb_algorithm_names[i],
                                  cost[i].bytes / 1e3, cost[i].messages, 1e6 * cost[i].seconds);
        at += more > 0 ? (size_t)more : 0;
    }
}

void mb_travel_rates(bool one_machine, struct mb_travel *out)
{
    out->alpha = one_machine ? 1e-6 : 2e-6;
    out->beta = one_machine ? 10e9 : 25e9;
}
