// SPDX-License-Identifier: Apache-2.0
// The three numbers of --compare, in double; a NaN on either side shows in all of them.
#include "cli/compare.h"

#include <math.h>

static double mean_of(const float *y, const struct mb_npy *reference)
{
    double sum = 0;
    for (int64_t i = 0; i < reference->count; i++) sum += y ? (double)y[i] : mb_npy_value(reference, i);
    return reference->count ? sum / (double)reference->count : 0;
}

struct cli_comparison cli_compare(const float *y, const struct mb_npy *reference)
{
    const double y_mean = mean_of(y, reference), r_mean = mean_of(NULL, reference);
    double errors = 0, squares = 0, yy = 0, rr = 0, yr = 0;
    struct cli_comparison result = {0};
    for (int64_t i = 0; i < reference->count; i++) {
        const double r = mb_npy_value(reference, i), error = (double)y[i] - r;
        errors += error * error;
        squares += r * r;
        yy += ((double)y[i] - y_mean) * ((double)y[i] - y_mean);
        rr += (r - r_mean) * (r - r_mean);
        yr += ((double)y[i] - y_mean) * (r - r_mean);
        if (isnan(result.largest_error) || fabs(error) <= result.largest_error) continue;
        result.largest_error = fabs(error);
        result.largest_at = i;
    }
    result.relative_rms = errors == 0 ? 0 : sqrt(errors / squares);
    result.correlation = yr / sqrt(yy * rr);
    return result;
}
