// SPDX-License-Identifier: Apache-2.0
// Made-up choices of experts.
#include "cli/draw.h"

#include <math.h>

// A generator of its own: splitmix64 (Steele, Lea and Flood, 2014) over a counter.
double cli_draw_uniform(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
}

// The k largest of log(u) / weight (Efraimidis and Spirakis, 2006).
void cli_draw_experts(const double *weight, int64_t experts, int64_t k, uint64_t *state, double *keys, int32_t *ids)
{
    for (int64_t e = 0; e < experts; e++) keys[e] = log(cli_draw_uniform(state)) / weight[e];
    for (int64_t j = 0; j < k; j++) {
        int64_t best = 0;
        for (int64_t e = 1; e < experts; e++)
            if (keys[e] > keys[best]) best = e;
        ids[j] = (int32_t)best;
        keys[best] = -HUGE_VAL;
    }
}
