// SPDX-License-Identifier: Apache-2.0
// The drop-in: made from text, file and folder, it gives the bytes of a block, grows its workspace, and survives
// errors.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "moeblock/moeblock.h"

#define FOLDER MOEBLOCK_SOURCE_DIR "/tests/golden/deepseek_v3-f32"

enum { H = 40, K = 4, TOKENS = 9, LAYER = 2 };

static moeblock_context *context;
static moeblock_error error;

static int set_up(void **state)
{
    (void)state;
    return moeblock_context_create(NULL, &context, NULL) != MOEBLOCK_OK;
}

static int tear_down(void **state)
{
    (void)state;
    moeblock_context_destroy(&context);
    return 0;
}

static moeblock_array array(float *data, int64_t tokens)
{
    return (moeblock_array){.dtype = MOEBLOCK_F32, .rank = 3, .dims = {1, tokens, H}, .data = data};
}

static void fill(float *x, int64_t count)
{
    uint32_t seed = 7;
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)((int32_t)(seed >> 8) % 2001 - 1000) / 512.0f;
    }
}

static void assert_ok(moeblock_status status)
{
    if (status != MOEBLOCK_OK) fail_msg("%s", error.message);
}

// What a block made and run by hand gives.
static void by_hand(const float *x, int64_t tokens, float *y)
{
    moeblock_config *config = NULL;
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    const moeblock_config_options options = {.struct_size = sizeof options, .layer = LAYER};
    assert_ok(moeblock_config_open(context, FOLDER, &options, &config, &error));
    assert_ok(moeblock_block_create(context, config, NULL, NULL, &block, &error));
    assert_ok(moeblock_block_load_files(block, FOLDER, NULL, &error));
    assert_ok(moeblock_workspace_create(block, tokens, NULL, 0, &workspace, &error));
    assert_ok(moeblock_forward(block, workspace, x, tokens, MOEBLOCK_PREFILL, y, &error));
    moeblock_workspace_destroy(&workspace);
    moeblock_block_destroy(&block);
    moeblock_config_destroy(&config);
}

static void test_folder(void **state)
{
    (void)state;
    static float x[TOKENS * H], y[TOKENS * H], expected[TOKENS * H];
    static int32_t ids[TOKENS * K];
    static float weights[TOKENS * K];
    moeblock_adapter *adapter = NULL;
    fill(x, TOKENS * H);
    by_hand(x, TOKENS, expected);
    assert_ok(moeblock_adapter_open(context, FOLDER, LAYER, NULL, NULL, &adapter, &error));
    const int64_t lengths[] = {1, TOKENS, 3}; // the second needs a larger workspace
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        moeblock_array in = array(x, lengths[i]), out = array(y, lengths[i]);
        const size_t bytes = (size_t)(lengths[i] * H) * sizeof(float);
        moeblock_forward_stats stats = {.struct_size = sizeof stats};
        const moeblock_adapter_options cfg = {
            .struct_size = sizeof cfg, .stats = &stats, .ids = ids, .weights = weights};
        assert_ok(moeblock_adapter_forward_mlp_prefill(adapter, &in, &cfg, &out, &error));
        assert_memory_equal(y, expected, bytes);
        assert_int_equal(stats.tokens, lengths[i]);
        assert_true(ids[0] >= 0 && weights[0] >= weights[1]);
        memset(y, 0, bytes);
        assert_ok(moeblock_adapter_forward_mlp_decode(adapter, &in, NULL, &out, &error));
        assert_memory_equal(y, expected, bytes);
    }
    moeblock_config_shape shape;
    moeblock_config_get_shape(moeblock_adapter_config(adapter), &shape);
    assert_int_equal(shape.layer, LAYER);
    assert_non_null(moeblock_adapter_block(adapter));
    moeblock_adapter_destroy(&adapter);
    assert_null(adapter);
}

// All tensors of the folder's layer, as a host would pass them.
static moeblock_tensor *read_tensors(size_t *count)
{
    moeblock_weights *weights = NULL;
    assert_ok(moeblock_weights_open(context, FOLDER, &weights, &error));
    assert_ok(moeblock_weights_count(weights, count, &error));
    moeblock_tensor *tensors = calloc(*count, sizeof *tensors);
    assert_non_null(tensors);
    for (size_t i = 0; i < *count; i++) {
        moeblock_tensor_info info;
        assert_ok(moeblock_weights_at(weights, i, &info, &error));
        void *data = malloc(info.bytes);
        assert_ok(moeblock_weights_read(weights, &info, 0, info.bytes, data, &error));
        tensors[i] = (moeblock_tensor){
            .name = strdup(info.name), .dtype = info.dtype, .rank = info.rank, .data = data, .bytes = info.bytes};
        memcpy(tensors[i].dims, info.dims, sizeof info.dims);
    }
    moeblock_weights_destroy(&weights);
    return tensors;
}

static void free_tensors(moeblock_tensor *tensors, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free((void *)(uintptr_t)tensors[i].name);
        free((void *)(uintptr_t)tensors[i].data);
    }
    free(tensors);
}

static void test_memory(void **state)
{
    (void)state;
    static float x[TOKENS * H], y[TOKENS * H], expected[TOKENS * H];
    moeblock_adapter *adapter = NULL;
    size_t count;
    moeblock_tensor *tensors = read_tensors(&count);
    moeblock_array in = array(x, TOKENS), out = array(y, TOKENS);
    fill(x, TOKENS * H);
    by_hand(x, TOKENS, expected);
    assert_ok(moeblock_adapter_create_from_file(context, FOLDER "/config.json", LAYER, NULL, NULL, &adapter, &error));
    assert_int_equal(moeblock_adapter_forward_mlp_decode(adapter, &in, NULL, &out, &error), MOEBLOCK_WRONG_STATE);
    for (int again = 0; again < 2; again++) { // a second load replaces the first, workspace included
        assert_ok(moeblock_adapter_load_weights(adapter, tensors, count, &error));
        assert_ok(moeblock_adapter_forward_mlp_decode(adapter, &in, NULL, &out, &error));
        assert_memory_equal(y, expected, sizeof y);
    }
    assert_int_equal(moeblock_adapter_load_weights(adapter, tensors, 1, &error), MOEBLOCK_NOT_FOUND);
    assert_ok(moeblock_adapter_forward_mlp_decode(adapter, &in, NULL, &out, &error));
    assert_memory_equal(y, expected, sizeof y); // the earlier weights are still in force
    free_tensors(tensors, count);
    moeblock_adapter_destroy(&adapter);
}

static void test_errors(void **state)
{
    (void)state;
    static float x[H];
    moeblock_adapter *adapter = NULL;
    assert_int_equal(
        moeblock_adapter_create(context, "{\"model_type\":\"vitpose_backbone\"}", -1, NULL, NULL, &adapter, &error),
        MOEBLOCK_UNSUPPORTED);
    assert_null(adapter);
    assert_non_null(strstr(error.message, "vitpose_backbone"));
    assert_int_equal(moeblock_adapter_create(context, "{", -1, NULL, NULL, &adapter, &error), MOEBLOCK_INVALID_CONFIG);
    assert_int_equal(moeblock_adapter_create(context, NULL, -1, NULL, NULL, &adapter, &error),
                     MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_adapter_create_from_file(context, FOLDER "/absent", -1, NULL, NULL, &adapter, &error),
                     MOEBLOCK_NOT_FOUND);
    assert_int_equal(moeblock_adapter_open(context, FOLDER, 0, NULL, NULL, &adapter, &error), MOEBLOCK_INVALID_CONFIG);
    assert_null(adapter);
    moeblock_array in = array(x, 1);
    assert_int_equal(moeblock_adapter_forward_mlp_decode(NULL, &in, NULL, &in, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_ok(moeblock_adapter_open(context, FOLDER, LAYER, NULL, NULL, &adapter, &error));
    in.dims[2] = H + 1;
    assert_int_equal(moeblock_adapter_forward_mlp_decode(adapter, &in, NULL, &in, &error), MOEBLOCK_INVALID_ARGUMENT);
    moeblock_adapter_destroy(&adapter);
    moeblock_adapter_destroy(&adapter); // destroying nothing is fine
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_errors, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
