// SPDX-License-Identifier: Apache-2.0
// One run of `moeblock route`: the choices of the router, and what they mean for the ranks of a mesh.
#ifndef MB_CLI_ROUTE_H
#define MB_CLI_ROUTE_H

#include "cli/mesh_shape.h"
#include "cli/run.h"
#include "mesh/placement.h"

// A placement and the rows that its ranks would compute.
struct cli_placed {
    struct mb_placement_table table;
    double *load; // [ranks]
    double worst, mean;
    int worst_rank;
};

struct cli_route {
    struct cli_run run;
    bool has_mesh;
    struct cli_mesh mesh;
    int ranks; // of the expert-parallel axis
    int64_t copies;
    size_t expert_bytes;             // of one routed expert on one rank, packed; 0: not known
    struct cli_placed now, balanced; // as the configuration places experts, and the better one
};

// route_report.c: text or JSON on stdout; the load file; the drawing. Exit codes.
void cli_route_report(const struct cli_route *route);
int cli_route_write_load(const struct cli_route *route, const char *path);
int cli_route_plot(const struct cli_route *route, const char *path);

#endif
