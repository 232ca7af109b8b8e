// SPDX-License-Identifier: Apache-2.0
// What a Hugging Face config.json becomes: each family's settings, the effect of each key, MoE layers, nested files,
// and the refusals by name.
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "config/hf/hf.h"
#include "config/schema.h"
#include "config/tensors.h"

static moeblock_config config;
static moeblock_error error;

static moeblock_status map_object(const json_t *root, int64_t layer)
{
    memset(&config, 0, sizeof config);
    memset(&error, 0, sizeof error);
    return mb_hf_map(&(struct mb_hf_input){.root = root, .name = "config.json", .layer = layer}, &config, &error);
}

static moeblock_status map_text(const char *text, int64_t layer)
{
    json_error_t where;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &where);
    if (!root) fail_msg("%s in %s", where.text, text);
    const moeblock_status status = map_object(root, layer);
    json_decref(root);
    return status;
}

static json_t *load(const char *folder, const char *name)
{
    char path[1024];
    json_error_t where;
    snprintf(path, sizeof path, "%s/%s/%s", MOEBLOCK_SOURCE_DIR, folder, name);
    json_t *root = json_load_file(path, 0, &where);
    if (!root) fail_msg("%s: %s", path, where.text);
    return root;
}

static void assert_message(const char *const *parts, int count)
{
    for (int i = 0; i < count; i++)
        if (parts[i] && !strstr(error.message, parts[i])) fail_msg("no \"%s\" in: %s", parts[i], error.message);
    assert_non_null(strstr(error.message, "config.json"));
}

static void refused(const char *text, int64_t layer, moeblock_status status, const char *part, const char *other)
{
    const char *const parts[] = {part, other};
    assert_int_equal(map_text(text, layer), status);
    assert_int_equal(error.code, status);
    assert_message(parts, 2);
}

// What each published block becomes. Sizes as published; the rest is the family's formula.
struct expected {
    const char *file, *type;
    int64_t hidden, experts, k, width, shared, layer;
    const char *moe_layers, *format, *router, *first_expert_tensor;
    enum mb_score score;
    enum mb_post post;
    enum mb_norm norm;
    enum mb_groups groups;
    bool selection_bias, linear_bias;
    double scale;
    enum mb_layout layout;
};

#define PER_EXPERT "mlp.experts.{expert}.gate_proj.weight"
// clang-format off
static const struct expected published[] = {
    {"deepseek_v3.json", "moe_gate", 7168, 256, 8, 2048, 2048, 3, "3-60", "fp8", "mlp.gate.weight", PER_EXPERT,
     MB_SCORE_SIGMOID, MB_POST_NONE, MB_NORM_SUM, MB_GROUPS_LIMITED, true, false, 2.5, MB_LAYOUT_PER_EXPERT},
    {"deepseek_v2_lite.json", "linear", 2048, 64, 6, 1408, 2816, 1, "1-26", "auto", "mlp.gate.weight", PER_EXPERT,
     MB_SCORE_SOFTMAX, MB_POST_NONE, MB_NORM_NONE, MB_GROUPS_NONE, false, false, 1, MB_LAYOUT_PER_EXPERT},
    {"kimi_k2.json", "moe_gate", 7168, 384, 8, 2048, 2048, 1, "1-60", "fp8", "mlp.gate.weight", PER_EXPERT,
     MB_SCORE_SIGMOID, MB_POST_NONE, MB_NORM_SUM, MB_GROUPS_NONE, true, false, 2.827, MB_LAYOUT_PER_EXPERT},
    {"gpt_oss_20b.json", "topk", 2880, 32, 4, 2880, 0, 0, "0-23",
     "mxfp4", "mlp.router.weight", "mlp.experts.gate_up_proj",
     MB_SCORE_IDENTITY, MB_POST_SOFTMAX_K, MB_NORM_NONE, MB_GROUPS_NONE, false, true, 1, MB_LAYOUT_STACKED},
    {"mixtral_8x7b.json", "linear", 4096, 8, 2, 14336, 0, 0, "0-31",
     "auto", "block_sparse_moe.gate.weight", "block_sparse_moe.experts.{expert}.w1.weight",
     MB_SCORE_SOFTMAX, MB_POST_NONE, MB_NORM_SUM, MB_GROUPS_NONE, false, false, 1, MB_LAYOUT_PER_EXPERT},
    {"qwen3_30b_a3b.json", "linear", 2048, 128, 8, 768, 0, 0, "0-47", "auto", "mlp.gate.weight", PER_EXPERT,
     MB_SCORE_SOFTMAX, MB_POST_NONE, MB_NORM_SUM, MB_GROUPS_NONE, false, false, 1, MB_LAYOUT_PER_EXPERT},
    {"qwen3_next_80b.json", "linear", 2048, 512, 10, 512, 512, 0, "0-47", "auto", "mlp.gate.weight", PER_EXPERT,
     MB_SCORE_SOFTMAX, MB_POST_NONE, MB_NORM_SUM, MB_GROUPS_NONE, false, false, 1, MB_LAYOUT_PER_EXPERT},
    {"glm4_5_air.json", "moe_gate", 4096, 128, 8, 1408, 1408, 1, "1-45", "auto", "mlp.gate.weight", PER_EXPERT,
     MB_SCORE_SIGMOID, MB_POST_NONE, MB_NORM_SUM, MB_GROUPS_NONE, true, false, 1, MB_LAYOUT_PER_EXPERT},
    {"olmoe_1b_7b.json", "linear", 2048, 64, 8, 1024, 0, 0, "0-15", "auto", "mlp.gate.weight", PER_EXPERT,
     MB_SCORE_SOFTMAX, MB_POST_NONE, MB_NORM_NONE, MB_GROUPS_NONE, false, false, 1, MB_LAYOUT_PER_EXPERT},
    {"llama4_scout.json", "linear", 5120, 16, 1, 8192, 8192, 0, "0-47",
     "auto", "feed_forward.router.weight", "feed_forward.experts.gate_up_proj",
     MB_SCORE_IDENTITY, MB_POST_SIGMOID_K, MB_NORM_NONE, MB_GROUPS_NONE, false, false, 1, MB_LAYOUT_STACKED},
    {"granite.json", "topk", 1536, 40, 8, 512, 0, 0, "0-31",
     "auto", "block_sparse_moe.router.layer.weight", "block_sparse_moe.input_linear.weight",
     MB_SCORE_IDENTITY, MB_POST_SOFTMAX_K, MB_NORM_NONE, MB_GROUPS_NONE, false, false, 1, MB_LAYOUT_STACKED},
    {"minimax_m2.json", "linear", 3072, 256, 8, 1536, 0, 0, "0-61",
     "fp8", "block_sparse_moe.gate.weight", "block_sparse_moe.experts.{expert}.w1.weight",
     MB_SCORE_SIGMOID, MB_POST_NONE, MB_NORM_SUM, MB_GROUPS_NONE, true, false, 1, MB_LAYOUT_PER_EXPERT},
    {"ernie4_5_21b.json", "linear", 2560, 64, 6, 1536, 3072, 1, "1-27", "auto", "mlp.gate.weight", PER_EXPERT,
     MB_SCORE_SOFTMAX, MB_POST_NONE, MB_NORM_SUM_CLAMPED, MB_GROUPS_NONE, true, false, 1, MB_LAYOUT_PER_EXPERT},
};
// clang-format on

static void check_published(const struct expected *e)
{
    const struct mb_router_config *r = &config.router;
    assert_string_equal(r->type, e->type);
    assert_int_equal(config.hidden_size, e->hidden);
    assert_int_equal(config.num_experts, e->experts);
    assert_int_equal(config.num_experts_per_tok, e->k);
    assert_int_equal(config.routed.intermediate_size, e->width);
    assert_int_equal(config.shared_enabled, e->shared > 0);
    if (e->shared) assert_int_equal(config.shared.intermediate_size, e->shared);
    assert_int_equal(config.layer_index, e->layer);
    assert_string_equal(config.moe_layers, e->moe_layers);
    assert_string_equal(config.format, e->format);
    assert_string_equal(config.tensor[MB_ROLE_ROUTER], e->router);
    assert_string_equal(config.tensor[config.gate_up == MB_GATE_UP_SEPARATE ? MB_ROLE_GATE : MB_ROLE_GATE_UP],
                        e->first_expert_tensor);
    assert_int_equal(r->score, e->score);
    assert_int_equal(r->select_score, e->score);
    assert_int_equal(r->post, e->post);
    assert_int_equal(r->norm, e->norm);
    assert_int_equal(r->groups, e->groups);
    assert_int_equal(r->selection_bias, e->selection_bias);
    assert_int_equal(r->linear_bias, e->linear_bias);
    assert_true(r->scale == e->scale);
    assert_true(r->logit_scale == 1 && r->input_scale == 1 && r->softcap == 0);
    assert_int_equal(config.layout, e->layout);
}

static void test_published(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        json_t *root = load("tests/hf", published[i].file);
        assert_true(mb_hf_is_config(root));
        const moeblock_status status = map_object(root, -1);
        if (status != MOEBLOCK_OK) fail_msg("%s: %s", published[i].file, error.message);
        check_published(&published[i]);
        json_decref(root);
    }
}

// Settings that single families have beyond the table above.
static void test_peculiarities(void **state)
{
    (void)state;
    json_t *root = load("tests/hf", "gpt_oss_20b.json");
    assert_int_equal(map_object(root, 7), MOEBLOCK_OK);
    assert_int_equal(config.layer_index, 7);
    assert_int_equal(config.routed.activation.kind, mb_activation_find("swiglu_oai"));
    assert_int_equal(config.routed.activation.clamp, MB_CLAMP_BEFORE);
    assert_true(config.routed.activation.limit == 7.0f && config.routed.activation.alpha == 1.702f);
    assert_true(config.routed.bias && config.routed.gated);
    assert_int_equal(config.gate_up, MB_GATE_UP_INTERLEAVED);
    assert_int_equal(config.orientation, MB_INPUT_MAJOR);
    json_decref(root);

    root = load("tests/hf", "qwen3_next_80b.json");
    assert_int_equal(map_object(root, -1), MOEBLOCK_OK);
    assert_int_equal(config.shared_gate, MB_SHARED_SIGMOID);
    assert_string_equal(config.tensor[MB_ROLE_SHARED_SIGMOID], "mlp.shared_expert_gate.weight");
    json_decref(root);

    root = load("tests/hf", "llama4_scout.json");
    assert_int_equal(map_object(root, -1), MOEBLOCK_OK);
    assert_int_equal(config.router.apply_weight, MB_APPLY_INPUT);
    assert_int_equal(config.orientation, MB_INPUT_MAJOR);
    assert_string_equal(config.module_prefix, "language_model.model.layers.{layer}");
    json_decref(root);

    // FBGEMM's FP8, whole models but for some modules.
    static const struct {
        const char *quantization, *format;
    } fbgemm[] = {
        {"{\"quant_method\":\"fbgemm_fp8\",\"activation_scale_ub\":1200.0,\"modules_to_not_convert\":null}",
         "fbgemm_fp8"},
        {"{\"quant_method\":\"fbgemm_fp8\",\"modules_to_not_convert\":[\"router\",\"lm_head\",\"experts.down\",\"ayers."
         "1.feed\"]}",
         "fbgemm_fp8"},
        {"{\"quant_method\":\"fbgemm_fp8\",\"modules_to_not_convert\":[\"feed_forward.experts\"]}", "auto"},
        {"{\"quant_method\":\"fbgemm_fp8\",\"modules_to_not_convert\":[\"model.layers.0\"]}", "auto"},
    };
    for (size_t i = 0; i < sizeof fbgemm / sizeof fbgemm[0]; i++) {
        root = load("tests/hf", "llama4_scout.json");
        json_object_set_new(root, "quantization_config", json_loads(fbgemm[i].quantization, 0, NULL));
        assert_int_equal(map_object(root, -1), MOEBLOCK_OK);
        assert_string_equal(config.format, fbgemm[i].format);
        json_decref(root);
    }

    root = load("tests/hf", "ernie4_5_21b.json");
    json_object_set_new(root, "use_bias", json_true());
    json_object_set_new(root, "moe_norm_min", json_real(1e-9));
    assert_int_equal(map_object(root, -1), MOEBLOCK_OK);
    assert_true(config.shared.bias && !config.routed.bias);
    assert_true(config.router.norm_eps == 1e-9);
    json_decref(root);
}

#define DOTS                                                                                                           \
    "{\"model_type\":\"dots1\",\"hidden_size\":40,\"n_routed_experts\":16,\"num_experts_per_tok\":4,"                  \
    "\"moe_intermediate_size\":16,\"n_shared_experts\":2,\"n_group\":4,\"topk_group\":2,\"norm_topk_prob\":true,"      \
    "\"num_hidden_layers\":3,\"first_k_dense_replace\":1,\"routed_scaling_factor\":2.5}"
#define HUNYUAN                                                                                                        \
    "{\"model_type\":\"hunyuan_v1_moe\",\"hidden_size\":40,\"num_experts\":[4,8,16],\"moe_topk\":[1,2,3],"             \
    "\"intermediate_size\":32,\"num_hidden_layers\":3,\"num_shared_expert\":[1,1,2]}"
#define QWEN2                                                                                                          \
    "{\"model_type\":\"qwen2_moe\",\"hidden_size\":40,\"num_experts\":16,\"num_experts_per_tok\":4,"                   \
    "\"moe_intermediate_size\":16,\"shared_expert_intermediate_size\":24,\"num_hidden_layers\":6,"                     \
    "\"decoder_sparse_step\":2,\"mlp_only_layers\":[3]%s}"

static void test_other_families(void **state)
{
    (void)state;
    assert_int_equal(map_text(DOTS, -1), MOEBLOCK_OK);
    assert_int_equal(config.router.groups, MB_GROUPS_LIMITED);
    assert_int_equal(config.router.group_score, MB_GROUP_SUM_TOP2);
    assert_int_equal(config.router.group_fill, MB_FILL_NEGATIVE_INFINITY);
    assert_int_equal(config.shared.intermediate_size, 32);

    assert_int_equal(map_text(HUNYUAN, 2), MOEBLOCK_OK); // lists have one value a layer
    assert_int_equal(config.num_experts, 16);
    assert_int_equal(config.num_experts_per_tok, 3);
    assert_int_equal(config.shared.intermediate_size, 64);
    assert_string_equal(config.tensor[MB_ROLE_ROUTER], "mlp.gate.wg.weight");
    assert_int_equal(map_text(HUNYUAN, 0), MOEBLOCK_OK);
    assert_int_equal(config.num_experts_per_tok, 1);

    char text[512];
    snprintf(text, sizeof text, QWEN2, "");
    assert_int_equal(map_text(text, -1), MOEBLOCK_OK);
    assert_string_equal(config.moe_layers, "1,5"); // every second layer, without the dense one
    assert_int_equal(config.layer_index, 1);
    assert_int_equal(config.router.norm, MB_NORM_NONE); // qwen2's default
    assert_int_equal(config.shared_gate, MB_SHARED_SIGMOID);
    snprintf(text, sizeof text, QWEN2, ",\"norm_topk_prob\":true");
    assert_int_equal(map_text(text, 5), MOEBLOCK_OK);
    assert_int_equal(config.router.norm, MB_NORM_SUM);
}

// Each key of DeepSeek-V3 changes what it stands for, and nothing else is needed for it.
struct field {
    const char *key, *value; // JSON
    size_t offset, bytes;
};
#define FIELD(key, value, field)                                                                                       \
    {                                                                                                                  \
        key, value, offsetof(moeblock_config, field), sizeof(((moeblock_config *)0)->field)                            \
    }
static const struct field deepseek_fields[] = {
    FIELD("hidden_size", "4096", hidden_size),
    FIELD("moe_intermediate_size", "1024", routed.intermediate_size),
    FIELD("moe_intermediate_size", "1024", shared.intermediate_size),
    FIELD("n_routed_experts", "128", num_experts),
    FIELD("num_experts_per_tok", "6", num_experts_per_tok),
    FIELD("n_group", "4", router.n_group),
    FIELD("n_group", "1", router.groups),
    FIELD("topk_group", "3", router.topk_group),
    FIELD("n_shared_experts", "2", shared.intermediate_size),
    FIELD("n_shared_experts", "0", shared_enabled),
    FIELD("n_shared_experts", "null", shared_enabled),
    FIELD("routed_scaling_factor", "1.0", router.scale),
    FIELD("norm_topk_prob", "false", router.norm),
    FIELD("quantization_config", "null", format),
    FIELD("first_k_dense_replace", "1", layer_index),
    FIELD("first_k_dense_replace", "1", moe_layers),
    FIELD("moe_layer_freq", "2", moe_layers),
    FIELD("num_hidden_layers", "30", num_layers),
    FIELD("hidden_act", "\"gelu\"", routed.activation.kind),
    FIELD("hidden_act", "\"gelu\"", shared.activation.kind),
};

static void test_each_key_counts(void **state)
{
    (void)state;
    json_t *base = load("tests/hf", "deepseek_v3.json");
    assert_int_equal(map_object(base, -1), MOEBLOCK_OK);
    const moeblock_config before = config;
    for (size_t i = 0; i < sizeof deepseek_fields / sizeof deepseek_fields[0]; i++) {
        const struct field *field = &deepseek_fields[i];
        json_t *changed = json_deep_copy(base);
        json_object_set_new(changed, field->key, json_loads(field->value, JSON_DECODE_ANY, NULL));
        if (map_object(changed, -1) != MOEBLOCK_OK) fail_msg("%s: %s", field->key, error.message);
        if (!memcmp((const char *)&before + field->offset, (const char *)&config + field->offset, field->bytes))
            fail_msg("%s = %s changed nothing", field->key, field->value);
        json_decref(changed);
    }
    json_decref(base);
}

static void test_origin(void **state)
{
    (void)state;
    assert_int_equal(map_text(DOTS, -1), MOEBLOCK_OK);
    const void *const set[] = {&config.hidden_size, &config.router.score, &config.routed.activation.kind,
                               config.tensor[MB_ROLE_DOWN], config.router.type};
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
        const int row = mb_schema_row_of(&config, set[i]);
        assert_true(row >= 0);
        assert_int_equal(config.given[row], MB_FROM_MODEL);
    }
    assert_int_equal(config.given[mb_schema_row_of(&config, &config.prefill_chunk)], MB_FROM_NOWHERE);
}

static void test_refused_values(void **state)
{
    (void)state;
    json_t *base = load("tests/hf", "deepseek_v3.json");
    static const struct {
        const char *key, *value;
        moeblock_status status;
        const char *parts[3];
    } rows[] = {
        {"scoring_func", "\"softmax\"", MOEBLOCK_UNSUPPORTED, {"scoring_func", "\"softmax\"", "\"sigmoid\""}},
        {"topk_method", "\"greedy\"", MOEBLOCK_UNSUPPORTED, {"topk_method", "\"greedy\"", "\"noaux_tc\""}},
        {"hidden_act", "\"mish\"", MOEBLOCK_UNSUPPORTED, {"hidden_act", "\"mish\"", "silu"}},
        {"hidden_act", "3", MOEBLOCK_INVALID_CONFIG, {"hidden_act", "3", "a string"}},
        {"hidden_size", "\"wide\"", MOEBLOCK_INVALID_CONFIG, {"hidden_size", "\"wide\"", "an integer"}},
        {"hidden_size", "7168.0", MOEBLOCK_INVALID_CONFIG, {"hidden_size", "7168", "an integer"}},
        {"hidden_size", "0", MOEBLOCK_INVALID_CONFIG, {"hidden_size", "0", "from 1"}},
        {"hidden_size", "9223372036854775807", MOEBLOCK_INVALID_CONFIG, {"hidden_size", "9223372036854775807", "to"}},
        {"hidden_size",
         "null",
         MOEBLOCK_INVALID_CONFIG,
         {"deepseek_v3", "hidden_size (or d_model, n_embd)", "does not give"}},
        {"n_routed_experts", "-1", MOEBLOCK_INVALID_CONFIG, {"n_routed_experts", "-1", "from 1"}},
        {"n_shared_experts", "4096", MOEBLOCK_INVALID_CONFIG, {"4096 shared experts", "2048", "in all"}},
        {"norm_topk_prob", "1", MOEBLOCK_INVALID_CONFIG, {"norm_topk_prob", "1", "true or false"}},
        {"routed_scaling_factor", "\"2\"", MOEBLOCK_INVALID_CONFIG, {"routed_scaling_factor", "\"2\"", "a number"}},
        {"num_experts_per_tok", "[8]", MOEBLOCK_INVALID_CONFIG, {"num_experts_per_tok", "a list of 1", "layer 3"}},
        {"mlp_layer_types", "\"sparse\"", MOEBLOCK_INVALID_CONFIG, {"mlp_layer_types", "\"sparse\"", "a list"}},
        {"moe_layer_freq",
         "[0,0,1]",
         MOEBLOCK_INVALID_CONFIG,
         {"moe_layer_freq", "a list of 3", "an entry for each layer"}},
        {"first_k_dense_replace", "61", MOEBLOCK_INVALID_CONFIG, {"none of the 61 layers", "deepseek_v3", "MoE"}},
        {"quantization_config", "7", MOEBLOCK_INVALID_CONFIG, {"quantization_config", "7", "an object"}},
        {"quantization_config", "{}", MOEBLOCK_UNSUPPORTED, {"quantization_config", "quant_method", "it has none"}},
        {"quantization_config",
         "{\"quant_method\":\"awq\",\"bits\":3}",
         MOEBLOCK_UNSUPPORTED,
         {"\"awq\"", "bits other than 4", "deepseek_v3"}},
        {"quantization_config", "{\"quant_method\":\"quip\"}", MOEBLOCK_UNSUPPORTED, {"\"quip\"", "fp8", "awq"}},
        {"quantization_config", "{\"quant_method\":\"mxfp4\"}", MOEBLOCK_UNSUPPORTED, {"\"mxfp4\"", "gpt_oss", "fp8"}},
        {"quantization_config",
         "{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}",
         MOEBLOCK_UNSUPPORTED,
         {"\"fp8\"", "weight_block_size", "two numbers"}},
        {"quantization_config",
         "{\"quant_method\":\"fp8\",\"weight_block_size\":[64,128]}",
         MOEBLOCK_UNSUPPORTED,
         {"weight_block_size", "[64, 128]", "docs/formats.md"}},
        {"quantization_config",
         "{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\",\"weight_block_size\":[128,128]}",
         MOEBLOCK_UNSUPPORTED,
         {"fmt", "e4m3", "fp8"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        json_t *changed = json_deep_copy(base);
        json_object_set_new(changed, rows[i].key, json_loads(rows[i].value, JSON_DECODE_ANY, NULL));
        if (map_object(changed, -1) != rows[i].status)
            fail_msg("%s = %s: status %d, %s", rows[i].key, rows[i].value, (int)error.code, error.message);
        assert_message(rows[i].parts, 3);
        json_decref(changed);
    }
    json_decref(base);
}

// Maps a copy of `root` without the keys of a list that is separated by blanks.
static moeblock_status map_without(const json_t *root, const char *keys)
{
    json_t *changed = json_deep_copy(root);
    char key[64];
    for (int used; sscanf(keys, "%63s%n", key, &used) == 1; keys += used)
        if (json_object_del(changed, key)) fail_msg("no key %s", key);
    const moeblock_status status = map_object(changed, -1);
    json_decref(changed);
    return status;
}

static void assert_lacking(const char *keys)
{
    char key[64];
    assert_int_equal(error.code, MOEBLOCK_INVALID_CONFIG);
    for (int used; sscanf(keys, "%63s%n", key, &used) == 1; keys += used)
        if (!strstr(error.message, key)) fail_msg("no %s in: %s", key, error.message);
}

// A key whose absence the model's own code would fill with a value that matters is asked for; a neutral one is not.
static void test_needed_keys(void **state)
{
    (void)state;
    static const char all[] =
        "hidden_size n_routed_experts num_experts_per_tok moe_intermediate_size num_hidden_layers "
        "n_group topk_group n_shared_experts routed_scaling_factor";
    json_t *root = load("tests/hf", "deepseek_v3.json");
    char key[64];
    int needed = 0;
    for (const char *keys = all; sscanf(keys, "%63s", key) == 1; keys += strlen(key) + (keys[strlen(key)] == ' ')) {
        assert_int_equal(map_without(root, key), MOEBLOCK_INVALID_CONFIG);
        assert_lacking(key);
        needed++;
    }
    assert_int_equal(needed, 9);
    assert_int_equal(map_without(root, all), MOEBLOCK_INVALID_CONFIG); // one message for all of them
    assert_lacking(all);
    assert_int_equal(map_without(root, "scoring_func topk_method norm_topk_prob moe_layer_freq hidden_act"),
                     MOEBLOCK_OK);
    json_object_set_new(root, "n_group", json_null()); // said: none
    assert_int_equal(map_object(root, -1), MOEBLOCK_OK);
    assert_int_equal(config.router.groups, MB_GROUPS_NONE);
    json_decref(root);

    root = load("tests/hf", "deepseek_v2_lite.json");
    assert_int_equal(map_without(root, "topk_method n_group topk_group routed_scaling_factor"), MOEBLOCK_OK);
    json_object_set_new(root, "n_group", json_integer(8));
    assert_int_equal(map_without(root, "topk_method"), MOEBLOCK_INVALID_CONFIG);
    assert_lacking("topk_method");
    assert_int_equal(map_without(root, "topk_group"), MOEBLOCK_OK); // greedy has no groups
    json_object_set_new(root, "topk_method", json_string("group_limited_greedy"));
    assert_int_equal(map_without(root, "n_group topk_group n_shared_experts"), MOEBLOCK_INVALID_CONFIG);
    assert_lacking("n_group topk_group n_shared_experts");
    json_decref(root);

    root = load("tests/hf", "glm4_5_air.json");
    assert_int_equal(map_without(root, "n_group topk_group routed_scaling_factor"), MOEBLOCK_OK);
    json_object_set_new(root, "n_group", json_integer(4));
    assert_int_equal(map_without(root, "topk_group n_shared_experts"), MOEBLOCK_INVALID_CONFIG);
    assert_lacking("topk_group n_shared_experts");
    json_decref(root);

    static const struct {
        const char *folder, *keys;
    } others[] = {
        {"qwen3_next-bf16", "shared_expert_intermediate_size"},
        {"granitemoehybrid-bf16", "shared_intermediate_size"},
        {"ernie4_5_moe-bf16", "moe_num_shared_experts"},
        {"laguna-bf16", "moe_routed_scaling_factor shared_expert_intermediate_size"},
        {"longcat_flash-bf16", "routed_scaling_factor zero_expert_num"},
        {"nemotron_h-bf16", "mlp_hidden_act moe_shared_expert_intermediate_size"},
        {"cohere2_moe-bf16", "num_shared_experts expert_selection_fn shared_expert_combination_strategy"},
        {"hy_v3-bf16", "num_shared_experts router_scaling_factor"},
        {"axk1-bf16", "n_shared_experts routed_scaling_factor rms_norm_eps n_group topk_group"},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        char folder[128];
        snprintf(folder, sizeof folder, "tests/golden/%s", others[i].folder);
        root = load(folder, "config.json");
        assert_int_equal(map_object(root, -1), MOEBLOCK_OK);
        assert_int_equal(map_without(root, others[i].keys), MOEBLOCK_INVALID_CONFIG);
        assert_lacking(others[i].keys);
        json_decref(root);
    }
}

static void test_layers(void **state)
{
    (void)state;
    json_t *root = load("tests/hf", "deepseek_v3.json");
    assert_int_equal(map_object(root, 60), MOEBLOCK_OK);
    assert_int_equal(map_object(root, 2), MOEBLOCK_INVALID_CONFIG);
    assert_non_null(strstr(error.message, "layer 2"));
    assert_non_null(strstr(error.message, "dense"));
    assert_non_null(strstr(error.message, "3-60"));
    assert_int_equal(map_object(root, 61), MOEBLOCK_INVALID_CONFIG);
    assert_non_null(strstr(error.message, "61 layers"));
    json_t *dense = json_deep_copy(root);
    json_object_set_new(dense, "first_k_dense_replace", json_integer(61));
    for (int64_t layer = -1; layer < 90; layer += 30) { // whichever layer is asked for
        assert_int_equal(map_object(dense, layer), MOEBLOCK_INVALID_CONFIG);
        assert_string_equal(error.message, "config.json: none of the 61 layers of this deepseek_v3 is MoE");
    }
    json_decref(dense);
    json_t *types = json_loads("[\"dense\",\"sparse\",\"dense\",\"sparse\"]", 0, NULL);
    json_object_set_new(root, "mlp_layer_types", types); // goes before the rule
    json_object_set_new(root, "num_hidden_layers", json_integer(4));
    assert_int_equal(map_object(root, -1), MOEBLOCK_OK);
    assert_string_equal(config.moe_layers, "1,3");
    json_decref(root);

#define BODY                                                                                                           \
    "\"hidden_size\":8,\"num_experts\":4,\"num_experts_per_tok\":2,\"intermediate_size\":8,"                           \
    "\"moe_intermediate_size\":8,\"num_hidden_layers\":6"
#define WIDTH ",\"share_expert_dim\":8"
#define SCALE ",\"routed_scaling_factor\":2.5"
    static const struct {
        const char *text, *layers;
    } rules[] = {
        {"{\"model_type\":\"jamba\"," BODY ",\"expert_layer_period\":2,\"expert_layer_offset\":1}", "1,3,5"},
        {"{\"model_type\":\"llama4_text\"," BODY ",\"interleave_moe_layer_step\":3}", "2,5"},
        {"{\"model_type\":\"llama4_text\"," BODY ",\"moe_layers\":[0,4]}", "0,4"},
        {"{\"model_type\":\"step3p5\"," BODY WIDTH SCALE ",\"moe_layers_enum\":\"2,3,5\"}", "2-3,5"},
        {"{\"model_type\":\"mimo_v2_flash\"," BODY ",\"moe_layer_freq\":[0,1,1,0,0,1]}", "1-2,5"},
        {"{\"model_type\":\"nemotron_h\"," BODY WIDTH
         ",\"mlp_hidden_act\":\"relu2\",\"hybrid_override_pattern\":\"ME*E-M\"}",
         "1,3"},
        {"{\"model_type\":\"lfm2_moe\"," BODY ",\"num_dense_layers\":4}", "4-5"},
        {"{\"model_type\":\"ernie4_5_moe\"," BODY ",\"moe_num_shared_experts\":0"
         ",\"moe_layer_start_index\":1,\"moe_layer_end_index\":-1,\"moe_layer_interval\":2}",
         "1,3,5"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (map_text(rules[i].text, -1) != MOEBLOCK_OK) fail_msg("%s", error.message);
        assert_string_equal(config.moe_layers, rules[i].layers);
    }
    refused("{\"model_type\":\"gemma4\"," BODY
            ",\"hidden_activation\":\"gelu_pytorch_tanh\",\"enable_moe_block\":false}",
            -1, MOEBLOCK_INVALID_CONFIG, "gemma4", "MoE");
}

static void test_nested(void **state)
{
    (void)state;
    static const char omni[] = "{\"model_type\":\"qwen3_omni_moe\",\"thinker_config\":{\"text_config\":{" BODY
                               ",\"model_type\":\"qwen3_omni_moe_text\"}}}";
    assert_int_equal(map_text(omni, -1), MOEBLOCK_OK);
    assert_string_equal(config.module_prefix, "thinker.model.layers.{layer}");
    static const char only_text[] = "{\"text_config\":{" BODY ",\"model_type\":\"llama4_text\"}}";
    assert_int_equal(map_text(only_text, -1), MOEBLOCK_OK);
    assert_string_equal(config.module_prefix, "model.layers.{layer}");
    refused("{\"model_type\":\"llama4\",\"text_config\":3}", -1, MOEBLOCK_INVALID_CONFIG, "text_config", "an object");

    json_t *ours = json_loads("{\"model\":{\"hidden_size\":8}}", 0, NULL);
    json_t *theirs = json_loads(only_text, 0, NULL);
    assert_false(mb_hf_is_config(ours));
    assert_true(mb_hf_is_config(theirs));
    json_object_clear(ours);
    json_object_set_new(ours, "model_type", json_integer(3)); // no key of ours: a spoilt file of theirs
    assert_true(mb_hf_is_config(ours));
    json_decref(ours);
    json_decref(theirs);
}

static void test_unknown_models(void **state)
{
    (void)state;
    refused("{\"model_type\":\"grok-9\"}", -1, MOEBLOCK_UNSUPPORTED, "\"grok-9\"", "deepseek_v3");
    refused("{\"model_type\":\"vitpose_backbone\"}", -1, MOEBLOCK_UNSUPPORTED, "vitpose_backbone", "no router");
    refused("{\"model_type\":5}", -1, MOEBLOCK_INVALID_CONFIG, "model_type is 5", "the name of a model type");
    refused("{\"model_type\":null,\"text_config\":{\"model_type\":[]}}", -1, MOEBLOCK_INVALID_CONFIG,
            "text_config.model_type is a list of 0", "the name of a model type");
    refused("{\"model_type\":null}", -1, MOEBLOCK_INVALID_CONFIG, "no model_type", NULL);
    refused("{}", -1, MOEBLOCK_INVALID_CONFIG, "model_type", NULL);
    refused("{\"model_type\":\"deepseek_v4\"," BODY ",\"n_shared_experts\":1" SCALE ",\"num_hash_layers\":3}", 0,
            MOEBLOCK_INVALID_CONFIG, "vocab_size", NULL); // the size of the table of token ids
    int known = 0;
    for (const char *type; (type = mb_hf_model_type(known)); known++) assert_true(type[0] != '\0');
    assert_true(known >= 15);
    assert_null(mb_hf_model_type(-1));
    assert_null(mb_hf_model_type(known + 1));
}

// Every golden case maps at its layer, or is refused with its model type in the message.
static void test_golden(void **state)
{
    (void)state;
    char folder[512];
    snprintf(folder, sizeof folder, "%s/tests/golden", MOEBLOCK_SOURCE_DIR);
    DIR *cases = opendir(folder);
    if (!cases) skip();
    int mapped = 0, refused = 0;
    for (struct dirent *entry; (entry = readdir(cases));) {
        char path[512];
        if (snprintf(path, sizeof path, "tests/golden/%.200s", entry->d_name) < 0) continue;
        if (entry->d_name[0] == '.' || strchr(entry->d_name, '.')) continue; // README.md, check.py
        json_t *root = load(path, "config.json"), *golden = load(path, "case.json");
        const moeblock_status status = map_object(root, json_integer_value(json_object_get(golden, "layer")));
        const char *type = json_string_value(json_object_get(root, "model_type"));
        if (status == MOEBLOCK_OK) {
            mapped++;
            assert_int_equal(config.num_experts_per_tok, json_integer_value(json_object_get(golden, "k")));
            assert_int_equal(config.hidden_size, json_integer_value(json_object_get(golden, "hidden")));
        } else {
            refused++;
            assert_int_equal(status, MOEBLOCK_UNSUPPORTED);
            if (!strstr(error.message, type)) fail_msg("%s: %s", entry->d_name, error.message);
        }
        json_decref(root);
        json_decref(golden);
    }
    closedir(cases);
    print_message("%d golden configurations mapped, %d refused by name\n", mapped, refused);
    assert_true(mapped >= 40);
}

// docs/models.md lists every model type.
static void test_documented(void **state)
{
    (void)state;
    char path[512], text[32768], quoted[80];
    snprintf(path, sizeof path, "%s/docs/models.md", MOEBLOCK_SOURCE_DIR);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    const char *type;
    for (int i = 0; (type = mb_hf_model_type(i)); i++) {
        snprintf(quoted, sizeof quoted, "`%s`", type);
        if (!strstr(text, quoted)) fail_msg("docs/models.md lacks %s", type);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published),      cmocka_unit_test(test_peculiarities),
        cmocka_unit_test(test_other_families), cmocka_unit_test(test_each_key_counts),
        cmocka_unit_test(test_origin),         cmocka_unit_test(test_refused_values),
        cmocka_unit_test(test_layers),         cmocka_unit_test(test_nested),
        cmocka_unit_test(test_unknown_models), cmocka_unit_test(test_golden),
        cmocka_unit_test(test_documented),     cmocka_unit_test(test_needed_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
