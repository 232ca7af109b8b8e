// SPDX-License-Identifier: Apache-2.0
// The built-in routers against each formula of moe-families section 2, written down again in double; and what holds for
// any formula: distinct ids in range for any input, order, independence of the other rows and of column ranges.
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
#include "base/fpmode.h"
#include "cmocka.h"
#include "config/tensors.h"
#include "kernels/kernels.h"
#include "reference_parts.h"
#include "routers/router.h"

enum { TOKENS = 80, HIDDEN = 24, EXPERTS = 16, NULLS = 8, MAX_CLASSES = EXPERTS + NULLS };

// --- one random problem for all formulas
// ------------------------------------------------------------------------------

static float x[TOKENS][HIDDEN], aux[TOKENS][HIDDEN];
static float weight[MAX_CLASSES][HIDDEN], weight_transposed[HIDDEN][EXPERTS];
static float linear_bias[MAX_CLASSES], bias[MAX_CLASSES], input_scale[HIDDEN], factors[EXPERTS];

static uint64_t random_state = 20240607;

static float uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 40) / 8388608.0f - 1.0f;
}

static void fill(float *values, size_t count, float scale)
{
    for (size_t i = 0; i < count; i++) values[i] = scale * uniform();
}

static int make_problem(void **state)
{
    (void)state;
    fill(&x[0][0], TOKENS * HIDDEN, 1.0f);
    fill(&aux[0][0], TOKENS * HIDDEN, 5.0f);
    fill(&weight[0][0], MAX_CLASSES * HIDDEN, 0.7f);
    fill(linear_bias, MAX_CLASSES, 0.5f);
    fill(bias, MAX_CLASSES, 0.9f);
    fill(input_scale, HIDDEN, 1.0f);
    fill(factors, EXPERTS, 1.0f);
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < HIDDEN; i++) weight_transposed[i][e] = weight[e][i];
    return 0;
}

// --- the formulas, in double
// ------------------------------------------------------------------------------------------

struct answer {
    int classes, k;
    bool chosen[MAX_CLASSES];
    double w[MAX_CLASSES];
};

static void logits_of(const float *row, int classes, const float *add, double *l)
{
    for (int e = 0; e < classes; e++) {
        l[e] = add ? (double)add[e] : 0.0;
        for (int i = 0; i < HIDDEN; i++) l[e] += (double)weight[e][i] * (double)row[i];
    }
}

static void top(const double *c, int from, int to, int k, bool *chosen)
{
    for (int j = 0; j < k; j++) {
        int best = -1;
        for (int e = from; e < to; e++)
            if (!chosen[e] && (best < 0 || c[e] > c[best])) best = e;
        chosen[best] = true;
    }
}

// Softmax over the classes marked in `of` (NULL: all).
static void softmax(const double *l, int n, const bool *of, double *p)
{
    double sum = 0;
    for (int e = 0; e < n; e++) sum += p[e] = of && !of[e] ? 0.0 : exp(l[e]);
    for (int e = 0; e < n; e++) p[e] /= sum;
}

static double sum_chosen(const struct answer *a)
{
    double sum = 0;
    for (int e = 0; e < a->classes; e++) sum += a->chosen[e] ? a->w[e] : 0.0;
    return sum;
}

static void times(struct answer *a, double factor)
{
    for (int e = 0; e < a->classes; e++) a->w[e] *= factor;
}

static double sigmoid(double v) { return 1.0 / (1.0 + exp(-v)); }

static void f1(int t, struct answer *a)
{
    double l[MAX_CLASSES];
    logits_of(x[t], EXPERTS, NULL, l);
    softmax(l, EXPERTS, NULL, a->w);
    top(a->w, 0, EXPERTS, a->k, a->chosen);
    times(a, 1.0 / sum_chosen(a));
}

static void f2(int t, struct answer *a)
{
    double l[MAX_CLASSES];
    logits_of(x[t], EXPERTS, NULL, l);
    softmax(l, EXPERTS, NULL, a->w);
    top(a->w, 0, EXPERTS, a->k, a->chosen);
    times(a, 2.5);
}

static void f3(int t, struct answer *a)
{
    double l[MAX_CLASSES];
    logits_of(x[t], EXPERTS, linear_bias, l);
    top(l, 0, EXPERTS, a->k, a->chosen);
    softmax(l, EXPERTS, a->chosen, a->w);
}

enum { GROUPS = 4, KEPT = 2, GROUP = EXPERTS / GROUPS };

// Experts of the KEPT groups with the largest score: their maximum, or the sum of their two largest.
static void mask_groups(double *c, bool sum2, double fill_value)
{
    double score[GROUPS];
    bool kept[GROUPS] = {false};
    for (int g = 0; g < GROUPS; g++) {
        bool best[EXPERTS] = {false};
        top(c, g * GROUP, (g + 1) * GROUP, sum2 ? 2 : 1, best);
        score[g] = 0;
        for (int e = 0; e < EXPERTS; e++) score[g] += best[e] ? c[e] : 0.0;
    }
    top(score, 0, GROUPS, KEPT, kept);
    for (int e = 0; e < EXPERTS; e++)
        if (!kept[e / GROUP]) c[e] = fill_value;
}

static void f4(int t, struct answer *a)
{
    double l[MAX_CLASSES], c[MAX_CLASSES];
    logits_of(x[t], EXPERTS, NULL, l);
    softmax(l, EXPERTS, NULL, a->w);
    memcpy(c, a->w, sizeof c);
    mask_groups(c, false, 0.0);
    top(c, 0, EXPERTS, a->k, a->chosen);
    times(a, 16);
}

static void f5(int t, struct answer *a)
{
    double l[MAX_CLASSES], c[MAX_CLASSES];
    logits_of(x[t], EXPERTS, NULL, l);
    softmax(l, EXPERTS, NULL, a->w);
    memcpy(c, a->w, sizeof c);
    mask_groups(c, true, 0.0);
    top(c, 0, EXPERTS, a->k, a->chosen);
    times(a, 3.0 / (sum_chosen(a) + 1e-20));
}

static void biased_softmax(int t, int classes, struct answer *a)
{
    double l[MAX_CLASSES], c[MAX_CLASSES];
    logits_of(x[t], classes, NULL, l);
    softmax(l, classes, NULL, a->w);
    for (int e = 0; e < classes; e++) c[e] = a->w[e] + (double)bias[e];
    top(c, 0, classes, a->k, a->chosen);
}

static void f6(int t, struct answer *a)
{
    biased_softmax(t, EXPERTS, a);
    times(a, 1.0 / fmax(sum_chosen(a), 1e-12));
}

static void f6_clamped(int t, struct answer *a)
{
    biased_softmax(t, EXPERTS, a);
    times(a, 1.0 / fmax(sum_chosen(a), 0.3));
}

static void f7(int t, struct answer *a)
{
    biased_softmax(t, EXPERTS + NULLS, a);
    times(a, 6.0);
}

static void p_norm(int t, struct answer *a, double p)
{
    double l[MAX_CLASSES], sum = 0;
    logits_of(x[t], EXPERTS, NULL, l);
    softmax(l, EXPERTS, NULL, a->w);
    top(a->w, 0, EXPERTS, a->k, a->chosen);
    for (int e = 0; e < EXPERTS; e++) sum += a->chosen[e] ? pow(fabs(a->w[e]), p) : 0.0;
    times(a, 1.0 / pow(sum, 1.0 / p));
}

static void f8_p1(int t, struct answer *a) { p_norm(t, a, 1); }
static void f8_p2(int t, struct answer *a) { p_norm(t, a, 2); }
static void f8_p3(int t, struct answer *a) { p_norm(t, a, 3); }

static void f9(int t, struct answer *a)
{
    double l[MAX_CLASSES] = {0}, square = 0;
    for (int i = 0; i < HIDDEN; i++) square += (double)aux[t][i] * (double)aux[t][i];
    const double norm = 1.0 / sqrt(square / HIDDEN + 1e-3);
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < HIDDEN; i++)
            l[e] += (double)weight[e][i] * (double)aux[t][i] * norm * (double)input_scale[i] / sqrt(HIDDEN);
    softmax(l, EXPERTS, NULL, a->w);
    top(a->w, 0, EXPERTS, a->k, a->chosen);
    times(a, 1.0 / sum_chosen(a));
    for (int e = 0; e < EXPERTS; e++) a->w[e] *= (double)factors[e];
}

// s = sigmoid(l), T = top k of s + b (grouped with `fill_value` unless it is NaN).
static void biased_sigmoid(int t, double logit_scale, double cap, double fill_value, struct answer *a)
{
    double l[MAX_CLASSES], c[MAX_CLASSES];
    logits_of(x[t], EXPERTS, NULL, l);
    for (int e = 0; e < EXPERTS; e++) {
        l[e] *= logit_scale;
        if (cap > 0) l[e] = cap * tanh(l[e] / cap);
        a->w[e] = sigmoid(l[e]);
        c[e] = a->w[e] + (double)bias[e];
    }
    if (!isnan(fill_value)) mask_groups(c, true, fill_value);
    top(c, 0, EXPERTS, a->k, a->chosen);
}

static void f10(int t, struct answer *a)
{
    biased_sigmoid(t, 1, 0, -(double)INFINITY, a);
    times(a, 2.5 / (sum_chosen(a) + 1e-20));
}

static void f11(int t, struct answer *a)
{
    biased_sigmoid(t, 1, 0, 0.0, a);
    times(a, 2.5 / (sum_chosen(a) + 1e-20));
}

// F11 with the mean of the bias taken out, which shows because dropped groups count as 0.
static void centred_bias(int t, struct answer *a)
{
    double l[MAX_CLASSES], c[MAX_CLASSES], mean = 0;
    for (int e = 0; e < EXPERTS; e++) mean += (double)bias[e] / EXPERTS;
    logits_of(x[t], EXPERTS, NULL, l);
    for (int e = 0; e < EXPERTS; e++) {
        a->w[e] = sigmoid(l[e]);
        c[e] = a->w[e] + ((double)bias[e] - mean);
    }
    mask_groups(c, true, 0.0);
    top(c, 0, EXPERTS, a->k, a->chosen);
}

static void f12(int t, struct answer *a)
{
    biased_sigmoid(t, 1, 0, (double)NAN, a);
    times(a, 1.5 / (sum_chosen(a) + 1e-6));
}

static void f13(int t, struct answer *a)
{
    biased_sigmoid(t, 1, 2, (double)NAN, a);
    times(a, 1.0 / sum_chosen(a));
}

static void scaled_logits(int t, struct answer *a)
{
    biased_sigmoid(t, 0.1768, 0, (double)NAN, a);
    times(a, 1.0 / (sum_chosen(a) + 1e-15));
}

static void f14(int t, struct answer *a)
{
    double l[MAX_CLASSES];
    logits_of(x[t], EXPERTS, NULL, l);
    top(l, 0, EXPERTS, a->k, a->chosen);
    for (int e = 0; e < EXPERTS; e++) a->w[e] = sigmoid(l[e]);
}

static void f15(int t, struct answer *a)
{
    f14(t, a);
    times(a, 1.0 / sum_chosen(a));
}

static void f16(int t, struct answer *a)
{
    double l[MAX_CLASSES], c[MAX_CLASSES];
    logits_of(x[t], EXPERTS, NULL, l);
    for (int e = 0; e < EXPERTS; e++) {
        a->w[e] = sqrt(log1p(exp(l[e])));
        c[e] = a->w[e] + (double)bias[e];
    }
    top(c, 0, EXPERTS, a->k, a->chosen);
    times(a, 1.5 / (sum_chosen(a) + 1e-20));
}

static void f18(int t, struct answer *a)
{
    double l[MAX_CLASSES];
    logits_of(x[t], EXPERTS, NULL, l);
    for (int e = 0; e < EXPERTS; e++) l[e] = 3.0 * tanh(l[e] / 3.0);
    softmax(l, EXPERTS, NULL, a->w);
    top(a->w, 0, EXPERTS, a->k, a->chosen);
}

static void f19(int t, struct answer *a)
{
    double l[MAX_CLASSES];
    logits_of(x[t], EXPERTS, NULL, l);
    softmax(l, EXPERTS, NULL, a->w);
    for (int g = 0; g < GROUPS; g++) top(a->w, g * GROUP, (g + 1) * GROUP, a->k / GROUPS, a->chosen);
    times(a, 1.0 / sum_chosen(a));
}

// kolibri1: chosen by the biased logits, weighed by the sigmoid of the unbiased ones.
static void by_logits(int t, struct answer *a)
{
    double l[MAX_CLASSES], c[MAX_CLASSES];
    logits_of(x[t], EXPERTS, NULL, l);
    for (int e = 0; e < EXPERTS; e++) {
        c[e] = l[e] + (double)bias[e];
        a->w[e] = sigmoid(l[e]);
    }
    top(c, 0, EXPERTS, a->k, a->chosen);
}

static const struct {
    const char *name, *type, *settings;
    int k;
    void (*formula)(int t, struct answer *a);
} cases[] = {
    {"F1", "linear", "\"norm\": \"sum\"", 4, f1},
    {"F1, weight stored [H, E]", "linear", "\"norm\": \"sum\", \"transposed\": true", 4, f1},
    {"F1, one expert per token: the weight is 1", "linear", "\"norm\": \"sum\"", 1, f1},
    {"F1, all experts", "linear", "\"norm\": \"sum\"", EXPERTS, f1},
    {"F2", "linear", "\"routed_scaling_factor\": 2.5", 4, f2},
    {"F3, preset topk", "topk", "\"linear_bias\": true", 4, f3},
    {"F4", "linear",
     "\"groups\": \"limited\", \"n_group\": 4, \"topk_group\": 2, \"group_score\": \"max\", \"group_fill\": \"0\","
     "\"routed_scaling_factor\": 16",
     4, f4},
    {"F5", "linear",
     "\"groups\": \"limited\", \"n_group\": 4, \"topk_group\": 2, \"group_score\": \"sum_top2\", \"group_fill\": \"0\","
     "\"norm\": \"sum\", \"norm_eps\": 1e-20, \"routed_scaling_factor\": 3",
     4, f5},
    {"F6", "linear", "\"score_correction_bias\": true, \"norm\": \"sum_clamped\", \"norm_eps\": 1e-12", 4, f6},
    {"F6, clamped", "linear", "\"score_correction_bias\": true, \"norm\": \"sum_clamped\", \"norm_eps\": 0.3", 4,
     f6_clamped},
    {"F7", "linear", "\"score_correction_bias\": true, \"null_experts\": 8, \"routed_scaling_factor\": 6", 5, f7},
    {"F8, p = 1", "linear", "\"norm\": \"p_norm\"", 4, f8_p1},
    {"F8, p = 2", "linear", "\"norm\": \"p_norm\", \"norm_p\": 2", 4, f8_p2},
    {"F8, p = 3", "linear", "\"norm\": \"p_norm\", \"norm_p\": 3", 4, f8_p3},
    {"F9", "linear",
     "\"input\": \"aux\", \"input_norm\": true, \"input_norm_eps\": 1e-3, \"input_scale_vector\": true,"
     "\"input_scale\": 0, \"norm\": \"sum\", \"per_expert_scale\": true",
     4, f9},
    {"F10, preset moe_gate", "moe_gate", "\"n_group\": 4, \"topk_group\": 2, \"routed_scaling_factor\": 2.5", 4, f10},
    {"F10, preset grouped_topk", "grouped_topk", "\"n_group\": 4, \"topk_group\": 2, \"routed_scaling_factor\": 2.5", 4,
     f10},
    {"F11", "moe_gate", "\"n_group\": 4, \"topk_group\": 2, \"group_fill\": \"0\", \"routed_scaling_factor\": 2.5", 4,
     f11},
    {"bias less its mean", "linear",
     "\"score\": \"sigmoid\", \"score_correction_bias\": true, \"selection_bias_subtract_mean\": true,"
     "\"groups\": \"limited\", \"n_group\": 4, \"topk_group\": 2, \"group_score\": \"sum_top2\", \"group_fill\": \"0\"",
     6, centred_bias},
    {"F12", "linear",
     "\"score\": \"sigmoid\", \"score_correction_bias\": true, \"norm\": \"sum\", \"norm_eps\": 1e-6,"
     "\"routed_scaling_factor\": 1.5",
     4, f12},
    {"F13", "linear",
     "\"score\": \"sigmoid\", \"score_correction_bias\": true, \"norm\": \"sum\", \"softcap\": 2,"
     "\"routed_scaling_factor\": 7, \"scale_on\": \"output\"",
     4, f13},
    {"F14", "linear", "\"score\": \"identity\", \"post\": \"sigmoid_k\", \"apply_weight\": \"input\"", 2, f14},
    {"F15", "linear", "\"score\": \"identity\", \"post\": \"sigmoid_k\", \"norm\": \"sum\"", 4, f15},
    {"F16", "linear",
     "\"score\": \"sqrt_softplus\", \"score_correction_bias\": true, \"norm\": \"sum\", \"norm_eps\": 1e-20,"
     "\"routed_scaling_factor\": 1.5",
     4, f16},
    {"F18", "linear", "\"softcap\": 3", 4, f18},
    {"F19", "linear", "\"groups\": \"per_group\", \"n_group\": 4, \"norm\": \"sum\"", 8, f19},
    {"selection by logits", "linear",
     "\"score\": \"sigmoid\", \"select_score\": \"identity\", \"score_correction_bias\": true", 6, by_logits},
    {"logit scale", "linear",
     "\"score\": \"sigmoid\", \"score_correction_bias\": true, \"norm\": \"sum\", \"norm_eps\": 1e-15,"
     "\"logit_scale\": 0.1768",
     4, scaled_logits},
};

enum { CASES = sizeof cases / sizeof *cases };

// --- a router of one case
// ---------------------------------------------------------------------------------------------

struct subject {
    moeblock_context *context;
    moeblock_config *config;
    const moeblock_router_class *kind;
    void *self, *scratch;
    int64_t width, k;
};

static moeblock_tensor named(const char *name, int64_t rows, int64_t columns, const float *data)
{
    moeblock_tensor tensor = {.name = name, .dtype = MOEBLOCK_F32, .rank = columns ? 2 : 1, .data = data};
    tensor.dims[0] = rows;
    tensor.dims[1] = columns;
    tensor.bytes = (size_t)(rows * (columns ? columns : 1)) * sizeof(float);
    return tensor;
}

static moeblock_weights *open_weights(const struct subject *s)
{
    static char names[5][256];
    static const enum mb_role roles[] = {MB_ROLE_ROUTER, MB_ROLE_ROUTER_BIAS, MB_ROLE_SELECTION_BIAS,
                                         MB_ROLE_INPUT_SCALE, MB_ROLE_PER_EXPERT_SCALE};
    for (int i = 0; i < 5; i++) mb_role_name(s->config, roles[i], 0, 0, names[i]);
    const moeblock_tensor matrix = s->config->router.transposed
                                       ? named(names[0], HIDDEN, EXPERTS, &weight_transposed[0][0])
                                       : named(names[0], s->width, HIDDEN, &weight[0][0]);
    const moeblock_tensor tensors[] = {matrix, named(names[1], s->width, 0, linear_bias),
                                       named(names[2], s->width, 0, bias), named(names[3], HIDDEN, 0, input_scale),
                                       named(names[4], EXPERTS, 0, factors)};
    moeblock_weights *weights = NULL;
    assert_int_equal(moeblock_weights_from_tensors(s->context, tensors, 5, &weights, NULL), MOEBLOCK_OK);
    return weights;
}

static void load(struct subject *s)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    moeblock_weights *weights = open_weights(s);
    if (s->kind->load(s->self, weights, 0, &error) != MOEBLOCK_OK) fail_msg("%s", error.message);
    moeblock_weights_destroy(&weights);
}

static moeblock_config *configure(moeblock_context *context, const char *type, const char *settings, int64_t experts,
                                  int64_t k)
{
    char text[1024];
    const int length =
        snprintf(text, sizeof text,
                 "{\"model\": {\"hidden_size\": %d, \"num_experts\": %lld, \"num_experts_per_tok\": %lld},"
                 "\"router\": {\"type\": \"%s\", \"config\": {%s}},"
                 "\"experts\": {\"distributed\": {\"intermediate_size\": 8}}}",
                 HIDDEN, (long long)experts, (long long)k, type, settings);
    moeblock_config *config = NULL;
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (moeblock_config_parse(context, text, (size_t)length, "test", NULL, &config, &error) != MOEBLOCK_OK)
        fail_msg("%s", error.message);
    return config;
}

static struct subject open_subject(const char *type, const char *settings, int64_t experts, int64_t k)
{
    struct subject s = {.k = k};
    moeblock_error error = {MOEBLOCK_OK, ""};
    const moeblock_context_options options = {.struct_size = sizeof options, .threads = 1, .cpu_level = "ref"};
    assert_int_equal(moeblock_context_create(&options, &s.context, &error), MOEBLOCK_OK);
    s.config = configure(s.context, type, settings, experts, k);
    const struct mb_registered *registered = mb_registered_find(s.context, MB_ROUTER_KIND, type);
    assert_non_null(registered);
    s.kind = registered->class_copy;
    const moeblock_router_build build = {.struct_size = sizeof build,
                                         .context = s.context,
                                         .config = s.config,
                                         .config_json = "{}",
                                         .hidden = HIDDEN,
                                         .experts = experts,
                                         .top_k = k,
                                         .slots = k};
    if (s.kind->create(registered->user, &build, &s.self, &error) != MOEBLOCK_OK) fail_msg("%s", error.message);
    s.width = s.kind->width(s.self);
    s.scratch = mb_alloc(&s.context->allocator, s.kind->scratch_bytes(s.self));
    assert_non_null(s.scratch);
    return s;
}

static struct subject open_case(int i)
{
    struct subject s = open_subject(cases[i].type, cases[i].settings, EXPERTS, cases[i].k);
    load(&s);
    return s;
}

static void close_subject(struct subject *s)
{
    mb_free(&s->context->allocator, s->scratch);
    s->kind->destroy(s->self);
    moeblock_config_destroy(&s->config);
    moeblock_context_destroy(&s->context);
}

static void compute_logits(const struct subject *s, const float *rows, const float *aux_rows, int64_t tokens,
                           int64_t c0, int64_t c1, float *out)
{
    const moeblock_router_input input = {.struct_size = sizeof input,
                                         .tokens = tokens,
                                         .x = rows,
                                         .x_stride = HIDDEN,
                                         .aux = aux_rows,
                                         .aux_stride = HIDDEN,
                                         .scratch = s->scratch};
    assert_int_equal(s->kind->logits(s->self, &input, c0, c1, out, s->width, NULL), MOEBLOCK_OK);
}

static void choose(const struct subject *s, const float *logits, int64_t tokens, int32_t *ids, float *weights)
{
    const moeblock_router_input input = {.struct_size = sizeof input, .tokens = tokens, .scratch = s->scratch};
    assert_int_equal(s->kind->select(s->self, &input, logits, s->width, ids, weights, NULL), MOEBLOCK_OK);
}

// --- tests
// ------------------------------------------------------------------------------------------------------------

static void formulas(void **state)
{
    (void)state;
    static float logits[TOKENS * MAX_CLASSES], weights[TOKENS * MAX_CLASSES];
    static int32_t ids[TOKENS * MAX_CLASSES];
    for (int i = 0; i < CASES; i++) {
        struct subject s = open_case(i);
        compute_logits(&s, &x[0][0], &aux[0][0], TOKENS, 0, s.width, logits);
        choose(&s, logits, TOKENS, ids, weights);
        for (int t = 0; t < TOKENS; t++) {
            struct answer a = {.classes = (int)s.width, .k = cases[i].k};
            cases[i].formula(t, &a);
            for (int64_t j = 0; j < s.k; j++) {
                const int64_t at = t * s.k + j;
                if (!a.chosen[ids[at]]) fail_msg("%s: token %d chose %d", cases[i].name, t, (int)ids[at]);
                const double expected = a.w[ids[at]], found = (double)weights[at];
                if (!(fabs(found - expected) <= 1e-5 * fabs(expected)))
                    fail_msg("%s: token %d, expert %d: weight %g, expected %g", cases[i].name, t, (int)ids[at], found,
                             expected);
            }
        }
        close_subject(&s);
    }
}

// Slots: distinct, in range, descending weight, ties by lower id, NaN last.
static void check_slots(const char *name, const int32_t *ids, const float *weights, int64_t k, int64_t classes)
{
    bool seen[MAX_CLASSES] = {false};
    for (int64_t j = 0; j < k; j++) {
        if (ids[j] < 0 || ids[j] >= classes || seen[ids[j]]) fail_msg("%s: id %d in slot %d", name, ids[j], (int)j);
        seen[ids[j]] = true;
        if (j == 0) continue;
        const float before = weights[j - 1], after = weights[j];
        const bool ordered = isnan(after) ? !isnan(before) || ids[j - 1] < ids[j]
                                          : before > after || (before == after && ids[j - 1] < ids[j]);
        if (!ordered) fail_msg("%s: slot %d (%g) after %g", name, (int)j, (double)after, (double)before);
    }
}

static void any_logits_give_distinct_ids_in_order(void **state)
{
    (void)state;
    static const float special[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1.0f, -200.0f, 3.4e38f, -3.4e38f, 1e-38f};
    enum { ROWS = 300 };
    static float logits[ROWS * MAX_CLASSES], weights[ROWS * MAX_CLASSES];
    static int32_t ids[ROWS * MAX_CLASSES];
    for (int i = 0; i < CASES; i++) {
        struct subject s = open_case(i);
        for (int64_t t = 0; t < ROWS; t++)
            for (int64_t e = 0; e < s.width; e++) {
                const int draw = (int)((uniform() + 1.0f) * 1e6f);
                logits[t * s.width + e] = t % 3 == 0   ? special[draw % 10]
                                          : t % 3 == 1 ? (draw % 5 ? uniform() : special[draw / 5 % 10])
                                                       : (float)(draw % 2);
            }
        choose(&s, logits, ROWS, ids, weights);
        for (int64_t t = 0; t < ROWS; t++) check_slots(cases[i].name, ids + t * s.k, weights + t * s.k, s.k, s.width);
        close_subject(&s);
    }
}

static void a_row_of_nan_gives_the_first_ids_and_nan(void **state)
{
    (void)state;
    float logits[3 * MAX_CLASSES], weights[3 * MAX_CLASSES], alone[MAX_CLASSES];
    int32_t ids[3 * MAX_CLASSES], ids_alone[MAX_CLASSES];
    for (int i = 0; i < CASES; i++) {
        struct subject s = open_case(i);
        compute_logits(&s, &x[0][0], &aux[0][0], 3, 0, s.width, logits);
        choose(&s, logits + 2 * s.width, 1, ids_alone, alone);
        for (int64_t e = 0; e < s.width; e++) logits[s.width + e] = NAN;
        choose(&s, logits, 3, ids, weights);
        for (int64_t j = 0; j < s.k; j++) {
            const bool masked_win =
                s.config->router.groups == MB_GROUPS_LIMITED && s.config->router.group_fill == MB_FILL_ZERO;
            const bool per_group = s.config->router.groups == MB_GROUPS_PER_GROUP;
            if (!masked_win && !per_group) assert_int_equal(ids[s.k + j], j);
            assert_true(isnan(weights[s.k + j]));
        }
        assert_memory_equal(ids + 2 * s.k, ids_alone, (size_t)s.k * sizeof *ids);
        assert_memory_equal(weights + 2 * s.k, alone, (size_t)s.k * sizeof *alone);
        close_subject(&s);
    }
}

static void rows_and_column_ranges_are_independent(void **state)
{
    (void)state;
    static float whole[TOKENS * MAX_CLASSES], parts[TOKENS * MAX_CLASSES], weights[TOKENS * MAX_CLASSES];
    static int32_t ids[TOKENS * MAX_CLASSES];
    for (int i = 0; i < CASES; i++) {
        struct subject s = open_case(i);
        compute_logits(&s, &x[0][0], &aux[0][0], TOKENS, 0, s.width, whole);
        choose(&s, whole, TOKENS, ids, weights);
        for (int64_t c = 0; c < s.width; c += s.context->kernels->granule) {
            const int64_t end = c + s.context->kernels->granule;
            compute_logits(&s, &x[0][0], &aux[0][0], TOKENS, c, end < s.width ? end : s.width, parts);
        }
        assert_memory_equal(parts, whole, (size_t)(TOKENS * s.width) * sizeof *whole);
        for (int64_t t = TOKENS - 1; t >= 0; t--) { // one by one, backwards
            float alone[MAX_CLASSES];
            int32_t ids_alone[MAX_CLASSES];
            compute_logits(&s, x[t], aux[t], 1, 0, s.width, parts);
            choose(&s, parts, 1, ids_alone, alone);
            assert_memory_equal(ids_alone, ids + t * s.k, (size_t)s.k * sizeof *ids);
            assert_memory_equal(alone, weights + t * s.k, (size_t)s.k * sizeof *alone);
        }
        close_subject(&s);
    }
}

// The same bytes as the scalar reference's router, for wild inputs too.
static void the_reference_agrees(void **state)
{
    (void)state;
    static const float wild[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-40f, 0.0f, -0.0f};
    static float logits[TOKENS * MAX_CLASSES], found[TOKENS * MAX_CLASSES], expected[TOKENS * MAX_CLASSES];
    static float sorted[TOKENS * MAX_CLASSES];
    static int32_t ids[TOKENS * MAX_CLASSES], expected_ids[TOKENS * MAX_CLASSES], sorted_ids[TOKENS * MAX_CLASSES];
    for (int t = TOKENS / 2; t < TOKENS; t++) x[t][t % HIDDEN] = aux[t][t % HIDDEN] = wild[t % 8];
    for (int i = 0; i < CASES; i++) {
        struct subject s = open_case(i);
        moeblock_weights *weights = open_weights(&s);
        struct mb_reference reference = {.allocator = &s.context->allocator,
                                         .config = s.config,
                                         .weights = weights,
                                         .tokens = TOKENS,
                                         .hidden = HIDDEN,
                                         .classes = s.width,
                                         .k = s.k,
                                         .slots = s.k,
                                         .input = &(struct mb_reference_input){.x = &x[0][0], .aux = &aux[0][0]}};
        const size_t slots = (size_t)(TOKENS * s.k);
        const uint64_t mode = mb_flush_begin();
        compute_logits(&s, &x[0][0], &aux[0][0], TOKENS, 0, s.width, logits);
        choose(&s, logits, TOKENS, ids, found);
        assert_int_equal(mb_reference_route(&reference, sorted_ids, sorted, expected_ids, expected), MOEBLOCK_OK);
        mb_flush_end(mode);
        if (memcmp(ids, expected_ids, slots * sizeof *ids)) fail_msg("%s: other ids", cases[i].name);
        if (memcmp(found, expected, slots * sizeof *found)) fail_msg("%s: other weights", cases[i].name);
        mb_reference_release(&reference, NULL);
        moeblock_weights_destroy(&weights);
        close_subject(&s);
    }
    make_problem(NULL);
}

// A masked expert at 0 wins over an allowed one with a negative score; at -infinity it never does.
static void fill_of_masked_groups(void **state)
{
    (void)state;
    static const char *const settings[] = {
        "\"score\": \"identity\", \"groups\": \"limited\", \"n_group\": 2, \"topk_group\": 1, \"group_fill\": \"-inf\"",
        "\"score\": \"identity\", \"groups\": \"limited\", \"n_group\": 2, \"topk_group\": 1, \"group_fill\": \"0\""};
    static const int32_t expected[][2] = {{3, 2}, {0, 1}};
    for (int i = 0; i < 2; i++) {
        struct subject s = open_subject("linear", settings[i], 4, 2);
        const float logits[] = {-3.0f, -4.0f, -2.0f, -1.0f};
        int32_t ids[2];
        float weights[2];
        choose(&s, logits, 1, ids, weights);
        assert_memory_equal(ids, expected[i], sizeof ids);
        // Chosen at 0 or not, the weights are the unmasked scores.
        for (int j = 0; j < 2; j++) assert_true(weights[j] == logits[expected[i][j]]);
        close_subject(&s);
    }
}

// Large biases must not touch the weights: they are gathered, never "biased minus bias".
static void weights_are_unbiased(void **state)
{
    (void)state;
    for (int e = 0; e < EXPERTS; e++) bias[e] += 1e6f * (float)(e % 3);
    struct subject s = open_subject("linear", "\"score\": \"sigmoid\", \"score_correction_bias\": true", EXPERTS, 5);
    load(&s);
    const float logits[EXPERTS] = {[2] = 1, [5] = 2, [8] = 3, [11] = 4, [14] = 5};
    int32_t ids[5];
    float weights[5];
    choose(&s, logits, 1, ids, weights);
    for (int j = 0; j < 5; j++) {
        assert_int_equal(ids[j], 14 - 3 * j);
        assert_true(fabs((double)weights[j] - sigmoid(5.0 - j)) < 1e-6);
    }
    close_subject(&s);
    make_problem(NULL);
}

static void equal_logits_choose_the_lowest_ids(void **state)
{
    (void)state;
    struct subject s = open_subject("linear", "\"norm\": \"sum\"", 4096, 4096);
    static float logits[4096], weights[4096];
    static int32_t ids[4096];
    choose(&s, logits, 1, ids, weights);
    for (int j = 0; j < 4096; j++) assert_int_equal(ids[j], j);
    close_subject(&s);
}

static void impossible_counts_are_refused(void **state)
{
    (void)state;
    struct subject s = open_subject("linear", "\"groups\": \"limited\", \"n_group\": 4, \"topk_group\": 2", EXPERTS, 4);
    static const struct {
        int64_t k, n_group, topk_group;
        enum mb_groups groups;
        const char *key;
    } refused[] = {{0, 4, 2, MB_GROUPS_LIMITED, "num_experts_per_tok"},
                   {17, 4, 2, MB_GROUPS_NONE, "num_experts_per_tok"},
                   {9, 4, 2, MB_GROUPS_LIMITED, "topk_group"},
                   {4, 4, 5, MB_GROUPS_LIMITED, "topk_group"},
                   {4, 3, 2, MB_GROUPS_LIMITED, "n_group"},
                   {6, 4, 2, MB_GROUPS_PER_GROUP, "num_experts_per_tok"}};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        s.config->router.groups = refused[i].groups;
        s.config->router.n_group = refused[i].n_group;
        s.config->router.topk_group = refused[i].topk_group;
        const moeblock_router_build build = {.struct_size = sizeof build,
                                             .context = s.context,
                                             .config = s.config,
                                             .hidden = HIDDEN,
                                             .experts = EXPERTS,
                                             .top_k = refused[i].k,
                                             .slots = refused[i].k};
        moeblock_error error = {MOEBLOCK_OK, ""};
        void *self = &error;
        assert_int_equal(s.kind->create(NULL, &build, &self, &error), MOEBLOCK_INVALID_CONFIG);
        assert_null(self);
        assert_non_null(strstr(error.message, refused[i].key));
    }
    close_subject(&s);
}

static void aux_is_asked_for(void **state)
{
    (void)state;
    struct subject s = open_subject("linear", "\"input\": \"aux\"", EXPERTS, 4);
    load(&s);
    float logits[EXPERTS];
    const moeblock_router_input input = {.struct_size = sizeof input, .tokens = 1, .x = x[0], .scratch = s.scratch};
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(s.kind->logits(s.self, &input, 0, EXPERTS, logits, EXPERTS, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "aux"));
    close_subject(&s);
}

// Logits and weights in the stored type of the router's weight: representable there, and within a rounding or two of
// the exact ones. A float32 weight rounds nothing.
static void precision_of_the_model(void **state)
{
    (void)state;
    static const moeblock_dtype types[] = {MOEBLOCK_BF16, MOEBLOCK_F16, MOEBLOCK_F32};
    static float logits[TOKENS * EXPERTS], weights[TOKENS * 4], exact[EXPERTS][HIDDEN];
    static uint16_t half[EXPERTS * HIDDEN];
    int32_t ids[TOKENS * 4];
    for (int i = 0; i < 3; i++) {
        struct subject s = open_subject("linear", "\"score\": \"sigmoid\", \"precision\": \"model\"", EXPERTS, 4);
        const bool bf16 = types[i] == MOEBLOCK_BF16, whole = types[i] == MOEBLOCK_F32;
        char name[256];
        for (int e = 0; e < EXPERTS * HIDDEN; e++) {
            const float value = weight[e / HIDDEN][e % HIDDEN];
            half[e] = bf16 ? mb_to_bf16(value) : mb_to_f16(value);
            exact[e / HIDDEN][e % HIDDEN] = whole ? value : bf16 ? mb_from_bf16(half[e]) : mb_from_f16(half[e]);
        }
        mb_role_name(s.config, MB_ROLE_ROUTER, 0, 0, name);
        moeblock_tensor tensor = named(name, EXPERTS, HIDDEN, &weight[0][0]);
        tensor.dtype = types[i];
        if (!whole) tensor.data = half, tensor.bytes = sizeof half;
        moeblock_weights *stored = NULL;
        assert_int_equal(moeblock_weights_from_tensors(s.context, &tensor, 1, &stored, NULL), MOEBLOCK_OK);
        assert_int_equal(s.kind->load(s.self, stored, 0, NULL), MOEBLOCK_OK);
        moeblock_weights_destroy(&stored);
        compute_logits(&s, &x[0][0], NULL, TOKENS, 0, EXPERTS, logits);
        choose(&s, logits, TOKENS, ids, weights);
        const double unit = whole ? 1e-6 : bf16 ? 1.0 / 256 : 1.0 / 2048;
        int rounded = 0;
        for (int j = 0; j < TOKENS * EXPERTS; j++) {
            double sum = 0;
            for (int h = 0; h < HIDDEN; h++) sum += (double)exact[j % EXPERTS][h] * (double)x[j / EXPERTS][h];
            assert_true(fabs((double)logits[j] - sum) <= unit * fabs(sum) + 1e-6);
            const float nearest = bf16 ? mb_round_bf16(logits[j]) : mb_from_f16(mb_to_f16(logits[j]));
            rounded += nearest == logits[j];
        }
        assert_int_equal(whole ? rounded < TOKENS : rounded, whole ? 1 : TOKENS * EXPERTS);
        for (int j = 0; j < TOKENS * 4; j++) {
            const double score = sigmoid((double)logits[j / 4 * EXPERTS + ids[j]]);
            assert_true(fabs((double)weights[j] - score) <= unit * score + 1e-6);
            const float nearest = bf16 ? mb_round_bf16(weights[j]) : mb_from_f16(mb_to_f16(weights[j]));
            assert_true(whole || nearest == weights[j]);
        }
        close_subject(&s);
    }
}

static void needs_name_the_tensors(void **state)
{
    (void)state;
    struct subject s = open_subject("linear",
                                    "\"score_correction_bias\": true, \"null_experts\": 8, \"transposed\": true,"
                                    "\"per_expert_scale\": true",
                                    EXPERTS, 4);
    moeblock_tensor_need need;
    char name[256];
    assert_int_equal(s.kind->need(s.self, 7, 0, &need), 1);
    mb_role_name(s.config, MB_ROLE_ROUTER, 7, 0, name);
    assert_string_equal(need.name, name);
    assert_int_equal(need.rank, 2);
    assert_int_equal(need.dims[0], HIDDEN);
    assert_int_equal(need.dims[1], EXPERTS + NULLS);
    assert_int_equal(s.kind->need(s.self, 7, 1, &need), 1);
    mb_role_name(s.config, MB_ROLE_SELECTION_BIAS, 7, 0, name);
    assert_string_equal(need.name, name);
    assert_int_equal(need.dims[0], EXPERTS + NULLS);
    assert_int_equal(s.kind->need(s.self, 7, 2, &need), 1);
    assert_int_equal(need.dims[0], EXPERTS);
    assert_int_equal(s.kind->need(s.self, 7, 3, &need), 0);
    close_subject(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formulas),
        cmocka_unit_test(any_logits_give_distinct_ids_in_order),
        cmocka_unit_test(a_row_of_nan_gives_the_first_ids_and_nan),
        cmocka_unit_test(rows_and_column_ranges_are_independent),
        cmocka_unit_test(the_reference_agrees),
        cmocka_unit_test(fill_of_masked_groups),
        cmocka_unit_test(weights_are_unbiased),
        cmocka_unit_test(equal_logits_choose_the_lowest_ids),
        cmocka_unit_test(impossible_counts_are_refused),
        cmocka_unit_test(aux_is_asked_for),
        cmocka_unit_test(precision_of_the_model),
        cmocka_unit_test(needs_name_the_tensors),
    };
    return cmocka_run_group_tests(tests, make_problem, NULL);
}
