// SPDX-License-Identifier: Apache-2.0
// The original's equivalence test, in its four parts and under their names: the DeepSeek adapter understands the whole
// configuration, detects sharding, takes the original's steps with the original's result, and maps every parameter.
#include <inttypes.h>
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
#include "support/flow.h"
#include "support/mesh_double.h"
#include "support/small_layer.h"

enum { TOKENS = 11 };

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

static void device_body(void *argument, moeblock_mesh *mesh) { flow_run_device(argument, mesh); }

static void run_flow(void *user, struct flow *flow)
{
    (void)user;
    struct mesh_double *mesh = mesh_double_create(flow->rows, flow->columns);
    mesh_double_run(mesh, device_body, flow);
    for (int d = 0; d < flow->rows * flow->columns; d++) {
        int count;
        const struct mesh_call *calls = mesh_double_calls(mesh, d / flow->columns, d % flow->columns, &count);
        flow_check_device(flow, d, calls, count);
    }
    mesh_double_destroy(mesh);
}

// Ranks are threads here; tests/mesh/mesh_equivalence.c does the same with processes, and on the original's 4 x 8.
static void run_shape(int rows, int columns) { flow_run_all(&small_shape, rows, columns, TOKENS, run_flow, NULL); }

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
    char *text = flow_config(&small_shape);
    moeblock_config *config = parse(text, NULL, 0);
    moeblock_block *block = NULL;
    assert_int_equal(moeblock_block_create(context, config, NULL, NULL, &block, &error), MOEBLOCK_OK);
    moeblock_config_destroy(&config);
    free(text);
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
