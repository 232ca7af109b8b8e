// SPDX-License-Identifier: Apache-2.0
// Wrong calls of the public interface: each pointer NULL, enums out of range, structs of odd sizes, arrays that lie.
// Every one is answered with a status and the argument's name; none crashes or changes an object.
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "support/golden.h"

// A working set of everything, from one golden case; `y` is what good calls gave.
static struct golden_case golden;
static struct golden_run run;
static moeblock_weights *weights;
static moeblock_error error;

static int begin(void **state)
{
    (void)state;
    golden_open("deepseek_v3-bf16", &golden);
    if (golden_run(&golden, &(struct golden_settings){.threads = 2}, &run, &error) != MOEBLOCK_OK) return -1;
    return moeblock_weights_open(run.context, golden.folder, &weights, &error) == MOEBLOCK_OK ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    moeblock_weights_destroy(&weights);
    golden_run_free(&golden, &run);
    golden_close(&golden);
    return 0;
}

static moeblock_array dense(void *data)
{
    return (moeblock_array){.dtype = MOEBLOCK_F32, .rank = 2, .dims = {golden.tokens, golden.hidden}, .data = data};
}

// The call fails with `status` and a sentence that holds `part`; and so it does without an error object.
#define REFUSED(call, status, part) refused((error.message[0] = 0, error.code = MOEBLOCK_OK, call), status, part, #call)
static void refused(moeblock_status found, moeblock_status wanted, const char *part, const char *call)
{
    if (found != wanted || error.code != wanted)
        fail_msg("%s gave %s, expected %s: %s", call, moeblock_status_name(found), moeblock_status_name(wanted),
                 error.message);
    if (!strstr(error.message, part)) fail_msg("%s: \"%s\" does not say \"%s\"", call, error.message, part);
}
#define BAD_ARGUMENT(call, part) REFUSED(call, MOEBLOCK_INVALID_ARGUMENT, part)

static void still_works(void)
{
    const size_t bytes = (size_t)(golden.tokens * golden.hidden) * sizeof(float);
    float *y = malloc(bytes);
    assert_non_null(y);
    if (moeblock_forward(run.block, run.workspace, golden.x.data, golden.tokens, MOEBLOCK_PREFILL, y, &error) !=
        MOEBLOCK_OK)
        fail_msg("%s", error.message);
    assert_memory_equal(y, run.y, bytes);
    free(y);
}

// --- pointers --------------------------------------------------------------------------------------------------------

static void nothing_to_destroy(void **state)
{
    (void)state;
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    moeblock_weights *none = NULL;
    moeblock_adapter *adapter = NULL;
    moeblock_context_destroy(NULL), moeblock_context_destroy(&context);
    moeblock_config_destroy(NULL), moeblock_config_destroy(&config);
    moeblock_block_destroy(NULL), moeblock_block_destroy(&block);
    moeblock_workspace_destroy(NULL), moeblock_workspace_destroy(&workspace);
    moeblock_weights_destroy(NULL), moeblock_weights_destroy(&none);
    moeblock_adapter_destroy(NULL), moeblock_adapter_destroy(&adapter);
}

// Calls without a status answer for NULL and for unknown values too.
static void questions_about_nothing(void **state)
{
    (void)state;
    char text[8] = "before";
    const char *reason = NULL;
    int usable = 7;
    moeblock_config_shape shape;
    moeblock_block_info info = {.struct_size = sizeof info};
    assert_int_equal(moeblock_context_threads(NULL), 0);
    assert_string_equal(moeblock_context_level(NULL), "");
    assert_null(moeblock_level(-1, &usable, &reason));
    assert_int_equal(usable, 0);
    assert_null(moeblock_level(1000, NULL, NULL));
    assert_non_null(moeblock_level(0, NULL, NULL));
    assert_int_equal(moeblock_config_print(NULL, text, sizeof text), 0);
    assert_int_equal(moeblock_config_print(NULL, NULL, 0), 0);
    assert_true(moeblock_config_print(run.config, NULL, 100) > 100);
    assert_int_equal(moeblock_config_value(NULL, "model.hidden_size", text, sizeof text), 0);
    assert_string_equal(text, "");
    assert_int_equal(moeblock_config_value(run.config, NULL, text, sizeof text), 0);
    assert_int_equal(moeblock_config_value(run.config, "model.hidden_size", NULL, 0), 2);
    assert_int_equal(moeblock_config_value(run.config, "model.hidden_size", text, 2), 2);
    assert_string_equal(text, "4");
    memset(&shape, 0x7f, sizeof shape);
    moeblock_config_get_shape(NULL, &shape);
    assert_int_equal(shape.hidden_size, 0);
    moeblock_config_get_shape(run.config, NULL);
    moeblock_block_get_info(NULL, &info);
    assert_string_equal(info.format, "");
    moeblock_block_get_info(run.block, NULL);
    assert_int_equal(moeblock_workspace_bytes(NULL, 4), 0);
    assert_int_equal(moeblock_workspace_bytes(run.block, -1), 0);
    assert_int_equal(moeblock_weights_bytes_read(NULL), 0);
    assert_int_equal(moeblock_weights_shards_opened(NULL), 0);
    assert_null(moeblock_adapter_block(NULL));
    assert_null(moeblock_adapter_config(NULL));
    assert_string_equal(moeblock_status_name((moeblock_status)-1), "?");
    assert_string_equal(moeblock_dtype_name((moeblock_dtype)-1), "?");
    assert_int_equal(moeblock_dtype_bytes((moeblock_dtype)99), 0);
}

static void null_in_making_objects(void **state)
{
    (void)state;
    moeblock_context *const context = run.context;
    moeblock_config *config = (moeblock_config *)&config;
    moeblock_block *block = NULL;
    moeblock_adapter *adapter = NULL;
    BAD_ARGUMENT(moeblock_context_create(NULL, NULL, &error), "out is NULL");
    BAD_ARGUMENT(moeblock_config_open(NULL, "x", NULL, &config, &error), "context is NULL");
    assert_null(config);
    BAD_ARGUMENT(moeblock_config_open(context, NULL, NULL, &config, &error), "path is NULL");
    BAD_ARGUMENT(moeblock_config_open(context, "x", NULL, NULL, &error), "out is NULL");
    BAD_ARGUMENT(moeblock_config_parse(NULL, "{}", 2, "x", NULL, &config, &error), "context is NULL");
    BAD_ARGUMENT(moeblock_config_parse(context, NULL, 2, "x", NULL, &config, &error), "text is NULL");
    BAD_ARGUMENT(moeblock_config_parse(context, "{}", 2, "x", NULL, NULL, &error), "out is NULL");
    REFUSED(moeblock_config_parse(context, "", 0, NULL, NULL, &config, &error), MOEBLOCK_INVALID_CONFIG,
            "configuration");
    BAD_ARGUMENT(moeblock_block_create(NULL, run.config, NULL, NULL, &block, &error), "context is NULL");
    BAD_ARGUMENT(moeblock_block_create(context, NULL, NULL, NULL, &block, &error), "config is NULL");
    BAD_ARGUMENT(moeblock_block_create(context, run.config, NULL, NULL, NULL, &error), "out is NULL");
    BAD_ARGUMENT(moeblock_adapter_create(NULL, "{}", -1, NULL, NULL, &adapter, &error), "context is NULL");
    BAD_ARGUMENT(moeblock_adapter_create(context, NULL, -1, NULL, NULL, &adapter, &error), "hf_config_text is NULL");
    BAD_ARGUMENT(moeblock_adapter_create(context, "{}", -1, NULL, NULL, NULL, &error), "out is NULL");
    BAD_ARGUMENT(moeblock_adapter_create_from_file(context, NULL, -1, NULL, NULL, &adapter, &error), "path is NULL");
    BAD_ARGUMENT(moeblock_adapter_create_from_file(NULL, "x", -1, NULL, NULL, &adapter, &error), "context is NULL");
    BAD_ARGUMENT(moeblock_adapter_open(NULL, "x", -1, NULL, NULL, &adapter, &error), "context is NULL");
    BAD_ARGUMENT(moeblock_adapter_open(context, NULL, -1, NULL, NULL, &adapter, &error), "is NULL");
    BAD_ARGUMENT(moeblock_adapter_open(context, "x", -1, NULL, NULL, NULL, &error), "out is NULL");
    BAD_ARGUMENT(moeblock_adapter_create_from_file(context, golden.folder, -2, NULL, NULL, &adapter, &error),
                 "layer is -2");
    assert_true(!adapter && !block && !config);
    assert_int_equal(moeblock_context_create(NULL, NULL, NULL), MOEBLOCK_INVALID_ARGUMENT);
}

static void null_in_registering(void **state)
{
    (void)state;
    moeblock_router_class router = {.struct_size = sizeof router};
    moeblock_expert_class expert = {.struct_size = sizeof expert};
    BAD_ARGUMENT(moeblock_register_router(NULL, "mine", &router, NULL, &error), "context is NULL");
    BAD_ARGUMENT(moeblock_register_router(run.context, "mine", NULL, NULL, &error), "router is NULL");
    BAD_ARGUMENT(moeblock_register_router(run.context, "mine", &router, NULL, &error), "lacks the call create");
    BAD_ARGUMENT(moeblock_register_router(run.context, NULL, &router, NULL, &error), "lacks the call create");
    BAD_ARGUMENT(moeblock_register_expert(NULL, "mine", &expert, NULL, &error), "context is NULL");
    BAD_ARGUMENT(moeblock_register_expert(run.context, "mine", NULL, NULL, &error), "expert is NULL");
    BAD_ARGUMENT(moeblock_register_expert(run.context, "mine", &expert, NULL, &error), "lacks the call create");
    router.struct_size = expert.struct_size = 0;
    BAD_ARGUMENT(moeblock_register_router(run.context, "mine", &router, NULL, &error), "struct_size is 0");
    BAD_ARGUMENT(moeblock_register_expert(run.context, "mine", &expert, NULL, &error), "struct_size is 0");
}

static void null_in_reading_weights(void **state)
{
    (void)state;
    moeblock_weights *out = NULL;
    moeblock_tensor_info info, none = {.name = NULL};
    size_t count = 3;
    char byte;
    BAD_ARGUMENT(moeblock_weights_open(NULL, "x", &out, &error), "context is NULL");
    BAD_ARGUMENT(moeblock_weights_open(run.context, NULL, &out, &error), "path is NULL");
    BAD_ARGUMENT(moeblock_weights_open(run.context, "x", NULL, &error), "out is NULL");
    BAD_ARGUMENT(moeblock_weights_from_tensors(NULL, NULL, 0, &out, &error), "context is NULL");
    BAD_ARGUMENT(moeblock_weights_from_tensors(run.context, NULL, 1, &out, &error), "tensors is NULL");
    BAD_ARGUMENT(moeblock_weights_from_tensors(run.context, NULL, 0, NULL, &error), "out is NULL");
    assert_null(out);
    BAD_ARGUMENT(moeblock_weights_count(NULL, &count, &error), "weights is NULL");
    BAD_ARGUMENT(moeblock_weights_count(weights, NULL, &error), "out is NULL");
    BAD_ARGUMENT(moeblock_weights_at(NULL, 0, &info, &error), "weights is NULL");
    BAD_ARGUMENT(moeblock_weights_at(weights, 0, NULL, &error), "out is NULL");
    BAD_ARGUMENT(moeblock_weights_at(weights, SIZE_MAX, &info, &error), "no tensor number");
    BAD_ARGUMENT(moeblock_weights_find(NULL, "x", &info, &error), "weights is NULL");
    BAD_ARGUMENT(moeblock_weights_find(weights, NULL, &info, &error), "name is NULL");
    BAD_ARGUMENT(moeblock_weights_find(weights, "x", NULL, &error), "out is NULL");
    assert_int_equal(moeblock_weights_at(weights, 0, &info, &error), MOEBLOCK_OK);
    BAD_ARGUMENT(moeblock_weights_read(NULL, &info, 0, 1, &byte, &error), "weights is NULL");
    BAD_ARGUMENT(moeblock_weights_read(weights, NULL, 0, 1, &byte, &error), "tensor is NULL");
    BAD_ARGUMENT(moeblock_weights_read(weights, &none, 0, 1, &byte, &error), "tensor->name is NULL");
    BAD_ARGUMENT(moeblock_weights_read(weights, &info, 0, 1, NULL, &error), "to is NULL");
    BAD_ARGUMENT(moeblock_weights_read(weights, &info, UINT64_MAX, 1, &byte, &error), info.name);
    BAD_ARGUMENT(moeblock_weights_read(weights, &info, info.bytes, 1, &byte, &error), info.name);
    assert_int_equal(moeblock_weights_read(weights, &info, info.bytes, 0, NULL, &error), MOEBLOCK_OK);
    BAD_ARGUMENT(moeblock_weights_validate(NULL, &error), "weights is NULL");
}

static void null_in_loading(void **state)
{
    (void)state;
    moeblock_adapter *adapter = NULL;
    BAD_ARGUMENT(moeblock_block_load(NULL, weights, NULL, &error), "block is NULL");
    BAD_ARGUMENT(moeblock_block_load(run.block, NULL, NULL, &error), "weights is NULL");
    BAD_ARGUMENT(moeblock_block_load_files(NULL, "x", NULL, &error), "block is NULL");
    BAD_ARGUMENT(moeblock_block_load_files(run.block, NULL, NULL, &error), "no path");
    BAD_ARGUMENT(moeblock_block_load_weights(NULL, NULL, 0, &error), "block is NULL");
    BAD_ARGUMENT(moeblock_block_load_weights(run.block, NULL, 2, &error), "tensors is NULL");
    REFUSED(moeblock_block_load_weights(run.block, NULL, 0, &error), MOEBLOCK_NOT_FOUND, "mlp.");
    assert_int_equal(moeblock_adapter_create_from_file(run.context, golden.folder, -1, NULL, NULL, &adapter, &error),
                     MOEBLOCK_OK);
    BAD_ARGUMENT(moeblock_adapter_load_weights(NULL, NULL, 0, &error), "adapter is NULL");
    BAD_ARGUMENT(moeblock_adapter_load_weights(adapter, NULL, 2, &error), "tensors is NULL");
    moeblock_array x = dense(golden.x.data), y = dense(run.y);
    BAD_ARGUMENT(moeblock_adapter_forward_mlp_prefill(NULL, &x, NULL, &y, &error), "adapter is NULL");
    BAD_ARGUMENT(moeblock_adapter_forward_mlp_prefill(adapter, NULL, NULL, &y, &error), "x is NULL");
    BAD_ARGUMENT(moeblock_adapter_forward_mlp_decode(adapter, &x, NULL, NULL, &error), "y is NULL");
    REFUSED(moeblock_adapter_forward_mlp_decode(adapter, &x, NULL, &y, &error), MOEBLOCK_WRONG_STATE, "no weights");
    moeblock_adapter_destroy(&adapter);
    still_works();
}

static void null_in_running(void **state)
{
    (void)state;
    moeblock_workspace *workspace = NULL;
    moeblock_sharding sharding;
    moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_PREFILL, .x = dense(golden.x.data)};
    moeblock_forward_output out = {.struct_size = sizeof out, .y = dense(run.y)};
    float *x = golden.x.data;
    moeblock_array y = dense(run.y);
    BAD_ARGUMENT(moeblock_workspace_create(NULL, 1, NULL, 0, &workspace, &error), "block is NULL");
    BAD_ARGUMENT(moeblock_workspace_create(run.block, 1, NULL, 0, NULL, &error), "out is NULL");
    BAD_ARGUMENT(moeblock_workspace_create(run.block, -1, NULL, 0, &workspace, &error), "tokens is -1");
    BAD_ARGUMENT(moeblock_block_forward(NULL, run.workspace, &in, &out, &error), "block is NULL");
    BAD_ARGUMENT(moeblock_block_forward(run.block, NULL, &in, &out, &error), "workspace is NULL");
    BAD_ARGUMENT(moeblock_block_forward(run.block, run.workspace, NULL, &out, &error), "input is NULL");
    BAD_ARGUMENT(moeblock_block_forward(run.block, run.workspace, &in, NULL, &error), "output is NULL");
    BAD_ARGUMENT(moeblock_forward(NULL, run.workspace, x, 1, MOEBLOCK_PREFILL, run.y, &error), "block is NULL");
    BAD_ARGUMENT(moeblock_forward(run.block, NULL, x, 1, MOEBLOCK_PREFILL, run.y, &error), "workspace is NULL");
    BAD_ARGUMENT(moeblock_forward(run.block, run.workspace, NULL, 1, MOEBLOCK_PREFILL, run.y, &error), "checking x");
    BAD_ARGUMENT(moeblock_forward(run.block, run.workspace, x, 1, MOEBLOCK_PREFILL, NULL, &error), "checking y");
    BAD_ARGUMENT(moeblock_forward(run.block, run.workspace, x, -1, MOEBLOCK_PREFILL, run.y, &error), "-1");
    BAD_ARGUMENT(moeblock_block_forward_experts(NULL, run.workspace, &in.x, run.ids, run.weights, golden.k, &y, &error),
                 "block is NULL");
    BAD_ARGUMENT(moeblock_block_forward_experts(run.block, NULL, &in.x, run.ids, run.weights, golden.k, &y, &error),
                 "workspace is NULL");
    BAD_ARGUMENT(
        moeblock_block_forward_experts(run.block, run.workspace, NULL, run.ids, run.weights, golden.k, &y, &error),
        "x is NULL");
    BAD_ARGUMENT(
        moeblock_block_forward_experts(run.block, run.workspace, &in.x, NULL, run.weights, golden.k, &y, &error),
        "ids is NULL");
    BAD_ARGUMENT(moeblock_block_forward_experts(run.block, run.workspace, &in.x, run.ids, NULL, golden.k, &y, &error),
                 "weights is NULL");
    BAD_ARGUMENT(
        moeblock_block_forward_experts(run.block, run.workspace, &in.x, run.ids, run.weights, golden.k, NULL, &error),
        "y is NULL");
    BAD_ARGUMENT(moeblock_tp_sharding(4, 4, 1, 1, NULL, &error), "out is NULL");
    BAD_ARGUMENT(moeblock_tp_sharding(-4, 4, 0, 1, &sharding, &error), "-4");
    BAD_ARGUMENT(moeblock_tp_sharding(INT64_MIN, INT64_MAX, -1, 1, &sharding, &error), "last dimension");
    still_works();
}

// --- values ----------------------------------------------------------------------------------------------------------

static void enums_and_counts_out_of_range(void **state)
{
    (void)state;
    static const int wrong[] = {-1, 3, 4, 99, INT32_MAX, INT32_MIN};
    moeblock_array y = dense(run.y);
    moeblock_block *block = NULL;
    moeblock_context *context = NULL;
    moeblock_context_options options = {.struct_size = sizeof options};
    moeblock_allocator half = {.allocate = NULL};
    moeblock_parallel parallel = {.workers = 2};
    moeblock_config_options layers = {.struct_size = sizeof layers, .layer = -2};
    moeblock_config *config = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char number[16];
        moeblock_forward_input in = {
            .struct_size = sizeof in, .mode = (moeblock_mode)wrong[i], .x = dense(golden.x.data)};
        moeblock_forward_output out = {.struct_size = sizeof out, .y = y};
        const int other = wrong[i] == 3 || wrong[i] == 4 ? 5 : wrong[i];
        const moeblock_block_options compute = {.struct_size = sizeof compute, .compute = (moeblock_compute)other};
        snprintf(number, sizeof number, "is %d", wrong[i]);
        BAD_ARGUMENT(moeblock_block_forward(run.block, run.workspace, &in, &out, &error), number);
        snprintf(number, sizeof number, "is %d", other);
        BAD_ARGUMENT(moeblock_block_create(run.context, run.config, NULL, &compute, &block, &error), number);
        in.mode = MOEBLOCK_PREFILL;
        in.x.dtype = (moeblock_dtype)(wrong[i] == 3 ? MOEBLOCK_F64 : wrong[i]);
        BAD_ARGUMENT(moeblock_block_forward(run.block, run.workspace, &in, &out, &error), "checking x: dtype");
        in.x.dtype = MOEBLOCK_F32;
        out.y.rank = wrong[i] == 3 || wrong[i] == 4 ? 0 : wrong[i];
        BAD_ARGUMENT(moeblock_block_forward(run.block, run.workspace, &in, &out, &error), "checking y: rank");
    }
    for (int64_t k = -1; k < 20; k += k == 0 ? 17 : 1) {
        moeblock_array x = dense(golden.x.data);
        if (k == 17)
            BAD_ARGUMENT(
                moeblock_block_forward_experts(run.block, run.workspace, &x, run.ids, run.weights, k, &y, &error),
                "k is 17");
        if (k < 1)
            BAD_ARGUMENT(
                moeblock_block_forward_experts(run.block, run.workspace, &x, run.ids, run.weights, k, &y, &error),
                "k is ");
    }
    BAD_ARGUMENT(moeblock_config_open(run.context, golden.folder, &layers, &config, &error), "layer is -2");
    layers.layer = -1, layers.n_set = 1;
    BAD_ARGUMENT(moeblock_config_open(run.context, golden.folder, &layers, &config, &error), "n_set is 1");
    layers.set = (const char *const[]){NULL};
    BAD_ARGUMENT(moeblock_config_open(run.context, golden.folder, &layers, &config, &error), "(null)");
    options.threads = -1;
    BAD_ARGUMENT(moeblock_context_create(&options, &context, &error), "threads is -1");
    options.threads = 0, options.allocator = &half;
    BAD_ARGUMENT(moeblock_context_create(&options, &context, &error), "allocator");
    options.allocator = NULL, options.parallel = &parallel;
    BAD_ARGUMENT(moeblock_context_create(&options, &context, &error), "no run call");
    options.parallel = NULL, options.cpu_level = "avx1024";
    REFUSED(moeblock_context_create(&options, &context, &error), MOEBLOCK_UNSUPPORTED, "avx1024");
    still_works();
}

static moeblock_status no_send(void *user, int peer, int tag, const void *data, size_t bytes, uint64_t *transfer,
                               moeblock_error *e)
{
    (void)user, (void)peer, (void)tag, (void)data, (void)bytes, (void)transfer, (void)e;
    return MOEBLOCK_INTERNAL;
}
static moeblock_status no_receive(void *user, int peer, int tag, void *data, size_t capacity, uint64_t *transfer,
                                  moeblock_error *e)
{
    (void)user, (void)peer, (void)tag, (void)data, (void)capacity, (void)transfer, (void)e;
    return MOEBLOCK_INTERNAL;
}
static moeblock_status no_poll(void *user, uint64_t *transfers, int count, int *which, size_t *bytes, moeblock_error *e)
{
    (void)user, (void)transfers, (void)count, (void)which, (void)bytes, (void)e;
    return MOEBLOCK_INTERNAL;
}
static moeblock_status no_look(void *user, int tag, void *data, size_t capacity, size_t *bytes, moeblock_error *e)
{
    (void)user, (void)tag, (void)data, (void)capacity, (void)bytes, (void)e;
    return MOEBLOCK_INTERNAL;
}
static void no_abandon(void *user, uint64_t *transfers, int count) { (void)user, (void)transfers, (void)count; }

static void meshes_that_cannot_be(void **state)
{
    (void)state;
    static const struct {
        int rows, columns, size, rank;
        const char *part;
    } tries[] = {{0, 1, 1, 0, "at least one row"},  {1, -1, 1, 0, "at least one row"}, {1, 1, 1, 1, "rank is outside"},
                 {1, 1, 1, -1, "rank is outside"},  {2, 2, 3, 0, "4 processes"},       {1, 1, 4, 0, "there are 4"},
                 {65536, 65536, 1, 0, "4294967296"}};
    const moeblock_transport whole = {.struct_size = sizeof whole,
                                      .size = 1,
                                      .send = no_send,
                                      .receive = no_receive,
                                      .poll = no_poll,
                                      .look = no_look,
                                      .abandon = no_abandon};
    moeblock_mesh_options options = {.struct_size = sizeof options, .rows = 1, .columns = 1};
    moeblock_mesh *mesh = NULL;
    BAD_ARGUMENT(moeblock_mesh_create(NULL, &options, &mesh, &error), "transport is NULL");
    BAD_ARGUMENT(moeblock_mesh_create(&whole, NULL, &mesh, &error), "options is NULL");
    BAD_ARGUMENT(moeblock_mesh_create(&whole, &options, NULL, &error), "out is NULL");
    moeblock_transport transport = whole;
    transport.struct_size = 8;
    BAD_ARGUMENT(moeblock_mesh_create(&transport, &options, &mesh, &error), "struct_size");
    transport = whole, transport.poll = NULL;
    BAD_ARGUMENT(moeblock_mesh_create(&transport, &options, &mesh, &error), "a call is NULL");
    options.deadline = -1;
    BAD_ARGUMENT(moeblock_mesh_create(&whole, &options, &mesh, &error), "deadline");
    options.deadline = 0;
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        transport = whole, transport.size = tries[i].size, transport.rank = tries[i].rank;
        options.rows = tries[i].rows, options.columns = tries[i].columns;
        BAD_ARGUMENT(moeblock_mesh_create(&transport, &options, &mesh, &error), tries[i].part);
    }
    assert_null(mesh);
    moeblock_mesh_destroy(&mesh);
    moeblock_mesh_destroy(NULL);
}

// --- structs that grow -----------------------------------------------------------------------------------------------

// A struct of the library with room behind it, for callers that are newer than the library.
union grown {
    uint32_t size;
    moeblock_context_options context;
    moeblock_config_options config;
    moeblock_block_options block;
    moeblock_load_options load;
    moeblock_adapter_options adapter;
    moeblock_forward_input input;
    moeblock_forward_output output;
    unsigned char bytes[4096];
};

typedef moeblock_status (*with_struct)(const union grown *given);

static moeblock_status make_context(const union grown *given)
{
    moeblock_context *context;
    const moeblock_status status = moeblock_context_create(&given->context, &context, &error);
    moeblock_context_destroy(&context);
    return status;
}

static moeblock_status open_config(const union grown *given)
{
    moeblock_config *config;
    const moeblock_status status = moeblock_config_open(run.context, golden.folder, &given->config, &config, &error);
    moeblock_config_destroy(&config);
    return status;
}

static moeblock_status make_block(const union grown *given)
{
    moeblock_block *block;
    const moeblock_status status = moeblock_block_create(run.context, run.config, NULL, &given->block, &block, &error);
    moeblock_block_destroy(&block);
    return status;
}

static moeblock_status load_block(const union grown *given)
{
    moeblock_block *block;
    assert_int_equal(moeblock_block_create(run.context, run.config, NULL, NULL, &block, NULL), MOEBLOCK_OK);
    const moeblock_status status = moeblock_block_load(block, weights, &given->load, &error);
    moeblock_block_destroy(&block);
    return status;
}

static moeblock_status run_adapter(const union grown *given)
{
    moeblock_adapter *adapter;
    moeblock_array x = dense(golden.x.data), y = dense(run.y);
    assert_int_equal(moeblock_adapter_open(run.context, golden.folder, golden.layer, NULL, NULL, &adapter, NULL),
                     MOEBLOCK_OK);
    const moeblock_status status = moeblock_adapter_forward_mlp_decode(adapter, &x, &given->adapter, &y, &error);
    moeblock_adapter_destroy(&adapter);
    return status;
}

static moeblock_status run_input(const union grown *given)
{
    const moeblock_forward_output out = {.struct_size = sizeof out, .y = dense(run.y)};
    return moeblock_block_forward(run.block, run.workspace, &given->input, &out, &error);
}

static moeblock_status run_output(const union grown *given)
{
    const moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_DECODE, .x = dense(golden.x.data)};
    return moeblock_block_forward(run.block, run.workspace, &in, &given->output, &error);
}

// Size 0 and absurd sizes are refused, missing fields count as zero, fields behind ours must be zero.
static void struct_sizes(void **state)
{
    (void)state;
    static union grown given;
    const struct {
        const char *name;
        with_struct call;
        size_t size, smallest; // smallest that still works
    } tries[] = {{"moeblock_context_options", make_context, sizeof given.context, 4},
                 {"moeblock_config_options", open_config, sizeof given.config, 16},
                 {"moeblock_block_options", make_block, sizeof given.block, 4},
                 {"moeblock_load_options", load_block, sizeof given.load, 4},
                 {"moeblock_adapter_options", run_adapter, sizeof given.adapter, 4},
                 {"moeblock_forward_input", run_input, sizeof given.input, offsetof(moeblock_forward_input, aux)},
                 {"moeblock_forward_output", run_output, sizeof given.output, offsetof(moeblock_forward_output, ids)}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        static const uint32_t wrong[] = {0, 1, 3, 4097, 0x7f7f7f7f, UINT32_MAX};
        memset(&given, 0, sizeof given);
        if (tries[i].call == open_config) given.config.layer = -1;
        if (tries[i].call == run_input) given.input.mode = MOEBLOCK_PREFILL, given.input.x = dense(golden.x.data);
        if (tries[i].call == run_output) given.output.y = dense(run.y);
        for (size_t w = 0; w < sizeof wrong / sizeof *wrong; w++) {
            given.size = wrong[w];
            BAD_ARGUMENT(tries[i].call(&given), tries[i].name);
        }
        const size_t good[] = {tries[i].smallest, tries[i].size, tries[i].size + 1, tries[i].size + 200, 4096};
        for (size_t g = 0; g < sizeof good / sizeof *good; g++) {
            given.size = (uint32_t)good[g];
            if (tries[i].call(&given) != MOEBLOCK_OK)
                fail_msg("%s of %zu bytes: %s", tries[i].name, good[g], error.message);
        }
        given.size = (uint32_t)tries[i].size + 8;
        given.bytes[tries[i].size + 7] = 1;
        REFUSED(tries[i].call(&given), MOEBLOCK_UNSUPPORTED, tries[i].name);
    }
    still_works();
}

static void structs_that_are_filled(void **state)
{
    (void)state;
    moeblock_forward_stats stats = {.struct_size = 4};
    const moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_DECODE, .x = dense(golden.x.data)};
    const moeblock_forward_output out = {.struct_size = sizeof out, .y = dense(run.y), .stats = &stats};
    BAD_ARGUMENT(moeblock_block_forward(run.block, run.workspace, &in, &out, &error), "stats has struct_size 4");
    moeblock_block_info info;
    memset(&info, 0x7f, sizeof info);
    info.struct_size = 0;
    moeblock_block_get_info(run.block, &info);
    assert_int_equal(info.packed_bytes, 0x7f7f7f7f7f7f7f7f);
    info.struct_size = offsetof(moeblock_block_info, packed_bytes);
    moeblock_block_get_info(run.block, &info);
    assert_string_equal(info.format, "bf16");
    assert_int_equal(info.packed_bytes, 0x7f7f7f7f7f7f7f7f);
    assert_int_equal(info.struct_size, offsetof(moeblock_block_info, packed_bytes));
}

// --- arrays ----------------------------------------------------------------------------------------------------------

static void arrays_that_lie(void **state)
{
    (void)state;
    const int64_t tokens = golden.tokens, hidden = golden.hidden;
    float *memory = calloc((size_t)(4 * tokens * hidden), sizeof *memory);
    assert_non_null(memory);
    const struct {
        moeblock_array y;
        const char *part;
    } tries[] = {
        {{MOEBLOCK_F32, 2, {tokens, hidden}, {hidden - 1, 1}, memory}, "rows over one another"},
        {{MOEBLOCK_F32, 2, {tokens, hidden}, {0, 1}, memory}, "rows over one another"},
        {{MOEBLOCK_F32, 2, {tokens, hidden}, {-hidden, 1}, memory}, "stride 0 is -"},
        {{MOEBLOCK_F32, 2, {tokens, hidden}, {hidden, 2}, memory}, "stride 2"},
        {{MOEBLOCK_F32, 2, {tokens, hidden}, {INT64_MAX, 1}, memory}, "2^56"},
        {{MOEBLOCK_F32, 2, {tokens, hidden}, {(int64_t)1 << 55, 1}, memory}, "2^56"},
        {{MOEBLOCK_F32, 2, {tokens, -hidden}, {0}, memory}, "dimension 1 is -"},
        {{MOEBLOCK_F32, 2, {tokens + 1, hidden}, {0}, memory}, "shape"},
        {{MOEBLOCK_F32, 3, {1, tokens, hidden}, {0}, memory}, "shape"},
        {{MOEBLOCK_F32, 2, {tokens, hidden}, {0}, (float *)golden.x.data + 1}, "share memory"},
        {{MOEBLOCK_F32, 2, {tokens, hidden}, {0}, (float *)golden.x.data + tokens * hidden - 1}, "share memory"},
        {{MOEBLOCK_BF16, 2, {tokens, hidden}, {0}, golden.x.data}, "share memory"},
        {{MOEBLOCK_F32, 2, {tokens, hidden}, {0}, NULL}, "data is NULL"},
    };
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        const moeblock_forward_input in = {
            .struct_size = sizeof in, .mode = MOEBLOCK_DECODE, .x = dense(golden.x.data)};
        const moeblock_forward_output out = {.struct_size = sizeof out, .y = tries[i].y};
        moeblock_array y = tries[i].y;
        BAD_ARGUMENT(moeblock_block_forward(run.block, run.workspace, &in, &out, &error), tries[i].part);
        BAD_ARGUMENT(
            moeblock_block_forward_experts(run.block, run.workspace, &in.x, run.ids, run.weights, golden.k, &y, &error),
            tries[i].part);
    }
    free(memory);
    still_works();
}

// What looks odd and is right: rows in reverse nesting, rows of x that are one, y between the rows of x.
static void arrays_that_only_look_odd(void **state)
{
    (void)state;
    enum { A = 3, B = 2 };
    const int64_t hidden = golden.hidden;
    float *memory = calloc((size_t)(2 * A * B * hidden), sizeof *memory);
    assert_non_null(memory);
    moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_DECODE};
    moeblock_forward_output out = {.struct_size = sizeof out};
    in.x = (moeblock_array){MOEBLOCK_F32, 3, {A, B, hidden}, {0}, golden.x.data};
    out.y = (moeblock_array){MOEBLOCK_F32, 3, {A, B, hidden}, {hidden, A * hidden, 1}, memory};
    assert_int_equal(moeblock_block_forward(run.block, run.workspace, &in, &out, &error), MOEBLOCK_OK);
    for (int a = 0; a < A; a++)
        for (int b = 0; b < B; b++)
            assert_memory_equal(memory + (b * A + a) * hidden, run.y + (a * B + b) * hidden,
                                (size_t)hidden * sizeof *memory);
    in.x.strides[2] = 1; // every row is the first one
    out.y = (moeblock_array){MOEBLOCK_F32, 3, {A, B, hidden}, {0}, memory};
    assert_int_equal(moeblock_block_forward(run.block, run.workspace, &in, &out, &error), MOEBLOCK_OK);
    for (int i = 0; i < A * B; i++) assert_memory_equal(memory + i * hidden, run.y, (size_t)hidden * sizeof *memory);
    for (int i = 0; i < A * B; i++)
        memcpy(memory + 2 * i * hidden, (float *)golden.x.data + i * hidden, (size_t)hidden * sizeof *memory);
    in.x = (moeblock_array){MOEBLOCK_F32, 2, {A * B, hidden}, {2 * hidden, 1}, memory};
    out.y = in.x;
    out.y.data = memory + hidden;
    assert_int_equal(moeblock_block_forward(run.block, run.workspace, &in, &out, &error), MOEBLOCK_OK);
    for (int i = 0; i < A * B; i++)
        assert_memory_equal(memory + (2 * i + 1) * hidden, run.y + i * hidden, (size_t)hidden * sizeof *memory);
    free(memory);
}

static void tensors_that_lie(void **state)
{
    (void)state;
    static const float four[4] = {1, 2, 3, 4};
    static char long_name[1200];
    memset(long_name, 'n', sizeof long_name - 1);
    const struct {
        moeblock_tensor tensor;
        const char *part;
    } tries[] = {
        {{NULL, MOEBLOCK_F32, 1, {4}, four, 16}, "tensor 0 has no name"},
        {{long_name, MOEBLOCK_F32, 1, {4}, four, 16}, "longer name"},
        {{"w", MOEBLOCK_DTYPE_NONE, 1, {4}, four, 16}, "'w' has dtype 0"},
        {{"w", MOEBLOCK_DTYPE_OTHER, 1, {4}, four, 16}, "'w' has dtype 17"},
        {{"w", (moeblock_dtype)-5, 1, {4}, four, 16}, "'w' has dtype -5"},
        {{"w", MOEBLOCK_F32, -1, {4}, four, 16}, "'w': the rank"},
        {{"w", MOEBLOCK_F32, 9, {4}, four, 16}, "'w': the rank"},
        {{"w", MOEBLOCK_F32, 1, {-4}, four, 16}, "'w': a dimension"},
        {{"w", MOEBLOCK_F32, 2, {INT64_MAX, 4}, four, 16}, "'w': a dimension"},
        {{"w", MOEBLOCK_F32, 2, {(int64_t)1 << 32, (int64_t)1 << 32}, four, 16}, "'w': the dimensions multiply"},
        {{"w", MOEBLOCK_F32, 1, {4}, four, 15}, "'w' has 15 bytes of data, expected 16"},
        {{"w", MOEBLOCK_F32, 1, {4}, four, SIZE_MAX}, "expected 16"},
        {{"w", MOEBLOCK_F32, 1, {4}, NULL, 16}, "'w' has no data"},
    };
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        moeblock_weights *out = NULL;
        BAD_ARGUMENT(moeblock_weights_from_tensors(run.context, &tries[i].tensor, 1, &out, &error), tries[i].part);
        BAD_ARGUMENT(moeblock_block_load_weights(run.block, &tries[i].tensor, 1, &error), tries[i].part);
        assert_null(out);
    }
    still_works();
}

// A carried router state is reserved; it is not silently dropped.
static void router_states(void **state)
{
    (void)state;
    float carried[4] = {0};
    moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_DECODE, .x = dense(golden.x.data)};
    moeblock_forward_output out = {.struct_size = sizeof out, .y = dense(run.y)};
    in.router_state = carried;
    REFUSED(moeblock_block_forward(run.block, run.workspace, &in, &out, &error), MOEBLOCK_INVALID_ARGUMENT,
            "router_state");
    in.router_state = NULL, out.router_state = carried;
    REFUSED(moeblock_block_forward(run.block, run.workspace, &in, &out, &error), MOEBLOCK_INVALID_ARGUMENT,
            "router_state");
    still_works();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_destroy),
        cmocka_unit_test(questions_about_nothing),
        cmocka_unit_test(null_in_making_objects),
        cmocka_unit_test(null_in_registering),
        cmocka_unit_test(null_in_reading_weights),
        cmocka_unit_test(null_in_loading),
        cmocka_unit_test(null_in_running),
        cmocka_unit_test(enums_and_counts_out_of_range),
        cmocka_unit_test(meshes_that_cannot_be),
        cmocka_unit_test(struct_sizes),
        cmocka_unit_test(structs_that_are_filled),
        cmocka_unit_test(arrays_that_lie),
        cmocka_unit_test(arrays_that_only_look_odd),
        cmocka_unit_test(tensors_that_lie),
        cmocka_unit_test(router_states),
    };
    return cmocka_run_group_tests_name("misuse", tests, begin, end);
}
