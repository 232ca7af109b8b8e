// SPDX-License-Identifier: Apache-2.0
// The messages of one pass, step by step as src/block.c walks them.
#include "traffic.h"

#include <string.h>

#include "backend/wire.h"
#include "base/arith.h"
#include "base/status.h"
#include "experts/expert.h"
#include "kernels/int16.h"

moeblock_status mb_routing_create(const moeblock_allocator *allocator, int ep, int64_t experts, struct mb_routing *out,
                                  moeblock_error *error)
{
    const size_t line = (size_t)ep * sizeof(int64_t), square = line * (size_t)ep;
    *out = (struct mb_routing){.allocator = *allocator,
                               .ep = ep,
                               .experts = experts,
                               .tokens = mb_alloc(allocator, line),
                               .asking = mb_alloc(allocator, line),
                               .asked = mb_alloc(allocator, line),
                               .rows = mb_alloc(allocator, square),
                               .slots = mb_alloc(allocator, square),
                               .own_busy = mb_alloc(allocator, line),
                               .far_busy = mb_alloc(allocator, line),
                               .busy = mb_alloc(allocator, (size_t)experts * (size_t)ep)};
    if (out->tokens && out->asking && out->asked && out->rows && out->slots && out->own_busy && out->far_busy &&
        out->busy)
        return MOEBLOCK_OK;
    mb_routing_free(out);
    return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "counting the rows between %d ranks: no memory", ep);
}

void mb_routing_free(struct mb_routing *routing)
{
    void *const owned[] = {routing->tokens, routing->asking,   routing->asked,    routing->rows,
                           routing->slots,  routing->own_busy, routing->far_busy, routing->busy};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) mb_free(&routing->allocator, owned[i]);
    *routing = (struct mb_routing){0};
}

// The first time that an expert gets rows of this kind on a rank.
static void note_busy(struct mb_routing *r, int64_t expert, int rank, bool own)
{
    enum { OWN = 1, FAR = 2 };
    uint8_t *const flags = &r->busy[(size_t)expert * (size_t)r->ep + (size_t)rank];
    const uint8_t kind = own ? OWN : FAR;
    if (*flags & kind) return;
    *flags |= kind;
    (own ? r->own_busy : r->far_busy)[rank]++;
}

// A rank counts once for a token; a token has few ids, so that looking back is quick.
static void count_token(struct mb_routing *r, const struct mb_placement_table *placement, const int32_t *ids, int64_t k,
                        int home, int choice)
{
    const size_t line = (size_t)home * (size_t)r->ep;
    bool asks = false;
    for (int64_t j = 0; j < k; j++) {
        if (ids[j] < 0 || ids[j] >= placement->experts) continue;
        const int rank = mb_placement_rank(placement, ids[j], choice);
        bool again = false;
        for (int64_t i = 0; i < j && !again; i++)
            again = ids[i] >= 0 && ids[i] < placement->experts && mb_placement_rank(placement, ids[i], choice) == rank;
        r->rows[line + (size_t)rank] += !again;
        r->slots[line + (size_t)rank]++;
        r->asked[home]++;
        asks = true;
        note_busy(r, ids[j], rank, rank == home);
    }
    r->asking[home] += asks;
}

void mb_routing_fill(struct mb_routing *routing, const struct mb_placement_table *placement,
                     const struct mb_choices *choices, const int64_t *first, const int64_t *count)
{
    const size_t line = (size_t)routing->ep * sizeof(int64_t);
    memset(routing->asking, 0, line);
    memset(routing->asked, 0, line);
    memset(routing->rows, 0, line * (size_t)routing->ep);
    memset(routing->slots, 0, line * (size_t)routing->ep);
    memset(routing->own_busy, 0, line);
    memset(routing->far_busy, 0, line);
    memset(routing->busy, 0, (size_t)routing->experts * (size_t)routing->ep);
    for (int h = 0; h < routing->ep; h++) {
        routing->tokens[h] = count[h];
        for (int64_t t = first[h]; t < first[h] + count[h]; t++)
            count_token(routing, placement, choices->ids + t % choices->rows * choices->k, choices->k, h,
                        choices->replicated ? 0 : h);
    }
}

// --- the messages ----------------------------------------------------------------------------------------------------

static int64_t part(int64_t total, int parts, int index)
{
    int64_t begin, end;
    mb_split(total, parts, index, &begin, &end);
    return end - begin;
}

// Every tensor-parallel rank gives `rows` of its own columns of `total` to each of the others.
static void gather(const struct mb_traffic_shape *shape, int c, int64_t rows, int64_t total, size_t element,
                   struct mb_traffic *out)
{
    for (int i = 0; i < shape->tp; i++) {
        if (i == c) continue;
        out->messages++;
        out->sent += MB_WIRE_HEADER + (uint64_t)(rows * part(total, shape->tp, c)) * element;
        out->received += MB_WIRE_HEADER + (uint64_t)(rows * part(total, shape->tp, i)) * element;
    }
}

// Every tensor-parallel rank gives each of the others its columns of `rows` of `total`.
static void scatter(const struct mb_traffic_shape *shape, int c, int64_t rows, int64_t total, size_t element,
                    struct mb_traffic *out)
{
    struct mb_traffic back = {0}; // a gather the other way round
    gather(shape, c, rows, total, element, &back);
    out->messages += back.messages;
    out->sent += back.received;
    out->received += back.sent;
}

static size_t between(const struct mb_routing *routing, int home, int rank)
{
    return (size_t)home * (size_t)routing->ep + (size_t)rank;
}

// What goes from place `from` to place `to` of the expert-parallel axis, without its header.
struct parcels {
    const struct mb_traffic_shape *shape;
    const struct mb_routing *routing;
    bool back;    // outputs, else rows
    size_t bytes; // of one
};

static uint64_t parcel(const struct parcels *p, int from, int to)
{
    const struct mb_routing *routing = p->routing;
    const bool replicated = p->shape->config->replicated_batch;
    if (p->back) {
        // Outputs go home. Where all hold the same tokens, each tells all others what its own experts gave.
        const size_t at = between(routing, replicated ? from : to, from);
        const bool sums = p->shape->config->reproducible == MB_REPRODUCIBLE_BATCH;
        return (uint64_t)(sums ? routing->rows[at] : routing->slots[at]) * p->bytes;
    }
    if (replicated) return 0;
    if (p->shape->algorithm == MB_ALLGATHER)
        return routing->asking[from]
                   ? mb_wire_parcel((uint64_t)routing->asking[from], p->bytes, (uint64_t)routing->asked[from])
                   : 0;
    const uint64_t rows = (uint64_t)routing->rows[between(routing, from, to)];
    return rows ? mb_wire_parcel(rows, p->bytes, (uint64_t)routing->slots[between(routing, from, to)]) : 0;
}

// A message of parcels for or from several places: a table, and each 64-byte aligned.
static uint64_t add_to_bundle(uint64_t bundle, uint64_t bytes) { return bundle + mb_round_up((size_t)bytes, 64); }

static uint64_t message(uint64_t payload, int parcels)
{
    return MB_WIRE_HEADER + (payload ? payload + mb_round_up((size_t)parcels * 16, 64) : 0);
}

static void two_levels(const struct parcels *p, int group, int e, struct mb_traffic *out)
{
    const int ranks = p->shape->ep, groups = ranks / group, a = e / group, b = e % group;
    for (int i = 0; i < group; i++) {
        uint64_t there = 0, here = 0;
        if (i == b) continue;
        for (int g = 0; g < groups; g++) {
            there = add_to_bundle(there, parcel(p, e, g * group + i));
            here = add_to_bundle(here, parcel(p, a * group + i, g * group + b));
        }
        out->messages++;
        out->sent += message(there, groups);
        out->received += message(here, groups);
    }
    for (int g = 0; g < groups; g++) {
        uint64_t there = 0, here = 0;
        if (g == a) continue;
        for (int i = 0; i < group; i++) {
            there = add_to_bundle(there, parcel(p, a * group + i, g * group + b));
            here = add_to_bundle(here, parcel(p, g * group + i, e));
        }
        out->messages++;
        out->sent += message(there, group);
        out->received += message(here, group);
    }
}

static void travel(const struct parcels *p, int e, struct mb_traffic *out)
{
    const int group = p->shape->algorithm == MB_TWOLEVEL ? mb_relay_group(p->shape->ep) : 1;
    for (int i = 0; i < p->shape->ep; i++) {
        if (i == e) continue;
        const size_t to = between(p->routing, e, i);
        const bool none = p->shape->config->replicated_batch;
        if (!p->back)
            out->bound +=
                none ? MB_WIRE_HEADER
                     : mb_wire_bound((uint64_t)p->routing->rows[to], p->bytes, (uint64_t)p->routing->slots[to]);
        if (group > 1) continue;
        out->messages++;
        out->sent += MB_WIRE_HEADER + parcel(p, e, i);
        out->received += MB_WIRE_HEADER + parcel(p, i, e);
    }
    if (group > 1) two_levels(p, group, e, out);
}

void mb_traffic_add(const struct mb_traffic_shape *shape, const struct mb_routing *routing, int e, int c,
                    struct mb_traffic *out)
{
    const moeblock_config *config = shape->config;
    const size_t element = mb_has_bf16_rows(shape->compute) ? 2 : 4;
    const int64_t tokens = routing->tokens[e], width = config->latent_size ? config->latent_size : config->hidden_size;
    const size_t row = shape->compute == MOEBLOCK_COMPUTE_INT16 ? mb_int16_row_bytes(width) : (size_t)width * element;
    const size_t output = shape->compute == MOEBLOCK_COMPUTE_F32 ? 4 : 2;
    const bool replicated = config->replicated_batch, spread = shape->ep > 1 && config->routed_enabled;
    int64_t own = routing->slots[(size_t)e * (size_t)shape->ep + (size_t)e], arrived = 0;
    for (int h = 0; h < shape->ep && !replicated; h++)
        if (h != e) arrived += routing->slots[(size_t)h * (size_t)shape->ep + (size_t)e];
    if (shape->sharded) gather(shape, c, tokens, config->hidden_size, shape->x_bytes, &out[MOEBLOCK_TRAFFIC_INPUT]);
    if (spread) travel(&(struct parcels){shape, routing, false, row}, e, &out[MOEBLOCK_TRAFFIC_DISPATCH]);
    struct mb_traffic *const activations = shape->sums ? NULL : &out[MOEBLOCK_TRAFFIC_ACTIVATIONS];
    if (activations && config->routed_enabled)
        gather(shape, c, own, config->routed.intermediate_size, element, activations);
    if (activations && spread) gather(shape, c, arrived, config->routed.intermediate_size, element, activations);
    if (activations && config->shared_enabled)
        gather(shape, c, tokens, config->shared.intermediate_size, element, activations);
    const int64_t returned = shape->sums ? width : part(width, shape->tp, c); // columns of an output
    if (spread)
        travel(&(struct parcels){shape, routing, true, (size_t)returned * output}, e, &out[MOEBLOCK_TRAFFIC_COMBINE]);
    if (shape->sums) scatter(shape, c, tokens, config->hidden_size, output, &out[MOEBLOCK_TRAFFIC_SUMS]);
    if (config->routed_enabled && config->latent_size)
        gather(shape, c, tokens, config->latent_size, sizeof(float), &out[MOEBLOCK_TRAFFIC_WHOLE_ROWS]);
    if (config->out_norm)
        gather(shape, c, tokens, config->hidden_size, sizeof(float), &out[MOEBLOCK_TRAFFIC_WHOLE_ROWS]);
    if (!shape->sharded) gather(shape, c, tokens, config->hidden_size, shape->y_bytes, &out[MOEBLOCK_TRAFFIC_OUTPUT]);
}
