// SPDX-License-Identifier: Apache-2.0
// From a description to stored tensors: every layout and format is written as the list of needed tensors says, found
// again, and decoded to the values that were put there.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "config/tensors.h"
#include "moeblock/moeblock.h"

enum { HIDDEN = 160, INNER = 96, SHARED = 64, LATENT = 32, EXPERTS = 3, TENSORS_MAX = 64 };

static moeblock_context *context;

static int make_context(void **state)
{
    (void)state;
    return moeblock_context_create(NULL, &context, NULL) == MOEBLOCK_OK ? 0 : -1;
}

static int drop_context(void **state)
{
    (void)state;
    moeblock_context_destroy(&context);
    return 0;
}

static moeblock_config *parse(const char *experts, const char *router, const char *weights)
{
    char text[2048];
    moeblock_config *config = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const int length =
        snprintf(text, sizeof text,
                 "{\"model\":{\"hidden_size\":160,\"num_experts\":3,\"num_experts_per_tok\":2},\"router\":{%s},"
                 "\"experts\":{%s},\"weights\":{%s}}",
                 router, experts, weights);
    if (moeblock_config_parse(context, text, (size_t)length, "t", NULL, &config, &error)) fail_msg("%s", error.message);
    return config;
}

// --- a checkpoint in memory, as mb_tensor_needed lists it

struct checkpoint {
    moeblock_tensor tensors[TENSORS_MAX];
    moeblock_tensor_need needs[TENSORS_MAX];
    size_t count;
    moeblock_weights *weights;
};

static void fill(moeblock_tensor *tensor, uint32_t seed)
{
    uint8_t *bytes = malloc(tensor->bytes);
    const bool scale = strstr(tensor->name, "_scale") != NULL;
    for (size_t i = 0; i < tensor->bytes; i++) {
        seed = seed * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(seed >> 24);
        if (tensor->dtype == MOEBLOCK_F8_E4M3) bytes[i] &= 0x77; // no NaN
        if (tensor->dtype == MOEBLOCK_U8 && scale) bytes[i] = (uint8_t)(120 + bytes[i] % 16);
    }
    const size_t floats = tensor->dtype == MOEBLOCK_F32 ? tensor->bytes / 4 : 0;
    for (size_t i = 0; i < floats; i++) {
        seed = seed * 1664525u + 1013904223u;
        const float value = (float)(seed >> 16) / 65536.0f + 0.5f;
        memcpy(bytes + 4 * i, &value, sizeof value);
    }
    for (size_t i = 1; (tensor->dtype == MOEBLOCK_BF16 || tensor->dtype == MOEBLOCK_F16) && i < tensor->bytes; i += 2)
        bytes[i] = (uint8_t)(0x38 | (bytes[i] & 3)); // finite and moderate
    tensor->data = bytes;
}

static void open_checkpoint(struct checkpoint *c)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (moeblock_weights_from_tensors(context, c->tensors, c->count, &c->weights, &error))
        fail_msg("%s", error.message);
}

static struct checkpoint *make_checkpoint(const moeblock_config *config, enum mb_format format)
{
    struct checkpoint *c = calloc(1, sizeof *c);
    while (mb_tensor_needed(config, format, 7, (int64_t)c->count, &c->needs[c->count])) {
        const moeblock_tensor_need *need = &c->needs[c->count];
        moeblock_tensor *tensor = &c->tensors[c->count++];
        assert_true(c->count < TENSORS_MAX);
        *tensor = (moeblock_tensor){.name = need->name, .dtype = need->dtype, .rank = need->rank};
        memcpy(tensor->dims, need->dims, sizeof tensor->dims);
        tensor->bytes = moeblock_dtype_bytes(need->dtype);
        for (int i = 0; i < need->rank; i++) tensor->bytes *= (size_t)need->dims[i];
        fill(tensor, (uint32_t)c->count);
    }
    open_checkpoint(c);
    return c;
}

static void drop_checkpoint(struct checkpoint *c)
{
    moeblock_weights_destroy(&c->weights);
    for (size_t i = 0; i < c->count; i++) free((void *)(uintptr_t)c->tensors[i].data);
    free(c);
}

static moeblock_tensor *find(struct checkpoint *c, const char *name)
{
    for (size_t i = 0; i < c->count; i++)
        if (!strcmp(c->tensors[i].name, name)) return &c->tensors[i];
    return NULL;
}

// --- what a stored element is worth, from the format's definition

static float number(const moeblock_tensor *tensor, int64_t i)
{
    const uint8_t *at = (const uint8_t *)tensor->data + (size_t)i * moeblock_dtype_bytes(tensor->dtype);
    uint16_t half;
    float value;
    switch (tensor->dtype) {
    case MOEBLOCK_F32:
        memcpy(&value, at, sizeof value);
        return value;
    case MOEBLOCK_BF16:
    case MOEBLOCK_F16:
        memcpy(&half, at, sizeof half);
        const int bits = tensor->dtype == MOEBLOCK_F16 ? 10 : 7, bias = tensor->dtype == MOEBLOCK_F16 ? 15 : 127;
        const int exponent = half >> bits & (2 * bias + 1), fraction = half & ((1 << bits) - 1);
        return ldexpf((float)(fraction + (1 << bits)), exponent - bias - bits);
    case MOEBLOCK_F8_E4M3:
        value = *at & 0x78 ? ldexpf((float)(8 + (*at & 7)), (*at >> 3 & 15) - 10) : ldexpf((float)(*at & 7), -9);
        return value;
    case MOEBLOCK_U8:
        return ldexpf(1.0f, *at - 127);
    default:
        fail();
        return 0;
    }
}

static float fp4(const moeblock_tensor *tensor, int64_t i)
{
    static const float codes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    const int code = ((const uint8_t *)tensor->data)[i / 2] >> (i % 2 * 4) & 15;
    return code & 8 ? -codes[code & 7] : codes[code & 7];
}

// Element (row, column) of an expert's stored matrix of `rows` x `columns`, in output-major terms.
static float stored(struct checkpoint *c, const char *name, enum mb_format format, bool stacked, bool input_major,
                    int64_t expert, int64_t rows, int64_t columns, int64_t row, int64_t column)
{
    char codes_name[300], scales_name[300];
    const struct mb_format_info *info = &mb_format_table[format];
    snprintf(codes_name, sizeof codes_name, "%s%s", name, info->codes_suffix);
    const moeblock_tensor *codes = find(c, codes_name);
    assert_non_null(codes);
    const int64_t base = stacked ? expert * rows * columns : 0;
    const int64_t at = base + (input_major ? column * rows + row : row * columns + column);
    if (!info->scale_suffix) return number(codes, at);
    snprintf(scales_name, sizeof scales_name, "%s%s", name, info->scale_suffix);
    const moeblock_tensor *scales = find(c, scales_name);
    assert_non_null(scales);
    const int64_t tile_rows = (rows + info->row_tile - 1) / info->row_tile;
    const int64_t tile_columns = (columns + info->column_tile - 1) / info->column_tile;
    const int64_t tile = (stacked ? expert * tile_rows * tile_columns : 0) + row / info->row_tile * tile_columns +
                         column / info->column_tile;
    return (format == MB_FORMAT_MXFP4 ? fp4(codes, at) : number(codes, at)) * number(scales, tile);
}

struct expected {
    enum mb_projection projection;
    enum mb_role role;
    int64_t rows, columns; // of the projection
    int parts, part;       // of the stored tensor
    bool alternating, stacked, input_major;
};

// The public call gives the same values, all outputs or some, under the key of weights.names.
static void assert_decoded(const moeblock_config *config, struct checkpoint *c, enum mb_projection projection,
                           int64_t expert, const float *right, int64_t rows, int64_t columns)
{
    static const char *const names[] = {[MB_PROJ_ROUTER] = "router_weight",
                                        [MB_PROJ_GATE] = "gate",
                                        [MB_PROJ_UP] = "up",
                                        [MB_PROJ_DOWN] = "down",
                                        [MB_PROJ_SHARED_GATE] = "shared_gate",
                                        [MB_PROJ_SHARED_UP] = "shared_up",
                                        [MB_PROJ_SHARED_DOWN] = "shared_down",
                                        [MB_PROJ_SHARED_SIGMOID] = "shared_sigmoid_gate",
                                        [MB_PROJ_LATENT_DOWN] = "latent_down",
                                        [MB_PROJ_LATENT_UP] = "latent_up"};
    moeblock_error error = {MOEBLOCK_OK, ""};
    const int64_t first = rows / 3, count = rows - first;
    const size_t bytes = (size_t)(count * columns) * sizeof(float);
    float *values = malloc(bytes);
    if (moeblock_config_decode(config, c->weights, names[projection], 7, expert, first, count, values, &error))
        fail_msg("%s", error.message);
    assert_memory_equal(values, right + first * columns, bytes);
    free(values);
}

static void assert_projection(const moeblock_config *config, struct checkpoint *c, enum mb_format format,
                              const struct expected *e, int64_t expert)
{
    struct mb_matrix matrix;
    char name[256];
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (mb_projection_find(config, c->weights, e->projection, 7, expert, &matrix, &error))
        fail_msg("%s: %s", mb_format_table[format].name, error.message);
    assert_int_equal(matrix.rows, e->rows);
    assert_int_equal(matrix.columns, e->columns);
    assert_int_equal(matrix.format, format);
    mb_role_name(config, e->role, 7, expert, name);
    float *values = malloc((size_t)(e->rows * e->columns) * sizeof *values);
    if (mb_matrix_decode(c->weights, &config->allocator, &matrix, 0, e->rows, values, &error))
        fail_msg("%s", error.message);
    assert_decoded(config, c, e->projection, expert, values, e->rows, e->columns);
    const bool input_major = e->input_major && mb_format_table[format].oriented;
    for (int64_t r = 0; r < e->rows; r++) {
        const int64_t row = e->alternating ? 2 * r + e->part : e->part * e->rows + r;
        for (int64_t k = 0; k < e->columns; k++) {
            const float right =
                stored(c, name, format, e->stacked, input_major, expert, e->parts * e->rows, e->columns, row, k);
            if (values[r * e->columns + k] != right)
                fail_msg("%s %s (%d, %d): %g, expected %g", name, mb_format_table[format].name, (int)r, (int)k,
                         (double)values[r * e->columns + k], (double)right);
        }
    }
    free(values);
}

// The formats with a layout each of its own.
static bool covered(enum mb_format format, bool input_major)
{
    return format <= MB_FORMAT_FP8 || format == MB_FORMAT_MXFP4 || (format == MB_FORMAT_FBGEMM_FP8 && input_major);
}

// Layouts L1 to L6 of moe-families 1.11 in every format.
static void test_layouts(void **state)
{
    (void)state;
    static const struct {
        const char *weights;
        bool stacked, input_major, fused, alternating;
    } layouts[] = {
        {"\"names\":\"deepseek\"", false, false, false, false},
        {"\"names\":\"mixtral\"", false, false, false, false},
        {"\"names\":\"granite\"", true, false, true, false},
        {"\"layout\":\"stacked\",\"names\":{\"gate\":\"e.gate\",\"up\":\"e.up\",\"down\":\"e.down\"}", true, false,
         false, false},
        {"\"names\":\"llama4\"", true, true, true, false},
        {"\"names\":\"gpt_oss\"", true, true, true, true},
        {"\"names\":\"stacked\",\"gate_up\":\"interleaved\"", true, false, true, true},
    };
    for (size_t l = 0; l < sizeof layouts / sizeof layouts[0]; l++) {
        moeblock_config *config = parse("\"distributed\":{\"intermediate_size\":96}", "", layouts[l].weights);
        const bool fused = layouts[l].fused;
        const struct expected expected[] = {
            {MB_PROJ_GATE, fused ? MB_ROLE_GATE_UP : MB_ROLE_GATE, INNER, HIDDEN, fused ? 2 : 1, 0,
             layouts[l].alternating, layouts[l].stacked, layouts[l].input_major},
            {MB_PROJ_UP, fused ? MB_ROLE_GATE_UP : MB_ROLE_UP, INNER, HIDDEN, fused ? 2 : 1, fused,
             layouts[l].alternating, layouts[l].stacked, layouts[l].input_major},
            {MB_PROJ_DOWN, MB_ROLE_DOWN, HIDDEN, INNER, 1, 0, false, layouts[l].stacked, layouts[l].input_major},
        };
        for (int f = 0; f < MB_FORMATS; f++) {
            if (!covered((enum mb_format)f, layouts[l].input_major)) continue;
            struct checkpoint *c = make_checkpoint(config, (enum mb_format)f);
            for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
                for (int64_t e = 0; e < EXPERTS; e++) assert_projection(config, c, (enum mb_format)f, &expected[i], e);
            drop_checkpoint(c);
        }
        moeblock_config_destroy(&config);
    }
}

// Shared expert, router, sigmoid gate and latent projections.
static void test_others(void **state)
{
    (void)state;
    moeblock_config *config = parse("\"distributed\":{\"intermediate_size\":96},\"latent\":{\"size\":32},"
                                    "\"shared\":{\"intermediate_size\":64,\"gate\":\"sigmoid\"}",
                                    "\"config\":{\"transposed\":true,\"null_experts\":2,\"null_kind\":\"zero\"}",
                                    "\"shared_gate_up\":\"concatenated\"");
    const struct expected in_format[] = {
        {MB_PROJ_GATE, MB_ROLE_GATE, INNER, LATENT, 1, 0, false, false, false},
        {MB_PROJ_DOWN, MB_ROLE_DOWN, LATENT, INNER, 1, 0, false, false, false},
        {MB_PROJ_SHARED_GATE, MB_ROLE_SHARED_GATE_UP, SHARED, HIDDEN, 2, 0, false, false, false},
        {MB_PROJ_SHARED_UP, MB_ROLE_SHARED_GATE_UP, SHARED, HIDDEN, 2, 1, false, false, false},
        {MB_PROJ_SHARED_DOWN, MB_ROLE_SHARED_DOWN, HIDDEN, SHARED, 1, 0, false, false, false},
    };
    const struct expected plain[] = {
        {MB_PROJ_ROUTER, MB_ROLE_ROUTER, EXPERTS + 2, HIDDEN, 1, 0, false, false, true},
        {MB_PROJ_SHARED_SIGMOID, MB_ROLE_SHARED_SIGMOID, 1, HIDDEN, 1, 0, false, false, false},
        {MB_PROJ_LATENT_DOWN, MB_ROLE_LATENT_DOWN, LATENT, HIDDEN, 1, 0, false, false, false},
        {MB_PROJ_LATENT_UP, MB_ROLE_LATENT_UP, HIDDEN, LATENT, 1, 0, false, false, false},
    };
    for (int f = 0; f < MB_FORMATS; f++) {
        if (!covered((enum mb_format)f, false)) continue;
        struct checkpoint *c = make_checkpoint(config, (enum mb_format)f);
        const enum mb_format rest = mb_format_table[f].scale_suffix ? MB_FORMAT_BF16 : (enum mb_format)f;
        for (size_t i = 0; i < sizeof in_format / sizeof in_format[0]; i++)
            assert_projection(config, c, (enum mb_format)f, &in_format[i], 0);
        for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) assert_projection(config, c, rest, &plain[i], 0);
        drop_checkpoint(c);
    }
    moeblock_config_destroy(&config);
}

static void assert_bias(const moeblock_config *config, struct checkpoint *c, enum mb_projection projection,
                        enum mb_role role, int64_t expert, int64_t count, int64_t first, int64_t step)
{
    float values[HIDDEN];
    char name[256];
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (mb_projection_bias(config, c->weights, projection, 7, expert, count, values, &error))
        fail_msg("%s", error.message);
    mb_role_name(config, role, 7, expert, name);
    for (int64_t i = 0; i < count; i++) assert_true(values[i] == number(find(c, name), first + i * step));
}

static void test_biases(void **state)
{
    (void)state;
    const char *experts = "\"distributed\":{\"intermediate_size\":96,\"bias\":true}";
    moeblock_config *config = parse(experts, "\"config\":{\"linear_bias\":true}", "\"names\":\"gpt_oss\"");
    struct checkpoint *c = make_checkpoint(config, MB_FORMAT_MXFP4);
    for (int64_t e = 0; e < EXPERTS; e++) {
        assert_bias(config, c, MB_PROJ_GATE, MB_ROLE_GATE_UP_BIAS, e, INNER, e * 2 * INNER, 2);
        assert_bias(config, c, MB_PROJ_UP, MB_ROLE_GATE_UP_BIAS, e, INNER, e * 2 * INNER + 1, 2);
        assert_bias(config, c, MB_PROJ_DOWN, MB_ROLE_DOWN_BIAS, e, HIDDEN, e * HIDDEN, 1);
    }
    assert_bias(config, c, MB_PROJ_ROUTER, MB_ROLE_ROUTER_BIAS, 0, EXPERTS, 0, 1);
    float one;
    assert_int_equal(mb_projection_bias(config, c->weights, MB_PROJ_SHARED_SIGMOID, 7, 0, 1, &one, NULL),
                     MOEBLOCK_INVALID_ARGUMENT);
    drop_checkpoint(c);
    moeblock_config_destroy(&config);

    config = parse("\"distributed\":{\"intermediate_size\":96,\"bias\":true},\"shared\":{\"intermediate_size\":64,"
                   "\"bias\":true}",
                   "", "");
    c = make_checkpoint(config, MB_FORMAT_F32);
    assert_bias(config, c, MB_PROJ_GATE, MB_ROLE_GATE_BIAS, 2, INNER, 0, 1);
    assert_bias(config, c, MB_PROJ_UP, MB_ROLE_UP_BIAS, 2, INNER, 0, 1);
    assert_bias(config, c, MB_PROJ_SHARED_GATE, MB_ROLE_SHARED_GATE_BIAS, 0, SHARED, 0, 1);
    assert_bias(config, c, MB_PROJ_SHARED_DOWN, MB_ROLE_SHARED_DOWN_BIAS, 0, HIDDEN, 0, 1);
    drop_checkpoint(c);
    moeblock_config_destroy(&config);
}

// --- names

static void test_names(void **state)
{
    (void)state;
    char name[256];
    moeblock_config *config =
        parse("\"distributed\":{\"intermediate_size\":96}", "", "\"names\":{\"gate\":\"/x.{layer}.{expert}.{layer}\"}");
    mb_role_name(config, MB_ROLE_UP, 61, 255, name);
    assert_string_equal(name, "model.layers.61.mlp.experts.255.up_proj.weight");
    mb_role_name(config, MB_ROLE_GATE, 61, 255, name);
    assert_string_equal(name, "x.61.255.61");
    moeblock_config_destroy(&config);
    config = parse("\"distributed\":{\"intermediate_size\":96}", "", "\"module_prefix\":\"\"");
    mb_role_name(config, MB_ROLE_ROUTER, 1, 0, name);
    assert_string_equal(name, "mlp.gate.weight");
    for (int role = 0; role < MB_ROLES; role++) {
        char key[80];
        snprintf(key, sizeof key, "weights.names.%s", mb_role_key((enum mb_role)role));
        assert_true(moeblock_config_value(config, key, name, sizeof name) > 0);
    }
    moeblock_config_destroy(&config);
}

// In full, from "mlp." on, or bare.
static void test_name_forms(void **state)
{
    (void)state;
    static const char *const prefixes[] = {"model.layers.7.mlp.", "mlp.", ""};
    moeblock_config *config =
        parse("\"distributed\":{\"intermediate_size\":96}", "\"config\":{\"score_correction_bias\":true}", "");
    const float values[EXPERTS] = {1, 2, 3};
    for (int i = 0; i < 3; i++) {
        char name[256];
        float read[EXPERTS];
        snprintf(name, sizeof name, "%sgate.e_score_correction_bias", prefixes[i]);
        // a leading dimension of 1, as ERNIE stores it
        const moeblock_tensor tensor = {name, MOEBLOCK_F32, 2, {1, EXPERTS}, values, sizeof values};
        moeblock_weights *weights = NULL;
        assert_int_equal(moeblock_weights_from_tensors(context, &tensor, 1, &weights, NULL), MOEBLOCK_OK);
        assert_int_equal(mb_role_floats(config, weights, MB_ROLE_SELECTION_BIAS, 7, EXPERTS, read, NULL), MOEBLOCK_OK);
        assert_memory_equal(read, values, sizeof values);
        moeblock_weights_destroy(&weights);
    }
    moeblock_config_destroy(&config);
}

// --- errors

static void assert_not_found(const moeblock_config *config, struct checkpoint *c, enum mb_projection projection,
                             moeblock_status status, const char *message)
{
    struct mb_matrix matrix;
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_weights_destroy(&c->weights);
    open_checkpoint(c);
    assert_int_equal(mb_projection_find(config, c->weights, projection, 7, 1, &matrix, &error), status);
    assert_string_equal(error.message, message);
}

static void assert_not_decoded(const moeblock_config *config, struct checkpoint *c, const char *projection,
                               int64_t first, int64_t count, moeblock_status status, const char *message)
{
    float out[2 * HIDDEN];
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(moeblock_config_decode(config, c->weights, projection, 7, 1, first, count, out, &error), status);
    assert_string_equal(error.message, message);
}

static void test_decode_errors(void **state)
{
    (void)state;
    moeblock_config *config = parse("\"distributed\":{\"intermediate_size\":96}", "", "");
    struct checkpoint *c = make_checkpoint(config, MB_FORMAT_FP8);
    float out;
    assert_not_decoded(config, c, "middle", 0, 1, MOEBLOCK_INVALID_ARGUMENT,
                       "decoding a linear map: the configuration has none called 'middle' (weights.names)");
    assert_not_decoded(config, c, "shared_up", 0, 1, MOEBLOCK_INVALID_ARGUMENT,
                       "decoding a linear map: the configuration has none called 'shared_up' (weights.names)");
    assert_not_decoded(config, c, "up", INNER - 1, 2, MOEBLOCK_INVALID_ARGUMENT,
                       "decoding 'model.layers.7.mlp.experts.1.up_proj.weight': outputs from 95, 2 of them, where "
                       "there are 96");
    assert_not_decoded(config, c, "up", -1, 1, MOEBLOCK_INVALID_ARGUMENT,
                       "decoding 'model.layers.7.mlp.experts.1.up_proj.weight': outputs from -1, 1 of them, where "
                       "there are 96");
    assert_int_equal(moeblock_config_decode(NULL, c->weights, "up", 7, 0, 0, 1, &out, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_config_decode(config, NULL, "up", 7, 0, 0, 1, &out, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_config_decode(config, c->weights, NULL, 7, 0, 0, 1, &out, NULL),
                     MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_config_decode(config, c->weights, "up", 7, 0, 0, 1, NULL, NULL),
                     MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_config_decode(config, c->weights, "up", 7, 0, INNER, 0, NULL, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_config_decode(config, c->weights, "up", 7, EXPERTS, 0, 1, &out, NULL),
                     MOEBLOCK_INVALID_ARGUMENT);
    drop_checkpoint(c);
    moeblock_config_destroy(&config);
}

static void test_errors(void **state)
{
    (void)state;
    moeblock_config *config = parse("\"distributed\":{\"intermediate_size\":96}", "", "\"format\":\"fp8\"");
    struct checkpoint *c = make_checkpoint(config, MB_FORMAT_FP8);
    moeblock_tensor *up = find(c, "model.layers.7.mlp.experts.1.up_proj.weight");
    moeblock_tensor *scale = find(c, "model.layers.7.mlp.experts.1.up_proj.weight_scale_inv");
    up->dims[0] = HIDDEN;
    up->dims[1] = INNER;
    assert_not_found(config, c, MB_PROJ_UP, MOEBLOCK_INVALID_FILE,
                     "tensor 'model.layers.7.mlp.experts.1.up_proj.weight' has shape [160, 96], the configuration "
                     "expects [96, 160]");
    up->dims[0] = INNER;
    up->dims[1] = HIDDEN;
    up->dtype = MOEBLOCK_BOOL;
    assert_not_found(config, c, MB_PROJ_UP, MOEBLOCK_UNSUPPORTED,
                     "tensor 'model.layers.7.mlp.experts.1.up_proj.weight' has dtype BOOL, in which no known "
                     "number format stores weights of this name");
    up->dtype = MOEBLOCK_F8_E4M3;
    scale->dims[0] = 2;
    scale->dims[1] = 1;
    assert_not_found(config, c, MB_PROJ_UP, MOEBLOCK_INVALID_FILE,
                     "tensor 'model.layers.7.mlp.experts.1.up_proj.weight_scale_inv' has shape [2, 1], the "
                     "configuration expects [1, 2]");
    scale->dims[0] = 1;
    scale->dims[1] = 2;
    scale->dtype = MOEBLOCK_I32;
    assert_not_found(config, c, MB_PROJ_UP, MOEBLOCK_UNSUPPORTED,
                     "tensor 'model.layers.7.mlp.experts.1.up_proj.weight_scale_inv' has dtype I32, expected F32, "
                     "F16, BF16, F8_E8M0 or U8 scales");
    scale->name = "unrelated";
    assert_not_found(config, c, MB_PROJ_UP, MOEBLOCK_NOT_FOUND,
                     "memory: the checkpoint has no tensor 'model.layers.7.mlp.experts.1.up_proj.weight_scale_inv' "
                     "(weights.names.up), nor 'mlp.experts.1.up_proj.weight_scale_inv' or "
                     "'experts.1.up_proj.weight_scale_inv'");
    up->name = "unrelated too";
    assert_not_found(
        config, c, MB_PROJ_UP, MOEBLOCK_NOT_FOUND,
        "memory: the checkpoint has no tensor 'model.layers.7.mlp.experts.1.up_proj.weight' (weights.names.up), nor "
        "'mlp.experts.1.up_proj.weight' or 'experts.1.up_proj.weight'");
    struct mb_matrix matrix;
    assert_int_equal(mb_projection_find(config, c->weights, MB_PROJ_UP, 7, EXPERTS, &matrix, NULL),
                     MOEBLOCK_INVALID_ARGUMENT);
    drop_checkpoint(c);

    c = make_checkpoint(config, MB_FORMAT_BF16);
    assert_not_found(config, c, MB_PROJ_DOWN, MOEBLOCK_INVALID_FILE,
                     "tensor 'model.layers.7.mlp.experts.1.down_proj.weight' is stored as bf16, weights.format expects "
                     "fp8; with --set weights.format=auto any one format will do that all routed experts of the layer "
                     "share");
    float values[EXPERTS + 1];
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(mb_role_floats(config, c->weights, MB_ROLE_ROUTER, 7, EXPERTS, values, &error),
                     MOEBLOCK_INVALID_FILE);
    assert_string_equal(error.message, "tensor 'model.layers.7.mlp.gate.weight' has shape [3, 160], the configuration "
                                       "expects [3]");
    drop_checkpoint(c);
    moeblock_config_destroy(&config);
}

// The scales of input-major FP8 follow the outputs, [E, 1, out] or [E, out, 1]. Where a matrix is square the
// orientation says how its codes lie; in output-major storage such tensors are ct_fp8.
static void test_fbgemm_fp8(void **state)
{
    (void)state;
    static const char stored[] = "\"format\":\"%s\",\"layout\":\"stacked\",\"gate_up\":\"concatenated\","
                                 "\"orientation\":\"%s\",\"names\":{\"gate_up\":\"/gu\",\"down\":\"/d\"}";
    static const int sizes[] = {INNER, HIDDEN / 2, HIDDEN};
    struct mb_matrix matrix;
    for (int i = 0; i < 12; i++) {
        const int inner = sizes[i / 4];
        const bool asked = i & 1, turned = i & 2;
        char weights[256], experts[80];
        moeblock_error error = {MOEBLOCK_OK, ""};
        snprintf(weights, sizeof weights, stored, asked ? "fbgemm_fp8" : "auto",
                 turned ? "input_major" : "output_major");
        snprintf(experts, sizeof experts, "\"distributed\":{\"intermediate_size\":%d}", inner);
        moeblock_config *config = parse(experts, "", weights);
        struct checkpoint *c = make_checkpoint(config, MB_FORMAT_FBGEMM_FP8);
        moeblock_tensor *up = find(c, "gu_scale"), *down = find(c, "d_scale");
        assert_int_equal(up->dims[turned ? 2 : 1], 2 * inner);
        assert_int_equal(down->dims[1], HIDDEN); // as published, whatever the codes
        for (int other = 0; other < 2; other++) {
            for (int part = 0; part < 2; part++) {
                const enum mb_projection projection = part ? MB_PROJ_DOWN : MB_PROJ_UP;
                if (mb_projection_find(config, c->weights, projection, 7, 1, &matrix, &error))
                    fail_msg("%s", error.message);
                assert_int_equal(matrix.format, asked || turned ? MB_FORMAT_FBGEMM_FP8 : MB_FORMAT_CT_FP8);
                assert_int_equal(matrix.column_stride, !turned ? 1 : part ? HIDDEN : 2 * inner);
                assert_int_equal(matrix.scale_row_stride, 1);
                assert_int_equal(matrix.scale_row_first, part ? 0 : inner);
                assert_int_equal(matrix.scale_offset, part ? HIDDEN : 2 * inner);
            }
            const int64_t kept[] = {up->dims[1], down->dims[1]};
            up->dims[1] = up->dims[2], up->dims[2] = kept[0];
            down->dims[1] = down->dims[2], down->dims[2] = kept[1];
            moeblock_weights_destroy(&c->weights);
            open_checkpoint(c);
        }
        drop_checkpoint(c);
        moeblock_config_destroy(&config);
    }
}

// A scale of whole matrices may be one for all stacked experts, one an expert, or one for gate and up each.
static void test_scales_of_whole_matrices(void **state)
{
    (void)state;
    static const char weights[] = "\"layout\":\"stacked\",\"gate_up\":\"concatenated\",\"orientation\":"
                                  "\"input_major\",\"names\":{\"gate_up\":\"/gu\",\"down\":\"/d\"}";
    static const struct {
        int rank;
        int64_t dims[3];
        uint64_t up_offset; // of expert 1
    } shapes[] = {{0, {0}, 0},
                  {1, {1}, 0},
                  {1, {EXPERTS}, 1},
                  {2, {EXPERTS, 1}, 1},
                  {2, {EXPERTS, 2}, 3},
                  {3, {EXPERTS, 2, 1}, 3},
                  {3, {EXPERTS, 1, 1}, 1}};
    static const struct {
        enum mb_format format;
        const char *scale;
    } forms[] = {{MB_FORMAT_MODELOPT_FP8, "gu_weight_scale"}, {MB_FORMAT_MODELOPT_NVFP4, "gu_weight_scale_2"}};
    for (size_t f = 0; f < 2; f++) {
        moeblock_config *config = parse("\"distributed\":{\"intermediate_size\":96}", "", weights);
        struct checkpoint *c = make_checkpoint(config, forms[f].format);
        moeblock_tensor *scale = find(c, forms[f].scale);
        float values[2 * EXPERTS] = {1, 2, 3, 4, 5, 6}, one[INNER * HIDDEN], *out = malloc(sizeof one);
        free((void *)(uintptr_t)scale->data);
        scale->data = values;
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            struct mb_matrix m;
            moeblock_error error = {MOEBLOCK_OK, ""};
            scale->rank = shapes[i].rank;
            scale->bytes = sizeof(float);
            for (int d = 0; d < scale->rank; d++) scale->bytes *= (size_t)(scale->dims[d] = shapes[i].dims[d]);
            moeblock_weights_destroy(&c->weights);
            open_checkpoint(c);
            if (mb_projection_find(config, c->weights, MB_PROJ_UP, 7, 1, &m, &error)) fail_msg("%s", error.message);
            assert_int_equal(m.format, forms[f].format);
            assert_int_equal(f ? m.total_offset : m.scale_offset, shapes[i].up_offset);
            assert_int_equal(m.column_stride, 2 * INNER);
            if (mb_matrix_decode(c->weights, &config->allocator, &m, 0, INNER, out, &error))
                fail_msg("%s", error.message);
            if (i == 0) memcpy(one, out, sizeof one); // the scale was 1
            for (int k = 0; k < INNER * HIDDEN; k++) assert_true(out[k] == one[k] * values[shapes[i].up_offset]);
        }
        free(out);
        scale->data = malloc(1);
        drop_checkpoint(c);
        moeblock_config_destroy(&config);
    }
}

static void test_fbgemm_errors(void **state)
{
    (void)state;
    moeblock_config *config = parse("\"distributed\":{\"intermediate_size\":96}", "",
                                    "\"format\":\"fbgemm_fp8\",\"names\":\"llama4\",\"module_prefix\":\"\"");
    struct checkpoint *c = make_checkpoint(config, MB_FORMAT_FBGEMM_FP8);
    moeblock_tensor *up = find(c, "feed_forward.experts.gate_up_proj_scale");
    moeblock_tensor *down = find(c, "feed_forward.experts.down_proj_scale");
    up->dims[1] = 2, up->dims[2] = INNER;
    down->dims[1] = INNER, down->bytes = sizeof(float) * EXPERTS * INNER;
    assert_not_found(config, c, MB_PROJ_UP, MOEBLOCK_INVALID_FILE,
                     "tensor 'feed_forward.experts.gate_up_proj_scale' has shape [3, 2, 96], the configuration expects "
                     "[3, 1, 192]");
    assert_not_found(config, c, MB_PROJ_DOWN, MOEBLOCK_INVALID_FILE,
                     "tensor 'feed_forward.experts.down_proj_scale' has shape [3, 96, 1], the configuration expects "
                     "[3, 160, 1]");
    down->name = "unrelated";
    assert_not_found(
        config, c, MB_PROJ_DOWN, MOEBLOCK_NOT_FOUND,
        "memory: the checkpoint has no tensor 'feed_forward.experts.down_proj_scale' (weights.names.down), "
        "nor 'feed_forward.experts.down_proj_scale' or 'experts.down_proj_scale'");
    drop_checkpoint(c);
    moeblock_config_destroy(&config);
}

// --- what is needed

static void test_needed(void **state)
{
    (void)state;
    moeblock_tensor_need need;
    moeblock_config *config = parse("\"distributed\":{\"intermediate_size\":96},\"shared\":{\"intermediate_size\":64}",
                                    "\"type\":\"moe_gate\"", "");
    int64_t count = 0, floats = 0;
    while (mb_tensor_needed(config, MB_FORMAT_FP8, 3, count, &need)) {
        floats += need.dtype == MOEBLOCK_F32;
        count++;
    }
    // router, selection bias, 3 shared and 3 x 3 routed projections with scales
    assert_int_equal(count, 2 + 2 * 3 + 2 * 3 * EXPERTS);
    assert_int_equal(floats, 1 + 3 + 3 * EXPERTS);
    assert_int_equal(mb_tensor_needed(config, MB_FORMAT_FP8, 3, -1, &need), 0);
    moeblock_config_destroy(&config);

    // gpt-oss's form: the router's bias and the experts' are floats like the router, not F32
    config = parse("\"distributed\":{\"intermediate_size\":96,\"bias\":true}", "\"type\":\"topk\",\"linear_bias\":true",
                   "\"names\":\"gpt_oss\"");
    int biases = 0;
    for (int64_t i = 0; mb_tensor_needed(config, MB_FORMAT_MXFP4, 3, i, &need); i++) {
        if (!strstr(need.name, "bias")) continue;
        assert_int_equal(need.dtype, MOEBLOCK_BF16);
        biases++;
    }
    assert_int_equal(biases, 3); // router, gate and up together, down
    for (int64_t i = 0; mb_tensor_needed(config, MB_FORMAT_F32, 3, i, &need); i++)
        assert_int_equal(need.dtype, MOEBLOCK_F32);
    moeblock_config_destroy(&config);

    // the shared expert alone: no router
    config = parse("\"distributed\":false,\"shared\":{\"intermediate_size\":64}", "\"type\":\"moe_gate\"", "");
    for (count = 0; mb_tensor_needed(config, MB_FORMAT_F16, 3, count, &need);) {
        assert_non_null(strstr(need.name, "shared_experts"));
        assert_int_equal(need.dtype, MOEBLOCK_F16);
        count++;
    }
    assert_int_equal(count, 3);
    moeblock_config_destroy(&config);

    // experts without a gate
    config = parse("\"distributed\":{\"intermediate_size\":96,\"gated\":false,\"activation\":\"relu2\"}", "", "");
    for (count = 0; mb_tensor_needed(config, MB_FORMAT_BF16, 3, count, &need); count++)
        assert_null(strstr(need.name, "gate_proj"));
    assert_int_equal(count, 1 + 2 * EXPERTS);
    moeblock_config_destroy(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_biases),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_name_forms),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_needed),
        cmocka_unit_test(test_decode_errors),
        cmocka_unit_test(test_fbgemm_fp8),
        cmocka_unit_test(test_fbgemm_errors),
        cmocka_unit_test(test_scales_of_whole_matrices),
    };
    return cmocka_run_group_tests(tests, make_context, drop_context);
}
