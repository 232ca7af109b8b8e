// SPDX-License-Identifier: Apache-2.0
// Both flows on one layer, and the comparison of what they give.
#include "support/flow.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"

char *flow_config(const struct small_shape *shape)
{
    char *text = malloc(1024);
    assert_non_null(text);
    snprintf(text, 1024,
             "{\"model_type\": \"deepseek_v3\", \"hidden_size\": %d, \"moe_intermediate_size\": %d,"
             " \"n_routed_experts\": %d, \"num_experts_per_tok\": %d, \"n_group\": %d, \"topk_group\": %d,"
             " \"n_shared_experts\": %d, \"routed_scaling_factor\": 2.5, \"norm_topk_prob\": true,"
             " \"scoring_func\": \"sigmoid\", \"topk_method\": \"noaux_tc\", \"hidden_act\": \"silu\","
             " \"intermediate_size\": 64, \"num_hidden_layers\": 5, \"first_k_dense_replace\": 3,"
             " \"moe_layer_freq\": 1}",
             shape->hidden, shape->inner, shape->experts, shape->k, shape->groups, shape->groups_kept,
             shape->shared / shape->inner);
    return text;
}

// --- ours ------------------------------------------------------------------------------------------------------------

static moeblock_array device_array(const struct flow *flow, int device, float *data)
{
    const int64_t tokens = flow->tokens[device / flow->columns];
    return (moeblock_array){.dtype = MOEBLOCK_F32, .rank = 4, .dims = {1, 1, tokens, flow->width}, .data = data};
}

// As a user of the original would: adapter = DeepSeekMoEAdapter(hf_config, mesh, ccl); adapter.forward_mlp_prefill(x,
// cfg)
static moeblock_status run_adapter(struct flow *flow, moeblock_mesh *mesh, int device, moeblock_context *own)
{
    moeblock_adapter *adapter = NULL;
    struct flow_device *here = &flow->device[device];
    moeblock_error *why = &here->error;
    moeblock_array x = device_array(flow, device, here->x), y = device_array(flow, device, here->y);
    const moeblock_adapter_options cfg = {.struct_size = sizeof cfg, .ids = here->ids, .weights = here->weights};
    moeblock_status status = moeblock_adapter_create(own, flow->hf_config, -1, mesh, NULL, &adapter, why);
    if (status == MOEBLOCK_OK)
        status = moeblock_adapter_load_weights(adapter, flow->weights->tensors, flow->weights->count, why);
    if (status == MOEBLOCK_OK)
        status = flow->mode == MOEBLOCK_PREFILL ? moeblock_adapter_forward_mlp_prefill(adapter, &x, &cfg, &y, why)
                                                : moeblock_adapter_forward_mlp_decode(adapter, &x, &cfg, &y, why);
    moeblock_adapter_destroy(&adapter);
    return status;
}

// The same by hand, which can also set what a config.json has no word for: parallel_with_moe.
static moeblock_status run_block(struct flow *flow, moeblock_mesh *mesh, int device, moeblock_context *own)
{
    const char *const set[] = {flow->parallel ? "experts.shared.parallel_with_moe=true"
                                              : "experts.shared.parallel_with_moe=false"};
    const moeblock_config_options options = {.struct_size = sizeof options, .layer = -1, .set = set, .n_set = 1};
    moeblock_config *config = NULL;
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    struct flow_device *here = &flow->device[device];
    moeblock_error *why = &here->error;
    const moeblock_forward_input in = {
        .struct_size = sizeof in, .mode = flow->mode, .x = device_array(flow, device, here->x)};
    const moeblock_forward_output out = {.struct_size = sizeof out,
                                         .y = device_array(flow, device, here->y),
                                         .ids = here->ids,
                                         .weights = here->weights};
    moeblock_status status =
        moeblock_config_parse(own, flow->hf_config, strlen(flow->hf_config), "config.json", &options, &config, why);
    if (status == MOEBLOCK_OK) status = moeblock_block_create(own, config, mesh, NULL, &block, why);
    if (status == MOEBLOCK_OK)
        status = moeblock_block_load_weights(block, flow->weights->tensors, flow->weights->count, why);
    if (status == MOEBLOCK_OK) // row 0 holds the most tokens
        status = moeblock_workspace_create(block, flow->tokens[0], NULL, 0, &workspace, why);
    if (status == MOEBLOCK_OK) status = moeblock_block_forward(block, workspace, &in, &out, why);
    moeblock_workspace_destroy(&workspace);
    moeblock_block_destroy(&block);
    moeblock_config_destroy(&config);
    return status;
}

void flow_run_device(struct flow *flow, moeblock_mesh *mesh)
{
    const int device = mesh->row * mesh->columns + mesh->column;
    const moeblock_context_options one_thread = {.struct_size = sizeof one_thread, .threads = 1};
    moeblock_error *why = &flow->device[device].error;
    moeblock_context *own = NULL;
    moeblock_status status = moeblock_context_create(&one_thread, &own, why);
    if (status == MOEBLOCK_OK)
        status = flow->adapter ? run_adapter(flow, mesh, device, own) : run_block(flow, mesh, device, own);
    moeblock_context_destroy(&own);
    why->code = status;
}

// --- the original's --------------------------------------------------------------------------------------------------

static struct original_layer layer_of(const struct flow *flow)
{
    struct original_layer layer = flow->weights->math;
    if (!flow->shared) layer.shared = 0;
    return layer;
}

// The six steps on the device's row of the mesh, in double.
static void check_result(const struct flow *flow, int device, const char *name)
{
    const struct original_layer layer = layer_of(flow);
    const struct original_mesh mesh = {flow->rows, flow->columns, flow->tokens};
    const int row = device / flow->columns, n = flow->tokens[row] * flow->width;
    double *x[FLOW_DEVICES_MAX], *y[FLOW_DEVICES_MAX];
    for (int c = 0; c < flow->columns; c++) {
        const int d = row * flow->columns + c;
        x[d] = calloc((size_t)n, sizeof *x[d]);
        y[d] = calloc((size_t)n, sizeof *y[d]);
        for (int i = 0; i < n; i++) x[d][i] = (double)flow->device[d].x[i];
    }
    original_forward_row(&layer, &mesh, row, flow->width, (const double *const *)x, y);
    const double off = small_error(flow->device[device].y, y[device], n);
    if (!(off <= 1e-5)) fail_msg("%s: device %d is off by %.2e relative rms, allowed 1e-5", name, device, off);
    for (int c = 0; c < flow->columns; c++) {
        free(x[row * flow->columns + c]);
        free(y[row * flow->columns + c]);
    }
}

// What the gate sees of token t of a mesh row, gathered, and what it decides.
static void original_choice(const struct flow *flow, int row, int t, int *ids, double *weights)
{
    const struct original_layer layer = layer_of(flow);
    double x[SMALL_HIDDEN_MAX];
    for (int column = 0; column < (flow->sharded ? flow->columns : 1); column++)
        for (int i = 0; i < flow->width; i++)
            x[column * flow->width + i] = (double)flow->device[row * flow->columns + column].x[t * flow->width + i];
    original_gate(&layer, x, ids, weights);
}

// The block's ids and weights are the gate's; slots stand in descending weight.
static void check_gate(const struct flow *flow, int device, const char *name)
{
    const struct flow_device *here = &flow->device[device];
    const int row = device / flow->columns, k = flow->weights->math.k;
    for (int t = 0; t < flow->tokens[row]; t++) {
        double weights[SMALL_K_MAX];
        int ids[SMALL_K_MAX];
        original_choice(flow, row, t, ids, weights);
        for (int j = 0; j < k; j++) {
            int at = 0;
            while (at < k && here->ids[t * k + at] != ids[j]) at++;
            if (at == k) fail_msg("%s: device %d token %d lacks expert %d", name, device, t, ids[j]);
            if (!(fabs((double)here->weights[t * k + at] - weights[j]) <= 1e-5 * weights[j]))
                fail_msg("%s: device %d token %d has another weight for expert %d", name, device, t, ids[j]);
        }
    }
}

// --- the calls -------------------------------------------------------------------------------------------------------

// What the gate decides for each row of the mesh: how many rows and (row, expert) pairs it sends to others (a row once
// to each owner of some of its experts), and how many pairs of its own and of others it computes. Rows own consecutive
// runs of experts.
struct traffic {
    int sent[FLOW_DEVICES_MAX], sent_pairs[FLOW_DEVICES_MAX], own[FLOW_DEVICES_MAX], others[FLOW_DEVICES_MAX];
};

static void count_traffic(const struct flow *flow, struct traffic *out)
{
    const struct original_layer *math = &flow->weights->math;
    const int per_row = math->experts / flow->rows;
    memset(out, 0, sizeof *out);
    for (int row = 0; row < flow->rows; row++) {
        for (int t = 0; t < flow->tokens[row]; t++) {
            double weights[SMALL_K_MAX];
            int ids[SMALL_K_MAX];
            bool goes[FLOW_DEVICES_MAX] = {false};
            original_choice(flow, row, t, ids, weights);
            for (int j = 0; j < math->k; j++) {
                const int owner = ids[j] / per_row;
                out->own[row] += owner == row;
                if (owner == row) continue;
                out->sent[row] += !goes[owner];
                out->sent_pairs[row]++;
                out->others[owner]++;
                goes[owner] = true;
            }
        }
    }
}

// The calls of a device in order, with the bytes it gives, written down from the steps. What is not the original's: its
// columns summed outputs (step 6); here they exchange activations, so that every output has one owner and one order.
static int expected_calls(const struct flow *flow, const struct traffic *traffic, int row, struct mesh_call *to)
{
    const struct original_layer *math = &flow->weights->math;
    const size_t value = sizeof(float), columns = (size_t)flow->columns, tokens = (size_t)flow->tokens[row];
    const size_t whole = (size_t)math->hidden * value;
    const size_t own_hidden = whole / columns, own_inner = (size_t)math->inner / columns * value;
    const size_t own = (size_t)traffic->own[row], others = (size_t)traffic->others[row];
    const size_t parcels = (size_t)traffic->sent[row] * (whole + 4) + (size_t)traffic->sent_pairs[row] * 8;
    const size_t shared = tokens * ((size_t)math->shared / columns) * value;
    const bool gathers = flow->columns > 1, travels = flow->rows > 1;
    int n = 0;
    if (gathers || travels) {
        to[n++] = (struct mesh_call){"agree", -1, 0}; // that the same block was made everywhere
        to[n++] = (struct mesh_call){"agree", -1, 3}; // what all machines can do
        to[n++] = (struct mesh_call){"agree", -1, 0}; // that the same weights were loaded
    }
    if (flow->adapter) to[n++] = (struct mesh_call){"agree", -1, 1}; // how long workspaces are
    to[n++] = (struct mesh_call){"agree", -1, 4};                    // how long chunks are, and how many
    // 2. all-gather of a sharded x
    if (flow->sharded) to[n++] = (struct mesh_call){"all_gather", 1, tokens * own_hidden};
    // 3. MoE: rows with ids and weights leave; activations of own rows, then of those that came; the outputs' way home
    if (travels) to[n++] = (struct mesh_call){"all_to_all", 0, parcels};
    if (gathers) to[n++] = (struct mesh_call){"all_gather", 1, own * own_inner};
    // 4. SharedExpert, beside the routed experts on own rows or after all of them
    if (gathers && flow->shared && flow->parallel) to[n++] = (struct mesh_call){"all_gather", 1, shared};
    if (gathers && travels) to[n++] = (struct mesh_call){"all_gather", 1, others * own_inner};
    if (travels) to[n++] = (struct mesh_call){"all_to_all", 0, others * own_hidden};
    if (gathers && flow->shared && !flow->parallel) to[n++] = (struct mesh_call){"all_gather", 1, shared};
    // 5. add: local. 6. reduce-scatter of what was gathered, else y becomes whole everywhere
    if (gathers) to[n++] = (struct mesh_call){flow->sharded ? "reduce_scatter" : "all_gather", 1, tokens * own_hidden};
    to[n++] = (struct mesh_call){"agree", -1, 0}; // that all went well
    return n;
}

static void check_calls(const struct flow *flow, int device, const struct mesh_call *calls, int count, const char *name)
{
    struct traffic traffic;
    struct mesh_call expected[16];
    count_traffic(flow, &traffic);
    const int n = expected_calls(flow, &traffic, device / flow->columns, expected);
    for (int i = 0; i < n && i < count; i++)
        if (strcmp(calls[i].name, expected[i].name) || calls[i].axis != expected[i].axis ||
            calls[i].bytes != expected[i].bytes)
            fail_msg("%s: call %d of device %d is %s on axis %d with %zu bytes, expected %s on axis %d with %zu", name,
                     i, device, calls[i].name, calls[i].axis, calls[i].bytes, expected[i].name, expected[i].axis,
                     expected[i].bytes);
    if (count != n) fail_msg("%s: device %d makes %d calls, expected %d", name, device, count, n);
}

void flow_check_device(const struct flow *flow, int device, const struct mesh_call *calls, int count)
{
    const moeblock_error *error = &flow->device[device].error;
    char name[160];
    snprintf(name, sizeof name, "%d x %d, %s x, shared expert %s%s, %s, %s", flow->rows, flow->columns,
             flow->sharded ? "sharded" : "replicated", flow->shared ? "on" : "off",
             flow->parallel ? "" : " after the routed ones", flow->mode == MOEBLOCK_PREFILL ? "prefill" : "decode",
             flow->adapter ? "adapter" : "block");
    if (error->code != MOEBLOCK_OK) fail_msg("%s: device %d: %s", name, device, error->message);
    check_result(flow, device, name);
    check_gate(flow, device, name);
    check_calls(flow, device, calls, count, name);
}

// --- all flows -------------------------------------------------------------------------------------------------------

// Each device gets its columns of its row's tokens. Rows hold different numbers of them.
static void spread_input(struct flow *flow, const float *all, int count)
{
    const int hidden = flow->weights->math.hidden;
    int first = 0;
    flow->width = flow->sharded ? hidden / flow->columns : hidden;
    for (int row = 0; row < flow->rows; row++) {
        const int tokens = count / flow->rows + (flow->rows > 1 ? (row ? -1 : 1) : 0);
        flow->tokens[row] = tokens;
        for (int column = 0; column < flow->columns; column++) {
            struct flow_device *device = &flow->device[row * flow->columns + column];
            const int h0 = flow->sharded ? column * flow->width : 0;
            const size_t values = (size_t)(tokens * flow->width), slots = (size_t)(tokens * flow->weights->math.k);
            device->x = calloc(values, sizeof *device->x);
            device->y = calloc(values, sizeof *device->y);
            device->ids = calloc(slots, sizeof *device->ids);
            device->weights = calloc(slots, sizeof *device->weights);
            for (int t = 0; t < tokens; t++)
                memcpy(device->x + t * flow->width, all + (first + t) * hidden + h0,
                       (size_t)flow->width * sizeof(float));
        }
        first += tokens;
    }
    assert_true(first <= count);
}

static void free_devices(struct flow *flow)
{
    for (int d = 0; d < flow->rows * flow->columns; d++) {
        free(flow->device[d].x);
        free(flow->device[d].y);
        free(flow->device[d].ids);
        free(flow->device[d].weights);
    }
}

void flow_run_all(const struct small_shape *shape, int rows, int columns, int tokens, flow_runner run, void *user)
{
    struct small_layer layer;
    float *x = calloc((size_t)(tokens * shape->hidden), sizeof *x);
    char *whole = flow_config(shape), *bare = small_patched(whole, "{\"n_shared_experts\": 0}");
    struct flow *flow = malloc(sizeof *flow);
    assert_non_null(x);
    assert_non_null(flow);
    assert_true(rows * columns <= FLOW_DEVICES_MAX);
    small_layer_make_as(&layer, shape, 3, 1);
    small_random(x, tokens * shape->hidden, 2);
    for (int variant = 0; variant < 32; variant++) {
        *flow = (struct flow){.weights = &layer,
                              .rows = rows,
                              .columns = columns,
                              .sharded = variant & 1,
                              .shared = variant & 2,
                              .parallel = !(variant & 4),
                              .mode = variant & 8 ? MOEBLOCK_DECODE : MOEBLOCK_PREFILL,
                              .adapter = variant & 16};
        if (flow->sharded && columns == 1) continue;    // H / 1 is H
        if (flow->adapter && !flow->parallel) continue; // a config.json cannot ask for it
        flow->hf_config = flow->shared ? whole : bare;
        spread_input(flow, x, tokens);
        run(user, flow);
        free_devices(flow);
    }
    small_layer_free(&layer);
    free(flow);
    free(whole);
    free(bare);
    free(x);
}
