// SPDX-License-Identifier: Apache-2.0
// Blocks of random descriptions, formats and inputs: the working path gives the reference's bytes at every level (in
// f32 compute the levels with fused multiply-add come close to them), in all compute types, on one process and on
// meshes, for some NaN, infinities and denormals too.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "base/float.h"
#include "cmocka.h"
#include "config/tensors.h"
#include "mesh/mesh.h"
#include "moeblock/moeblock.h"
#include "reference.h"
#include "support/mesh_double.h"
#include "support/stored_values.h"

enum { STATE = 24, VOCABULARY = 40, OPERATOR_ROUNDS = 120 };
enum { ROUNDS = 300, MESH_ROUNDS = 120, TOKENS = 9, MOST_TENSORS = 256, TEXT = 4096 };

static uint64_t random_state = 77;

static uint32_t next_random(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % below);
}

static float uniform(void) { return (float)next_random(1u << 20) / (float)(1 << 19) - 1.0f; }

// --- a random description
// ---------------------------------------------------------------------------------------------

// Members that may stand in an object; each is taken with the chance given, in percent.
struct member {
    int chance;
    const char *text;
};

static const struct member router_members[] = {
    {25, "\"select_score\": \"identity\""},
    {20, "\"linear_bias\": true"},
    {20, "\"transposed\": true"},
    {20, "\"logit_scale\": 0.3"},
    {20, "\"softcap\": 1.5"},
    {20, "\"input\": \"aux\""},
    {20, "\"input_norm\": true"},
    {20, "\"input_scale_vector\": true"},
    {10, "\"input_scale\": 0"},
    {30, "\"routed_scaling_factor\": 2.5"},
    {20, "\"scale_on\": \"output\""},
    {20, "\"per_expert_scale\": true"},
    {20, "\"apply_weight\": \"input\""},
    {20, "\"precision\": \"model\""},
};
static const char *const scores[] = {"softmax", "sigmoid", "sqrt_softplus", "identity"};
static const char *const posts[] = {"none", "none", "softmax_k", "sigmoid_k"};
static const char *const norms[] = {"\"none\"", "\"sum\"", "\"sum\", \"norm_eps\": 1e-20",
                                    "\"sum_clamped\", \"norm_eps\": 0.2", "\"p_norm\", \"norm_p\": 3"};
static const char *const biases[] = {"", "", ", \"score_correction_bias\": true",
                                     ", \"score_correction_bias\": true, \"selection_bias_subtract_mean\": true"};
static const char *const groups[] = {
    "",
    "",
    ", \"null_experts\": 3",
    ", \"null_experts\": 2, \"null_kind\": \"zero\"",
    ", \"groups\": \"limited\", \"n_group\": 4, \"topk_group\": 2, \"group_score\": \"max\"",
    ", \"groups\": \"limited\", \"n_group\": 2, \"topk_group\": 1, \"group_score\": \"sum_top2\"",
    ", \"groups\": \"limited\", \"n_group\": 4, \"topk_group\": 3, \"group_fill\": \"0\"",
    ", \"groups\": \"per_group\", \"n_group\": 2",
};
static const char *const activations[] = {"\"silu\"",
                                          "\"gelu\"",
                                          "\"gelu_tanh\"",
                                          "\"relu\"",
                                          "\"swiglu_oai\", \"limit\": 1.5",
                                          "\"swiglu_oai\", \"limit\": 1.5, \"plus_one\": false",
                                          "\"silu\", \"clamp\": \"before\", \"limit\": 1",
                                          "\"silu\", \"clamp\": \"after\", \"limit\": 0.5",
                                          "\"situ\", \"beta\": 2, \"linear_beta\": 3",
                                          "\"relu2\", \"gated\": false"};
static const struct member routed_members[] = {{30, "\"bias\": true"}, {20, "\"output_bias\": true"}};
static const struct member shared_members[] = {
    {40, "\"gate\": \"sigmoid\""}, {50, "\"parallel_with_moe\": false"}, {20, "\"input\": \"aux\""}};
static const char *const mixes[] = {"sum", "average", "sum_over_sqrt2", "softmax_coef"};
static const struct member latent_members[] = {
    {30, "\"bias\": true"}, {50, "\"in_norm\": true"}, {50, "\"out_norm\": true"}};
#define NAMES                                                                                                          \
    ", \"names\": {\"gate\": \"g\", \"up\": \"u\", \"down\": \"d\", \"gate_bias\": \"gb\", \"up_bias\": \"ub\", "      \
    "\"down_bias\": \"db\"}}"
static const char *const storage[] = {
    "{}",
    "{\"shared_gate_up\": \"concatenated\"}",
    "{\"layout\": \"stacked\"" NAMES,
    "{\"layout\": \"stacked\", \"gate_up\": \"concatenated\"" NAMES,
    "{\"layout\": \"stacked\", \"gate_up\": \"interleaved\"" NAMES,
    "{\"layout\": \"stacked\", \"gate_up\": \"interleaved\", \"orientation\": \"input_major\"" NAMES,
};

#define COUNT(list) (sizeof(list) / sizeof *(list))
#define ONE_OF(list) ((list)[next_random((uint32_t)COUNT(list))])

static void add(char text[TEXT], const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(char text[TEXT], const char *format, ...)
{
    const size_t used = strlen(text);
    va_list list;
    va_start(list, format);
    vsnprintf(text + used, TEXT - used, format, list);
    va_end(list);
}

static void add_members(char text[TEXT], const struct member *members, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if ((int)next_random(100) < members[i].chance) add(text, ", %s", members[i].text);
}

// Any width up to `most` that the format allows.
static int width(enum mb_format format, uint32_t most)
{
    const int multiple = stored_multiple(format);
    return multiple * (1 + (int)next_random(most / (uint32_t)multiple));
}

// AWQ knows no tensors that hold more than one map.
static const char *storage_for(enum mb_format format)
{
    return mb_format_table[format].order == MB_CODES_WORDS_ACROSS ? storage[0] : ONE_OF(storage);
}

static void describe(char text[TEXT], enum mb_format format, int experts, int k)
{
    // One random number a statement: compilers evaluate arguments in different orders, the tests are to be the same.
    const char *score = ONE_OF(scores), *post = ONE_OF(posts), *norm = ONE_OF(norms), *group = ONE_OF(groups);
    const char *bias = ONE_OF(biases), *activation = ONE_OF(activations), *mix = ONE_OF(mixes);
    text[0] = '\0';
    add(text, "{\"model\": {\"hidden_size\": %d, \"num_experts\": %d, \"num_experts_per_tok\": %d},",
        width(format, 192), experts, k);
    add(text, "\"router\": {\"type\": \"linear\", \"config\": {\"score\": \"%s\", \"post\": \"%s\", \"norm\": %s%s%s",
        score, post, norm, group, bias);
    add_members(text, router_members, COUNT(router_members));
    add(text, "}}, \"experts\": {\"distributed\": {\"intermediate_size\": %d, \"activation\": %s", width(format, 192),
        activation);
    add_members(text, routed_members, COUNT(routed_members));
    add(text, "}");
    if (next_random(2)) {
        add(text, ", \"shared\": {\"intermediate_size\": %d, \"mix\": \"%s\"", width(format, 160), mix);
        add_members(text, shared_members, COUNT(shared_members));
        add(text, "}");
    }
    if (next_random(4) == 0) add(text, ", \"out_norm\": true");
    if (next_random(4) == 0 && !strstr(text, "null_experts")) { // null experts return rows of H, not of the latent
        add(text, ", \"latent\": {\"size\": %d", width(format, 64));
        add_members(text, latent_members, COUNT(latent_members));
        add(text, "}");
    }
    const char *stored = storage_for(format), *keys = stored_keys(format);
    const int kept = (int)strlen(keys) - (stored[1] == '}' && keys[0] ? 2 : 0); // no comma before the end
    add(text, "}, \"weights\": {%.*s%s}", kept, keys, stored + 1);
}

// The named operators, a second bank and experts by token id.
static void describe_operator(char text[TEXT], enum mb_format format, int experts, int k)
{
    static const char *const operators[] = {"sparsemixer",  "capacity",   "mlp_state", "joint",
                                            "product_keys", "token_type", "adjugate",  "linear"};
    const char *type = ONE_OF(operators), *norm = ONE_OF(norms), *bias = ONE_OF(biases);
    const char *carried = next_random(2) ? "true" : "false";
    const int inner = width(format, 192), nulls = (int)next_random(2);
    text[0] = '\0';
    if (!strcmp(type, "sparsemixer")) k = 2;
    add(text, "{\"model\": {\"hidden_size\": %d, \"num_experts\": %d, \"num_experts_per_tok\": %d},",
        width(format, 192), experts, k);
    add(text, "\"router\": {\"type\": \"%s\", \"config\": {\"norm\": %s%s", type, norm, bias);
    if (next_random(2)) add(text, ", \"routed_scaling_factor\": 1.75");
    if (!strcmp(type, "sparsemixer")) add(text, ", \"jitter_eps\": 0.2");
    if (!strcmp(type, "capacity")) add(text, ", \"capacity\": %d", 1 + (int)next_random(3));
    if (!strcmp(type, "mlp_state"))
        add(text, ", \"state_size\": %d, \"state_carried\": %s, \"null_experts\": %d, \"null_kind\": \"zero\"", STATE,
            carried, nulls);
    if (!strcmp(type, "joint")) add(text, ", \"learned_scale\": %s", next_random(2) ? "true" : "false");
    if (!strcmp(type, "linear")) add(text, ", \"ids\": \"token_table\", \"table_size\": %d", VOCABULARY);
    add(text, "}}, \"experts\": {\"distributed\": {\"intermediate_size\": %d, \"activation\": %s}", inner,
        ONE_OF(activations));
    const int count = !strcmp(type, "joint")        ? 2
                      : !strcmp(type, "adjugate")   ? experts / 2
                      : !strcmp(type, "token_type") ? experts
                                                    : 0;
    if (count)
        add(text, ", \"second\": {\"count\": %d, \"intermediate_size\": %d, \"scale\": 0.05}", count,
            width(format, (uint32_t)inner));
    else if (next_random(2))
        add(text, ", \"post_norm\": true, \"post_norm_plus_one\": %s", next_random(2) ? "true" : "false");
    add(text,
        "}, \"weights\": {%s\"names\": {\"second_gate\": \"s.{expert}.g\", \"second_up\": \"s.{expert}.u\", "
        "\"second_down\": \"s.{expert}.d\"}}}",
        stored_keys(format));
}

// --- random tensors
// ---------------------------------------------------------------------------------------------------

static size_t make_tensors(const moeblock_config *config, enum mb_format format, moeblock_tensor *tensors)
{
    static moeblock_tensor_need needs[MOST_TENSORS];
    uint64_t values = next_random(1u << 30);
    size_t n = 0;
    while (n < MOST_TENSORS && mb_tensor_needed(config, format, 0, (int64_t)n, &needs[n])) {
        const size_t bytes = stored_bytes(&needs[n]);
        void *data = malloc(bytes ? bytes : 1);
        assert_non_null(data);
        stored_fill(format, &needs[n], &values, data);
        tensors[n] = (moeblock_tensor){
            .name = needs[n].name, .dtype = needs[n].dtype, .rank = needs[n].rank, .data = data, .bytes = bytes};
        memcpy(tensors[n].dims, needs[n].dims, sizeof tensors[n].dims);
        n++;
    }
    return n;
}

static void free_tensors(moeblock_tensor *tensors, size_t n)
{
    for (size_t i = 0; i < n; i++) free((void *)(uintptr_t)tensors[i].data);
}

// --- further inputs
// ---------------------------------------------------------------------------------------------------

static struct {
    int64_t token_ids[TOKENS], seq_lens[3];
    int32_t token_types[TOKENS];
    float state[TOKENS * STATE];
} further = {.seq_lens = {4, 0, TOKENS - 4}};

static void fill_further(void)
{
    for (int t = 0; t < TOKENS; t++) {
        further.token_ids[t] = next_random(VOCABULARY);
        further.token_types[t] = (int32_t)next_random(3);
    }
    for (int i = 0; i < TOKENS * STATE; i++) further.state[i] = uniform();
}

// --- both paths
// -------------------------------------------------------------------------------------------------------

struct result {
    float *y, *weights, state[TOKENS * STATE];
    int32_t *ids;
    size_t y_bytes, slot_bytes;
};

static struct result make_result(const moeblock_config *config)
{
    struct result r = {.y_bytes = (size_t)(TOKENS * config->hidden_size) * sizeof(float),
                       .slot_bytes = (size_t)(TOKENS * config->num_experts_per_tok) * sizeof(float)};
    r.y = malloc(r.y_bytes);
    r.weights = malloc(r.slot_bytes);
    r.ids = malloc(r.slot_bytes);
    assert_true(r.y && r.weights && r.ids);
    return r;
}

static void free_result(struct result *r)
{
    free(r->y);
    free(r->weights);
    free(r->ids);
}

static moeblock_array array_of(const moeblock_config *config, float *data)
{
    return (moeblock_array){
        .dtype = MOEBLOCK_F32, .rank = data ? 2 : 0, .dims = {TOKENS, config->hidden_size}, .data = data};
}

static void run_block(moeblock_context *context, const moeblock_config *config, const moeblock_tensor *tensors,
                      size_t n, moeblock_compute compute, float *x, float *aux, struct result *out)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    const moeblock_block_options options = {.struct_size = sizeof options, .compute = compute};
    const bool wants_aux = mb_reads_aux(config);
    const moeblock_forward_input input = {.struct_size = sizeof input,
                                          .mode = next_random(2) ? MOEBLOCK_PREFILL : MOEBLOCK_DECODE,
                                          .x = array_of(config, x),
                                          .aux = array_of(config, wants_aux ? aux : NULL),
                                          .token_ids = further.token_ids,
                                          .token_types = further.token_types,
                                          .seq_lens = further.seq_lens,
                                          .n_seq = 3,
                                          .router_state = config->router.state_size ? further.state : NULL};
    const moeblock_forward_output output = {.struct_size = sizeof output,
                                            .y = array_of(config, out->y),
                                            .ids = out->ids,
                                            .weights = out->weights,
                                            .router_state = config->router.state_size ? out->state : NULL};
    moeblock_status status = moeblock_block_create(context, config, NULL, &options, &block, &error);
    if (status == MOEBLOCK_OK) status = moeblock_block_load_weights(block, tensors, n, &error);
    if (status == MOEBLOCK_OK) status = moeblock_workspace_create(block, TOKENS, NULL, 0, &workspace, &error);
    if (status == MOEBLOCK_OK) status = moeblock_block_forward(block, workspace, &input, &output, &error);
    if (status != MOEBLOCK_OK) fail_msg("%s", error.message);
    moeblock_workspace_destroy(&workspace);
    moeblock_block_destroy(&block);
}

static void run_reference(moeblock_context *context, const moeblock_config *config, const moeblock_tensor *tensors,
                          size_t n, moeblock_compute compute, const float *x, const float *aux, struct result *out)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_weights *weights = NULL;
    moeblock_status status = moeblock_weights_from_tensors(context, tensors, n, &weights, &error);
    if (status == MOEBLOCK_OK)
        status = mb_reference(context, config, weights, 0, compute,
                              &(struct mb_reference_input){.x = x,
                                                           .aux = aux,
                                                           .token_ids = further.token_ids,
                                                           .token_types = further.token_types,
                                                           .seq_lens = further.seq_lens,
                                                           .n_seq = 3,
                                                           .router_state = further.state,
                                                           .router_state_out = out->state},
                              TOKENS, out->y, out->ids, out->weights, &error);
    if (status != MOEBLOCK_OK) fail_msg("reference: %s", error.message);
    moeblock_weights_destroy(&weights);
}

// Levels that fuse multiply and add agree as long as no product leaves float32's range: no 3e38 for them.
static void fill_input(float *x, size_t count, bool wild, bool fused)
{
    static const float special[] = {NAN, INFINITY, -INFINITY, 1e-40f, -0.0f, 3e38f};
    for (size_t i = 0; i < count; i++) x[i] = uniform();
    for (int i = 0; wild && i < 4; i++) {
        const uint32_t at = next_random((uint32_t)count);
        x[at] = special[next_random(fused ? 5 : 6)];
    }
}

// Rows of finite numbers within 1e-4 of the largest.
static bool is_close(const struct result *found, const struct result *expected, int64_t hidden)
{
    for (int64_t t = 0; t < TOKENS; t++) {
        const float *a = found->y + t * hidden, *b = expected->y + t * hidden;
        float largest = 0, difference = 0;
        for (int64_t i = 0; i < hidden; i++) largest = fmaxf(largest, isfinite(b[i]) ? fabsf(b[i]) : INFINITY);
        for (int64_t i = 0; i < hidden; i++) difference = fmaxf(difference, fabsf(a[i] - b[i]));
        if (isfinite(largest) && !(difference <= 1e-4f * largest + 1e-6f)) return false;
    }
    return true;
}

// int16 where all linear maps have integers: the latent ones are stored as bf16.
static moeblock_compute any_compute(const moeblock_config *config, enum mb_format format)
{
    if (format == MB_FORMAT_MXFP4 && !config->latent_size && !strcmp(config->expert_type, "distributed") &&
        next_random(2))
        return MOEBLOCK_COMPUTE_INT16;
    return next_random(2) ? MOEBLOCK_COMPUTE_BF16 : MOEBLOCK_COMPUTE_F32;
}

// One level on one description: NULL, or what differs from the reference.
static const char *compare_level(moeblock_context *context, const moeblock_config *config, enum mb_format format,
                                 moeblock_compute compute, bool wild)
{
    static float x[TOKENS * 192], aux[TOKENS * 192];
    moeblock_tensor tensors[MOST_TENSORS];
    const size_t n = make_tensors(config, format, tensors);
    struct result expected = make_result(config), found = make_result(config);
    fill_input(x, (size_t)(TOKENS * config->hidden_size), wild, context->kernels->fused);
    fill_further();
    fill_input(aux, (size_t)(TOKENS * config->hidden_size), wild, context->kernels->fused);
    run_reference(context, config, tensors, n, compute, x, aux, &expected);
    run_block(context, config, tensors, n, compute, x, aux, &found);
    const char *what = NULL;
    if (memcmp(found.ids, expected.ids, found.slot_bytes)) what = "ids";
    if (memcmp(found.weights, expected.weights, found.slot_bytes)) what = "weights";
    if (memcmp(found.state, expected.state, sizeof found.state)) what = "state";
    if (compute == MOEBLOCK_COMPUTE_F32 && context->kernels->fused) {
        if (!is_close(&found, &expected, config->hidden_size)) what = "y";
    } else if (memcmp(found.y, expected.y, found.y_bytes)) {
        what = "y";
    }
    free_result(&expected);
    free_result(&found);
    free_tensors(tensors, n);
    return what;
}

// Whether the description is a valid one; then all levels were compared with the reference.
static bool compare(const char *text, enum mb_format format, bool wild)
{
    bool valid = false;
    int usable;
    const char *level;
    for (int i = 0; (level = moeblock_level(i, &usable, NULL)) != NULL; i++) {
        if (!usable) continue;
        moeblock_context *context = NULL;
        moeblock_config *config = NULL;
        const moeblock_context_options options = {
            .struct_size = sizeof options, .threads = 1 + i % 2, .cpu_level = level};
        assert_int_equal(moeblock_context_create(&options, &context, NULL), MOEBLOCK_OK);
        valid = moeblock_config_parse(context, text, strlen(text), "random", NULL, &config, NULL) == MOEBLOCK_OK;
        const moeblock_compute compute = valid ? any_compute(config, format) : MOEBLOCK_COMPUTE_AUTO;
        const char *what = valid ? compare_level(context, config, format, compute, wild) : NULL;
        if (what)
            fail_msg("level %s, %s weights, compute %d: %s differ for %s", level, mb_format_table[format].name,
                     (int)compute, what, text);
        moeblock_config_destroy(&config);
        moeblock_context_destroy(&context);
    }
    return valid;
}

static void random_blocks(void **state)
{
    (void)state;
    static char text[TEXT];
    int valid = 0;
    for (int round = 0; round < ROUNDS; round++) {
        const enum mb_format format = (enum mb_format)next_random(MB_FORMATS);
        describe(text, format, 8, 1 + (int)next_random(4));
        valid += compare(text, format, round % 4 == 3);
    }
    print_message("%d of %d descriptions were valid\n", valid, ROUNDS);
    assert_true(valid >= ROUNDS * 3 / 4);
}

static void random_operators(void **state)
{
    (void)state;
    static char text[TEXT];
    int valid = 0;
    for (int round = 0; round < OPERATOR_ROUNDS; round++) {
        const enum mb_format format = (enum mb_format)next_random(MB_FORMATS);
        describe_operator(text, format, 8, 1 + (int)next_random(4));
        valid += compare(text, format, round % 4 == 3);
    }
    print_message("%d of %d descriptions of operators were valid\n", valid, OPERATOR_ROUNDS);
    assert_true(valid >= OPERATOR_ROUNDS * 3 / 4);
}

// Gate and up in one tensor, of widths whose rows share tiles of scales or do not, and hidden sizes of one tile and
// two.
static void joint_projections(void **state)
{
    (void)state;
    static const int sizes[][2] = {{160, 32}, {64, 96}, {160, 160}}; // hidden, intermediate
    static char text[TEXT];
    for (int at = 0; at < MB_FORMATS * (int)COUNT(storage) * (int)COUNT(sizes); at++) {
        const enum mb_format format = (enum mb_format)(at / (int)(COUNT(sizes) * COUNT(storage)));
        const char *stored = storage[at / (int)COUNT(sizes) % (int)COUNT(storage)], *keys = stored_keys(format);
        const int *size = sizes[at % (int)COUNT(sizes)];
        if (mb_format_table[format].order == MB_CODES_WORDS_ACROSS || !strstr(stored, "\"gate_up\"")) continue;
        text[0] = '\0';
        add(text, "{\"model\": {\"hidden_size\": %d, \"num_experts\": 4, \"num_experts_per_tok\": 2},", size[0]);
        add(text, "\"router\": {\"type\": \"linear\"}, \"experts\": {\"distributed\": {\"intermediate_size\": %d,",
            size[1]);
        add(text, "\"activation\": \"silu\"}}, \"weights\": {%s%s}", keys, stored + 1);
        assert_true(compare(text, format, false));
    }
}

// --- meshes ---------------------------------------------------------------------------------------------------------

// What the ranks of a mesh run, and what one process made of it. `given` ids and weights go to the experts alone, with
// a k of their own.
struct mesh_job {
    const char *text;
    const moeblock_tensor *tensors;
    size_t n;
    moeblock_compute compute;
    const float *x, *aux, *y;
    const int32_t *ids;
    bool sharded;
    const char *const *set; // of mesh.reproducible batch: near one process, the same bytes in other passes; NULL: mesh
    int64_t held;           // tokens of the workspace
    int64_t given_k;
    const int32_t *given_ids;
    const float *given_weights;
    float *given_y; // written by one process, compared by the ranks of a mesh
};

static void compare_rows(const struct mesh_job *job, moeblock_mesh *mesh, const float *found, const float *wanted,
                         int64_t tokens, int64_t width, int64_t stride)
{
    for (int64_t t = 0; t < tokens; t++)
        if (memcmp(found + t * width, wanted + t * stride, (size_t)width * sizeof *found))
            fail_msg("rank %d,%d of %d x %d: token %d differs for %s", mesh->row, mesh->column, mesh->rows,
                     mesh->columns, (int)t, job->text);
}

// Relative to all of y: a rank may have rows that come to almost nothing.
static void near_rows(const struct mesh_job *job, const float *found, const float *wanted, const float *all,
                      int64_t tokens, int64_t width, int64_t stride)
{
    const double most = job->compute == MOEBLOCK_COMPUTE_F32 ? 1e-5 : 2e-2;
    double error = 0, size = 0;
    for (int64_t i = 0; i < TOKENS * stride; i++) size += (double)all[i] * (double)all[i];
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < width; i++) {
            const double apart = (double)found[t * width + i] - (double)wanted[t * stride + i];
            error += apart * apart;
        }
    if (!(error <= most * most * size)) fail_msg("%g from one process for %s", sqrt(error / size), job->text);
}

// Another workspace, other passes, the same bytes.
static void compare_passes(const struct mesh_job *job, const moeblock_block *block, const moeblock_forward_input *input,
                           const moeblock_forward_output *output)
{
    const int64_t count = output->y.dims[0] * output->y.dims[1];
    float *const again = malloc((size_t)(count + 1) * sizeof *again);
    moeblock_workspace *workspace = NULL;
    moeblock_error e = {MOEBLOCK_OK, ""};
    moeblock_forward_output other = {.struct_size = sizeof other, .y = output->y};
    other.y.data = again;
    if (moeblock_workspace_create(block, 2, NULL, 0, &workspace, &e) ||
        moeblock_block_forward(block, workspace, input, &other, &e))
        fail_msg("%s: %s", e.message, job->text);
    assert_memory_equal(again, output->y.data, (size_t)count * sizeof *again);
    moeblock_workspace_destroy(&workspace);
    free(again);
}

static void run_rank(void *argument, moeblock_mesh *mesh)
{
    const struct mesh_job *job = argument;
    const moeblock_context_options one_thread = {
        .struct_size = sizeof one_thread,
        .threads = 1,
        .cpu_level = job->compute == MOEBLOCK_COMPUTE_F32 ? "generic" : NULL, // for the reference's bytes
    };
    const moeblock_block_options options = {.struct_size = sizeof options, .compute = job->compute};
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    moeblock_block *block = NULL;
    moeblock_workspace *workspace = NULL;
    moeblock_error e = {MOEBLOCK_OK, ""};
    moeblock_status status = moeblock_context_create(&one_thread, &context, &e);
    const moeblock_config_options set = {.struct_size = sizeof set, .set = job->set, .n_set = mesh && job->set ? 2 : 0};
    if (!status) status = moeblock_config_parse(context, job->text, strlen(job->text), "random", &set, &config, &e);
    if (!status) status = moeblock_block_create(context, config, mesh, &options, &block, &e);
    if (!status) status = moeblock_block_load_weights(block, job->tensors, job->n, &e);
    if (!status) status = moeblock_workspace_create(block, job->held, NULL, 0, &workspace, &e);
    if (status) fail_msg("%s", e.message);
    int64_t t0 = 0, t1 = TOKENS, h0 = 0, h1 = config->hidden_size;
    const int64_t hidden = h1, k = config->num_experts_per_tok;
    if (mesh) mb_split(TOKENS, mesh->rows, mesh->row, &t0, &t1);
    if (job->sharded) mb_split(hidden, mesh->columns, mesh->column, &h0, &h1);
    const int64_t tokens = t1 - t0, own = h1 - h0;
    float *x = malloc((size_t)(tokens * own + 1) * sizeof *x), *y = malloc((size_t)(tokens * own + 1) * sizeof *y);
    int32_t *ids = malloc((size_t)(tokens * k + 1) * sizeof *ids);
    for (int64_t t = 0; t < tokens; t++) memcpy(x + t * own, job->x + (t0 + t) * hidden + h0, (size_t)own * sizeof *x);
    moeblock_forward_input input = {.struct_size = sizeof input,
                                    .mode = MOEBLOCK_DECODE,
                                    .x = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {tokens, own}, .data = x}};
    moeblock_forward_output output = {.struct_size = sizeof output, .y = input.x, .ids = ids};
    output.y.data = y;
    if (mb_reads_aux(config)) input.aux = array_of(config, (float *)(uintptr_t)(job->aux + t0 * hidden));
    input.aux.dims[0] = tokens;
    if (mesh && moeblock_block_forward(block, workspace, &input, &output, &e)) fail_msg("%s: %s", e.message, job->text);
    if (mesh && job->set) compare_passes(job, block, &input, &output);
    if (mesh && job->set)
        near_rows(job, y, job->y + t0 * hidden + h0, job->y, tokens, own, hidden);
    else if (mesh)
        compare_rows(job, mesh, y, job->y + t0 * hidden + h0, tokens, own, hidden);
    if (mesh) assert_memory_equal(ids, job->ids + t0 * k, (size_t)(tokens * k) * sizeof *ids);
    if (moeblock_block_forward_experts(block, workspace, &input.x, job->given_ids + t0 * job->given_k,
                                       job->given_weights + t0 * job->given_k, job->given_k, &output.y, &e))
        fail_msg("%s: %s", e.message, job->text);
    if (mesh && job->set)
        near_rows(job, y, job->given_y + t0 * hidden + h0, job->given_y, tokens, own, hidden);
    else if (mesh)
        compare_rows(job, mesh, y, job->given_y + t0 * hidden + h0, tokens, own, hidden);
    else
        memcpy(job->given_y, y, (size_t)(tokens * hidden) * sizeof *y);
    free(x);
    free(y);
    free(ids);
    moeblock_block_destroy(&block);
    moeblock_workspace_destroy(&workspace);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
}

// k distinct ids below `classes` or -1.
static void give_ids(int64_t k, int64_t classes, int32_t *ids, float *weights)
{
    for (int64_t t = 0; t < TOKENS; t++) {
        const int64_t first = next_random((uint32_t)classes);
        for (int64_t j = 0; j < k; j++) {
            ids[t * k + j] = next_random(5) ? (int32_t)((first + j) % classes) : -1;
            weights[t * k + j] = uniform();
        }
    }
}

static void compare_on_meshes(const char *text, moeblock_context *context, const moeblock_config *config,
                              enum mb_format format, int rows, int columns, bool wild, const char *const *set)
{
    static float x[TOKENS * 192], aux[TOKENS * 192], given_y[TOKENS * 192], given_weights[TOKENS * 16];
    static int32_t given_ids[TOKENS * 16];
    moeblock_tensor tensors[MOST_TENSORS];
    const size_t n = make_tensors(config, format, tensors);
    const int64_t classes = config->num_experts + config->router.null_experts;
    const int64_t given_k = 1 + next_random((uint32_t)classes);
    struct result expected = make_result(config);
    fill_input(x, (size_t)(TOKENS * config->hidden_size), wild, context->kernels->fused);
    fill_input(aux, (size_t)(TOKENS * config->hidden_size), wild, context->kernels->fused);
    struct mesh_job job = {.text = text,
                           .tensors = tensors,
                           .n = n,
                           .compute = any_compute(config, format),
                           .x = x,
                           .aux = aux,
                           .y = expected.y,
                           .ids = expected.ids,
                           .set = set,
                           .held = 16 * TOKENS,
                           .given_k = given_k,
                           .given_ids = given_ids,
                           .given_weights = given_weights,
                           .given_y = given_y};
    give_ids(given_k, classes, given_ids, given_weights);
    run_reference(context, config, tensors, n, job.compute, x, aux, &expected);
    run_rank(&job, NULL);
    job.sharded = columns > 1 && config->hidden_size % columns == 0;
    job.held = given_k + next_random(TOKENS); // enough for one token's slots
    struct mesh_double *mesh = mesh_double_create(rows, columns);
    mesh_double_run(mesh, run_rank, &job);
    mesh_double_destroy(mesh);
    free_result(&expected);
    free_tensors(tensors, n);
}

// Whether the description is a valid one; then it was compared.
static bool on_meshes(const char *text, enum mb_format format, int rows, int columns, bool wild, bool batch)
{
    moeblock_context *context = NULL;
    moeblock_config *config = NULL;
    assert_int_equal(moeblock_context_create(NULL, &context, NULL), MOEBLOCK_OK);
    const bool valid = moeblock_config_parse(context, text, strlen(text), "random", NULL, &config, NULL) == MOEBLOCK_OK;
    // Latent experts and orders of inputs are not cut along k: there sums are an error.
    const bool cut = valid && columns > 1 && !config->latent_size && !mb_format_suffix(format, MB_PART_ORDER);
    const char *const set[] = {"mesh.reproducible=batch", cut ? "mesh.exchange=sums" : "mesh.exchange=auto"};
    if (valid) compare_on_meshes(text, context, config, format, rows, columns, wild, batch ? set : NULL);
    moeblock_config_destroy(&config);
    moeblock_context_destroy(&context);
    return valid;
}

// Few experts and narrow layers on many ranks: some own no expert, some no column; k up to all experts.
static void random_meshes(void **state)
{
    (void)state;
    static char text[TEXT];
    static const int counts[] = {1, 2, 3, 4, 8};
    int valid = 0;
    for (int round = 0; round < MESH_ROUNDS; round++) {
        const enum mb_format format = (enum mb_format)next_random(MB_FORMATS);
        const int experts = counts[next_random(5)];
        describe(text, format, experts, 1 + (int)next_random((uint32_t)experts));
        const int rows = 1 + (int)next_random(4), columns = 1 + (int)next_random(4);
        valid += on_meshes(text, format, rows, columns, round % 4 == 3, false);
    }
    print_message("%d of %d descriptions were valid\n", valid, MESH_ROUNDS);
    assert_true(valid >= MESH_ROUNDS / 3);
}

// Rows summed at the experts' ranks, partial sums added by the columns, some of which may have no part of k.
static void random_sums(void **state)
{
    (void)state;
    static char text[TEXT];
    static const int counts[] = {1, 2, 3, 4, 8};
    int valid = 0;
    for (int round = 0; round < MESH_ROUNDS; round++) {
        const enum mb_format format = (enum mb_format)next_random(MB_FORMATS);
        const int experts = counts[next_random(5)];
        describe(text, format, experts, 1 + (int)next_random((uint32_t)experts));
        const int rows = 1 + (int)next_random(3), columns = 1 + (int)next_random(4);
        valid += on_meshes(text, format, rows, columns, false, true);
    }
    print_message("%d of %d descriptions were valid\n", valid, MESH_ROUNDS);
    assert_true(valid >= MESH_ROUNDS / 3);
}

// Given ids may be more than the description's one per token: then fewer rows travel, but each to more ranks.
static void wide_choices_on_a_mesh(void **state)
{
    (void)state;
    static const char text[] =
        "{\"model\": {\"hidden_size\": 2, \"num_experts\": 4, \"num_experts_per_tok\": 1}, \"router\": {\"type\": "
        "\"linear\"}, \"experts\": {\"distributed\": {\"intermediate_size\": 3, \"activation\": \"silu\"}}}";
    for (int round = 0; round < 20; round++) assert_true(on_meshes(text, MB_FORMAT_BF16, 4, 1, false, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(joint_projections), cmocka_unit_test(random_blocks),
                                       cmocka_unit_test(random_operators),  cmocka_unit_test(random_meshes),
                                       cmocka_unit_test(random_sums),       cmocka_unit_test(wide_choices_on_a_mesh)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
