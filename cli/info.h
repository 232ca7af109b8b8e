// SPDX-License-Identifier: Apache-2.0
// What `moeblock info --measure` finds.
#ifndef MB_CLI_INFO_H
#define MB_CLI_INFO_H

#include <stdbool.h>

#include "cli/limits.h"
#include "cli/out.h"
#include "kernels/kernels.h"

enum { CLI_INFO_LEVELS = 16, CLI_INFO_PEAKS = 16 };

struct cli_level_rate {
    const struct mb_kernels *kernels;
    double bf16, f32; // operations a second in these compute types; 0: the machine cannot run the level
};

struct cli_info_rates {
    int threads, count;
    struct cli_level_rate levels[CLI_INFO_LEVELS];
    const struct cli_level_rate *fastest, *chosen; // in bf16 compute; by the rule
    bool right;
    double peaks[CLI_INFO_PEAKS]; // by row of cli_peaks; 0: the machine lacks it
    struct cli_limits limits;
};

// Takes a second or two. The rates point into *out: it is not to be copied.
void cli_info_measure(int threads, struct cli_info_rates *out);
void cli_info_print_rates(const struct cli_info_rates *rates);
json_t *cli_info_rates_json(const struct cli_info_rates *rates);

#endif
