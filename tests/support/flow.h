// SPDX-License-Identifier: Apache-2.0
// The original's flow and ours on one small DeepSeek-V3 layer: every way to run the block on a mesh, device by device,
// with what each device must give and the calls that it must make. Ranks may be threads or processes.
#ifndef TESTS_SUPPORT_FLOW_H
#define TESTS_SUPPORT_FLOW_H

#include "support/mesh_double.h"
#include "support/small_layer.h"

enum { FLOW_DEVICES_MAX = 32 };

// One way to run the layer, and what came out of it on each device.
struct flow {
    const struct small_layer *weights;
    const char *hf_config;
    int rows, columns;
    bool sharded, shared, parallel, adapter;
    moeblock_mode mode;
    int tokens[FLOW_DEVICES_MAX]; // of each row
    int width;                    // of x and y on a device
    struct flow_device {
        float *x, *y;
        int32_t *ids;
        float *weights; // of the chosen experts
        moeblock_error error;
    } device[FLOW_DEVICES_MAX];
};

// The config.json of a layer of this shape. Freed by the caller.
char *flow_config(const struct small_shape *shape);

// Calls `run` with every flow of the shape on rows x columns devices, `tokens` tokens in all.
typedef void (*flow_runner)(void *user, struct flow *flow);
void flow_run_all(const struct small_shape *shape, int rows, int columns, int tokens, flow_runner run, void *user);

// The part of a flow of the device that `mesh` makes this rank.
void flow_run_device(struct flow *flow, moeblock_mesh *mesh);

// Fails the test unless the device has the original's result and gate, and made the calls that its steps ask for.
void flow_check_device(const struct flow *flow, int device, const struct mesh_call *calls, int count);

#endif
