// SPDX-License-Identifier: Apache-2.0
// The load of experts as text.
#ifndef MB_CLI_LOAD_CHART_H
#define MB_CLI_LOAD_CHART_H

#include <stdint.h>

// One character an expert, 64 a line, from ' ' (no row) to '@' (as many as the busiest).
void cli_print_load(const int64_t *load, int64_t experts);
// How many experts have which multiple of the mean.
void cli_print_load_histogram(const int64_t *load, int64_t experts);

#endif
