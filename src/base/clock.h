// SPDX-License-Identifier: Apache-2.0
// Monotonic time.
#ifndef MB_BASE_CLOCK_H
#define MB_BASE_CLOCK_H

#include <time.h>

static inline double mb_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif
