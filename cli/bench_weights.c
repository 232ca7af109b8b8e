// SPDX-License-Identifier: Apache-2.0
// A layer of random weights in memory, made with synth's generator.
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "cli/bench.h"
#include "cli/exit.h"
#include "cli/values.h"

enum { SETS = 2 }; // data sets for tensors of one type and shape

static bool alike(const moeblock_tensor *a, const moeblock_tensor_need *b)
{
    return a->dtype == b->dtype && a->rank == b->rank &&
           memcmp(a->dims, b->dims, sizeof a->dims[0] * (size_t)b->rank) == 0;
}

// The data of an earlier tensor that serves this one too: after SETS of a kind they are used in turn.
static const void *data_to_share(const struct bench_weights *weights, const moeblock_tensor_need *need, size_t at)
{
    size_t same = 0, seen = 0;
    for (size_t i = 0; i < at; i++) same += alike(&weights->tensors[i], need);
    if (same < SETS) return NULL;
    for (size_t i = 0; i < at; i++)
        if (alike(&weights->tensors[i], need) && seen++ == same % SETS) return weights->tensors[i].data;
    return NULL;
}

static int make_tensor(struct cli_session *session, enum mb_format format, int64_t layer, uint64_t seed,
                       moeblock_tensor_need *need, struct bench_weights *weights, size_t i)
{
    moeblock_tensor *const tensor = &weights->tensors[i];
    need->dtype = cli_need_dtype(need, format);
    memcpy(weights->names[i], need->name, sizeof weights->names[i]);
    const void *data = data_to_share(weights, need, i);
    const size_t bytes = (size_t)cli_need_bytes(need, format);
    if (!data) {
        void *const fresh = mb_alloc(&mb_default_allocator, bytes);
        if (!fresh) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for tensor '%s' of %zu bytes", need->name, bytes);
        struct cli_values values;
        cli_values_choose(session->config, format, layer, need, seed, &values);
        cli_values_fill(session->context, &values, 0, bytes, fresh);
        weights->data[weights->n_data++] = fresh;
        data = fresh;
    }
    *tensor = (moeblock_tensor){weights->names[i], need->dtype, need->rank, {0}, data, bytes};
    memcpy(tensor->dims, need->dims, sizeof tensor->dims);
    return CLI_OK;
}

int bench_weights_make(struct cli_session *session, enum mb_format format, int64_t layer, uint64_t seed,
                       struct bench_weights *out)
{
    moeblock_tensor_need need;
    size_t count = 0;
    int code = CLI_OK;
    while (mb_tensor_needed(session->config, format, layer, (int64_t)count, &need)) count++;
    *out = (struct bench_weights){
        .tensors = mb_alloc_zero(&mb_default_allocator, sizeof *out->tensors * count),
        .names = mb_alloc_zero(&mb_default_allocator, sizeof *out->names * count),
        .data = mb_alloc_zero(&mb_default_allocator, sizeof *out->data * count),
        .count = count,
    };
    if (!out->tensors || !out->names || !out->data)
        return cli_fail(CLI_SYSTEM_REFUSED, "no memory for a list of %zu tensors", count);
    for (size_t i = 0; i < count && !code; i++) {
        mb_tensor_needed(session->config, format, layer, (int64_t)i, &need);
        code = make_tensor(session, format, layer, seed, &need, out, i);
    }
    if (!code && moeblock_weights_from_tensors(session->context, out->tensors, count, &session->weights,
                                               &session->error) != MOEBLOCK_OK)
        code = cli_fail_status(CLI_ABOUT_DATA, &session->error);
    return code;
}

void bench_weights_free(struct bench_weights *weights)
{
    for (size_t i = 0; i < weights->n_data; i++) mb_free(&mb_default_allocator, weights->data[i]);
    mb_free(&mb_default_allocator, weights->tensors);
    mb_free(&mb_default_allocator, weights->names);
    mb_free(&mb_default_allocator, weights->data);
    *weights = (struct bench_weights){0};
}

// Tensors of a type and shape alike, of which SETS at most have data of their own; a list of the kinds met.
struct kinds {
    moeblock_tensor_need kind[64];
    int seen[64], count;
};

static bool has_data(struct kinds *kinds, const moeblock_tensor_need *need)
{
    int i = 0;
    for (; i < kinds->count; i++) {
        const moeblock_tensor_need *const k = &kinds->kind[i];
        if (k->dtype == need->dtype && k->rank == need->rank && !memcmp(k->dims, need->dims, sizeof k->dims)) break;
    }
    if (i == (int)(sizeof kinds->seen / sizeof *kinds->seen)) return true;
    if (i == kinds->count) kinds->kind[kinds->count++] = *need;
    return kinds->seen[i]++ < SETS;
}

uint64_t bench_weights_bytes(const moeblock_config *config, enum mb_format format, int64_t layer, uint64_t *packed)
{
    moeblock_tensor_need need;
    struct kinds kinds = {.count = 0};
    uint64_t bytes = 0;
    *packed = 0;
    for (int64_t i = 0; mb_tensor_needed(config, format, layer, i, &need); i++) {
        const uint64_t one = cli_need_bytes(&need, format);
        if (has_data(&kinds, &need)) bytes += one;
        *packed += one;
    }
    return bytes;
}
