// SPDX-License-Identifier: Apache-2.0
// `moeblock plan`: what a mesh would take, predicted without one.
#ifndef MB_CLI_PLAN_H
#define MB_CLI_PLAN_H

#include "cli/mesh_shape.h"
#include "cli/session.h"
#include "sizes.h"
#include "traffic.h"

// What takes time, in the order of the flow. Dispatch runs beside the rows that a rank has already.
enum plan_part {
    PLAN_INPUT,
    PLAN_ROUTER,
    PLAN_DISPATCH,
    PLAN_OWN,
    PLAN_FAR,
    PLAN_ACTIVATIONS,
    PLAN_COMBINE,
    PLAN_SUMS,
    PLAN_WHOLE_ROWS,
    PLAN_OUTPUT,
    PLAN_PARTS
};

// Of one rank: messages started, bytes in each direction, operations, bytes read from memory.
struct plan_rates {
    double alpha, beta, gflops, dram; // seconds, bytes a second, 1e9 operations a second, bytes a second
};

struct plan_bytes {
    double sent_mean, sent_worst, received_worst;
};

struct plan_mesh {
    struct cli_mesh shape;
    int ep, tp;
    bool sharded;
    int64_t experts_most, experts_least; // a rank
    size_t weights, workspace;           // of the rank with the most, one layer
    int64_t tokens;                      // of the row with the most
    int64_t passes;
    double rows_mean, rows_worst;                   // (token, expert) pairs that a rank computes
    struct plan_bytes step[MOEBLOCK_TRAFFIC_STEPS]; // of each step, and
    struct plan_bytes axis[2];            // summed over the steps of an axis: expert parallel, tensor parallel
    double dispatch_sent, dispatch_bound; // of all ranks together
    double seconds[PLAN_PARTS], total;
    enum plan_part dominant;
    bool fits; // into --memory
    enum mb_algorithm algorithm;
    struct mb_travel travel; // how rows travel in a pass, and why so
    char explain[400];
    struct mb_columns columns; // what they exchange, and why
};

struct plan {
    const struct cli_args *args;
    struct cli_session session;
    moeblock_config_shape shape;
    enum mb_format format;
    moeblock_compute compute;
    size_t input_bytes; // of an element of x and y
    int64_t layers;     // of the model that have a block; 0: not known
    struct plan_rates rates;
    struct mb_choices choices;
    int32_t *ids; // owned
    int count;
    struct plan_mesh mesh[CLI_MESHES_MAX];
    int fastest; // of those that fit; -1: none
};

// plan_routing.c: fills plan->choices from --routing. Exit codes, as below.
int plan_read_routing(struct plan *plan);
// plan_cost.c
int plan_predict(struct plan *plan, struct plan_mesh *mesh);
// plan_report.c
void plan_report(const struct plan *plan);
extern const char *const plan_part_names[PLAN_PARTS];

#endif
