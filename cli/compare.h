// SPDX-License-Identifier: Apache-2.0
// How far an output is from a reference.
#ifndef MB_CLI_COMPARE_H
#define MB_CLI_COMPARE_H

#include <stdint.h>

#include "weights/npy.h"

struct cli_comparison {
    double relative_rms; // rms(y - ref) / rms(ref); NaN when a difference is NaN
    double largest_error;
    int64_t largest_at; // element
    double correlation; // Pearson's, NaN when one side is constant
};

struct cli_comparison cli_compare(const float *y, const struct mb_npy *reference);

#endif
