// SPDX-License-Identifier: Apache-2.0
// What the processes of a mesh sent each other in a forward, and how long they waited.
#ifndef MB_CLI_MESH_REPORT_H
#define MB_CLI_MESH_REPORT_H

#include "cli/out.h"
#include "cli/session.h"

struct cli_mesh_counts {
    size_t bytes; // of one process's counts
    char *all;    // [processes] on the one that speaks; NULL: one process
    char explain[400];
    enum mb_algorithm algorithm;
};

extern const char *const cli_traffic_keys[MOEBLOCK_TRAFFIC_STEPS]; // of each step, in JSON

// Collects the counts of all processes since the mesh was made or they were reset. Called by all.
int cli_mesh_collect(const struct cli_session *session, int64_t tokens, struct cli_mesh_counts *out);
void cli_mesh_free(struct cli_mesh_counts *counts);

// Nothing for one process; NULL then.
void cli_mesh_print(const struct cli_session *session, const struct cli_mesh_counts *counts);
json_t *cli_mesh_json(const struct cli_session *session, const struct cli_mesh_counts *counts);

#endif
