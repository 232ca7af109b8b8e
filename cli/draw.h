// SPDX-License-Identifier: Apache-2.0
// Made-up choices of experts, the same for the same state.
#ifndef MB_CLI_DRAW_H
#define MB_CLI_DRAW_H

#include <stdint.h>

// A number in (0, 1).
double cli_draw_uniform(uint64_t *state);
// k distinct experts, one after the other without replacement, each in proportion to its weight. `keys` has room for
// `experts` numbers.
void cli_draw_experts(const double *weight, int64_t experts, int64_t k, uint64_t *state, double *keys, int32_t *ids);

#endif
