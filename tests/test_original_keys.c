// SPDX-License-Identifier: Apache-2.0
// Every key of both families of the original's files, in its own spelling: changing it changes the result (as the
// original's flow says), the chunks, what is loaded, the calls on the mesh, or is refused; what only placed data on the
// original hardware, or is derived, changes no byte.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cmocka.h"
#include "support/golden.h"
#include "support/mesh_double.h"
#include "support/small_layer.h"
#include "unit/files.h"

enum { TOKENS = 10, SETS_MAX = 5, VALUES = TOKENS * SMALL_HIDDEN, DEVICES = 4 };
#define GPT_OSS "tests/golden/gpt_oss-f32"

// --- Changing keys and running ---------------------------------------------------------------------------------------

// What was asked for and what came out.
struct outcome {
    moeblock_status status;
    moeblock_error error;
    int64_t chunks;
    float y[VALUES];
};

// "a.b=3" as {"a": {"b": 3}}.
static void nest(const char *setting, char *to, size_t capacity)
{
    const char *equals = strchr(setting, '=');
    size_t used = 0;
    int depth = 0;
    for (const char *at = setting; at < equals; depth++) {
        const size_t length = strcspn(at, ".=");
        used += (size_t)snprintf(to + used, capacity - used, "{\"%.*s\": ", (int)length, at);
        at += length + 1;
    }
    used += (size_t)snprintf(to + used, capacity - used, "%s", equals + 1);
    while (depth-- > 0) used += (size_t)snprintf(to + used, capacity - used, "}");
}

// The file's text with the settings laid over it; null takes a key out. `root`: "moe_block." where the file has it.
static char *changed(const char *file, const char *const *set)
{
    char *text = small_file(file);
    const char *root = strstr(text, "\"moe_block\"") ? "moe_block." : "";
    for (int i = 0; i < SETS_MAX && set[i]; i++) {
        char whole[256], patch[512];
        snprintf(whole, sizeof whole, "%s%s", root, set[i]);
        nest(whole, patch, sizeof patch);
        char *next = small_patched(text, patch);
        free(text);
        text = next;
    }
    return text;
}

static moeblock_array whole(float *data, int64_t tokens, int64_t width)
{
    return (moeblock_array){.dtype = MOEBLOCK_F32, .rank = 3, .dims = {1, tokens, width}, .data = data};
}

// A block of the text on a mesh (NULL: one process). tensors NULL: loads from the configuration's weight_path.
struct request {
    const char *text;
    const moeblock_tensor *tensors;
    size_t count;
    moeblock_mode mode;
};

static void run(const struct request *request, moeblock_mesh *mesh, moeblock_array x, moeblock_array y,
                struct outcome *out)
{
    const moeblock_context_options one_thread = {.struct_size = sizeof one_thread, .threads = 1};
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    moeblock_error *error = &out->error;
    moeblock_forward_stats stats = {.struct_size = sizeof stats};
    const moeblock_forward_input in = {
        .struct_size = sizeof in, .mode = request->mode ? request->mode : MOEBLOCK_PREFILL, .x = x};
    const moeblock_forward_output result = {.struct_size = sizeof result, .y = y, .stats = &stats};
    moeblock_status status = moeblock_context_create(&one_thread, &context, error);
    if (status == MOEBLOCK_OK)
        status = moeblock_config_parse(context, request->text, strlen(request->text), "t.json", NULL, &config, error);
    if (status == MOEBLOCK_OK) status = moeblock_block_create(context, config, mesh, NULL, &block, error);
    if (status == MOEBLOCK_OK && request->tensors)
        status = moeblock_block_load_weights(block, request->tensors, request->count, error);
    else if (status == MOEBLOCK_OK)
        status = moeblock_block_load_files(block, NULL, NULL, error);
    if (status == MOEBLOCK_OK) status = moeblock_workspace_create(block, 2 * TOKENS, NULL, 0, &workspace, error);
    if (status == MOEBLOCK_OK) status = moeblock_block_forward(block, workspace, &in, &result, error);
    out->status = status;
    out->chunks = stats.chunks;
    moeblock_workspace_destroy(&workspace);
    moeblock_block_destroy(&block);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
}

static struct small_layer layers[2]; // 3 and 4
static float x_all[VALUES];

static int make_layers(void **state)
{
    small_layer_make(&layers[0], 3, 1);
    small_layer_make(&layers[1], 4, 9);
    small_random(x_all, VALUES, 2);
    if (files_begin(state)) return -1;
    small_layer_write(layers, 2, files_path("model.safetensors"));
    return 0;
}

static int free_layers(void **state)
{
    small_layer_free(&layers[0]);
    small_layer_free(&layers[1]);
    return files_end(state);
}

// One process, layer 3 from memory. `left_out`: part of the name of tensors that are not given.
static void run_small(const char *text, moeblock_mode mode, const char *left_out, struct outcome *out)
{
    moeblock_tensor tensors[SMALL_TENSORS];
    struct request request = {.text = text, .tensors = tensors, .mode = mode};
    for (int i = 0; i < SMALL_TENSORS; i++)
        if (!left_out || !strstr(layers[0].names[i], left_out)) tensors[request.count++] = layers[0].tensors[i];
    memset(out, 0, sizeof *out);
    run(&request, NULL, whole(x_all, TOKENS, SMALL_HIDDEN), whole(out->y, TOKENS, SMALL_HIDDEN), out);
}

static void expect_refused(const struct outcome *outcome, const char *what, const char *part)
{
    if (outcome->status == MOEBLOCK_OK) fail_msg("%s is not refused", what);
    if (!strstr(outcome->error.message, part))
        fail_msg("%s: \"%s\" does not name %s", what, outcome->error.message, part);
}

static void expect_ok(const struct outcome *outcome, const char *what)
{
    if (outcome->status != MOEBLOCK_OK) fail_msg("%s: %s", what, outcome->error.message);
}

// --- One process -----------------------------------------------------------------------------------------------------

// What a change does.
enum effect {
    SAME,    // no byte
    CHANGES, // other bytes
    EQUALS,  // other bytes: those of the original's flow with `math`
    CHUNKS,  // no byte, but another number of chunks
    REFUSED  // an error that names `part`
};

// The original's layer after the change; 0 and false leave it.
struct change {
    int k, n_group, topk_group;
    double scale;
    bool unnormalised, unbiased, no_routed, no_shared;
};

struct row {
    const char *set[SETS_MAX];
    enum effect effect;
    const char *part; // REFUSED
    struct change math;
    int64_t chunks;
    const char *left_out; // tensors that are not given
    moeblock_mode mode;
};

// clang-format off
#define KEEPS(...) {.set = {__VA_ARGS__}, .effect = SAME}
#define ALTERS(...) {.set = {__VA_ARGS__}, .effect = CHANGES}
#define NAMES(what, ...) {.set = {__VA_ARGS__}, .effect = REFUSED, .part = what}
#define CUTS(n, ...) {.set = {__VA_ARGS__}, .effect = CHUNKS, .chunks = n}
#define BECOMES(change, ...) {.set = {__VA_ARGS__}, .effect = EQUALS, .math = {change}}

static const struct row family_a[] = {
    // sizes: several spellings must agree, and the checkpoint must fit
    NAMES("num_experts", "router.config.num_experts=8"),
    NAMES("n_routed_experts", "router.config.n_routed_experts=8"),
    NAMES("n_routed_experts", "experts.distributed.n_routed_experts=8"),
    NAMES("model.layers.3.mlp.gate.weight", "router.config.num_experts=8", "router.config.n_routed_experts=8",
          "experts.distributed.n_routed_experts=8", "router.config.n_group=2"),
    NAMES("hidden_size", "experts.distributed.hidden_size=64"),
    NAMES("hidden_size", "experts.shared.hidden_size=64"),
    NAMES("hidden_size", "router.config.hidden_size=64"),
    KEEPS("router.config.hidden_size=32", "experts.distributed.num_experts=16"),
    NAMES("experts.distributed.num_experts", "experts.distributed.num_experts=8"),
    NAMES("expects [64, 12]", "experts.distributed.hidden_size=64", "experts.shared.hidden_size=64"),
    NAMES("model.hidden_size", "experts.distributed.hidden_size=null", "experts.shared.hidden_size=null"),
    NAMES("expects [32, 16]", "experts.distributed.intermediate_size=16"),
    NAMES("shared_experts", "experts.shared.intermediate_size=12"),
    // the gate
    NAMES("switch", "router.type=\"switch\""),
    ALTERS("router.type=\"topk\""),
    KEEPS("router.type=\"grouped_topk\""),
    BECOMES(.k = 6, "router.config.num_experts_per_tok=6"),
    NAMES("num_experts_per_tok", "router.config.num_experts_per_tok=17"),
    BECOMES(.n_group = 8, "router.config.n_group=8"),
    NAMES("n_group", "router.config.n_group=3"),
    BECOMES(.topk_group = 3, "router.config.topk_group=3"),
    BECOMES(.topk_group = 1, "router.config.topk_group=null"),
    NAMES("topk_group", "router.config.topk_group=5"),
    BECOMES(.n_group = 1, "router.config.n_group=null", "router.config.topk_group=null"),
    BECOMES(.scale = 1, "router.config.routed_scaling_factor=1.0"),
    BECOMES(.scale = 1, "router.config.routed_scaling_factor=null"),
    BECOMES(.unnormalised = true, "router.config.norm_topk_prob=false"),
    BECOMES(.unbiased = true, "router.config.score_correction_bias=false"),
    {.set = {"router.config.score_correction_bias=false"},
     .effect = EQUALS,
     .math = {.unbiased = true},
     .left_out = "e_score_correction_bias"},
    {.set = {"router.config.score_correction_bias=true"},
     .effect = REFUSED,
     .part = "model.layers.3.mlp.gate.e_score_correction_bias",
     .left_out = "e_score_correction_bias"},
    KEEPS("router.config.score_correction_bias=null"), // moe_gate has it
    // the experts
    BECOMES(.no_routed = true, "experts.distributed.enabled=false"),
    {.set = {"experts.distributed.enabled=false"},
     .effect = EQUALS,
     .math = {.no_routed = true},
     .left_out = ".gate.weight"},
    BECOMES(.no_shared = true, "experts.shared.enabled=false"),
    {.set = {"experts.shared.enabled=false"},
     .effect = EQUALS,
     .math = {.no_shared = true},
     .left_out = "shared_experts"},
    {.set = {"experts.shared.enabled=true"}, .effect = REFUSED, .part = "shared_experts", .left_out = "shared_experts"},
    NAMES("experts.distributed.enabled", "experts.distributed.enabled=false", "experts.shared.enabled=false"),
    KEEPS("experts.shared.parallel_with_moe=false"), // its place in the order: on_the_mesh
    ALTERS("experts.distributed.activation=\"gelu\""),
    NAMES("activation", "experts.distributed.activation=\"swish9\""),
    ALTERS("experts.distributed.swiglu_limit=0.05"),
    NAMES("dense_backbone", "experts.dense_backbone.enabled=true"),
    KEEPS("experts.dense_backbone.enabled=false"),
    // chunks: of 10 local tokens, in prefill only
    CUTS(4, "moe_chunking.chunk_size=3"),
    CUTS(3, "prefill_chunking.chunk_size=4"),
    CUTS(10, "moe_chunking.chunk_size=1", "prefill_chunking.chunk_size=4"),
    CUTS(1, "moe_chunking.chunk_size=0", "prefill_chunking.chunk_size=0"),
    {.set = {"moe_chunking.chunk_size=3", "prefill_chunking.chunk_size=4"},
     .effect = CHUNKS,
     .chunks = 1,
     .mode = MOEBLOCK_DECODE},
    NAMES("chunk_size", "moe_chunking.chunk_size=-1"),
    // placement on the original hardware, number formats that the checkpoint tells, derived values
    KEEPS("router.config.memory_config=\"DRAM\"", "router.config.compute_kernel_config=\"HIFI4\""),
    KEEPS("experts.distributed.memory_config=\"DRAM\"", "experts.distributed.output_memory_config=\"DRAM\""),
    KEEPS("experts.shared.memory_config=\"DRAM\"", "experts.shared.output_memory_config=\"DRAM\""),
    KEEPS("memory_configs.decode.dispatch=\"DRAM\"", "memory_configs.decode.combine=\"DRAM\"",
          "memory_configs.decode.all_gather=\"DRAM\"", "memory_configs.decode.reduce_scatter=\"DRAM\""),
    KEEPS("memory_configs.prefill.dispatch=\"L1\"", "memory_configs.prefill.combine=\"L1\"",
          "memory_configs.prefill.all_gather=\"L1\"", "memory_configs.prefill.reduce_scatter=\"L1\""),
    KEEPS("experts.distributed.use_quantized_weights=false", "experts.distributed.weight_block_size=[64, 64]"),
    KEEPS("experts.shared.use_quantized_weights=false", "experts.shared.weight_block_size=[64, 64]"),
    KEEPS("experts.distributed.weight_dtype=\"bfloat4_b\""),
    KEEPS("experts.distributed.num_experts_per_device=3"),
    KEEPS("activations_repeat.repeat_dims=[1, 3, 1, 1]", "topk_weights_repeat.repeat_dims=[9, 1, 1, 1]"),
    NAMES("experts.distributed.hidden_sise", "experts.distributed.hidden_sise=32"),
};

static const struct row family_b[] = {
    NAMES("model.layers.3.mlp.gate.weight", "model_params.num_experts=8", "model_params.n_group=2"),
    BECOMES(.k = 2, "model_params.num_experts_per_tok=2"),
    NAMES("expects [64, 12]", "model_params.hidden_size=64"),
    NAMES("model.hidden_size", "model_params.hidden_size=null"),
    KEEPS("model_params.intermediate_size=128"), // of dense layers, where the experts have their own
    KEEPS("model_params.moe_intermediate_size=null", "model_params.intermediate_size=12"),
    NAMES("expects [32, 64]", "model_params.moe_intermediate_size=null"),
    NAMES("expects [32, 16]", "model_params.moe_intermediate_size=16"),
    BECOMES(.n_group = 8, "model_params.n_group=8"),
    BECOMES(.topk_group = 3, "model_params.topk_group=3"),
    NAMES("shared_experts", "model_params.n_shared_experts=1"),
    NAMES("n_shared_experts", "model_params.n_shared_experts=0"), // but experts.shared is true
    BECOMES(.no_shared = true, "model_params.n_shared_experts=0", "experts.shared=null"),
    KEEPS("experts.shared=null"), // there are two
    KEEPS("model_params.model_type=\"gpt_oss\"", "model_params.sparsity_block_size=64"),
    KEEPS("router.type=\"moe_gate\""),
    ALTERS("router.type=\"topk\""),
    NAMES("switch", "router.type=\"switch\""),
    BECOMES(.unbiased = true, "router.score_correction_bias=false"),
    {.set = {"router.score_correction_bias=true"},
     .effect = REFUSED,
     .part = "model.layers.3.mlp.gate.e_score_correction_bias",
     .left_out = "e_score_correction_bias"},
    BECOMES(.unnormalised = true, "router.norm_topk_prob=false"),
    BECOMES(.scale = 1, "router.routed_scaling_factor=1.0"),
    KEEPS("router.use_throughput_experts=true"),
    KEEPS("experts.type=\"throughput\""),
    NAMES("low_latency", "experts.type=\"low_latency\""),
    BECOMES(.no_routed = true, "experts.distributed=false"),
    BECOMES(.no_shared = true, "experts.shared=false"),
    KEEPS("experts.shared_parallel=false"), // its place in the order: on_the_mesh
    KEEPS("experts.quantized=false", "experts.weight_block_size=[64, 64]"),
    ALTERS("experts.activation=\"gelu\""),
    ALTERS("experts.activation=\"clamped_swiglu\""),
    ALTERS("experts.swiglu_limit=0.05"),
    ALTERS("experts.swiglu_alpha=1.5"),
    KEEPS("experts.matmul_type=\"sparse\""),
    KEEPS("collective.dispatch_topology=\"Ring\"", "collective.combine_topology=\"Ring\"",
          "collective.output_shard_dim=1", "collective.sparsity_enabled=true", "collective.memory_config=\"L1\""),
    KEEPS("collective.apply_all_reduce=false", "collective.all_reduce_axis=0", "collective.cluster_axis=1"),
    CUTS(4, "chunking.moe_chunk_size=3"),
    CUTS(3, "chunking.prefill_chunk_size=4"),
    KEEPS("chunking=null"),
    NAMES("shared_expert_placement", "shared_expert_placement=\"none\""), // but experts.shared is true
    BECOMES(.no_shared = true, "shared_expert_placement=\"none\"", "experts.shared=null"),
    NAMES("shared_expert_placement", "shared_expert_placement=\"outside\""),
    KEEPS("name=\"another\"", "architecture_type=\"dense_moe\""),
    KEEPS("replicated_batch_mode=true"),
    KEEPS("use_mock_weights=true", "synthetic_weight_generator=\"zeros\""),
};
// clang-format on

static void apply(const struct change *change, struct original_layer *layer)
{
    if (change->k) layer->k = change->k;
    if (change->n_group) layer->n_group = change->n_group;
    if (change->topk_group) layer->topk_group = change->topk_group;
    if (change->scale > 0) layer->scale = change->scale;
    if (change->unnormalised) layer->normalised = false;
    if (change->unbiased) layer->bias = NULL;
    if (change->no_shared) layer->shared = 0;
    if (change->no_routed) layer->k = 0;
}

static void expect_original(const struct outcome *outcome, struct original_layer layer, const struct change *change,
                            const char *what)
{
    static const int tokens = TOKENS;
    const struct original_mesh one = {1, 1, &tokens};
    double x[VALUES], y[VALUES];
    const double *in = x;
    double *out = y;
    for (int i = 0; i < VALUES; i++) x[i] = (double)x_all[i];
    apply(change, &layer);
    original_forward_mlp_prefill(&layer, &one, SMALL_HIDDEN, &in, &out);
    const double off = small_error(outcome->y, y, VALUES);
    if (!(off <= 1e-5)) fail_msg("%s: off the original's result by %.2e relative rms, allowed 1e-5", what, off);
}

static void check_row(const char *file, const struct row *row, const struct outcome *base)
{
    static struct outcome outcome;
    char *text = changed(file, row->set);
    const char *what = row->set[0];
    run_small(text, row->mode, row->left_out, &outcome);
    free(text);
    if (row->effect == REFUSED) {
        expect_refused(&outcome, what, row->part);
        return;
    }
    expect_ok(&outcome, what);
    const bool same = !memcmp(outcome.y, base->y, sizeof base->y);
    const bool keeps = row->effect == SAME || row->effect == CHUNKS;
    if (same != keeps) fail_msg("%s: %s", what, same ? "changes nothing" : "changes the result");
    if (row->effect == EQUALS) expect_original(&outcome, layers[0].math, &row->math, what);
    if (outcome.chunks != (row->effect == CHUNKS ? row->chunks : 1))
        fail_msg("%s: %lld chunks", what, (long long)outcome.chunks);
}

static void check_rows(const char *file, const struct row *rows, size_t count)
{
    static struct outcome base;
    char *text = small_file(file);
    run_small(text, MOEBLOCK_PREFILL, NULL, &base);
    free(text);
    expect_ok(&base, file);
    expect_original(&base, layers[0].math, &(struct change){.k = 0}, file);
    for (size_t i = 0; i < count; i++) check_row(file, &rows[i], &base);
}

#define FAMILY_A "tests/original/family_a.json"
#define FAMILY_B "tests/original/family_b.json"
#define FAMILY_B_GPT_OSS "tests/original/family_b_gpt_oss.json"
#define COUNT(table) (sizeof(table) / sizeof *(table))

static void keys_of_the_first_family(void **state)
{
    (void)state;
    check_rows(FAMILY_A, family_a, COUNT(family_a));
}

static void keys_of_the_second_family(void **state)
{
    (void)state;
    check_rows(FAMILY_B, family_b, COUNT(family_b));
}

// --- Loading ---------------------------------------------------------------------------------------------------------

// The checkpoint in the test's folder has layers 3 and 4. `layer` -1: refused, naming `part`.
static const struct {
    const char *set[SETS_MAX];
    int layer;
    const char *part;
} loads[] = {
    {{NULL}, 3, NULL},
    {{"weight_path=null"}, -1, "weight_path"},
    {{"weight_path=\"/nowhere/at/all\""}, -1, "/nowhere/at/all"},
    {{"layer_index=4", "module_prefix=\"model.layers.4\""}, 4, NULL},
    {{"layer_index=4", "module_prefix=\"model.layers.{layer}\""}, 4, NULL},
    {{"layer_index=4"}, -1, "layer_index"}, // and the prefix says 3
    {{"layer_index=7", "module_prefix=\"model.layers.{layer}\""}, -1, "model.layers.7.mlp."},
    {{"module_prefix=\"encoder.layers.3\""}, -1, "encoder.layers.3.mlp."},
};

static void weights_are_found_by_the_file_alone(void **state)
{
    (void)state;
    static const char *const files[] = {FAMILY_A, FAMILY_B};
    static struct outcome outcome;
    char path[256];
    snprintf(path, sizeof path, "weight_path=\"%s\"", files_folder);
    for (size_t i = 0; i < 2 * COUNT(loads); i++) {
        const char *set[SETS_MAX] = {path};
        const char *const *more = loads[i / 2].set;
        for (int n = 0; n + 1 < SETS_MAX && more[n]; n++) set[n + 1] = more[n];
        char *text = changed(files[i % 2], set);
        const struct request request = {.text = text};
        run(&request, NULL, whole(x_all, TOKENS, SMALL_HIDDEN), whole(outcome.y, TOKENS, SMALL_HIDDEN), &outcome);
        free(text);
        const char *what = more[0] ? more[0] : path;
        if (loads[i / 2].layer < 0) {
            expect_refused(&outcome, what, loads[i / 2].part);
        } else {
            expect_ok(&outcome, what);
            expect_original(&outcome, layers[loads[i / 2].layer - 3].math, &(struct change){.k = 0}, what);
        }
    }
}

// --- On the mesh -----------------------------------------------------------------------------------------------------

// Calls of every device, 2 x 2: G all-gather, E exchange (all-to-all), S reduce-scatter, with the axis; the agreement
// on the number of chunks left out. `part`: refused, naming it. Rows of the mesh hold 5 tokens each.
enum { REPLICATED = -2 };
// clang-format off
static const struct mesh_row {
    const char *file, *set[SETS_MAX];
    bool sharded;
    const char *calls, *part;
    int tp_axis, ep_axis; // -1: that parallelism is off; REPLICATED: the rows hold the same tokens
} mesh_rows[] = {
    {FAMILY_A, {NULL}, true, "G1 E0 G1 G1 G1 E0 S1", NULL, 1, 0},
    {FAMILY_A, {NULL}, false, "E0 G1 G1 G1 E0 G1", NULL, 1, 0},
    {FAMILY_A, {"tensor_parallel.cluster_axis=0", "experts.distributed.dispatch_cluster_axis=1"}, true,
     "G0 E1 G0 G0 G0 E1 S0", NULL, 0, 1},
    {FAMILY_A, {"tensor_parallel.cluster_axis=0"}, true, NULL, "cluster_axis", 0, 0},
    {FAMILY_A, {"experts.distributed.dispatch_cluster_axis=1"}, true, NULL, "dispatch_cluster_axis", 1, 1},
    {FAMILY_A, {"tensor_parallel.cluster_axis=2"}, true, NULL, "cluster_axis", 1, 0},
    {FAMILY_A, {"tensor_parallel.enabled=false"}, false, "E0 E0", NULL, -1, 0},
    {FAMILY_A, {"tensor_parallel.enabled=false"}, true, NULL, "last dimension 16, expected 32", -1, 0},
    {FAMILY_A, {"experts.shared.parallel_with_moe=false"}, true, "G1 E0 G1 G1 E0 G1 S1", NULL, 1, 0},
    {FAMILY_A, {"experts.shared.enabled=false"}, true, "G1 E0 G1 G1 E0 S1", NULL, 1, 0},
    {FAMILY_A, {"experts.distributed.enabled=false"}, true, "G1 G1 S1", NULL, 1, 0},
    {FAMILY_A, {"moe_chunking.chunk_size=4"}, false, "E0 G1 G1 G1 E0 G1 E0 G1 G1 G1 E0 G1", NULL, 1, 0},
    // 6 tokens of the whole mesh are 3 of each row
    {FAMILY_A, {"prefill_chunking.chunk_size=6"}, false, "E0 G1 G1 G1 E0 G1 E0 G1 G1 G1 E0 G1", NULL, 1, 0},
    {FAMILY_A, {"experts.distributed.num_experts_per_device=1"}, true, "G1 E0 G1 G1 G1 E0 S1", NULL, 1, 0},
    {FAMILY_B, {NULL}, true, "G1 E0 G1 G1 G1 E0 S1", NULL, 1, 0},
    {FAMILY_B, {"tensor_parallel.axis=0", "expert_parallel.axis=1"}, true, "G0 E1 G0 G0 G0 E1 S0", NULL, 0, 1},
    {FAMILY_B, {"tensor_parallel.axis=null", "expert_parallel.axis=null"}, true, "G1 E0 G1 G1 G1 E0 S1", NULL, 1, 0},
    {FAMILY_B, {"tensor_parallel.axis=0"}, true, NULL, "axis", 0, 0},
    {FAMILY_B, {"tensor_parallel.enabled=false"}, false, "E0 E0", NULL, -1, 0},
    {FAMILY_B, {"expert_parallel.enabled=false"}, true, "G1 G1 G1 S1", NULL, 1, -1},
    {FAMILY_B, {"experts.shared_parallel=false"}, true, "G1 E0 G1 G1 E0 G1 S1", NULL, 1, 0},
    {FAMILY_B, {"collective.cluster_axis=1", "collective.apply_all_reduce=false"}, false, "E0 G1 G1 G1 E0 G1", NULL, 1, 0},
    {FAMILY_B, {"chunking.prefill_chunk_size=6"}, false, "E0 G1 G1 G1 E0 G1 E0 G1 G1 G1 E0 G1", NULL, 1, 0},
    // the same tokens on all rows: 6 of the whole mesh are 6 of each row
    {FAMILY_B, {"replicated_batch_mode=true", "chunking.prefill_chunk_size=6"}, false, "E0 G1 G1 G1 E0 G1", NULL, 1, REPLICATED},
};
// clang-format on

struct mesh_run {
    const struct mesh_row *row;
    const char *text;
    struct outcome devices[DEVICES];
    int first[DEVICES], column[DEVICES], width; // which tokens and columns of x a device holds
};

enum { ROW_TOKENS = TOKENS / 2 };

static void copy_columns(const float *from, int first, int column, int width, float *to)
{
    for (int t = 0; t < ROW_TOKENS; t++)
        memcpy(to + t * width, from + (first + t) * SMALL_HIDDEN + column, (size_t)width * sizeof *to);
}

static void device_body(void *argument, moeblock_mesh *mesh)
{
    struct mesh_run *all = argument;
    const int device = mesh->row * mesh->columns + mesh->column, place[2] = {mesh->row, mesh->column};
    const struct mesh_row *row = all->row;
    float x[ROW_TOKENS * SMALL_HIDDEN];
    const struct request request = {.text = all->text, .tensors = layers[0].tensors, .count = SMALL_TENSORS};
    // With tensor parallelism off, x is given as if it were over the columns.
    all->first[device] = row->ep_axis == REPLICATED ? 0
                         : row->ep_axis < 0         ? ROW_TOKENS * mesh->row
                                                    : ROW_TOKENS * place[row->ep_axis];
    all->column[device] = row->sharded ? all->width * place[row->tp_axis < 0 ? 1 : row->tp_axis] : 0;
    copy_columns(x_all, all->first[device], all->column[device], all->width, x);
    run(&request, mesh, whole(x, ROW_TOKENS, all->width), whole(all->devices[device].y, ROW_TOKENS, all->width),
        &all->devices[device]);
}

static void describe_calls(const struct mesh_double *mesh, int device, char *to, size_t capacity)
{
    static const struct {
        const char *name, *letter;
    } letters[] = {{"all_gather", "G"}, {"all_to_all", "E"}, {"reduce_scatter", "S"}};
    int count;
    size_t used = 0;
    const struct mesh_call *calls = mesh_double_calls(mesh, device / 2, device % 2, &count);
    to[0] = 0;
    for (int i = 0; i < count; i++)
        for (size_t l = 0; l < COUNT(letters); l++)
            if (!strcmp(calls[i].name, letters[l].name))
                used += (size_t)snprintf(to + used, capacity - used, "%s%s%d", used ? " " : "", letters[l].letter,
                                         calls[i].axis);
}

// The calls, and the bytes of one process.
static void check_device(const struct mesh_run *all, const struct mesh_double *mesh, int device,
                         const struct outcome *single, const char *what)
{
    char calls[256];
    float expected[ROW_TOKENS * SMALL_HIDDEN];
    expect_ok(&all->devices[device], what);
    describe_calls(mesh, device, calls, sizeof calls);
    if (strcmp(calls, all->row->calls))
        fail_msg("%s: device %d makes the calls %s, expected %s", what, device, calls, all->row->calls);
    copy_columns(single->y, all->first[device], all->column[device], all->width, expected);
    if (memcmp(all->devices[device].y, expected, (size_t)(ROW_TOKENS * all->width) * sizeof *expected))
        fail_msg("%s: device %d has other bytes than one process", what, device);
}

static void check_mesh_row(const struct mesh_row *row)
{
    static struct outcome single;
    static struct mesh_run all;
    char *text = changed(row->file, row->set);
    const char *what = row->set[0] ? row->set[0] : row->file;
    memset(&all, 0, sizeof all);
    all.row = row;
    all.text = text;
    all.width = row->sharded ? SMALL_HIDDEN / 2 : SMALL_HIDDEN;
    struct mesh_double *mesh = mesh_double_create(2, 2);
    mesh_double_run(mesh, device_body, &all);
    if (!row->part) run_small(text, MOEBLOCK_PREFILL, NULL, &single);
    for (int device = 0; device < DEVICES; device++) {
        if (row->part)
            expect_refused(&all.devices[device], what, row->part);
        else
            check_device(&all, mesh, device, &single, what);
    }
    mesh_double_destroy(mesh);
    free(text);
}

static void on_the_mesh(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(mesh_rows); i++) check_mesh_row(&mesh_rows[i]);
}

// --- GPT-OSS in the second family ------------------------------------------------------------------------------------

// The original's file says nothing of names, layout and biases: the checkpoint's config.json does.
static const struct {
    const char *set[SETS_MAX];
    enum effect effect;
    const char *part;
} gpt_oss[] = {
    {{"router.use_throughput_experts=false", "experts.type=\"distributed\""}, SAME, NULL},
    {{"experts.activation=\"clamped_swiglu\""}, SAME, NULL}, // what swiglu with an alpha means
    {{"experts.activation=null", "experts.swiglu_alpha=null", "experts.swiglu_limit=null"},
     SAME,
     NULL}, // config.json's
    {{"experts.swiglu_limit=1.0"}, CHANGES, NULL},
    {{"experts.swiglu_alpha=1.0"}, CHANGES, NULL},
    {{"model_params.num_experts_per_tok=2"}, CHANGES, NULL},
    {{"model_params.num_experts=8"}, REFUSED, "expects [8, 32, 40]"},
    {{"model_params.intermediate_size=16"}, SAME, NULL}, // of dense layers; config.json has the experts'
    {{"experts.shared=true", "shared_expert_placement=null"}, REFUSED, "experts.shared.intermediate_size"},
    {{"collective.dispatch_topology=\"Ring\"", "collective.apply_all_reduce=false"}, SAME, NULL},
};

static void run_gpt_oss(const struct golden_case *golden, const char *const *set, struct outcome *out)
{
    const char *with_path[SETS_MAX + 1] = {"weight_path=\"" MOEBLOCK_SOURCE_DIR "/" GPT_OSS "\"", "layer_index=1"};
    for (int i = 0; i + 2 < SETS_MAX && set[i]; i++) with_path[i + 2] = set[i];
    char *text = changed(FAMILY_B_GPT_OSS, with_path);
    const struct request request = {.text = text};
    memset(out, 0, sizeof *out);
    assert_true(TOKENS <= golden->tokens && golden->hidden <= 40);
    float *y = calloc(TOKENS * 40, sizeof *y);
    run(&request, NULL, whole(golden->x.data, TOKENS, golden->hidden), whole(y, TOKENS, golden->hidden), out);
    memcpy(out->y, y, sizeof out->y); // enough of it to compare
    free(y);
    free(text);
}

static void gpt_oss_in_the_second_family(void **state)
{
    (void)state;
    static struct outcome base, outcome;
    struct golden_case golden;
    const char *const nothing[] = {NULL};
    golden_open("gpt_oss-f32", &golden);
    run_gpt_oss(&golden, nothing, &base);
    expect_ok(&base, FAMILY_B_GPT_OSS);
    if (!(small_error(base.y, golden.expected.data, VALUES) <= 1e-5)) fail_msg("the golden result is another");
    for (size_t i = 0; i < COUNT(gpt_oss); i++) {
        run_gpt_oss(&golden, gpt_oss[i].set, &outcome);
        if (gpt_oss[i].effect == REFUSED) {
            expect_refused(&outcome, gpt_oss[i].set[0], gpt_oss[i].part);
            continue;
        }
        expect_ok(&outcome, gpt_oss[i].set[0]);
        const bool same = !memcmp(outcome.y, base.y, sizeof base.y);
        if (same != (gpt_oss[i].effect == SAME))
            fail_msg("%s: %s", gpt_oss[i].set[0], same ? "changes nothing" : "changes the result");
    }
    golden_close(&golden);
}

// --- Nothing left out ------------------------------------------------------------------------------------------------

static bool sets(const char *const *set, const char *path)
{
    const size_t length = strlen(path);
    for (int i = 0; i < SETS_MAX && set[i]; i++)
        if (!strncmp(set[i], path, length) && set[i][length] == '=') return true;
    return false;
}

static bool is_tried(const struct row *rows, size_t count, const char *file, const char *path)
{
    for (size_t i = 0; i < count; i++)
        if (sets(rows[i].set, path)) return true;
    for (size_t i = 0; i < COUNT(mesh_rows); i++)
        if (!strcmp(mesh_rows[i].file, file) && sets(mesh_rows[i].set, path)) return true;
    for (size_t i = 0; i < COUNT(loads); i++)
        if (sets(loads[i].set, path)) return true;
    return false;
}

// Walks the file's keys; the depth is that of the file, which stands beside the test.
static void check_tried(json_t *object, const char *prefix, const struct row *rows, size_t count, const char *file)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        char path[256];
        snprintf(path, sizeof path, "%s%s", prefix, key);
        if (!json_is_object(value)) {
            if (!is_tried(rows, count, file, path)) fail_msg("no row changes %s of %s", path, file);
            continue;
        }
        if (!strcmp(path, "moe_block")) path[0] = 0;
        strcat(path, path[0] ? "." : "");
        check_tried(value, path, rows, count, file);
    }
}

static void every_key_of_the_files_is_tried(void **state)
{
    (void)state;
    const struct {
        const char *file;
        const struct row *rows;
        size_t count;
    } families[] = {{FAMILY_A, family_a, COUNT(family_a)}, {FAMILY_B, family_b, COUNT(family_b)}};
    for (size_t i = 0; i < COUNT(families); i++) {
        char *text = small_file(families[i].file);
        json_t *root = json_loads(text, 0, NULL);
        assert_non_null(root);
        check_tried(root, "", families[i].rows, families[i].count, families[i].file);
        json_decref(root);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_of_the_first_family),
        cmocka_unit_test(keys_of_the_second_family),
        cmocka_unit_test(gpt_oss_in_the_second_family),
        cmocka_unit_test(weights_are_found_by_the_file_alone),
        cmocka_unit_test(on_the_mesh),
        cmocka_unit_test(every_key_of_the_files_is_tried),
    };
    return cmocka_run_group_tests_name("original keys", tests, make_layers, free_layers);
}
