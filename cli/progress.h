// SPDX-License-Identifier: Apache-2.0
// A progress line on stderr: only on a terminal, only for work longer than a second, at most ten times a second.
#ifndef MB_CLI_PROGRESS_H
#define MB_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct cli_progress {
    const char *label;
    double started, drawn; // seconds
    bool wanted, visible, colour;
};

// Seconds of a clock that never goes back.
double cli_seconds(void);

// `quiet`: draw nothing (--quiet or --json).
void cli_progress_begin(struct cli_progress *progress, const char *label, bool quiet);
void cli_progress_update(struct cli_progress *progress, uint64_t done, uint64_t total);
// Removes the line.
void cli_progress_end(struct cli_progress *progress);

#endif
