// SPDX-License-Identifier: Apache-2.0
// Draws "label [####    ] 40 %  1.2 GB of 3.0 GB, 900 MB/s, 2 s left" over itself.
#include "cli/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/out.h"

enum { BAR = 24, LINE = 78 };
static const double appears_after = 1.0, least_interval = 0.1; // seconds

double cli_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void cli_progress_begin(struct cli_progress *progress, const char *label, bool quiet)
{
    const char *const no_colour = getenv("NO_COLOR"), *const terminal = getenv("TERM");
    const bool dumb = !terminal || strcmp(terminal, "dumb") == 0;
    *progress = (struct cli_progress){
        .label = label,
        .started = cli_seconds(),
        .wanted = !quiet && isatty(STDERR_FILENO),
        .colour = !(no_colour && *no_colour) && !dumb,
    };
}

void cli_progress_update(struct cli_progress *progress, uint64_t done, uint64_t total)
{
    const double now = cli_seconds(), passed = now - progress->started;
    if (!progress->wanted || passed < appears_after || now - progress->drawn < least_interval || total == 0) return;
    progress->drawn = now;
    progress->visible = true;
    const double share = (double)done / (double)total, rate = (double)done / passed;
    char bar[BAR + 1], have[32], all[32], speed[32], line[160];
    const int filled = share >= 1 ? BAR : (int)(share * BAR);
    memset(bar, ' ', BAR);
    memset(bar, '#', (size_t)filled);
    bar[BAR] = '\0';
    snprintf(line, sizeof line, "%3.0f %%  %s of %s, %s/s, %.0f s left", 100 * share,
             cli_bytes_text((double)done, have), cli_bytes_text((double)total, all), cli_bytes_text(rate, speed),
             rate > 0 ? (double)(total - done) / rate : 0.0);
    const char *const on = progress->colour ? "\033[32m" : "", *const off = progress->colour ? "\033[0m" : "";
    fprintf(stderr, "\r%s [%s%s%s] %-*s", progress->label, on, bar, off, LINE - BAR - (int)strlen(progress->label),
            line);
    fflush(stderr);
}

void cli_progress_end(struct cli_progress *progress)
{
    if (progress->visible) fprintf(stderr, "\r%*s\r", LINE + 24, "");
    progress->visible = false;
}
