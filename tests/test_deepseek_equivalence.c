// SPDX-License-Identifier: Apache-2.0
// The original's equivalence test, in its four parts and under their names: the DeepSeek adapter understands the whole
// configuration, detects sharding, takes the original's steps with the original's result, and maps every parameter.
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cmocka.h"
#include "config/schema.h"
#include "config/tensors.h"
#include "support/mesh_double.h"
#include "support/original.h"
#include "support/small_layer.h"

#define PUBLISHED "tests/hf/deepseek_v3.json" // the model's own config.json

static moeblock_context *context;
static moeblock_error error;

static int open_context(void **state)
{
    (void)state;
    return moeblock_context_create(NULL, &context, NULL) != MOEBLOCK_OK;
}

static int close_context(void **state)
{
    (void)state;
    moeblock_context_destroy(&context);
    return 0;
}

static moeblock_config *parse(const char *text, const char *const *set, size_t n_set)
{
    const moeblock_config_options options = {.struct_size = sizeof options, .layer = -1, .set = set, .n_set = n_set};
    moeblock_config *config = NULL;
    if (moeblock_config_parse(context, text, strlen(text), "config.json", &options, &config, &error) != MOEBLOCK_OK)
        fail_msg("%s in\n%s", error.message, text);
    return config;
}

static void assert_value(const moeblock_config *config, const char *key, const char *expected)
{
    char value[256];
    moeblock_config_value(config, key, value, sizeof value);
    if (strcmp(value, expected)) fail_msg("%s is \"%s\", expected \"%s\"", key, value, expected);
}

// --- Configuration completeness --------------------------------------------------------------------------------------

// What a changed field of the published config.json does: a key of ours changes, or the value is refused by name.
struct field {
    const char *change; // laid over the config.json
    const char *key, *before, *after;
    const char *refused; // part of the message; NULL: accepted
};

static const struct field fields[] = {
    {"{\"hidden_size\": 4096}", "model.hidden_size", "7168", "4096", NULL},
    {"{\"moe_intermediate_size\": 1024}", "experts.distributed.intermediate_size", "2048", "1024", NULL},
    {"{\"moe_intermediate_size\": 1024}", "experts.shared.intermediate_size", "2048", "1024", NULL},
    {"{\"n_routed_experts\": 128}", "model.num_experts", "256", "128", NULL},
    {"{\"num_experts_per_tok\": 6}", "model.num_experts_per_tok", "8", "6", NULL},
    {"{\"n_group\": 4}", "router.config.n_group", "8", "4", NULL},
    {"{\"n_group\": 1, \"topk_group\": 1}", "router.config.groups", "limited", "none", NULL},
    {"{\"topk_group\": 3}", "router.config.topk_group", "4", "3", NULL},
    {"{\"n_shared_experts\": 2}", "experts.shared.intermediate_size", "2048", "4096", NULL},
    {"{\"n_shared_experts\": 0}", "experts.shared.enabled", "true", "false", NULL},
    {"{\"routed_scaling_factor\": 1.0}", "router.config.routed_scaling_factor", "2.5", "1", NULL},
    {"{\"norm_topk_prob\": false}", "router.config.norm", "sum", "none", NULL},
    {"{\"scoring_func\": \"softmax\"}", "router.config.score", "sigmoid", NULL, "scoring_func"},
    {"{\"topk_method\": \"greedy\"}", "router.config.groups", "limited", NULL, "topk_method"},
    {"{\"quantization_config\": {\"weight_block_size\": [64, 64]}}", "weights.format", "fp8", NULL,
     "weight_block_size [64, 64]"},
    {"{\"quantization_config\": null}", "weights.format", "fp8", "auto", NULL},
    // Values that no block can have.
    {"{\"hidden_size\": null}", "model.hidden_size", "7168", NULL, "hidden_size"},
    {"{\"moe_intermediate_size\": 0}", "experts.distributed.intermediate_size", "2048", NULL, "moe_intermediate_size"},
    {"{\"n_routed_experts\": -1}", "model.num_experts", "256", NULL, "n_routed_experts"},
    {"{\"num_experts_per_tok\": 257}", "model.num_experts_per_tok", "8", NULL, "num_experts_per_tok"},
    {"{\"n_group\": 7}", "router.config.n_group", "8", NULL, "n_group"},
    {"{\"topk_group\": 9}", "router.config.topk_group", "4", NULL, "topk_group"},
    {"{\"n_shared_experts\": \"one\"}", "experts.shared.enabled", "true", NULL, "n_shared_experts"},
    {"{\"routed_scaling_factor\": \"2.5\"}", "router.config.routed_scaling_factor", "2.5", NULL,
     "routed_scaling_factor"},
    {"{\"norm_topk_prob\": 1}", "router.config.norm", "sum", NULL, "norm_topk_prob"},
};

static void each_field_changes_its_key_or_is_refused(void **state)
{
    (void)state;
    char *published = small_file(PUBLISHED);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const struct field *field = &fields[i];
        char *changed = small_patched(published, field->change);
        moeblock_config *before = parse(published, NULL, 0), *after = NULL;
        const moeblock_status status =
            moeblock_config_parse(context, changed, strlen(changed), "config.json", NULL, &after, &error);
        assert_value(before, field->key, field->before);
        if (!field->refused) {
            if (status != MOEBLOCK_OK) fail_msg("%s: %s", field->change, error.message);
            assert_value(after, field->key, field->after);
        } else {
            if (status != MOEBLOCK_UNSUPPORTED && status != MOEBLOCK_INVALID_CONFIG)
                fail_msg("%s is not refused", field->change);
            if (!strstr(error.message, field->refused))
                fail_msg("%s: \"%s\" does not name %s", field->change, error.message, field->refused);
        }
        moeblock_config_destroy(&before);
        moeblock_config_destroy(&after);
        free(changed);
    }
    free(published);
}

// The real DeepSeek-V3. Each is given by the file, or by the router type that it names: none is a mere default.
static const char *const real_values[][2] = {
    {"model.hidden_size", "7168"},
    {"experts.distributed.intermediate_size", "2048"},
    {"model.num_experts", "256"},
    {"model.num_experts_per_tok", "8"},
    {"router.config.n_group", "8"},
    {"router.config.topk_group", "4"},
    {"experts.shared.enabled", "true"},
    {"experts.shared.intermediate_size", "2048"},
    {"router.config.routed_scaling_factor", "2.5"},
    {"router.config.norm", "sum"},
    {"router.config.norm_eps", "1e-20"},
    {"router.config.score", "sigmoid"},
    {"router.config.score_correction_bias", "true"},
    {"router.config.groups", "limited"},
    {"router.config.group_score", "sum_top2"},
    {"weights.format", "fp8"},
    {"tensor_parallel.enabled", "true"},
    {"tensor_parallel.cluster_axis", "1"},
    {"experts.distributed.dispatch_cluster_axis", "0"},
    {"experts.distributed.activation", "silu"},
    {"experts.shared.parallel_with_moe", "true"},
    {"model.num_layers", "61"},
    {"model.moe_layers", "3-60"},
};

static void the_shipped_file_lacks_none(void **state)
{
    (void)state;
    moeblock_config *config = NULL;
    const char *path = MOEBLOCK_SOURCE_DIR "/configs/deepseek_v3.json";
    if (moeblock_config_open(context, path, NULL, &config, &error) != MOEBLOCK_OK) fail_msg("%s", error.message);
    for (size_t i = 0; i < sizeof real_values / sizeof *real_values; i++) {
        assert_value(config, real_values[i][0], real_values[i][1]);
        if (config->given[mb_schema_find(real_values[i][0])] <= MB_FROM_DEFAULT)
            fail_msg("configs/deepseek_v3.json does not say %s", real_values[i][0]);
    }
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) assert_value(config, fields[i].key, fields[i].before);
    moeblock_config_destroy(&config);
}

// --- TP sharding detection -------------------------------------------------------------------------------------------

static void sharding_for_1_2_4_and_8_columns(void **state)
{
    (void)state;
    static const int64_t hidden = 7168;
    for (int columns = 1; columns <= 8; columns *= 2) {
        for (int enabled = 0; enabled < 2; enabled++) {
            moeblock_sharding found = MOEBLOCK_SHARDED;
            assert_int_equal(moeblock_tp_sharding(hidden, hidden, columns, enabled, &found, &error), MOEBLOCK_OK);
            assert_int_equal(found, MOEBLOCK_REPLICATED); // with one column too: nothing to gather
            for (int parts = 2; parts <= 16; parts *= 2) {
                const bool sharded = enabled && columns > 1 && parts == columns;
                const moeblock_status status =
                    moeblock_tp_sharding(hidden / parts, hidden, columns, enabled, &found, &error);
                assert_int_equal(status, sharded ? MOEBLOCK_OK : MOEBLOCK_INVALID_ARGUMENT);
                if (sharded) assert_int_equal(found, MOEBLOCK_SHARDED);
            }
        }
    }
}

static void other_widths_are_errors_with_both_widths(void **state)
{
    (void)state;
    static const int64_t widths[] = {0, 1, 895, 897, 1791, 3585, 7167, 7169, 14336, -1};
    moeblock_sharding found;
    for (int columns = 1; columns <= 8; columns *= 2) {
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
            char width[32];
            snprintf(width, sizeof width, "%" PRId64, widths[i]);
            assert_int_equal(moeblock_tp_sharding(widths[i], 7168, columns, 1, &found, &error),
                             MOEBLOCK_INVALID_ARGUMENT);
            if (!strstr(error.message, width) || !strstr(error.message, "7168"))
                fail_msg("\"%s\" does not name %s and 7168", error.message, width);
        }
    }
    assert_int_equal(moeblock_tp_sharding(512, 4100, 8, 1, &found, &error), MOEBLOCK_INVALID_ARGUMENT); // 4100 / 8
}

// --- Logic flow equivalence ------------------------------------------------------------------------------------------

// One way to run the small layer on a mesh, and what came out of it on each device.
enum { DEVICES_MAX = 4, TOKENS = 11 };
struct flow {
    const struct small_layer *weights;
    const char *hf_config;
    int rows, columns;
    bool sharded, shared, parallel, adapter;
    moeblock_mode mode;
    int tokens[DEVICES_MAX]; // of each row
    int width;               // of x and y on a device
    float *x[DEVICES_MAX], *y[DEVICES_MAX];
    int32_t ids[DEVICES_MAX][TOKENS * SMALL_K];
    float route_weights[DEVICES_MAX][TOKENS * SMALL_K];
    moeblock_error errors[DEVICES_MAX]; // reported by the main thread
};

static const char small_config[] =
    "{\"model_type\": \"deepseek_v3\", \"hidden_size\": 32, \"moe_intermediate_size\": 12, \"n_routed_experts\": 16,"
    " \"num_experts_per_tok\": 4, \"n_group\": 4, \"topk_group\": 2, \"n_shared_experts\": 2,"
    " \"routed_scaling_factor\": 2.5, \"norm_topk_prob\": true, \"scoring_func\": \"sigmoid\","
    " \"topk_method\": \"noaux_tc\", \"hidden_act\": \"silu\", \"intermediate_size\": 64, \"num_hidden_layers\": 5,"
    " \"first_k_dense_replace\": 3, \"moe_layer_freq\": 1}";

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
    moeblock_error *why = &flow->errors[device];
    moeblock_array x = device_array(flow, device, flow->x[device]), y = device_array(flow, device, flow->y[device]);
    const moeblock_adapter_options cfg = {
        .struct_size = sizeof cfg, .ids = flow->ids[device], .weights = flow->route_weights[device]};
    moeblock_status status = moeblock_adapter_create(own, flow->hf_config, -1, mesh, NULL, &adapter, why);
    if (status == MOEBLOCK_OK)
        status = moeblock_adapter_load_weights(adapter, flow->weights->tensors, SMALL_TENSORS, why);
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
    moeblock_error *why = &flow->errors[device];
    const moeblock_forward_input in = {
        .struct_size = sizeof in, .mode = flow->mode, .x = device_array(flow, device, flow->x[device])};
    const moeblock_forward_output out = {.struct_size = sizeof out,
                                         .y = device_array(flow, device, flow->y[device]),
                                         .ids = flow->ids[device],
                                         .weights = flow->route_weights[device]};
    moeblock_status status =
        moeblock_config_parse(own, flow->hf_config, strlen(flow->hf_config), "config.json", &options, &config, why);
    if (status == MOEBLOCK_OK) status = moeblock_block_create(own, config, mesh, NULL, &block, why);
    if (status == MOEBLOCK_OK) status = moeblock_block_load_weights(block, flow->weights->tensors, SMALL_TENSORS, why);
    if (status == MOEBLOCK_OK) status = moeblock_workspace_create(block, TOKENS, NULL, 0, &workspace, why);
    if (status == MOEBLOCK_OK) status = moeblock_block_forward(block, workspace, &in, &out, why);
    moeblock_workspace_destroy(&workspace);
    moeblock_block_destroy(&block);
    moeblock_config_destroy(&config);
    return status;
}

static void device_body(void *argument, moeblock_mesh *mesh)
{
    struct flow *flow = argument;
    const int device = mesh->row * mesh->columns + mesh->column;
    const moeblock_context_options one_thread = {.struct_size = sizeof one_thread, .threads = 1};
    moeblock_context *own = NULL;
    moeblock_status status = moeblock_context_create(&one_thread, &own, &flow->errors[device]);
    if (status == MOEBLOCK_OK)
        status = flow->adapter ? run_adapter(flow, mesh, device, own) : run_block(flow, mesh, device, own);
    moeblock_context_destroy(&own);
    flow->errors[device].code = status;
}

// Each device gets its columns of its row's tokens. Rows hold different numbers of them.
static void spread_input(struct flow *flow, const float *all)
{
    int first = 0;
    flow->width = flow->sharded ? SMALL_HIDDEN / flow->columns : SMALL_HIDDEN;
    for (int row = 0; row < flow->rows; row++) {
        const int tokens = TOKENS / flow->rows + (flow->rows > 1 ? (row ? -1 : 1) : 0);
        flow->tokens[row] = tokens;
        for (int column = 0; column < flow->columns; column++) {
            const int device = row * flow->columns + column, h0 = flow->sharded ? column * flow->width : 0;
            flow->x[device] = calloc((size_t)(tokens * flow->width), sizeof(float));
            flow->y[device] = calloc((size_t)(tokens * flow->width), sizeof(float));
            for (int t = 0; t < tokens; t++)
                memcpy(flow->x[device] + t * flow->width, all + (first + t) * SMALL_HIDDEN + h0,
                       (size_t)flow->width * sizeof(float));
        }
        first += tokens;
    }
    assert_true(first <= TOKENS);
}

static void free_flow(struct flow *flow)
{
    for (int device = 0; device < flow->rows * flow->columns; device++) {
        free(flow->x[device]);
        free(flow->y[device]);
    }
}

static struct original_layer layer_of(const struct flow *flow)
{
    struct original_layer layer = flow->weights->math;
    if (!flow->shared) layer.shared = 0;
    return layer;
}

// The six steps on the whole mesh, in double.
static void check_result(const struct flow *flow, const char *name)
{
    const struct original_layer layer = layer_of(flow);
    const struct original_mesh mesh = {flow->rows, flow->columns, flow->tokens};
    const int devices = flow->rows * flow->columns;
    double *x[DEVICES_MAX], *y[DEVICES_MAX];
    for (int d = 0; d < devices; d++) {
        const int n = flow->tokens[d / flow->columns] * flow->width;
        x[d] = calloc((size_t)n, sizeof *x[d]);
        y[d] = calloc((size_t)n, sizeof *y[d]);
        for (int i = 0; i < n; i++) x[d][i] = (double)flow->x[d][i];
    }
    original_forward_mlp_prefill(&layer, &mesh, flow->width, (const double *const *)x, y);
    for (int d = 0; d < devices; d++) {
        const double off = small_error(flow->y[d], y[d], flow->tokens[d / flow->columns] * flow->width);
        if (!(off <= 1e-5)) fail_msg("%s: device %d is off by %.2e relative rms, allowed 1e-5", name, d, off);
        free(x[d]);
        free(y[d]);
    }
}

// Row t of the input of a mesh row, as the gate sees it: gathered.
static void gathered_row(const struct flow *flow, int row, int t, double *to)
{
    for (int column = 0; column < (flow->sharded ? flow->columns : 1); column++)
        for (int i = 0; i < flow->width; i++)
            to[column * flow->width + i] = (double)flow->x[row * flow->columns + column][t * flow->width + i];
}

// What the gate decides for each row of the mesh: how many rows and (row, expert) pairs it sends to others (a row once
// to each owner of some of its experts), and how many pairs of its own and of others it computes. Rows own consecutive
// runs of experts.
struct traffic {
    int sent[DEVICES_MAX], sent_pairs[DEVICES_MAX], own[DEVICES_MAX], others[DEVICES_MAX];
};

static void count_traffic(const struct flow *flow, struct traffic *out, const char *name)
{
    const struct original_layer layer = layer_of(flow);
    const int per_row = SMALL_EXPERTS / flow->rows;
    memset(out, 0, sizeof *out);
    for (int row = 0; row < flow->rows; row++) {
        for (int t = 0; t < flow->tokens[row]; t++) {
            double x[SMALL_HIDDEN], weights[SMALL_K];
            int ids[SMALL_K];
            bool goes[DEVICES_MAX] = {false};
            gathered_row(flow, row, t, x);
            original_gate(&layer, x, ids, weights);
            for (int j = 0; j < SMALL_K; j++) {
                const int32_t id = flow->ids[row * flow->columns][t * SMALL_K + j];
                if (id < 0 || id >= SMALL_EXPERTS) fail_msg("%s: id %d", name, (int)id);
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

// The block's ids and weights are the gate's, on every column alike; slots stand in descending weight.
static void check_gate(const struct flow *flow, const char *name)
{
    const struct original_layer layer = layer_of(flow);
    for (int d = 0; d < flow->rows * flow->columns; d++) {
        for (int t = 0; t < flow->tokens[d / flow->columns]; t++) {
            double x[SMALL_HIDDEN], weights[SMALL_K];
            int ids[SMALL_K];
            gathered_row(flow, d / flow->columns, t, x);
            original_gate(&layer, x, ids, weights);
            for (int j = 0; j < SMALL_K; j++) {
                int at = 0;
                while (at < SMALL_K && flow->ids[d][t * SMALL_K + at] != ids[j]) at++;
                if (at == SMALL_K) fail_msg("%s: device %d token %d lacks expert %d", name, d, t, ids[j]);
                if (!(fabs((double)flow->route_weights[d][t * SMALL_K + at] - weights[j]) <= 1e-5 * weights[j]))
                    fail_msg("%s: device %d token %d has another weight for expert %d", name, d, t, ids[j]);
            }
        }
    }
}

// The calls of a device in order, with the bytes it gives, written down from the steps. What is not the original's: its
// columns summed outputs (step 6); here they exchange activations, so that every output has one owner and one order.
static int expected_calls(const struct flow *flow, const struct traffic *traffic, int row, struct mesh_call *to)
{
    const size_t value = sizeof(float), columns = (size_t)flow->columns, tokens = (size_t)flow->tokens[row];
    const size_t own_hidden = SMALL_HIDDEN / columns * value, own_inner = SMALL_INNER / columns * value;
    const size_t own = (size_t)traffic->own[row], others = (size_t)traffic->others[row];
    const size_t parcels =
        (size_t)traffic->sent[row] * (SMALL_HIDDEN * value + 4) + (size_t)traffic->sent_pairs[row] * 8;
    const size_t shared = tokens * (SMALL_SHARED / columns) * value;
    const bool gathers = flow->columns > 1, travels = flow->rows > 1;
    int n = 0;
    for (int i = 0; i < 2 && (gathers || travels); i++)
        to[n++] = (struct mesh_call){"agree", -1, 0}; // that the same block was made everywhere, and loaded
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

static void check_calls(const struct flow *flow, const struct mesh_double *mesh, const char *name)
{
    struct traffic traffic;
    count_traffic(flow, &traffic, name);
    for (int d = 0; d < flow->rows * flow->columns; d++) {
        struct mesh_call expected[16];
        const int row = d / flow->columns, n = expected_calls(flow, &traffic, row, expected);
        int count;
        const struct mesh_call *calls = mesh_double_calls(mesh, row, d % flow->columns, &count);
        for (int i = 0; i < n && i < count; i++)
            if (strcmp(calls[i].name, expected[i].name) || calls[i].axis != expected[i].axis ||
                calls[i].bytes != expected[i].bytes)
                fail_msg("%s: call %d of device %d is %s on axis %d with %zu bytes, expected %s on axis %d with %zu",
                         name, i, d, calls[i].name, calls[i].axis, calls[i].bytes, expected[i].name, expected[i].axis,
                         expected[i].bytes);
        if (count != n) fail_msg("%s: device %d makes %d calls, expected %d", name, d, count, n);
    }
}

static void run_flow(struct flow *flow, const float *x)
{
    char name[160];
    snprintf(name, sizeof name, "%d x %d, %s x, shared expert %s%s, %s, %s", flow->rows, flow->columns,
             flow->sharded ? "sharded" : "replicated", flow->shared ? "on" : "off",
             flow->parallel ? "" : " after the routed ones", flow->mode == MOEBLOCK_PREFILL ? "prefill" : "decode",
             flow->adapter ? "adapter" : "block");
    char *config = small_patched(small_config, flow->shared ? "{}" : "{\"n_shared_experts\": 0}");
    flow->hf_config = config;
    spread_input(flow, x);
    struct mesh_double *mesh = mesh_double_create(flow->rows, flow->columns);
    mesh_double_run(mesh, device_body, flow);
    for (int d = 0; d < flow->rows * flow->columns; d++)
        if (flow->errors[d].code != MOEBLOCK_OK) fail_msg("%s: device %d: %s", name, d, flow->errors[d].message);
    check_result(flow, name);
    check_gate(flow, name);
    check_calls(flow, mesh, name);
    mesh_double_destroy(mesh);
    free(config);
}

// All ways to run the block on one shape.
static void run_shape(int rows, int columns)
{
    struct small_layer layer;
    float x[TOKENS * SMALL_HIDDEN];
    small_layer_make(&layer, 3, 1);
    small_random(x, TOKENS * SMALL_HIDDEN, 2);
    for (int variant = 0; variant < 32; variant++) {
        struct flow flow = {.weights = &layer,
                            .rows = rows,
                            .columns = columns,
                            .sharded = variant & 1,
                            .shared = variant & 2,
                            .parallel = !(variant & 4),
                            .mode = variant & 8 ? MOEBLOCK_DECODE : MOEBLOCK_PREFILL,
                            .adapter = variant & 16};
        if (flow.sharded && columns == 1) continue;   // H / 1 is H
        if (flow.adapter && !flow.parallel) continue; // a config.json cannot ask for it
        run_flow(&flow, x);
        free_flow(&flow);
    }
    small_layer_free(&layer);
}

static void one_device(void **state)
{
    (void)state;
    run_shape(1, 1);
}

static void two_columns(void **state)
{
    (void)state;
    run_shape(1, 2);
}

static void two_rows(void **state)
{
    (void)state;
    run_shape(2, 1);
}

static void two_rows_and_two_columns(void **state)
{
    (void)state;
    run_shape(2, 2);
}

// --- Parameter mappings ----------------------------------------------------------------------------------------------

// Hugging Face key -> our key. `text` NULL: the same value under the other name.
static const struct {
    const char *theirs, *ours, *text;
} keys[] = {
    {"hidden_size", "model.hidden_size", NULL},
    {"moe_intermediate_size", "experts.distributed.intermediate_size", NULL},
    {"n_routed_experts", "model.num_experts", NULL},
    {"num_experts_per_tok", "model.num_experts_per_tok", NULL},
    {"n_group", "router.config.n_group", NULL},
    {"topk_group", "router.config.topk_group", NULL},
    {"routed_scaling_factor", "router.config.routed_scaling_factor", NULL},
    {"num_hidden_layers", "model.num_layers", NULL},
    {"model_type", "model.model_type", NULL},
    {"scoring_func", "router.config.score", NULL},
    {"hidden_act", "experts.distributed.activation", NULL},
    {"norm_topk_prob", "router.config.norm", "sum"},
    {"topk_method", "router.type", "moe_gate"}, // noaux_tc
    {"n_shared_experts", "experts.shared.enabled", "true"},
    {"first_k_dense_replace", "model.moe_layers", "3-60"},
    {"quantization_config.weight_block_size", "weights.format", "fp8"},
};

static void value_text(const json_t *value, char *to, size_t capacity)
{
    if (json_is_string(value))
        snprintf(to, capacity, "%s", json_string_value(value));
    else
        snprintf(to, capacity, "%g", json_number_value(value));
}

static void each_key_has_its_value_under_our_name(void **state)
{
    (void)state;
    char *published = small_file(PUBLISHED);
    json_error_t where;
    json_t *root = json_loads(published, 0, &where);
    moeblock_config *config = parse(published, NULL, 0);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char value[64];
        const char *dot = strchr(keys[i].theirs, '.');
        const json_t *found = dot ? json_object_get(json_object_get(root, "quantization_config"), dot + 1)
                                  : json_object_get(root, keys[i].theirs);
        if (!found) fail_msg("%s has no %s", PUBLISHED, keys[i].theirs);
        value_text(found, value, sizeof value);
        assert_value(config, keys[i].ours, keys[i].text ? keys[i].text : value);
    }
    moeblock_config_destroy(&config);
    json_decref(root);
    free(published);
}

// Checkpoint name -> what it is here.
static const struct {
    const char *name; // after "model.layers.3.mlp."; # stands for the expert
    enum mb_role role;
} roles[] = {
    {"gate.weight", MB_ROLE_ROUTER},
    {"gate.e_score_correction_bias", MB_ROLE_SELECTION_BIAS},
    {"experts.#.gate_proj.weight", MB_ROLE_GATE},
    {"experts.#.up_proj.weight", MB_ROLE_UP},
    {"experts.#.down_proj.weight", MB_ROLE_DOWN},
    {"shared_experts.gate_proj.weight", MB_ROLE_SHARED_GATE},
    {"shared_experts.up_proj.weight", MB_ROLE_SHARED_UP},
    {"shared_experts.down_proj.weight", MB_ROLE_SHARED_DOWN},
};

static void checkpoint_name(const char *pattern, int expert, char out[256])
{
    const char *number = strchr(pattern, '#');
    if (number)
        snprintf(out, 256, "model.layers.3.mlp.%.*s%d%s", (int)(number - pattern), pattern, expert, number + 1);
    else
        snprintf(out, 256, "model.layers.3.mlp.%s", pattern);
}

static void each_checkpoint_name_has_its_role(void **state)
{
    (void)state;
    char *published = small_file(PUBLISHED), expected[256], found[256];
    moeblock_config *config = parse(published, NULL, 0);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        for (int expert = 0; expert < 256; expert += 85) {
            checkpoint_name(roles[i].name, expert, expected);
            mb_role_name(config, roles[i].role, 3, expert, found);
            assert_string_equal(found, expected);
            assert_true(mb_role_wanted(config, roles[i].role));
        }
    }
    moeblock_config_destroy(&config);
    free(published);
}

static moeblock_block *small_block(void)
{
    moeblock_config *config = parse(small_config, NULL, 0);
    moeblock_block *block = NULL;
    assert_int_equal(moeblock_block_create(context, config, NULL, NULL, &block, &error), MOEBLOCK_OK);
    moeblock_config_destroy(&config);
    return block;
}

// Every tensor of the checkpoint is needed: without it the load fails and says its full name. No other is.
static void each_missing_tensor_is_named(void **state)
{
    (void)state;
    struct small_layer layer;
    moeblock_block *block = small_block();
    small_layer_make(&layer, 3, 1);
    for (int missing = 0; missing < SMALL_TENSORS; missing++) {
        moeblock_tensor rest[SMALL_TENSORS];
        memcpy(rest, layer.tensors, sizeof rest);
        rest[missing] = rest[SMALL_TENSORS - 1];
        assert_int_equal(moeblock_block_load_weights(block, rest, SMALL_TENSORS - 1, &error), MOEBLOCK_NOT_FOUND);
        if (!strstr(error.message, layer.names[missing]))
            fail_msg("\"%s\" does not name %s", error.message, layer.names[missing]);
    }
    if (moeblock_block_load_weights(block, layer.tensors, SMALL_TENSORS, &error) != MOEBLOCK_OK)
        fail_msg("%s", error.message);
    small_layer_free(&layer);
    moeblock_block_destroy(&block);
}

// The original's load_weights(state_dict) took names from "mlp." on; full and bare names mean the same tensors.
static void names_in_full_from_mlp_and_bare(void **state)
{
    (void)state;
    static const char *const cut[] = {"", "model.layers.3.", "model.layers.3.mlp."};
    struct small_layer layer;
    float x[TOKENS * SMALL_HIDDEN], first[TOKENS * SMALL_HIDDEN], y[TOKENS * SMALL_HIDDEN];
    small_layer_make(&layer, 3, 1);
    small_random(x, TOKENS * SMALL_HIDDEN, 2);
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
        moeblock_tensor tensors[SMALL_TENSORS];
        moeblock_block *block = small_block();
        moeblock_workspace *workspace = NULL;
        memcpy(tensors, layer.tensors, sizeof tensors);
        for (int t = 0; t < SMALL_TENSORS; t++) tensors[t].name += strlen(cut[i]);
        if (moeblock_block_load_weights(block, tensors, SMALL_TENSORS, &error) != MOEBLOCK_OK)
            fail_msg("%s", error.message);
        assert_int_equal(moeblock_workspace_create(block, TOKENS, NULL, 0, &workspace, &error), MOEBLOCK_OK);
        assert_int_equal(moeblock_forward(block, workspace, x, TOKENS, MOEBLOCK_PREFILL, y, &error), MOEBLOCK_OK);
        if (!i) memcpy(first, y, sizeof y);
        assert_memory_equal(y, first, sizeof y);
        moeblock_workspace_destroy(&workspace);
        moeblock_block_destroy(&block);
    }
    small_layer_free(&layer);
}

// A test under the name of its part.
#define PART(part, test)                                                                                               \
    {                                                                                                                  \
        part ": " #test, test, NULL, NULL, NULL                                                                        \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        PART("Configuration completeness", each_field_changes_its_key_or_is_refused),
        PART("Configuration completeness", the_shipped_file_lacks_none),
        PART("TP sharding detection", sharding_for_1_2_4_and_8_columns),
        PART("TP sharding detection", other_widths_are_errors_with_both_widths),
        PART("Logic flow equivalence", one_device),
        PART("Logic flow equivalence", two_columns),
        PART("Logic flow equivalence", two_rows),
        PART("Logic flow equivalence", two_rows_and_two_columns),
        PART("Parameter mappings", each_key_has_its_value_under_our_name),
        PART("Parameter mappings", each_checkpoint_name_has_its_role),
        PART("Parameter mappings", each_missing_tensor_is_named),
        PART("Parameter mappings", names_in_full_from_mlp_and_bare),
    };
    return cmocka_run_group_tests_name("DeepSeek equivalence", tests, open_context, close_context);
}
