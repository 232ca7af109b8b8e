// SPDX-License-Identifier: Apache-2.0
// The load of experts as text: a character an expert, and a histogram of multiples of the mean.
#include "cli/load_chart.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/arith.h"

void cli_print_load(const int64_t *load, int64_t experts)
{
    static const char shades[] = " .:-=+*#%@";
    enum { COLUMNS = 64, STEPS = sizeof shades - 2 };
    int64_t busiest = 0, busy = 0;
    for (int64_t e = 0; e < experts; e++) {
        if (load[e] > load[busiest]) busiest = e;
        busy += load[e] > 0;
    }
    const int64_t most = load[busiest];
    printf("expert load: %" PRId64 " of %" PRId64 " experts have rows, expert %" PRId64 " the most (%" PRId64 ")\n",
           busy, experts, busiest, most);
    for (int64_t e = 0; e < experts; e++) {
        if (e % COLUMNS == 0) printf("%6" PRId64 " |", e);
        putchar(load[e] ? shades[1 + (load[e] * (STEPS - 1)) / most] : ' ');
        if (e % COLUMNS == COLUMNS - 1 || e == experts - 1) printf("|\n");
    }
}

// Quarters of the mean up to twice the mean, then whole multiples, the last for all beyond.
void cli_print_load_histogram(const int64_t *load, int64_t experts)
{
    static const double edges[] = {0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 3, 4, 6, 8, 12, 16};
    enum { BINS = sizeof edges / sizeof *edges, WIDTH = 50 };
    int64_t count[BINS] = {0}, total = 0, most = 1;
    for (int64_t e = 0; e < experts; e++) total += load[e];
    const double mean = (double)total / (double)experts;
    for (int64_t e = 0; e < experts; e++) {
        int bin = BINS - 1;
        while (bin > 0 && (double)load[e] < edges[bin] * mean) bin--;
        count[bin]++;
    }
    int last = BINS - 1;
    while (last > 0 && !count[last]) last--;
    for (int bin = 0; bin <= last; bin++) most = mb_max(most, count[bin]);
    printf("experts by load, in multiples of the mean (%.1f):\n", mean);
    for (int bin = 0; bin <= last; bin++) {
        char upper[16] = "";
        if (bin + 1 < BINS) snprintf(upper, sizeof upper, "%.2f", edges[bin + 1]);
        printf("%7.2f - %-6s %6" PRId64 " |", edges[bin], upper, count[bin]);
        for (int64_t i = 0; i < mb_ceil_div(count[bin] * WIDTH, most); i++) putchar('#');
        printf("\n");
    }
}
