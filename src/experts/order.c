// SPDX-License-Identifier: Apache-2.0
// Quantised inputs in an order of their own (act-order): the weights are packed so that the inputs of a group lie
// together, and rows are copied into that order before a kernel sees them. Gate and up may have different orders; they
// are then two products, with the activation on their tiles.
#include <string.h>

#include "base/arith.h"
#include "base/context.h"
#include "base/float.h"
#include "base/status.h"
#include "experts/expert.h"
#include "experts/ffn.h"
#include "kernels/math_inline.h"

enum { ALIGNMENT = 64, TILE_COLUMNS = 128 };

static moeblock_status load_order(struct ffn *self, struct projection *p, bool *sorted, moeblock_error *error)
{
    const moeblock_allocator *allocator = &self->build.context->allocator;
    *sorted = true;
    for (int64_t e = 0; e < self->owned; e++) {
        struct mb_matrix matrix;
        bool same = true;
        MB_TRY(mb_ffn_find(self, p, self->id[e], &matrix, error));
        if (!matrix.order.name && !p->order) continue;
        if (!p->order) {
            p->order = mb_alloc(allocator, (size_t)(self->owned * p->columns) * sizeof *p->order);
            if (!p->order)
                return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "opening experts: no memory for the order of inputs");
            for (int64_t i = 0; i < self->owned * p->columns; i++) p->order[i] = (int32_t)(i % p->columns);
        }
        if (!matrix.order.name) continue;
        int32_t *order = p->order + e * p->columns;
        MB_TRY(mb_matrix_order(self->weights, allocator, &matrix, order, &same, error));
        *sorted = *sorted && same;
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_ffn_load_orders(struct ffn *self, moeblock_error *error)
{
    for (int i = 0; i < self->projection_count; i++) {
        struct projection *p = &self->projections[i];
        bool sorted;
        MB_TRY(load_order(self, p, &sorted, error));
        if (!sorted) continue;
        mb_free(&self->build.context->allocator, p->order);
        p->order = NULL;
    }
    self->apart = self->config->gated && (self->projections[0].order || self->projections[1].order);
    return MOEBLOCK_OK;
}

void mb_ffn_free_orders(struct ffn *self)
{
    for (int i = 0; i < self->projection_count; i++)
        mb_free(&self->build.context->allocator, self->projections[i].order);
}

size_t mb_ffn_order_bytes(const struct ffn *self)
{
    size_t bytes = 0;
    for (int i = 0; i < self->projection_count; i++) {
        const struct projection *p = &self->projections[i];
        if (p->order) bytes += (size_t)(self->owned * p->columns) * sizeof *p->order;
    }
    return bytes;
}

const int32_t *mb_ffn_order(const struct ffn *self, const struct projection *projection, int64_t expert)
{
    const int64_t place = self->place[expert - self->build.e0];
    return projection->order ? projection->order + place * projection->columns : NULL;
}

static size_t element_bytes(const struct ffn *self) { return mb_has_bf16_rows(self->build.compute) ? 2 : 4; }

// Pointers to m rows, and the rows.
static size_t rows_bytes(const struct ffn *self, const struct projection *projection, int64_t m)
{
    return mb_round_up((size_t)m * sizeof(void *), ALIGNMENT) +
           mb_round_up((size_t)(m * projection->columns) * element_bytes(self), ALIGNMENT);
}

static int64_t tile_columns(const struct ffn *self)
{
    return mb_ceil_div(TILE_COLUMNS, self->kernels->granule) * self->kernels->granule;
}

static size_t tile_bytes(const struct ffn *self, int64_t m)
{
    return mb_round_up((size_t)(m * tile_columns(self)) * sizeof(float), ALIGNMENT);
}

size_t mb_ffn_order_scratch(const struct ffn *self, bool outer, int64_t m)
{
    const struct projection *p = &self->projections[self->projection_count - (outer ? 1 : 2)];
    if (!outer && self->apart) return rows_bytes(self, p, m) + 2 * tile_bytes(self, m);
    return p->order ? rows_bytes(self, p, m) : 0;
}

const void *const *mb_ffn_order_rows(const struct ffn *self, const struct projection *projection, int64_t expert,
                                     const void *const *rows, int64_t m, void *scratch)
{
    const int32_t *order = mb_ffn_order(self, projection, expert);
    const int64_t k = projection->columns;
    if (!order) return rows;
    const void **out = scratch;
    char *memory = (char *)scratch + mb_round_up((size_t)m * sizeof(void *), ALIGNMENT);
    for (int64_t r = 0; r < m; r++) {
        out[r] = memory + (size_t)(r * k) * element_bytes(self);
        if (element_bytes(self) == 2) {
            const uint16_t *from = rows[r];
            uint16_t *to = (uint16_t *)(void *)memory + r * k;
            for (int64_t j = 0; j < k; j++) to[j] = from[order[j]];
        } else {
            const float *from = rows[r];
            float *to = (float *)(void *)memory + r * k;
            for (int64_t j = 0; j < k; j++) to[j] = from[order[j]];
        }
    }
    return out;
}

// Activation on a tile of both sums, into columns [n, n + count) of the call's output.
static void finish(const struct ffn *self, const moeblock_expert_call *call, int64_t n, int64_t count, float *gate,
                   float *up)
{
    for (int64_t r = 0; r < call->m; r++) {
        float *values = up + r * tile_columns(self);
        mb_activation_apply(&self->config->activation, gate + r * tile_columns(self), values, values, count);
        const int64_t at = r * call->out_stride + n;
        for (int64_t c = 0; c < count; c++) values[c] = mb_one_nan(values[c]);
        if (element_bytes(self) == 2)
            self->kernels->to_bf16((uint16_t *)call->out + at, values, count);
        else
            memcpy((float *)call->out + at, values, (size_t)count * sizeof *values);
    }
}

void mb_ffn_inner_apart(const struct ffn *self, const moeblock_expert_call *call, const char *gate,
                        const float *gate_bias, const float *up_bias)
{
    char *scratch = call->scratch;
    const size_t rows = rows_bytes(self, &self->projections[0], call->m);
    float *tiles[2] = {(float *)(void *)(scratch + rows),
                       (float *)(void *)(scratch + rows + tile_bytes(self, call->m))};
    const float *const biases[2] = {gate_bias, up_bias};
    for (int64_t c = call->c0; c < call->c1; c += tile_columns(self)) {
        const int64_t end = mb_min(call->c1, c + tile_columns(self));
        for (int part = 0; part < 2; part++) {
            const struct mb_project_call kernel_call = {
                .packing = &self->inner,
                .packed = gate + (part ? self->inner_bytes / 2 : 0),
                .rows = {.row = mb_ffn_order_rows(self, &self->projections[part], call->expert, call->rows, call->m,
                                                  scratch),
                         .m = call->m,
                         .bf16 = element_bytes(self) == 2},
                .n0 = c - self->build.i0,
                .n1 = end - self->build.i0,
                .bias = biases[part],
                .out = tiles[part],
                .out_stride = tile_columns(self),
                .scratch = scratch + mb_ffn_order_scratch(self, false, call->m),
            };
            self->kernels->project(&kernel_call);
        }
        finish(self, call, c - call->c0, end - c, tiles[0], tiles[1]);
    }
}
