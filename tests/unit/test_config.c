// SPDX-License-Identifier: Apache-2.0
// From documents to a checked description: both original families, presets, sources of values, rules between keys,
// printing and reading back.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "config/layers.h"
#include "config/schema.h"
#include "moeblock/moeblock.h"

#define GOLDEN MOEBLOCK_SOURCE_DIR "/tests/golden/"
#define SIZES "\"model\":{\"hidden_size\":64,\"num_experts\":8,\"num_experts_per_tok\":2}"
#define ROUTED "\"experts\":{\"distributed\":{\"intermediate_size\":32}}"

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

static moeblock_config *parse_with(const char *text, const moeblock_config_options *options)
{
    moeblock_config *config = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (moeblock_config_parse(context, text, strlen(text), "t.json", options, &config, &error) != MOEBLOCK_OK)
        fail_msg("%s\n%s", error.message, text);
    return config;
}

static moeblock_config *parse(const char *text) { return parse_with(text, NULL); }

static void assert_fails(const char *text, moeblock_status status, const char *message)
{
    moeblock_config *config = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(moeblock_config_parse(context, text, strlen(text), "t.json", NULL, &config, &error), status);
    assert_null(config);
    assert_int_equal(error.code, status);
    assert_string_equal(error.message, message);
}

static void assert_value(const moeblock_config *config, const char *key, const char *expected)
{
    char text[256];
    assert_int_equal(moeblock_config_value(config, key, text, sizeof text), strlen(expected));
    assert_string_equal(text, expected);
}

static void test_presets(void **state)
{
    (void)state;
    moeblock_config *config = parse("{" SIZES "," ROUTED ",\"router\":{\"type\":\"moe_gate\"}}");
    assert_value(config, "router.config.score", "sigmoid");
    assert_value(config, "router.config.select_score", "sigmoid");
    assert_value(config, "router.config.score_correction_bias", "true");
    assert_value(config, "router.config.norm", "sum");
    assert_value(config, "router.config.norm_eps", "1e-20");
    moeblock_config_destroy(&config);

    config = parse("{" SIZES "," ROUTED ",\"router\":{\"type\":\"grouped_topk\",\"score_correction_bias\":false,"
                   "\"norm_topk_prob\":false,\"config\":{\"select_score\":\"softmax\"}}}");
    assert_value(config, "router.config.score_correction_bias", "false");
    assert_value(config, "router.config.norm", "none");
    assert_value(config, "router.config.select_score", "softmax");
    moeblock_config_destroy(&config);

    config = parse("{" SIZES "," ROUTED ",\"router\":{\"type\":\"topk\"}}");
    assert_value(config, "router.config.score", "identity");
    assert_value(config, "router.config.post", "softmax_k");
    assert_value(config, "router.config.norm", "none");
    moeblock_config_destroy(&config);

    config = parse("{" SIZES "," ROUTED ",\"router\":{\"config\":{\"norm_topk_prob\":true,\"n_group\":4,"
                   "\"topk_group\":2}}}");
    assert_value(config, "router.type", "linear");
    assert_value(config, "router.config.score", "softmax");
    assert_value(config, "router.config.norm", "sum");
    assert_value(config, "router.config.norm_eps", "0");
    assert_value(config, "router.config.groups", "limited");
    moeblock_config_destroy(&config);

    // true keeps a norm that is said, whatever kind it is
    config = parse("{" SIZES "," ROUTED ",\"router\":{\"config\":{\"norm_topk_prob\":true,\"norm\":\"sum_clamped\","
                   "\"norm_eps\":1e-12}}}");
    assert_value(config, "router.config.norm", "sum_clamped");
    moeblock_config_destroy(&config);
}

// The keys of the original's first family (block-semantics 3.2), with DeepSeek-V3's real values.
static const char family_a[] =
    "{\"moe_block\": {\n"
    "  \"weight_path\": \"\", \"module_prefix\": \"model.layers.3\", \"layer_index\": 3,\n"
    "  \"tensor_parallel\": {\"enabled\": false, \"cluster_axis\": 0},\n"
    "  \"router\": {\"type\": \"moe_gate\", \"config\": {\"num_experts\": 256, \"n_routed_experts\": 256,\n"
    "    \"num_experts_per_tok\": 8, \"n_group\": 8, \"topk_group\": 4, \"score_correction_bias\": true,\n"
    "    \"routed_scaling_factor\": 2.5, \"memory_config\": \"L1\", \"compute_kernel_config\": \"HIFI2\"}},\n"
    "  \"experts\": {\"distributed\": {\"enabled\": true, \"dispatch_cluster_axis\": 1, \"hidden_size\": 7168,\n"
    "      \"intermediate_size\": 2048, \"n_routed_experts\": 256, \"num_experts_per_device\": 8,\n"
    "      \"activation\": \"swiglu\", \"use_quantized_weights\": true, \"weight_block_size\": [128, 128],\n"
    "      \"memory_config\": \"L1\", \"output_memory_config\": \"L1\"},\n"
    "    \"shared\": {\"enabled\": true, \"hidden_size\": 7168, \"intermediate_size\": 2048,\n"
    "      \"parallel_with_moe\": false}},\n"
    "  \"activations_repeat\": {\"repeat_dims\": [1, 8, 1, 1]},\n"
    "  \"topk_weights_repeat\": {\"repeat_dims\": [7168, 1, 1, 1]},\n"
    "  \"moe_chunking\": {\"chunk_size\": 4096}, \"prefill_chunking\": {\"chunk_size\": 16384},\n"
    "  \"memory_configs\": {\"decode\": {\"dispatch\": \"L1\"}, \"prefill\": {\"combine\": \"DRAM\"}}}}\n";

static void test_family_a(void **state)
{
    (void)state;
    static const char *const expected[][2] = {
        {"model.hidden_size", "7168"},
        {"model.num_experts", "256"},
        {"model.num_experts_per_tok", "8"},
        {"layer_index", "3"},
        {"weights.module_prefix", "model.layers.3"},
        {"tensor_parallel.enabled", "false"},
        {"tensor_parallel.axis", "0"},
        {"expert_parallel.axis", "1"},
        {"router.config.n_group", "8"},
        {"router.config.topk_group", "4"},
        {"router.config.groups", "limited"},
        {"router.config.group_score", "sum_top2"},
        {"router.config.routed_scaling_factor", "2.5"},
        {"experts.distributed.intermediate_size", "2048"},
        {"experts.distributed.activation", "silu"},
        {"experts.shared.enabled", "true"},
        {"experts.shared.intermediate_size", "2048"},
        {"experts.shared.activation", "silu"},
        {"experts.shared.parallel_with_moe", "false"},
        {"chunking.moe_chunk_size", "4096"},
        {"chunking.prefill_chunk_size", "16384"},
        {"memory_configs", ""},
    };
    moeblock_config *config = parse(family_a);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        assert_value(config, expected[i][0], expected[i][1]);
    moeblock_config_shape shape;
    moeblock_config_get_shape(config, &shape);
    assert_int_equal(shape.hidden_size, 7168);
    assert_int_equal(shape.shared_intermediate_size, 2048);
    assert_int_equal(shape.layer, 3);
    moeblock_config_destroy(&config);
}

static void test_family_b(void **state)
{
    (void)state;
    moeblock_config *config =
        parse("{\"moe_block\":{\"model_params\":{\"num_experts\":128,\"num_experts_per_tok\":4,\"hidden_size\":2880,"
              "\"intermediate_size\":2880,\"sparsity_block_size\":32,\"model_type\":\"gpt_oss\"},"
              "\"router\":{\"type\":\"topk\",\"use_throughput_experts\":true},"
              "\"experts\":{\"type\":\"throughput\",\"distributed\":true,\"shared\":false,\"quantized\":false,"
              "\"activation\":\"swiglu\",\"swiglu_alpha\":1.702,\"swiglu_limit\":7.0},"
              "\"collective\":{\"dispatch_topology\":\"Linear\",\"apply_all_reduce\":true,\"cluster_axis\":0},"
              "\"tensor_parallel\":{\"enabled\":true,\"axis\":1},\"expert_parallel\":{\"enabled\":true,\"axis\":0},"
              "\"replicated_batch_mode\":false,\"shared_expert_placement\":\"none\",\"use_mock_weights\":true}}");
    assert_value(config, "experts.type", "throughput");
    assert_value(config, "experts.distributed.intermediate_size", "2880");
    assert_value(config, "experts.distributed.activation", "swiglu_oai");
    assert_value(config, "experts.distributed.clamp", "before");
    assert_value(config, "experts.distributed.limit", "7");
    assert_value(config, "experts.distributed.alpha", "1.702");
    assert_value(config, "experts.shared.enabled", "false");
    moeblock_config_destroy(&config);

    config = parse("{\"model_params\":{\"num_experts\":128,\"num_experts_per_tok\":8,\"hidden_size\":4096,"
                   "\"intermediate_size\":10944,\"moe_intermediate_size\":1408,\"n_group\":1,\"topk_group\":1,"
                   "\"n_shared_experts\":2,\"model_type\":\"glm4\"},"
                   "\"router\":{\"type\":\"grouped_topk\",\"score_correction_bias\":true,\"norm_topk_prob\":true,"
                   "\"routed_scaling_factor\":1.0},"
                   "\"experts\":{\"distributed\":true,\"shared\":true,\"shared_parallel\":false,\"quantized\":true,"
                   "\"weight_block_size\":[128,128],\"activation\":\"swiglu\",\"matmul_type\":\"dense\"},"
                   "\"chunking\":{\"moe_chunk_size\":4096,\"prefill_chunk_size\":16384},"
                   "\"replicated_batch_mode\":true,\"shared_expert_placement\":\"internal\"}");
    assert_value(config, "experts.distributed.intermediate_size", "1408");
    assert_value(config, "experts.shared.intermediate_size", "2816");
    assert_value(config, "experts.shared.enabled", "true");
    assert_value(config, "experts.shared.parallel_with_moe", "false");
    assert_value(config, "router.config.groups", "none");
    assert_value(config, "router.config.norm", "sum");
    assert_value(config, "replicated_batch_mode", "true");
    assert_value(config, "chunking.prefill_chunk_size", "16384");
    moeblock_config_destroy(&config);
}

static void test_activation_rules(void **state)
{
    (void)state;
    moeblock_config *config =
        parse("{" SIZES ",\"experts\":{\"distributed\":{\"intermediate_size\":32,\"activation\":\"clamped_swiglu\","
              "\"plus_one\":false},\"shared\":{\"intermediate_size\":16}}}");
    assert_value(config, "experts.distributed.activation", "swiglu_oai");
    assert_value(config, "experts.distributed.limit", "7");
    assert_value(config, "experts.distributed.plus_one", "false");
    assert_value(config, "experts.shared.plus_one", "false");
    assert_value(config, "experts.shared.enabled", "true"); // its size says so
    assert_value(config, "experts.shared.activation", "swiglu_oai");
    assert_value(config, "experts.shared.clamp", "before");
    moeblock_config_destroy(&config);

    config =
        parse("{" SIZES ",\"experts\":{\"distributed\":{\"intermediate_size\":32,\"limit\":10,\"clamp\":\"after\"},"
              "\"shared\":{\"intermediate_size\":16,\"activation\":\"gelu\",\"gated\":false}}}");
    assert_value(config, "experts.distributed.clamp", "after");
    assert_value(config, "experts.shared.activation", "gelu");
    assert_value(config, "experts.shared.clamp", "none"); // an activation of its own
    moeblock_config_destroy(&config);

    config = parse("{" SIZES ",\"experts\":{\"distributed\":{\"intermediate_size\":32},"
                   "\"shared\":{\"intermediate_size\":16,\"limit\":5}}}");
    assert_value(config, "experts.distributed.clamp", "none");
    assert_value(config, "experts.shared.clamp", "before");
    moeblock_config_destroy(&config);
}

// --- where values come from

static void test_sources(void **state)
{
    (void)state;
    const char *const sets[] = {"router.config.topk_group=3", "name=from the command line"};
    const moeblock_config_options options = {
        .struct_size = sizeof options, .layer = -1, .weights_path = GOLDEN "deepseek_v3-bf16", .set = sets, .n_set = 2};
    // one value of each source: default, preset, config.json, file, --set
    moeblock_config *config =
        parse_with("{\"router\":{\"type\":\"moe_gate\",\"config\":{\"routed_scaling_factor\":1.25}}}", &options);
    static const struct {
        const char *key;
        enum mb_origin origin;
    } expected[] = {{"replicated_batch_mode", MB_FROM_DEFAULT},
                    {"model.hidden_size", MB_FROM_MODEL},
                    {"router.config.n_group", MB_FROM_MODEL},
                    {"router.config.routed_scaling_factor", MB_FROM_FILE},
                    {"router.config.topk_group", MB_FROM_FILE}};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        assert_int_equal(config->given[mb_schema_find(expected[i].key)], expected[i].origin);
    assert_value(config, "model.hidden_size", "40");
    assert_value(config, "router.config.n_group", "4");
    assert_value(config, "router.config.topk_group", "3");
    assert_value(config, "router.config.routed_scaling_factor", "1.25");
    assert_value(config, "name", "from the command line");
    moeblock_config_destroy(&config);

    // the file's own weight_path does the same, and its layer goes to the mapping
    config = parse("{\"weight_path\":\"" GOLDEN "deepseek_v3-bf16\",\"layer_index\":2}");
    assert_value(config, "model.num_experts", "16");
    assert_value(config, "layer_index", "2");
    moeblock_config_destroy(&config);

    moeblock_error error = {MOEBLOCK_OK, ""};
    const char *dense = "{\"weight_path\":\"" GOLDEN "deepseek_v3-bf16\",\"layer_index\":0}";
    assert_int_equal(moeblock_config_parse(context, dense, strlen(dense), "t.json", NULL, &config, &error),
                     MOEBLOCK_INVALID_CONFIG);
    assert_non_null(strstr(error.message, "dense"));
}

// A router type that the user names means its formula over any config.json; explicit keys go before both.
static void test_named_router_type(void **state)
{
    (void)state;
    const char *const topk[] = {"router.type=topk"};
    moeblock_config_options options = {.struct_size = sizeof options, .layer = -1, .set = topk, .n_set = 1};
    moeblock_config *config = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const char *const folder = GOLDEN "deepseek_v3-bf16";
    if (moeblock_config_open(context, folder, &options, &config, &error)) fail_msg("%s", error.message);
    static const char *const formula[][2] = {
        {"score", "identity"}, {"select_score", "identity"}, {"score_correction_bias", "false"},
        {"groups", "none"},    {"post", "softmax_k"},        {"norm", "none"}};
    for (size_t i = 0; i < sizeof formula / sizeof formula[0]; i++) {
        char key[64];
        snprintf(key, sizeof key, "router.config.%s", formula[i][0]);
        assert_value(config, key, formula[i][1]);
    }
    assert_value(config, "router.config.routed_scaling_factor", "2.5"); // no part of the formula: the checkpoint's
    moeblock_config_destroy(&config);

    options.n_set = 0; // the same from a file of ours, and the file's own keys before the type
    options.weights_path = folder;
    config = parse_with("{\"router\":{\"type\":\"topk\",\"config\":{\"n_group\":2,\"topk_group\":1}}}", &options);
    assert_value(config, "router.config.post", "softmax_k");
    assert_value(config, "router.config.groups", "limited");
    assert_value(config, "router.config.n_group", "2");
    moeblock_config_destroy(&config);

    options.weights_path = GOLDEN "gpt_oss-bf16";
    config = parse_with("{\"router\":{\"type\":\"grouped_topk\"}}", &options);
    assert_value(config, "router.config.score", "sigmoid");
    assert_value(config, "router.config.select_score", "sigmoid");
    assert_value(config, "router.config.post", "none");
    assert_value(config, "router.config.norm", "sum");
    assert_value(config, "router.config.score_correction_bias", "true");
    assert_value(config, "router.config.linear_bias", "true"); // what the checkpoint's linear has
    moeblock_config_destroy(&config);

    options.weights_path = folder; // a type that nobody names stays the config.json's
    config = parse_with("{\"name\":\"x\"}", &options);
    assert_value(config, "router.type", "moe_gate");
    assert_value(config, "router.config.groups", "limited");
    moeblock_config_destroy(&config);
}

// A model type that is stored in two forms: the checkpoint's tensor names tell which.
static void test_storage_forms(void **state)
{
    (void)state;
    static const struct {
        const char *config, *weights, *layout, *down; // config: a folder or its file, NULL: a file of ours
    } rows[] = {
        {GOLDEN "qwen3_5_moe-bf16", NULL, "stacked", "mlp.experts.down_proj"},
        {GOLDEN "qwen3_5_moe_per_expert-bf16", NULL, "per_expert", "mlp.experts.{expert}.down_proj.weight"},
        {GOLDEN "qwen3_5_moe_per_expert-bf16/config.json", NULL, "per_expert", "mlp.experts.{expert}.down_proj.weight"},
        {GOLDEN "qwen3_5_moe-bf16", GOLDEN "qwen3_5_moe_per_expert-bf16/model.safetensors", "per_expert",
         "mlp.experts.{expert}.down_proj.weight"},
        {GOLDEN "qwen3_5_moe_per_expert-bf16", GOLDEN "qwen3_5_moe-bf16", "stacked", "mlp.experts.down_proj"},
        {GOLDEN "qwen3_5_moe_per_expert-bf16", GOLDEN "switch_transformers-bf16", "stacked",
         "mlp.experts.down_proj"}, // none
        {GOLDEN "qwen3_5_moe_per_expert-bf16", "/nowhere", "stacked", "mlp.experts.down_proj"},
        {NULL, GOLDEN "qwen3_5_moe_per_expert-bf16", "per_expert", "mlp.experts.{expert}.down_proj.weight"},
        {NULL, GOLDEN "qwen3_5_moe_per_expert-bf16/model.safetensors", "per_expert",
         "mlp.experts.{expert}.down_proj.weight"},
        {GOLDEN "granitemoe_swa-bf16", NULL, "stacked", "block_sparse_moe.experts.down_proj"},
        {GOLDEN "granitemoe_swa_linear-bf16", NULL, "stacked", "block_sparse_moe.output_linear.weight"},
        {GOLDEN "qwen4_exp-bf16", NULL, "per_expert", "mlp.experts.{expert}.down_proj.weight"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const moeblock_config_options options = {
            .struct_size = sizeof options, .layer = 1, .weights_path = rows[i].weights};
        moeblock_config *config = NULL;
        moeblock_error error = {MOEBLOCK_OK, ""};
        if (!rows[i].config)
            config = parse_with("{}", &options);
        else if (moeblock_config_open(context, rows[i].config, &options, &config, &error))
            fail_msg("%s", error.message);
        assert_value(config, "weights.layout", rows[i].layout);
        assert_value(config, "weights.names.down", rows[i].down);
        moeblock_config_destroy(&config);
    }
    const char *text = "{\"weights\":{\"names\":\"qwen\",\"path\":\"" GOLDEN "qwen3_5_moe-bf16\"}}"; // by hand
    moeblock_config *config = parse(text);
    assert_value(config, "weights.layout", "per_expert");
    moeblock_config_destroy(&config);
}

// A checkpoint of a family that is not mapped: a complete file does not need it, an incomplete one says why it cannot
// help.
static void test_unmapped_checkpoint(void **state)
{
    (void)state;
    const moeblock_config_options options = {
        .struct_size = sizeof options, .layer = -1, .weights_path = MOEBLOCK_SOURCE_DIR "/tests/config/unmapped"};
    moeblock_config *config = parse_with("{" SIZES "," ROUTED "}", &options);
    moeblock_config_destroy(&config);
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(moeblock_config_parse(context, "{}", 2, "t.json", &options, &config, &error),
                     MOEBLOCK_INVALID_CONFIG);
    assert_non_null(strstr(error.message, "no value for model.hidden_size, model.num_experts, "));
    assert_non_null(strstr(error.message, "vitpose_backbone"));
}

static void test_original_snippet(void **state)
{
    (void)state;
    const char *path = MOEBLOCK_SOURCE_DIR "/tests/config/original_snippet.json";
    moeblock_config_options options = {.struct_size = sizeof options, .layer = -1};
    moeblock_config *config = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(moeblock_config_open(context, path, &options, &config, &error), MOEBLOCK_INVALID_CONFIG);
    assert_string_equal(strstr(error.message, "json: ") + 6,
                        "no value for model.hidden_size, model.num_experts, model.num_experts_per_tok, "
                        "experts.distributed.intermediate_size, experts.shared.intermediate_size; give them in the "
                        "file or load from a folder whose config.json has them");
    options.weights_path = GOLDEN "deepseek_v3-bf16";
    assert_int_equal(moeblock_config_open(context, path, &options, &config, &error), MOEBLOCK_OK);
    assert_value(config, "router.config.routed_scaling_factor", "1"); // the snippet's, not the checkpoint's
    assert_value(config, "router.config.n_group", "4");
    moeblock_config_destroy(&config);
}

static void test_settings(void **state)
{
    (void)state;
    static const struct {
        const char *setting, *message;
    } refused[] = {
        {"router", "setting \"router\": expected key.path=value"},
        {"=3", "setting \"=3\": expected key.path=value"},
        {"router.config.n_group=x", "--set: router.config.n_group is \"x\", expected an integer from 1 to 4096"},
        {"router.config.n_groop=1", "--set: unknown key \"router.config.n_groop\"; did you mean "
                                    "\"router.config.n_group\"?"},
        {"router.config.n_group=3", "t.json: router.config.n_group is 3, which does not divide model.num_experts (8)"},
        {"a..b=1", "--set: unknown key \"a\"; docs/config.md lists the keys"},
    };
    const char *text = "{" SIZES "," ROUTED "}";
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const moeblock_config_options options = {
            .struct_size = sizeof options, .layer = -1, .set = &refused[i].setting, .n_set = 1};
        moeblock_config *config = NULL;
        moeblock_error error = {MOEBLOCK_OK, ""};
        assert_int_not_equal(moeblock_config_parse(context, text, strlen(text), "t.json", &options, &config, &error),
                             MOEBLOCK_OK);
        assert_string_equal(error.message, refused[i].message);
    }
    // a value cannot smuggle a second key in, and a bare word is a string
    const char *const sets[] = {"name=1, \"x\": 2", "router.type=topk", "experts.shared.intermediate_size=8",
                                "experts.shared.enabled=false"};
    const moeblock_config_options options = {.struct_size = sizeof options, .layer = 5, .set = sets, .n_set = 4};
    moeblock_config *config = parse_with(text, &options);
    assert_value(config, "name", "1, \"x\": 2");
    assert_value(config, "router.config.post", "softmax_k");
    assert_value(config, "experts.shared.enabled", "false");
    assert_value(config, "layer_index", "5");
    moeblock_config_destroy(&config);
}

// --- rules

#define WITH(router, experts, more)                                                                                    \
    "{" SIZES ",\n\"router\":{\"config\":{" router                                                                     \
    "}},\n\"experts\":{\"distributed\":{\"intermediate_size\":32" experts "}" more "}\n}"
static const struct {
    const char *text, *message;
} broken_rules[] = {
    {WITH("\"n_group\":3", "", ""), "2: router.config.n_group is 3, which does not divide model.num_experts (8)"},
    {WITH("\"n_group\":4,\"topk_group\":5", "", ""),
     "2: router.config.topk_group is 5, more than router.config.n_group (4)"},
    {WITH("\"n_group\":8,\"topk_group\":1", "", ""),
     "2: router.config.topk_group 1 keeps 1 experts, fewer than model.num_experts_per_tok (2)"},
    {WITH("\"n_group\":8,\"topk_group\":2,\"group_score\":\"sum_top2\"", "", ""),
     "2: router.config.group_score is \"sum_top2\" but router.config.n_group 8 leaves groups of one of "
     "model.num_experts (8)"},
    {WITH("\"n_group\":4,\"groups\":\"per_group\"", "", ""),
     "2: router.config.n_group is 4, which does not divide model.num_experts_per_tok (2), as groups \"per_group\" "
     "needs"},
    {WITH("\"n_group\":4,\"groups\":\"none\"", "", ""),
     "2: router.config.n_group is 4 but router.config.groups is \"none\"; keep one"},
    {WITH("\"n_group\":2,\"null_experts\":1", "", ""),
     "2: router.config.n_group is 2, which does not divide model.num_experts (8) plus router.config.null_experts"},
    {WITH("\"norm\":\"sum\",\"norm_topk_prob\":false", "", ""),
     "2: router.config.norm_topk_prob is false but router.config.norm is \"sum\"; keep one"},
    {WITH("\"norm\":\"none\",\"norm_topk_prob\":true", "", ""),
     "2: router.config.norm_topk_prob is true but router.config.norm is \"none\"; keep one"},
    {WITH("\"norm\":\"sum_clamped\"", "", ""),
     "router.config.norm is \"sum_clamped\" but router.config.norm_eps, its minimum, is 0"},
    {WITH("\"score_correction_bias\":false,\"selection_bias_subtract_mean\":true", "", ""),
     "2: router.config.selection_bias_subtract_mean is true but router.config.score_correction_bias is false; there is "
     "no bias to subtract from"},
    {WITH("\"num_experts\":9", "", ""), "2: router.config.num_experts is 9 but model.num_experts, another spelling "
                                        "of the same key, is 8; keep one"},
    {WITH("", ",\"clamp\":\"before\"", ""),
     "3: experts.distributed.clamp is \"before\" but experts.distributed.limit is 0; give a limit"},
    {WITH("", ",\"clamp\":\"none\",\"limit\":7", ""),
     "3: experts.distributed.limit is 7 but experts.distributed.clamp is \"none\"; keep one"},
    {WITH("", ",\"gated\":false,\"activation\":\"clamped_swiglu\"", ""),
     "3: experts.distributed.gated is false but experts.distributed.activation \"swiglu_oai\" needs a gate"},
    {WITH("", ",\"enabled\":false", ""),
     "3: experts.distributed.enabled and experts.shared.enabled are both false: nothing is left to compute"},
    {WITH("", "", ",\"latent\":{\"in_norm\":true}"),
     "experts.latent.in_norm is true but experts.latent.size is 0; give a size"},
    {WITH("\"null_experts\":1", "", ",\"latent\":{\"size\":16}"),
     "2: router.config.null_experts return x itself, but experts.latent.size is 16 and the routed sum is that "
     "narrow; use one or the other"},
    {WITH("", "", ",\"shared\":{\"mix\":\"average\"}"),
     "3: experts.shared.mix is \"average\" but experts.shared.enabled is false"},
    {WITH("", "", ",\"shared\":{\"intermediate_size\":8,\"mix\":\"softmax_coef\",\"gate\":\"sigmoid\"}"),
     "3: experts.shared.gate is \"sigmoid\" but experts.shared.mix \"softmax_coef\" has a coefficient for the shared "
     "expert; keep one"},
    {WITH("", "", ",\"shared\":{\"mix\":\"sum_over_sqrt2\"}"),
     "3: experts.shared.mix is \"sum_over_sqrt2\" but experts.shared.enabled is false"},
    {WITH("", "", ",\"shared\":{\"enabled\":true}"),
     "no value for experts.shared.intermediate_size; give them in the file or load from a folder whose config.json "
     "has them"},
    {WITH("", "", "},\"shared_expert_placement\":\"none\",\"chunking\":{\"moe_chunk_size\":-1"),
     "3: chunking.moe_chunk_size is -1, expected an integer from 0 to 2147483647"},
    {WITH("", "", ",\"shared\":true},\"shared_expert_placement\":\"none\",\"chunking\":{"),
     "3: experts.shared.enabled is true but shared_expert_placement is \"none\"; keep one"},
    {WITH("", "", ",\"shared\":true},\"model_params\":{\"n_shared_experts\":0"),
     "3: experts.shared.enabled is true but model.n_shared_experts is 0; keep one"},
    {WITH("", "", "},\"weights\":{\"format\":\"fp6\""),
     "3: weights.format is \"fp6\", expected one of \"auto\", \"f32\", \"f16\", \"bf16\", \"fp8\", "
     "\"fp8_tensor\", \"v4_fp8\", \"fbgemm_fp8\", \"ct_fp8\", \"ct_fp8_block\", \"ct_fp8_tensor\", \"modelopt_fp8\", "
     "\"mxfp8\", \"ct_mxfp8\", \"mxfp4\", "
     "\"ct_mxfp4\", \"v4_fp4\", \"nvfp4\", \"modelopt_nvfp4\", \"ct_nvfp4\", \"ct_int4\", \"ct_int4_asym\", "
     "\"ct_int8\", \"ct_int8_asym\", "
     "\"awq\", \"gptq\", \"gptq_v2\", \"gptq_int8\", \"gptq_v2_int8\""},
    {WITH("", ",\"gated\":false", "},\"weights\":{\"gate_up\":\"interleaved\""),
     "3: weights.gate_up joins gate and up but experts.distributed.gated is false"},
    {WITH("", "", "},\"weights\":{\"layout\":\"stacked\""),
     "weights.names.gate is \"mlp.experts.{expert}.gate_proj.weight\", expected no {expert} because weights.layout "
     "is \"stacked\""},
    {WITH("", "", "},\"weights\":{\"names\":{\"up\":\"up.weight\"}"),
     "3: weights.names.up is \"up.weight\", expected an {expert} in it because weights.layout is \"per_expert\""},
    {WITH("", "", "},\"weights\":{\"names\":{\"router_weight\":\"r.{expert}\"}"),
     "3: weights.names.router_weight is \"r.{expert}\", expected no {expert}: there is one such tensor"},
    {WITH("", "", "},\"weights\":{\"names\":{\"router_weight\":\"r.{e}\"}"),
     "3: weights.names.router_weight is \"r.{e}\", expected no braces but {layer}, {bank} and {expert}"},
    {WITH("", "", "},\"weights\":{\"names\":\"nobody\""),
     "3: weights.names is \"nobody\", expected an object or one of \"deepseek\", \"qwen\", \"mixtral\", "
     "\"gpt_oss\", \"llama4\", \"granite\", \"ernie\", \"hunyuan\", \"stacked\""},
    {WITH("", "", "},\"layer_index\":4,\"module_prefix\":\"model.layers.3\",\"chunking\":{"),
     "3: weights.module_prefix is \"model.layers.3\" but layer_index is 4; write {layer} in the prefix"},
    {WITH("", "", "},\"layer_index\":2,\"model_params\":{\"moe_layers\":\"3-60\""),
     "3: layer_index is 2, which is a dense layer; the MoE layers are 3-60"},
    {WITH("", "", "},\"layer_index\":7,\"model_params\":{\"num_layers\":7"),
     "3: layer_index is 7 but model.num_layers is 7, expected 0 to 6"},
    {WITH("", "", "},\"model_params\":{\"moe_layers\":\"3-\""),
     "3: model.moe_layers is \"3-\", expected layers such as \"3-60\" or \"1,3,5\""},
    {WITH("\"expert_groups\":1", "", ""),
     "2: unknown key \"router.config.expert_groups\"; docs/config.md lists the keys"},
    {WITH("", "", ",\"config\":{\"a\":1}"), "3: unknown key \"experts.config.a\"; docs/config.md lists the keys"},
    {WITH("", "", "},\"mesh\":{\"exchange\":\"sums\""), "3: mesh.exchange is \"sums\" but mesh.reproducible is "
                                                        "\"mesh\", whose bits partial sums do not keep; say \"batch\" "
                                                        "there"},
    {WITH("", "", "},\"chunking\":{\"\":1"), "3: key \"\" in chunking is empty"},
    {WITH("", "", "},\"router.type\":\"topk\",\"chunking\":{"),
     "key \"router.type\" has a dot in its name; write nested objects"},
    {WITH("", "", "},\"tensor_parallel\":true,\"chunking\":{"), "3: tensor_parallel is true, expected an object"},
};

static void test_rules(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof broken_rules / sizeof broken_rules[0]; i++) {
        char message[1024];
        const bool lined = broken_rules[i].message[1] == ':';
        snprintf(message, sizeof message, "t.json:%s%s", lined ? "" : " ", broken_rules[i].message);
        assert_fails(broken_rules[i].text, MOEBLOCK_INVALID_CONFIG, message);
    }
    assert_fails("{\"experts\":{\"dense_backbone\":{\"enabled\":true}}}", MOEBLOCK_UNSUPPORTED,
                 "t.json: experts.dense_backbone.enabled is true, expected false: a dense branch beside the block "
                 "belongs to the model's layer, outside this block");
    assert_fails("{" SIZES ",\"model_params\":{\"num_experts_per_tok\":9}}", MOEBLOCK_INVALID_CONFIG,
                 "t.json:1: model_params.num_experts_per_tok is 9 but model.num_experts_per_tok, another spelling of "
                 "the same key, is 2; keep one");
    assert_fails("{\"model\":{\"hidden_size\":64,\"num_experts\":8,\n\"num_experts_per_tok\":9}," ROUTED "}",
                 MOEBLOCK_INVALID_CONFIG, "t.json:2: model.num_experts_per_tok is 9, more than model.num_experts (8)");
}

static void test_layers(void **state)
{
    (void)state;
    assert_true(mb_layers_valid("") && mb_layers_valid("3") && mb_layers_valid("3-60") && mb_layers_valid("0-2,7,9"));
    assert_false(mb_layers_valid("3-") || mb_layers_valid("-3") || mb_layers_valid("3,") || mb_layers_valid("9-3"));
    assert_false(mb_layers_valid("a") || mb_layers_valid("1 2") || mb_layers_valid("12345678"));
    assert_true(mb_layers_contain("0-2,7", 1) && mb_layers_contain("0-2,7", 7));
    assert_false(mb_layers_contain("0-2,7", 3) || mb_layers_contain("", 0));
}

// --- printing

static char *print(const moeblock_config *config)
{
    const size_t length = moeblock_config_print(config, NULL, 0);
    char *text = malloc(length + 1);
    assert_int_equal(moeblock_config_print(config, text, length + 1), length);
    assert_int_equal(strlen(text), length);
    char small[16];
    assert_int_equal(moeblock_config_print(config, small, sizeof small), length);
    assert_int_equal(strlen(small), sizeof small - 1);
    return text;
}

static void assert_reads_back(moeblock_config *config)
{
    char *first = print(config);
    moeblock_config *again = parse(first);
    char *second = print(again);
    assert_string_equal(first, second);
    free(first);
    free(second);
    moeblock_config_destroy(&again);
    moeblock_config_destroy(&config);
}

static void test_print(void **state)
{
    (void)state;
    assert_reads_back(parse(family_a));
    assert_reads_back(parse("{" SIZES "," ROUTED ",\"name\":\"quote \\\" back \\\\ bell \\u0007 \\u00fc\"}"));
    assert_reads_back(parse("{" SIZES ",\"experts\":{\"distributed\":{\"intermediate_size\":32,\"activation\":"
                            "\"clamped_swiglu\",\"clamp\":\"none\"},\"latent\":{\"size\":16,\"in_norm\":true}}}"));
    assert_reads_back(parse("{" SIZES "," ROUTED ",\"router\":{\"config\":{\"logit_scale\":0.1,\"norm_eps\":1e-20,"
                            "\"norm\":\"sum\",\"routed_scaling_factor\":2.8333333333333335}}}"));
    static const char *const names[] = {"deepseek", "qwen",  "mixtral", "gpt_oss", "llama4",
                                        "granite",  "ernie", "hunyuan", "stacked"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{" SIZES ",\"experts\":{\"distributed\":{\"intermediate_size\":32},\"shared\":{"
                 "\"intermediate_size\":8}},\"router\":{\"type\":\"moe_gate\"},\"weights\":{\"names\":\"%s\"}}",
                 names[i]);
        assert_reads_back(parse(text));
    }
}

// An outside router's config is its own: kept as it is, printed as it is; what the block itself obeys is read too.
static void test_outside_kinds(void **state)
{
    (void)state;
    const char *const sets[] = {"router.config.extra=[1, 2]"};
    const moeblock_config_options options = {.struct_size = sizeof options, .layer = -1, .set = sets, .n_set = 1};
    moeblock_config *config = parse_with("{" SIZES ",\"router\":{\"type\":\"mine\",\"config\":{\"norm\":\"l2\","
                                         "\"null_experts\":2,\"deep\":{\"a\":null}}},\"experts\":{\"type\":\"theirs\","
                                         "\"config\":{\"rank\":4},\"distributed\":{\"intermediate_size\":32}}}",
                                         &options);
    assert_string_equal(config->router_json,
                        "{\"norm\":\"l2\",\"null_experts\":2,\"deep\":{\"a\":null},\"extra\":[1,2]}");
    assert_string_equal(config->expert_json, "{\"rank\":4}");
    assert_int_equal(config->router.null_experts, 2);
    moeblock_config *copy = mb_config_copy(config, &config->allocator);
    assert_string_equal(copy->router_json, config->router_json);
    moeblock_config_destroy(&copy);
    assert_reads_back(config);
    config = parse("{" SIZES "," ROUTED ",\"router\":{\"type\":\"mine\"}}");
    assert_null(config->router_json);
    moeblock_config_destroy(&config);
}

static void test_arguments(void **state)
{
    (void)state;
    moeblock_config *config = NULL;
    moeblock_config_options options = {.struct_size = sizeof options, .layer = -2};
    assert_int_equal(moeblock_config_parse(NULL, "{}", 2, "t", NULL, &config, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_config_parse(context, NULL, 2, "t", NULL, &config, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_config_parse(context, "{}", 2, "t", NULL, NULL, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_config_open(context, NULL, NULL, &config, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_config_parse(context, "{}", 2, "t", &options, &config, NULL), MOEBLOCK_INVALID_ARGUMENT);
    options.struct_size = 0;
    assert_int_equal(moeblock_config_parse(context, "{}", 2, "t", &options, &config, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_config_open(context, "/nonexistent.json", NULL, &config, NULL), MOEBLOCK_NOT_FOUND);
    assert_int_equal(moeblock_config_parse(context, "{", 1, NULL, NULL, &config, NULL), MOEBLOCK_INVALID_CONFIG);
    assert_int_equal(moeblock_config_value(NULL, "name", NULL, 0), 0);
    assert_int_equal(moeblock_config_print(NULL, NULL, 0), 0);
    moeblock_config_get_shape(NULL, NULL);
    moeblock_config_destroy(NULL);
    moeblock_config_destroy(&config);
    // Hugging Face files stay strict: no comments
    moeblock_error error = {MOEBLOCK_OK, ""};
    const char *commented = "{\"model_type\": \"mixtral\" /* no */}";
    assert_int_equal(moeblock_config_parse(context, commented, strlen(commented), "t", NULL, &config, &error),
                     MOEBLOCK_INVALID_CONFIG);
}

// A file of ours above 1 MiB, even of comments alone.
static void test_limit(void **state)
{
    (void)state;
    const size_t bytes = (1 << 20) + 64;
    char *text = malloc(bytes);
    moeblock_config *config = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    memset(text, ' ', bytes);
    memcpy(text, "{}", 2);
    assert_int_equal(moeblock_config_parse(context, text, bytes, "t.json", NULL, &config, &error), MOEBLOCK_LIMIT);
    assert_string_equal(error.message, "t.json: the file has 1048640 bytes, expected at most 1048576");
    free(text);
}

// Memory that runs out at the n-th call, then at the next one, until there is enough.
struct short_memory {
    int calls, fails_at, live;
};

static void *short_allocate(void *user, size_t bytes, size_t alignment)
{
    struct short_memory *memory = user;
    void *out = NULL;
    if (memory->fails_at && ++memory->calls == memory->fails_at) return NULL;
    if (posix_memalign(&out, alignment < sizeof out ? sizeof out : alignment, bytes ? bytes : 1)) return NULL;
    memory->live++;
    return out;
}

static void short_release(void *user, void *memory, size_t bytes)
{
    (void)bytes;
    if (memory) ((struct short_memory *)user)->live--;
    free(memory);
}

static void test_memory(void **state)
{
    (void)state;
    struct short_memory memory = {0};
    const moeblock_allocator allocator = {&memory, short_allocate, short_release};
    const moeblock_context_options context_options = {
        .struct_size = sizeof context_options, .threads = 1, .allocator = &allocator};
    const char *const sets[] = {"router.config.n_group=2"};
    const moeblock_config_options options = {
        .struct_size = sizeof options, .layer = -1, .weights_path = GOLDEN "deepseek_v3-bf16", .set = sets, .n_set = 1};
    moeblock_context *small = NULL;
    moeblock_config *config = NULL;
    assert_int_equal(moeblock_context_create(&context_options, &small, NULL), MOEBLOCK_OK);
    const int live = memory.live;
    const char *text = "{\"router\":{\"config\":{\"topk_group\":1}}}";
    moeblock_status status = MOEBLOCK_OUT_OF_MEMORY;
    for (int n = 1; status != MOEBLOCK_OK; n++) {
        moeblock_error error = {MOEBLOCK_OK, ""};
        memory.calls = 0;
        memory.fails_at = n;
        status = moeblock_config_parse(small, text, strlen(text), "t.json", &options, &config, &error);
        if (status == MOEBLOCK_OK) break;
        assert_int_equal(status, MOEBLOCK_OUT_OF_MEMORY);
        assert_true(error.message[0] != 0);
        assert_null(config);
        assert_int_equal(memory.live, live);
        assert_true(n < 100);
    }
    assert_true(memory.calls > 5);
    moeblock_config_destroy(&config);
    assert_int_equal(memory.live, live);
    moeblock_context_destroy(&small);
    assert_int_equal(memory.live, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_presets),
        cmocka_unit_test(test_family_a),
        cmocka_unit_test(test_family_b),
        cmocka_unit_test(test_activation_rules),
        cmocka_unit_test(test_sources),
        cmocka_unit_test(test_named_router_type),
        cmocka_unit_test(test_storage_forms),
        cmocka_unit_test(test_unmapped_checkpoint),
        cmocka_unit_test(test_original_snippet),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_print),
        cmocka_unit_test(test_outside_kinds),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, make_context, drop_context);
}
