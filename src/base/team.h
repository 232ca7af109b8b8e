// SPDX-License-Identifier: Apache-2.0
// A persistent team of threads: spin briefly, then sleep. Indices are claimed one by one from a shared counter, so
// who computes what varies; results must not depend on it.
#ifndef MB_BASE_TEAM_H
#define MB_BASE_TEAM_H

#include "base/memory.h"
#include "moeblock/context.h"

struct mb_team;

// A team of up to `threads` threads, the caller of mb_team_run being one of them. Threads start on first use and
// again after fork; fewer are used when creation fails (see mb_team_threads). NULL when memory is short.
struct mb_team *mb_team_create(const moeblock_allocator *allocator, int threads);
void mb_team_destroy(struct mb_team *team);
void mb_team_run(struct mb_team *team, int64_t count, moeblock_task task, void *argument);
int mb_team_threads(const struct mb_team *team);

// CPUs in the calling thread's affinity mask, at least 1.
int mb_cpus_allowed(void);

#endif
