// SPDX-License-Identifier: Apache-2.0
// A router and an expert kind from outside.
#include "support/outside_kinds.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/float.h"

const char outside_sentence[] = "the outside kind has a reason of its own";

static moeblock_status fails(struct outside *test, enum outside_call call, moeblock_error *error)
{
    if (test->fails != call) return MOEBLOCK_OK;
    if (error && !test->silent) {
        error->code = test->status;
        snprintf(error->message, sizeof error->message, "%s", outside_sentence);
    }
    return test->status;
}

static moeblock_status read_floats(moeblock_weights *weights, const char *name, int64_t first, int64_t count, float *to,
                                   moeblock_error *error)
{
    moeblock_tensor_info tensor;
    const moeblock_status found = moeblock_weights_find(weights, name, &tensor, error);
    if (found != MOEBLOCK_OK) return found;
    return moeblock_weights_read(weights, &tensor, (uint64_t)first * sizeof(float), (size_t)count * sizeof(float), to,
                                 error);
}

// --- the router ------------------------------------------------------------------------------------------------------

struct router {
    struct outside *test;
    int64_t hidden, experts, top_k;
    float *table;
};

static moeblock_status router_create(void *user, const moeblock_router_build *build, void **self, moeblock_error *error)
{
    struct outside *test = user;
    snprintf(test->router_json, sizeof test->router_json, "%s", build->config_json);
    test->router_hidden = build->hidden;
    test->router_experts = build->experts;
    test->router_top_k = build->top_k;
    const moeblock_status status = fails(test, OUTSIDE_ROUTER_CREATE, error);
    if (status != MOEBLOCK_OK) return status;
    struct router *router = calloc(1, sizeof *router);
    *router = (struct router){test, build->hidden, build->experts, build->top_k, NULL};
    router->table = calloc((size_t)(build->hidden * build->experts), sizeof(float));
    test->created++;
    *self = router;
    return MOEBLOCK_OK;
}

static void router_destroy(void *self)
{
    struct router *router = self;
    router->test->destroyed++;
    free(router->table);
    free(router);
}

static moeblock_status router_load(void *self, moeblock_weights *weights, int64_t layer, moeblock_error *error)
{
    (void)layer;
    struct router *router = self;
    const moeblock_status status = fails(router->test, OUTSIDE_ROUTER_LOAD, error);
    if (status != MOEBLOCK_OK) return status;
    return read_floats(weights, "router.table", 0, router->hidden * router->experts, router->table, error);
}

static int64_t router_width(const void *self) { return ((const struct router *)self)->experts; }

static size_t router_scratch(const void *self) { return (size_t)((const struct router *)self)->experts + 1; }

static float logit(const float *table, const float *x, int64_t hidden)
{
    float sum = 0;
    for (int64_t i = 0; i < hidden; i++) sum += table[i] * x[i];
    return sum;
}

static moeblock_status router_logits(const void *self, const moeblock_router_input *input, int64_t c0, int64_t c1,
                                     float *out, int64_t stride, moeblock_error *error)
{
    const struct router *router = self;
    if (c0 < 0 || c1 <= c0 || c1 > router->experts) router->test->broken_promises++;
    for (int64_t t = 0; t < input->tokens; t++)
        for (int64_t c = c0; c < c1; c++)
            out[t * stride + c] =
                logit(router->table + c * router->hidden, input->x + t * input->x_stride, router->hidden);
    return fails(router->test, OUTSIDE_ROUTER_LOGITS, error);
}

// The top_k largest logits, the lower id first among equals; `taken` has a byte an expert.
static void choose(const float *logits, int64_t experts, int64_t top_k, char *taken, int32_t *ids, float *weights)
{
    memset(taken, 0, (size_t)experts);
    for (int64_t j = 0; j < top_k; j++) {
        int64_t best = -1;
        for (int64_t e = 0; e < experts; e++)
            if (!taken[e] && (best < 0 || logits[e] > logits[best])) best = e;
        taken[best] = 1;
        ids[j] = (int32_t)best;
        weights[j] = 1 / (1 + fabsf(logits[best]));
    }
}

static moeblock_status router_select(const void *self, const moeblock_router_input *input, const float *logits,
                                     int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    const struct router *router = self;
    struct outside *test = router->test;
    if ((uintptr_t)input->scratch % 64) test->broken_promises++;
    test->token_ids_seen += input->token_ids != NULL;
    test->aux_seen += input->aux != NULL;
    for (int64_t t = 0; t < input->tokens; t++) {
        int32_t *row = ids + t * router->top_k;
        choose(logits + t * stride, router->experts, router->top_k, input->scratch, row, weights + t * router->top_k);
        if (input->x[t * input->x_stride] == OUTSIDE_MARK) memcpy(row, test->bad_ids, sizeof test->bad_ids);
        if (input->token_ids && input->token_ids[t] != (int64_t)input->x[t * input->x_stride]) test->broken_promises++;
        if (input->aux && input->aux[t * input->aux_stride] != -input->x[t * input->x_stride]) test->broken_promises++;
    }
    return fails(test, OUTSIDE_ROUTER_SELECT, error);
}

const moeblock_router_class outside_router = {.struct_size = sizeof outside_router,
                                              .create = router_create,
                                              .destroy = router_destroy,
                                              .load = router_load,
                                              .width = router_width,
                                              .scratch_bytes = router_scratch,
                                              .logits = router_logits,
                                              .select = router_select};

// --- the experts -----------------------------------------------------------------------------------------------------

struct experts {
    struct outside *test;
    moeblock_expert_build build;
    bool splits;
    float *in, *out; // [experts][inner][hidden], [experts][hidden][inner]; NaN where this rank owns nothing
};

static moeblock_status experts_create(struct outside *test, bool splits, const moeblock_expert_build *build,
                                      void **self, moeblock_error *error)
{
    snprintf(test->expert_json, sizeof test->expert_json, "%s", build->config_json);
    test->expert_build = *build;
    const moeblock_status status = fails(test, OUTSIDE_EXPERT_CREATE, error);
    if (status != MOEBLOCK_OK) return status;
    struct experts *experts = calloc(1, sizeof *experts);
    const size_t each = (size_t)(build->experts * build->hidden * build->intermediate);
    *experts = (struct experts){test, *build, splits, malloc(each * sizeof(float)), malloc(each * sizeof(float))};
    for (size_t i = 0; i < each; i++) experts->in[i] = experts->out[i] = NAN;
    test->created++;
    *self = experts;
    return MOEBLOCK_OK;
}

static moeblock_status splitting_create(void *user, const moeblock_expert_build *build, void **self,
                                        moeblock_error *error)
{
    return experts_create(user, true, build, self, error);
}

static moeblock_status whole_create(void *user, const moeblock_expert_build *build, void **self, moeblock_error *error)
{
    return experts_create(user, false, build, self, error);
}

static void experts_destroy(void *self)
{
    struct experts *experts = self;
    experts->test->destroyed++;
    free(experts->in);
    free(experts->out);
    free(experts);
}

// One item a rank's expert: pack reads what open has not.
static moeblock_status experts_open(void *self, moeblock_weights *weights, int64_t layer, int64_t *items,
                                    moeblock_error *error)
{
    (void)layer;
    struct experts *experts = self;
    const moeblock_expert_build *build = &experts->build;
    const int64_t hidden = build->hidden, inner = build->intermediate;
    *items = build->e1 - build->e0;
    char name[64];
    for (int64_t e = build->e0; e < build->e1; e++) {
        snprintf(name, sizeof name, "experts.%d.in", (int)e);
        float *in = experts->in + (e * inner + build->i0) * hidden;
        moeblock_status status =
            read_floats(weights, name, build->i0 * hidden, (build->i1 - build->i0) * hidden, in, error);
        snprintf(name, sizeof name, "experts.%d.out", (int)e);
        float *out = experts->out + (e * hidden + build->h0) * inner;
        if (status == MOEBLOCK_OK)
            status = read_floats(weights, name, build->h0 * inner, (build->h1 - build->h0) * inner, out, error);
        if (status != MOEBLOCK_OK) return status;
    }
    return fails(experts->test, OUTSIDE_EXPERT_OPEN, error);
}

static moeblock_status experts_pack(void *self, int64_t item, moeblock_error *error)
{
    struct experts *experts = self;
    if (item < 0 || item >= experts->build.e1 - experts->build.e0) experts->test->broken_promises++;
    return fails(experts->test, OUTSIDE_EXPERT_PACK, error);
}

// An odd number, so that a wrong sum of sizes shows.
static size_t experts_scratch(const void *self, int64_t m)
{
    (void)self;
    return (size_t)m * 12 + 37;
}

static int64_t experts_granule(const void *self) { return ((const struct experts *)self)->test->granule; }

static float element(const struct experts *experts, const void *row, int64_t i)
{
    if (experts->build.compute == MOEBLOCK_COMPUTE_F32) return ((const float *)row)[i];
    return mb_from_bf16(((const uint16_t *)row)[i]);
}

static float rounded(moeblock_compute compute, float value)
{
    return compute == MOEBLOCK_COMPUTE_F32 ? value : mb_round_bf16(value);
}

static float squared_relu(float value) { return value > 0 ? value * value : 0; }

// What every call may rely on. Fills the scratch, which then must lie beside everything else.
static void check_call(const struct experts *experts, const moeblock_expert_call *call, int64_t begin, int64_t end)
{
    const moeblock_expert_build *build = &experts->build;
    bool kept = call->expert >= build->e0 && call->expert < build->e1 && call->m >= 1 && call->out_stride >= 1;
    if (experts->splits)
        kept &= call->c0 >= begin && call->c0 < call->c1 && call->c1 <= end &&
                (call->c0 - begin) % experts->test->granule == 0;
    else
        kept &= call->c0 == begin && call->c1 == end;
    kept &= (uintptr_t)call->scratch % 64 == 0;
    if (!kept) experts->test->broken_promises++;
    memset(call->scratch, 0xff, experts_scratch(experts, call->m));
}

static float dot(const struct experts *experts, const float *weights, const void *row, int64_t n)
{
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += weights[i] * element(experts, row, i);
    return sum;
}

static moeblock_status experts_inner(const void *self, const moeblock_expert_call *call, moeblock_error *error)
{
    const struct experts *experts = self;
    const moeblock_expert_build *build = &experts->build;
    experts->test->inner_calls++;
    check_call(experts, call, build->i0, build->i1);
    for (int64_t r = 0; r < call->m; r++)
        for (int64_t c = call->c0; c < call->c1; c++) {
            const float *weights = experts->in + (call->expert * build->intermediate + c) * build->hidden;
            const float value = squared_relu(dot(experts, weights, call->rows[r], build->hidden));
            const int64_t at = r * call->out_stride + c - call->c0;
            if (build->compute == MOEBLOCK_COMPUTE_F32)
                ((float *)call->out)[at] = value;
            else
                ((uint16_t *)call->out)[at] = mb_to_bf16(value);
        }
    return fails(experts->test, OUTSIDE_EXPERT_INNER, error);
}

static moeblock_status experts_outer(const void *self, const moeblock_expert_call *call, moeblock_error *error)
{
    const struct experts *experts = self;
    const moeblock_expert_build *build = &experts->build;
    experts->test->outer_calls++;
    check_call(experts, call, build->h0, build->h1);
    for (int64_t r = 0; r < call->m; r++)
        for (int64_t c = call->c0; c < call->c1; c++) {
            const float *weights = experts->out + (call->expert * build->hidden + c) * build->intermediate;
            const float value = dot(experts, weights, call->rows[r], build->intermediate);
            ((float *)call->out)[r * call->out_stride + c - call->c0] = rounded(build->compute, value);
        }
    return fails(experts->test, OUTSIDE_EXPERT_OUTER, error);
}

const moeblock_expert_class outside_splitting = {.struct_size = sizeof outside_splitting,
                                                 .splits = 1,
                                                 .create = splitting_create,
                                                 .destroy = experts_destroy,
                                                 .open = experts_open,
                                                 .pack = experts_pack,
                                                 .scratch_bytes = experts_scratch,
                                                 .granule = experts_granule,
                                                 .inner = experts_inner,
                                                 .outer = experts_outer};

const moeblock_expert_class outside_whole = {.struct_size = sizeof outside_whole,
                                             .splits = 0,
                                             .create = whole_create,
                                             .destroy = experts_destroy,
                                             .open = experts_open,
                                             .pack = experts_pack,
                                             .scratch_bytes = experts_scratch,
                                             .inner = experts_inner,
                                             .outer = experts_outer};

// --- the same in plain loops -----------------------------------------------------------------------------------------

static void one_expert(const struct outside_tables *tables, moeblock_compute compute, int64_t e, const float *x,
                       float *out)
{
    const float *in = tables->in + e * tables->inner * tables->hidden;
    const float *down = tables->out + e * tables->inner * tables->hidden;
    float *activation = calloc((size_t)tables->inner, sizeof *activation);
    for (int64_t i = 0; i < tables->inner; i++) {
        float sum = 0;
        for (int64_t h = 0; h < tables->hidden; h++) sum += in[i * tables->hidden + h] * rounded(compute, x[h]);
        activation[i] = rounded(compute, squared_relu(sum));
    }
    for (int64_t h = 0; h < tables->hidden; h++) {
        float sum = 0;
        for (int64_t i = 0; i < tables->inner; i++) sum += down[h * tables->inner + i] * activation[i];
        out[h] = rounded(compute, sum);
    }
    free(activation);
}

void outside_expected(const struct outside_tables *tables, moeblock_compute compute, const float *x, float *y)
{
    float *logits = calloc((size_t)tables->experts, sizeof *logits),
          *weights = calloc((size_t)tables->top_k, sizeof *weights);
    float *out = calloc((size_t)tables->hidden, sizeof *out);
    int32_t *ids = calloc((size_t)tables->top_k, sizeof *ids);
    char *taken = calloc((size_t)tables->experts, 1);
    for (int64_t e = 0; e < tables->experts; e++)
        logits[e] = logit(tables->router + e * tables->hidden, x, tables->hidden);
    choose(logits, tables->experts, tables->top_k, taken, ids, weights);
    memset(y, 0, (size_t)tables->hidden * sizeof *y);
    for (int64_t e = 0; e < tables->experts; e++)
        for (int64_t j = 0; j < tables->top_k; j++) {
            if (ids[j] != e) continue;
            one_expert(tables, compute, e, x, out);
            for (int64_t h = 0; h < tables->hidden; h++) y[h] += weights[j] * out[h];
        }
    free(logits);
    free(weights);
    free(out);
    free(ids);
    free(taken);
}
