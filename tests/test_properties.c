// SPDX-License-Identifier: Apache-2.0
// Metamorphic properties on random small descriptions: what must not change, or change in a known way, when tokens are
// permuted, cut or appended, experts renumbered, inputs scaled, and experts emptied; each with one and three threads.
#include <float.h>
#include <inttypes.h>
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
#include "support/stored_values.h"
#include "support/tiny_block.h"

enum { ROUNDS = 40, TOKENS = 23, TEXT = 2048 };

#define COUNT(list) (sizeof(list) / sizeof *(list))

// A random description.
struct sample {
    char json[TEXT];
    enum mb_format format;
    moeblock_compute compute;
    int experts, k;
    bool groups, two_term_sums; // whether the bits of y do not depend on the numbering of the experts
    unsigned seed;
};

static int width(uint64_t *random, enum mb_format format)
{
    const int multiple = stored_multiple(format);
    return multiple * (1 + (int)tiny_random(random, (uint32_t)(96 / multiple)));
}

static void make_sample(struct sample *out, unsigned seed)
{
    static const char *const scores[] = {"sigmoid", "sqrt_softplus", "identity", "softmax"};
    static const char *const norms[] = {"\"none\"", "\"sum\", \"norm_eps\": 1e-20"};
    static const char *const activations[] = {"\"silu\"", "\"gelu\"", "\"relu2\", \"gated\": false",
                                              "\"swiglu_oai\", \"limit\": 1.5"};
    static const char *const shared[] = {"", ", \"shared\": {\"intermediate_size\": 32}",
                                         ", \"shared\": {\"intermediate_size\": 32, \"gate\": \"sigmoid\"}"};
    uint64_t random = seed * 77777u + 5;
    const uint32_t score = tiny_random(&random, COUNT(scores));
    *out = (struct sample){.format = (enum mb_format)tiny_random(&random, MB_FORMATS), .seed = seed};
    static const moeblock_compute computes[] = {MOEBLOCK_COMPUTE_F32, MOEBLOCK_COMPUTE_BF16, MOEBLOCK_COMPUTE_BF16X2};
    out->compute = computes[tiny_random(&random, COUNT(computes))];
    if (out->format == MB_FORMAT_MXFP4 && seed % 2) out->compute = MOEBLOCK_COMPUTE_INT16;
    out->experts = 4 * (1 + (int)tiny_random(&random, 3));
    out->k = 1 + (int)tiny_random(&random, 4);
    out->groups = out->k <= out->experts / 2 && tiny_random(&random, 4) == 0;
    out->two_term_sums = out->k <= 2 && score != 3;
    const int hidden = width(&random, out->format), inner = width(&random, out->format);
    snprintf(
        out->json, sizeof out->json,
        "{\"model\": {\"hidden_size\": %d, \"num_experts\": %d, \"num_experts_per_tok\": %d}, \"router\": "
        "{\"type\": \"linear\", \"config\": {\"score\": \"%s\", \"norm\": %s, \"score_correction_bias\": %s, "
        "\"linear_bias\": %s, \"routed_scaling_factor\": 1.5%s}}, \"experts\": {\"distributed\": "
        "{\"intermediate_size\": %d, \"bias\": %s, \"activation\": %s}%s}, \"weights\": {%s\"gate_up\": \"separate\"}}",
        hidden, out->experts, out->k, scores[score], norms[tiny_random(&random, COUNT(norms))],
        tiny_random(&random, 2) ? "true" : "false", tiny_random(&random, 2) ? "true" : "false",
        out->groups ? ", \"groups\": \"limited\", \"n_group\": 4, \"topk_group\": 2" : "", inner,
        tiny_random(&random, 3) ? "false" : "true", activations[tiny_random(&random, COUNT(activations))],
        shared[tiny_random(&random, COUNT(shared))], stored_keys(out->format));
}

static void start(struct tiny_block *tiny, const struct sample *sample, int threads)
{
    const struct tiny_settings settings = {.threads = threads, .format = sample->format, .seed = sample->seed};
    tiny_make(tiny, sample->json, &settings);
    tiny_load(tiny, sample->compute, TOKENS);
}

// The sample's block, an input, and its result with one thread; the same with three threads has the same bits.
struct base {
    struct sample sample;
    struct tiny_block tiny;
    float *x;
    struct tiny_result result;
};

static size_t row_bytes(const struct base *base) { return (size_t)base->tiny.hidden * sizeof(float); }

static void base_start(struct base *base, unsigned seed)
{
    struct tiny_block threaded;
    uint64_t random = seed + 1000;
    make_sample(&base->sample, seed);
    start(&base->tiny, &base->sample, 1);
    start(&threaded, &base->sample, 3);
    base->x = tiny_values(&random, TOKENS * base->tiny.hidden);
    base->result = tiny_result_make(&base->tiny, TOKENS);
    struct tiny_result same = tiny_result_make(&base->tiny, TOKENS);
    tiny_forward(&base->tiny, base->x, TOKENS, &base->result, NULL);
    tiny_forward(&threaded, base->x, TOKENS, &same, NULL);
    const size_t slots = (size_t)(TOKENS * base->tiny.k);
    if (memcmp(same.y, base->result.y, TOKENS * row_bytes(base)) || memcmp(same.ids, base->result.ids, slots * 4) ||
        memcmp(same.weights, base->result.weights, slots * 4))
        fail_msg("three threads differ from one: %s", base->sample.json);
    tiny_result_free(&same);
    tiny_free(&threaded);
}

static void base_end(struct base *base)
{
    tiny_result_free(&base->result);
    free(base->x);
    tiny_free(&base->tiny);
}

// order becomes a random permutation of [0, n).
static void shuffle(uint64_t *random, int n, int *order)
{
    for (int i = 0; i < n; i++) order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        const int j = (int)tiny_random(random, (uint32_t)i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

// --- tokens ----------------------------------------------------------------------------------------------------------

static void permuted_tokens_permute_rows(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < ROUNDS; seed++) {
        struct base base;
        int order[TOKENS];
        uint64_t random = seed;
        base_start(&base, seed);
        const int64_t hidden = base.tiny.hidden, k = base.tiny.k;
        shuffle(&random, TOKENS, order);
        float *x = malloc(TOKENS * row_bytes(&base));
        assert_non_null(x);
        for (int t = 0; t < TOKENS; t++) memcpy(x + t * hidden, base.x + order[t] * hidden, row_bytes(&base));
        struct tiny_result found = tiny_result_make(&base.tiny, TOKENS);
        tiny_forward(&base.tiny, x, TOKENS, &found, NULL);
        for (int t = 0; t < TOKENS; t++) {
            assert_memory_equal(found.y + t * hidden, base.result.y + order[t] * hidden, row_bytes(&base));
            assert_memory_equal(found.ids + t * k, base.result.ids + order[t] * k, (size_t)k * sizeof *found.ids);
            assert_memory_equal(found.weights + t * k, base.result.weights + order[t] * k, (size_t)k * sizeof(float));
        }
        tiny_result_free(&found);
        free(x);
        base_end(&base);
    }
}

// Two calls on the parts of a batch give the batch, wherever it is cut; so tokens appended change no earlier row.
static void cut_and_appended_batches(void **state)
{
    (void)state;
    for (unsigned seed = 100; seed < 100 + ROUNDS; seed++) {
        struct base base;
        base_start(&base, seed);
        const int64_t hidden = base.tiny.hidden;
        struct tiny_result found = tiny_result_make(&base.tiny, TOKENS);
        for (int cut = 0; cut <= TOKENS; cut++) {
            const struct tiny_result rest = {found.y + cut * hidden, NULL, NULL};
            tiny_forward(&base.tiny, base.x, cut, &found, NULL);
            assert_memory_equal(found.y, base.result.y, (size_t)cut * row_bytes(&base));
            tiny_forward(&base.tiny, base.x + cut * hidden, TOKENS - cut, &rest, NULL);
            assert_memory_equal(found.y, base.result.y, TOKENS * row_bytes(&base));
        }
        tiny_result_free(&found);
        base_end(&base);
    }
}

// --- experts ---------------------------------------------------------------------------------------------------------

// Moves `from`'s expert e to number[e] in `to`: rows of the router's tensors, and whole tensors of an expert.
static void renumber(struct tiny_block *from, struct tiny_block *to, const int *number)
{
    for (size_t i = 0; i < from->count; i++) {
        const moeblock_tensor *source = &from->tensors[i];
        const char *expert = strstr(source->name, "mlp.experts.");
        int e;
        char name[256];
        if (expert) {
            char *rest;
            e = (int)strtol(expert + 12, &rest, 10);
            snprintf(name, sizeof name, "%.*s%d%s", (int)(expert + 12 - source->name), source->name, number[e], rest);
            memcpy(tiny_data(to, name), source->data, source->bytes);
        } else if (strstr(source->name, "mlp.gate.")) {
            const size_t bytes = source->bytes / (size_t)source->dims[0];
            assert_int_equal(source->dims[0], from->experts);
            for (e = 0; e < from->experts; e++)
                memcpy((char *)tiny_data(to, source->name) + (size_t)number[e] * bytes,
                       (const char *)source->data + (size_t)e * bytes, bytes);
        }
    }
}

// Row by row: the same experts under their new numbers. y and the weights come from sums over ascending ids, whose
// order the numbers change: within 1e-6 of the row's size, and equal bits where all sums have two terms.
static void compare_renumbered(const struct base *base, const struct tiny_result *found, const int *number)
{
    const int64_t hidden = base->tiny.hidden, k = base->tiny.k;
    for (int64_t t = 0; t < TOKENS; t++) {
        float largest = 0;
        for (int64_t j = 0; j < k; j++) {
            const int64_t at = t * k + j;
            int64_t same = -1;
            for (int64_t i = t * k; i < (t + 1) * k; i++)
                if (found->ids[i] == number[base->result.ids[at]]) same = i;
            assert_true(same >= 0);
            const float weight = base->result.weights[at];
            assert_true(fabsf(found->weights[same] - weight) <= 1e-6f * fabsf(weight));
        }
        for (int64_t i = t * hidden; i < (t + 1) * hidden; i++) largest = fmaxf(largest, fabsf(base->result.y[i]));
        for (int64_t i = t * hidden; i < (t + 1) * hidden; i++)
            assert_true(fabsf(found->y[i] - base->result.y[i]) <= 2e-6f * largest);
    }
    if (base->sample.two_term_sums) assert_memory_equal(found->y, base->result.y, TOKENS * row_bytes(base));
}

static void renumbered_experts(void **state)
{
    (void)state;
    int exact = 0;
    for (unsigned seed = 200; seed < 200 + 2 * ROUNDS; seed++) {
        struct base base;
        struct tiny_block moved;
        int number[16];
        uint64_t random = seed;
        base_start(&base, seed);
        shuffle(&random, base.sample.experts, number);
        if (!base.sample.groups) { // groups are runs of numbers
            const struct tiny_settings settings = {
                .threads = 3, .format = base.sample.format, .seed = base.sample.seed};
            tiny_make(&moved, base.sample.json, &settings);
            renumber(&base.tiny, &moved, number);
            tiny_load(&moved, base.sample.compute, TOKENS);
            struct tiny_result found = tiny_result_make(&moved, TOKENS);
            tiny_forward(&moved, base.x, TOKENS, &found, NULL);
            compare_renumbered(&base, &found, number);
            exact += base.sample.two_term_sums;
            tiny_result_free(&found);
            tiny_free(&moved);
        }
        base_end(&base);
    }
    assert_true(exact >= ROUNDS / 4);
}

// The routed experts alone on given ids and weights.
static void experts_alone(const struct tiny_block *tiny, float *x, int64_t tokens, const int32_t *ids,
                          const float *weights, int64_t k, float *y)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    const moeblock_array in = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {tokens, tiny->hidden}, .data = x};
    moeblock_array out = in;
    out.data = y;
    if (moeblock_block_forward_experts(tiny->block, tiny->workspace, &in, ids, weights, k, &out, &error) != MOEBLOCK_OK)
        fail_msg("%s", error.message);
}

// y is the chain 0 + w * out over ascending ids, each step rounded twice, and so within the chain's bound of the sum in
// double.
static void combine_is_the_weighted_sum(void **state)
{
    (void)state;
    for (unsigned seed = 300; seed < 300 + ROUNDS; seed++) {
        struct base base;
        base_start(&base, seed);
        const int64_t hidden = base.tiny.hidden, k = base.tiny.k, experts = base.tiny.experts;
        float *alone = malloc((size_t)experts * TOKENS * row_bytes(&base)), *y = malloc(TOKENS * row_bytes(&base));
        assert_true(alone && y);
        for (int64_t e = 0; e < experts; e++) { // every expert's output, with weight 1
            int32_t ids[TOKENS];
            float ones[TOKENS];
            for (int t = 0; t < TOKENS; t++) ids[t] = (int32_t)e, ones[t] = 1.0f;
            experts_alone(&base.tiny, base.x, TOKENS, ids, ones, 1, alone + e * TOKENS * hidden);
        }
        experts_alone(&base.tiny, base.x, TOKENS, base.result.ids, base.result.weights, k, y);
        for (int64_t i = 0; i < TOKENS * hidden; i++) {
            const int64_t t = i / hidden;
            double sum = 0, size = 0;
            float chain = 0;
            for (int64_t e = 0; e < experts; e++) {
                for (int64_t j = t * k; j < (t + 1) * k; j++) {
                    if (base.result.ids[j] != e) continue;
                    const float out = alone[e * TOKENS * hidden + i], weight = base.result.weights[j];
                    const float term = weight * out;
                    chain = chain + term;
                    sum += (double)weight * (double)out;
                    size += fabs((double)weight * (double)out);
                }
            }
            assert_true(chain == y[i]);
            assert_true(fabs((double)y[i] - sum) <= (double)(k + 1) * (double)FLT_EPSILON * size + 1e-37);
        }
        free(alone);
        free(y);
        base_end(&base);
    }
}

static bool is_of_expert(const moeblock_tensor *tensor, int expert)
{
    char part[32];
    snprintf(part, sizeof part, "mlp.experts.%d.", expert);
    return strstr(tensor->name, part) != NULL;
}

// An expert whose weights (and biases) are all zero adds nothing: the same as an empty slot in its place.
static void an_expert_of_zeros_is_an_empty_slot(void **state)
{
    (void)state;
    for (unsigned seed = 400; seed < 400 + ROUNDS; seed++) {
        struct base base;
        base_start(&base, seed);
        const int64_t hidden = base.tiny.hidden, k = base.tiny.k;
        const int zeroed = base.result.ids[0];
        const bool integers = mb_format_table[base.sample.format].any_group;
        for (size_t i = 0; i < base.tiny.count; i++) { // zero codes are zero, and integers with scales of zero
            const moeblock_tensor *tensor = &base.tiny.tensors[i];
            const bool zeroes = strstr(tensor->name, "bias") || !strstr(tensor->name, "scale") != integers;
            if (is_of_expert(tensor, zeroed) && zeroes) memset((void *)(uintptr_t)tensor->data, 0, tensor->bytes);
        }
        moeblock_workspace_destroy(&base.tiny.workspace);
        moeblock_block_destroy(&base.tiny.block);
        tiny_load(&base.tiny, base.sample.compute, TOKENS);
        int32_t ids[TOKENS * 4];
        for (int64_t i = 0; i < TOKENS * k; i++) ids[i] = base.result.ids[i] == zeroed ? -1 : base.result.ids[i];
        float *with = malloc(TOKENS * row_bytes(&base)), *without = malloc(TOKENS * row_bytes(&base));
        assert_true(with && without);
        experts_alone(&base.tiny, base.x, TOKENS, base.result.ids, base.result.weights, k, with);
        experts_alone(&base.tiny, base.x, TOKENS, ids, base.result.weights, k, without);
        for (int64_t i = 0; i < TOKENS * hidden; i++) assert_true(with[i] == without[i]); // the sign of 0 may differ
        free(with);
        free(without);
        base_end(&base);
    }
}

// --- inputs ----------------------------------------------------------------------------------------------------------

// Linear experts and a router that reads another tensor: y is linear in x, and a power of two only moves exponents.
static void powers_of_two_scale_exactly(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * ROUNDS; i++) {
        uint64_t random = (uint64_t)i + 500;
        char json[TEXT];
        struct tiny_block tiny;
        const enum mb_format format = (enum mb_format)(i % MB_FORMATS);
        const int hidden = width(&random, format), inner = width(&random, format);
        snprintf(json, sizeof json,
                 "{\"model\": {\"hidden_size\": %d, \"num_experts\": 5, \"num_experts_per_tok\": 3}, \"router\": "
                 "{\"type\": \"topk\", \"config\": {\"input\": \"aux\"}}, \"experts\": {\"distributed\": "
                 "{\"intermediate_size\": %d, \"activation\": \"identity\", \"gated\": false}%s}, \"weights\": "
                 "{%s\"gate_up\": \"separate\"}}",
                 hidden, inner,
                 i % 3 ? ""
                       : ", \"shared\": {\"intermediate_size\": 32, \"activation\": \"identity\", \"gated\": false}",
                 stored_keys(format));
        tiny_make(&tiny, json, &(struct tiny_settings){.threads = 3, .format = format, .seed = (unsigned)i});
        tiny_load(&tiny, i % 2 ? MOEBLOCK_COMPUTE_F32 : MOEBLOCK_COMPUTE_BF16, TOKENS);
        float *x = tiny_values(&random, TOKENS * hidden), *aux = tiny_values(&random, TOKENS * hidden);
        float *y = malloc((size_t)(TOKENS * hidden) * sizeof *y),
              *scaled = malloc((size_t)(TOKENS * hidden) * sizeof *y);
        assert_true(y && scaled);
        moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_DECODE};
        in.x = (moeblock_array){.dtype = MOEBLOCK_F32, .rank = 2, .dims = {TOKENS, hidden}, .data = x};
        in.aux = in.x;
        in.aux.data = aux;
        moeblock_forward_output out = {.struct_size = sizeof out, .y = in.x};
        out.y.data = y;
        assert_int_equal(moeblock_block_forward(tiny.block, tiny.workspace, &in, &out, NULL), MOEBLOCK_OK);
        const int power = (int)tiny_random(&random, 41) - 20;
        for (int j = 0; j < TOKENS * hidden; j++) x[j] = ldexpf(x[j], power);
        out.y.data = scaled;
        assert_int_equal(moeblock_block_forward(tiny.block, tiny.workspace, &in, &out, NULL), MOEBLOCK_OK);
        for (int j = 0; j < TOKENS * hidden; j++) assert_true(scaled[j] == ldexpf(y[j], power));
        free(x);
        free(aux);
        free(y);
        free(scaled);
        tiny_free(&tiny);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(permuted_tokens_permute_rows),
        cmocka_unit_test(cut_and_appended_batches),
        cmocka_unit_test(renumbered_experts),
        cmocka_unit_test(combine_is_the_weighted_sum),
        cmocka_unit_test(an_expert_of_zeros_is_an_empty_slot),
        cmocka_unit_test(powers_of_two_scale_exactly),
    };
    return cmocka_run_group_tests_name("properties", tests, NULL, NULL);
}
