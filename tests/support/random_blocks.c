// SPDX-License-Identifier: Apache-2.0
#include "support/random_blocks.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/float.h"
#include "cmocka.h"
#include "config/tensors.h"
#include "reference.h"
#include "support/stored_values.h"

static uint64_t random_state = 77;

uint32_t random_below(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % below);
}

float random_uniform(void) { return (float)random_below(1u << 20) / (float)(1 << 19) - 1.0f; }

// --- a random description --------------------------------------------------------------------------------------------

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
const char *const random_storage[] = {
    "{}",
    "{\"shared_gate_up\": \"concatenated\"}",
    "{\"layout\": \"stacked\"" NAMES,
    "{\"layout\": \"stacked\", \"gate_up\": \"concatenated\"" NAMES,
    "{\"layout\": \"stacked\", \"gate_up\": \"interleaved\"" NAMES,
    "{\"layout\": \"stacked\", \"gate_up\": \"interleaved\", \"orientation\": \"input_major\"" NAMES,
    "{\"layout\": \"stacked\", \"gate_up\": \"concatenated\", \"orientation\": \"input_major\"" NAMES,
};

const size_t random_storages = COUNT(random_storage);

#define ONE_OF(list) ((list)[random_below((uint32_t)COUNT(list))])

void add_text(char text[DESCRIPTION], const char *format, ...)
{
    const size_t used = strlen(text);
    va_list list;
    va_start(list, format);
    vsnprintf(text + used, DESCRIPTION - used, format, list);
    va_end(list);
}

static void add_members(char text[DESCRIPTION], const struct member *members, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if ((int)random_below(100) < members[i].chance) add_text(text, ", %s", members[i].text);
}

// Any width up to `most` that the format allows.
static int width(enum mb_format format, uint32_t most)
{
    const int multiple = stored_multiple(format);
    return multiple * (1 + (int)random_below(most / (uint32_t)multiple));
}

// AWQ knows no tensors that hold more than one map.
static const char *storage_for(enum mb_format format)
{
    return mb_format_table[format].order == MB_CODES_WORDS_ACROSS ? random_storage[0] : ONE_OF(random_storage);
}

void describe_block(char text[DESCRIPTION], enum mb_format format, int experts, int k)
{
    // One random number a statement: compilers evaluate arguments in different orders, the tests are to be the same.
    const char *score = ONE_OF(scores), *post = ONE_OF(posts), *norm = ONE_OF(norms), *group = ONE_OF(groups);
    const char *bias = ONE_OF(biases), *activation = ONE_OF(activations), *mix = ONE_OF(mixes);
    text[0] = '\0';
    add_text(text, "{\"model\": {\"hidden_size\": %d, \"num_experts\": %d, \"num_experts_per_tok\": %d},",
             width(format, 192), experts, k);
    add_text(text,
             "\"router\": {\"type\": \"linear\", \"config\": {\"score\": \"%s\", \"post\": \"%s\", \"norm\": %s%s%s",
             score, post, norm, group, bias);
    add_members(text, router_members, COUNT(router_members));
    add_text(text, "}}, \"experts\": {\"distributed\": {\"intermediate_size\": %d, \"activation\": %s",
             width(format, 192), activation);
    add_members(text, routed_members, COUNT(routed_members));
    add_text(text, "}");
    if (random_below(2)) {
        add_text(text, ", \"shared\": {\"intermediate_size\": %d, \"mix\": \"%s\"", width(format, 160), mix);
        add_members(text, shared_members, COUNT(shared_members));
        add_text(text, "}");
    }
    if (random_below(4) == 0) add_text(text, ", \"out_norm\": true");
    if (random_below(4) == 0) add_text(text, ", \"output_scale\": true");
    if (random_below(4) == 0 && !strstr(text, "null_experts")) { // null experts return rows of H, not of the latent
        add_text(text, ", \"latent\": {\"size\": %d", width(format, 64));
        add_members(text, latent_members, COUNT(latent_members));
        add_text(text, "}");
    }
    const char *stored = storage_for(format), *keys = stored_keys(format);
    const int kept = (int)strlen(keys) - (stored[1] == '}' && keys[0] ? 2 : 0); // no comma before the end
    add_text(text, "}, \"weights\": {%.*s%s}", kept, keys, stored + 1);
}

// The named operators, a second bank and experts by token id.
void describe_operator(char text[DESCRIPTION], enum mb_format format, int experts, int k)
{
    static const char *const operators[] = {"sparsemixer", "capacity",     "mlp_state",
                                            "joint",       "product_keys", "token_type",
                                            "adjugate",    "linear",       "capacity_by_choice"};
    const char *type = ONE_OF(operators), *norm = ONE_OF(norms), *bias = ONE_OF(biases);
    const char *carried = random_below(2) ? "true" : "false";
    const int inner = width(format, 192), nulls = (int)random_below(2);
    text[0] = '\0';
    if (!strcmp(type, "sparsemixer")) k = 2;
    const bool queues = !strcmp(type, "capacity_by_choice");
    if (queues) k = 1 + (int)random_below(2);
    add_text(text, "{\"model\": {\"hidden_size\": %d, \"num_experts\": %d, \"num_experts_per_tok\": %d},",
             width(format, 192), experts, k);
    add_text(text, "\"router\": {\"type\": \"%s\", \"config\": {\"norm\": %s%s", type, norm, bias);
    if (random_below(2)) add_text(text, ", \"routed_scaling_factor\": 1.75");
    if (!strcmp(type, "sparsemixer")) add_text(text, ", \"jitter_eps\": 0.2");
    if (!strcmp(type, "capacity")) add_text(text, ", \"capacity\": %d", 1 + (int)random_below(3));
    if (queues)
        add_text(text, ", \"capacity\": %d, \"capacity_fraction\": %s, \"capacity_order\": \"%s\", \"norm_kept\": %s",
                 (int)random_below(3), random_below(2) ? "0.3" : "0", random_below(2) ? "arrival" : "probability",
                 random_below(2) ? "true" : "false");
    if (!strcmp(type, "mlp_state"))
        add_text(text, ", \"state_size\": %d, \"state_carried\": %s, \"null_experts\": %d, \"null_kind\": \"zero\"",
                 STATE, carried, nulls);
    if (!strcmp(type, "joint")) add_text(text, ", \"learned_scale\": %s", random_below(2) ? "true" : "false");
    if (!strcmp(type, "linear")) add_text(text, ", \"ids\": \"token_table\", \"table_size\": %d", VOCABULARY);
    add_text(text, "}}, \"experts\": {\"distributed\": {\"intermediate_size\": %d, \"activation\": %s}", inner,
             ONE_OF(activations));
    const int count = !strcmp(type, "joint")        ? 2
                      : !strcmp(type, "adjugate")   ? experts / 2
                      : !strcmp(type, "token_type") ? experts
                                                    : 0;
    if (count)
        add_text(text, ", \"second\": {\"count\": %d, \"intermediate_size\": %d, \"scale\": 0.05}", count,
                 width(format, (uint32_t)inner));
    else if (random_below(2))
        add_text(text, ", \"post_norm\": true, \"post_norm_plus_one\": %s", random_below(2) ? "true" : "false");
    add_text(text,
             "}, \"weights\": {%s\"names\": {\"second_gate\": \"s.{expert}.g\", \"second_up\": \"s.{expert}.u\", "
             "\"second_down\": \"s.{expert}.d\"}}}",
             stored_keys(format));
}

// --- random tensors --------------------------------------------------------------------------------------------------

size_t make_random_tensors(const moeblock_config *config, enum mb_format format, moeblock_tensor *tensors)
{
    static moeblock_tensor_need needs[MOST_TENSORS];
    uint64_t values = random_below(1u << 30);
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

void free_random_tensors(moeblock_tensor *tensors, size_t n)
{
    for (size_t i = 0; i < n; i++) free((void *)(uintptr_t)tensors[i].data);
}

// --- further inputs --------------------------------------------------------------------------------------------------

struct further_inputs further = {.seq_lens = {4, 0, TOKENS - 4}};

void fill_further(void)
{
    for (int t = 0; t < TOKENS; t++) {
        further.token_ids[t] = random_below(VOCABULARY);
        further.token_types[t] = (int32_t)random_below(3);
    }
    for (int i = 0; i < TOKENS * STATE; i++) further.state[i] = random_uniform();
}

// --- both paths ------------------------------------------------------------------------------------------------------

struct block_result make_result(const moeblock_config *config)
{
    struct block_result r = {.y_bytes = (size_t)(TOKENS * config->hidden_size) * sizeof(float),
                             .slot_bytes = (size_t)(TOKENS * config->num_experts_per_tok) * sizeof(float)};
    r.y = malloc(r.y_bytes);
    r.weights = malloc(r.slot_bytes);
    r.ids = malloc(r.slot_bytes);
    assert_true(r.y && r.weights && r.ids);
    return r;
}

void free_result(struct block_result *r)
{
    free(r->y);
    free(r->weights);
    free(r->ids);
}

moeblock_array array_of(const moeblock_config *config, float *data)
{
    return (moeblock_array){
        .dtype = MOEBLOCK_F32, .rank = data ? 2 : 0, .dims = {TOKENS, config->hidden_size}, .data = data};
}

void run_reference(moeblock_context *context, const moeblock_config *config, const moeblock_tensor *tensors, size_t n,
                   moeblock_compute compute, const float *x, const float *aux, struct block_result *out)
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
void fill_input(float *x, size_t count, bool wild, bool fused)
{
    static const float special[] = {NAN, INFINITY, -INFINITY, 1e-40f, -0.0f, 3e38f};
    for (size_t i = 0; i < count; i++) x[i] = random_uniform();
    for (int i = 0; wild && i < 4; i++) {
        const uint32_t at = random_below((uint32_t)count);
        x[at] = special[random_below(fused ? 5 : 6)];
    }
}

// int16 where all linear maps have integers: the latent ones are stored as bf16.
moeblock_compute any_compute(const moeblock_config *config, enum mb_format format)
{
    if (format == MB_FORMAT_MXFP4 && !config->latent_size && !strcmp(config->expert_type, "distributed") &&
        random_below(2))
        return MOEBLOCK_COMPUTE_INT16;
    static const moeblock_compute any[] = {MOEBLOCK_COMPUTE_F32, MOEBLOCK_COMPUTE_BF16, MOEBLOCK_COMPUTE_BF16X2};
    return any[random_below(3)];
}
