// SPDX-License-Identifier: Apache-2.0
// Level `ref`: the numeric contract of kernels.h as plain scalar loops over plain rows. Every other level is compared
// with it byte by byte; nobody runs it for speed.
#include <string.h>

#include "base/arith.h"
#include "base/float.h"
#include "kernels/int16.h"
#include "kernels/kernels.h"
#include "kernels/math_inline.h"

// A packed part: rows [n][k] of codes (four bits: [n][(k + 1) / 2] bytes, low nibble first), then float32 scales
// [n][chains], then factors [n][groups]. Each begins at a multiple of 64 bytes.
struct layout {
    size_t code_bits, row_bytes, scales, factors, part_bytes;
    int64_t chains, groups; // scales and factors of an output; 0: none
};

static struct layout layout_of(const struct mb_packing *packing)
{
    const struct mb_packed_info info = mb_packed_info_of(packing->format);
    const size_t n = (size_t)packing->n;
    struct layout layout = {.code_bits = info.code_bits,
                            .row_bytes = ((size_t)packing->k * info.code_bits + 7) / 8,
                            .groups = info.factors ? mb_packed_groups(packing) : 0};
    if (info.scaled && packing->k) layout.chains = mb_ceil_div(packing->k, mb_packed_chain(packing));
    layout.scales = mb_round_up(n * layout.row_bytes, 64);
    layout.factors = layout.scales + mb_round_up(n * (size_t)layout.chains * sizeof(float), 64);
    layout.part_bytes = layout.factors + mb_round_up(n * (size_t)layout.groups, 64);
    return layout;
}

static size_t packed_bytes(const struct mb_packing *packing)
{
    return layout_of(packing).part_bytes * (size_t)packing->parts;
}

static void pack_codes(const struct mb_packing *packing, size_t size, uint8_t *to, const struct mb_piece *piece)
{
    const uint8_t *from = piece->codes;
    for (int64_t n = piece->n0; n < piece->n1; n++) {
        for (int64_t k = piece->k0; k < piece->k1; k++) {
            const ptrdiff_t at = (n - piece->n0) * piece->row_stride + (k - piece->k0) * piece->column_stride;
            memcpy(to + (size_t)(n * packing->k + k) * size, from + at * (ptrdiff_t)size, size);
        }
    }
}

static void pack_nibbles(const struct layout *layout, uint8_t *to, const struct mb_piece *piece)
{
    const uint8_t *from = piece->codes;
    const size_t bytes = (size_t)mb_ceil_div(piece->k1 - piece->k0, 2);
    for (int64_t n = piece->n0; n < piece->n1; n++) {
        memcpy(to + (size_t)n * layout->row_bytes + (size_t)piece->k0 / 2, from + (n - piece->n0) * piece->row_stride,
               bytes);
    }
}

static void put_scale(uint8_t *scales, int64_t at, float scale)
{
    memcpy(scales + (size_t)at * sizeof scale, &scale, sizeof scale);
}

static void pack(const struct mb_packing *packing, void *packed, const struct mb_piece *piece)
{
    const struct layout layout = layout_of(packing);
    uint8_t *to = (uint8_t *)packed + (size_t)piece->part * layout.part_bytes, *scales = to + layout.scales;
    if (layout.code_bits == 4) {
        pack_nibbles(&layout, to, piece);
    } else {
        pack_codes(packing, layout.code_bits / 8, to, piece);
    }
    if (!packing->group) return;
    const uint8_t *factors = piece->zeros ? piece->zeros : piece->exponents;
    const int64_t g0 = piece->k0 / packing->group, g1 = mb_ceil_div(piece->k1, packing->group);
    for (int64_t n = piece->n0; n < piece->n1; n++) {
        if (packing->format == MB_PACKED_NVFP4 && g0 == 0) put_scale(scales, n, piece->total);
        for (int64_t g = g0; g < g1; g++) {
            const ptrdiff_t from = (n - piece->n0) * piece->scale_stride + (g - g0);
            if (layout.chains && packing->format != MB_PACKED_NVFP4)
                put_scale(scales, n * layout.chains + g, piece->scales[from]);
            if (layout.groups) to[layout.factors + (size_t)(n * layout.groups + g)] = factors[from];
        }
    }
}

// Weight (n, k) of a part as float32, without its float32 scale.
static float weight(const struct mb_packing *packing, const struct layout *layout, const uint8_t *part, int64_t n,
                    int64_t k)
{
    const uint8_t *row = part + (size_t)n * layout->row_bytes;
    const uint8_t nibble = layout->code_bits == 4 ? row[k / 2] >> (k % 2 * 4) & 15 : 0;
    const uint8_t factor =
        layout->groups ? part[layout->factors + (size_t)(n * layout->groups + k / packing->group)] : 0;
    uint16_t half;
    float single;
    switch (packing->format) {
    case MB_PACKED_F32:
        memcpy(&single, row + k * 4, sizeof single);
        return single;
    case MB_PACKED_F16:
        memcpy(&half, row + k * 2, sizeof half);
        return mb_from_f16(half);
    case MB_PACKED_BF16:
        memcpy(&half, row + k * 2, sizeof half);
        return mb_from_bf16(half);
    case MB_PACKED_FP8:
        return mb_from_e4m3(row[k]);
    case MB_PACKED_FP4:
        return mb_from_fp4(nibble, factor);
    case MB_PACKED_MXFP8:
        return mb_from_mxfp8(row[k], factor);
    case MB_PACKED_NVFP4:
        return mb_from_e2m1(nibble) * mb_from_e4m3(factor);
    case MB_PACKED_INT4:
        return (float)(nibble - factor);
    default:
        return (float)(row[k] - factor);
    }
}

static float element(const struct mb_rows *rows, int64_t r, int64_t k)
{
    if (rows->bf16) return mb_from_bf16(((const uint16_t *)rows->row[r])[k]);
    return ((const float *)rows->row[r])[k];
}

// Inputs [k0, k1) of output n for row r: one chain over ascending k, or of blocks, in which the even and the odd inputs
// have chains of their own.
static float chain_of(const struct mb_packing *packing, const struct layout *layout, const uint8_t *part, int64_t n,
                      const struct mb_rows *rows, int64_t r, int64_t k0, int64_t k1)
{
    float chain = 0;
    for (int64_t k = k0; !packing->even_odd && k < k1; k++)
        chain = chain + weight(packing, layout, part, n, k) * element(rows, r, k);
    for (int64_t block = k0; packing->even_odd && block < k1; block += MB_EVEN_ODD_BLOCK) {
        float chains[2] = {0, 0};
        for (int64_t i = 0; i < mb_min(MB_EVEN_ODD_BLOCK, k1 - block); i++)
            chains[i % 2] = chains[i % 2] + weight(packing, layout, part, n, block + i) * element(rows, r, block + i);
        chain = chain + (chains[0] + chains[1]);
    }
    return chain;
}

// Output n of a part for row r: one chain, or the scaled chains of the groups added up.
static float dot(const struct mb_packing *packing, const void *packed, int part, int64_t n, const struct mb_rows *rows,
                 int64_t r)
{
    const struct layout layout = layout_of(packing);
    const uint8_t *from = (const uint8_t *)packed + (size_t)part * layout.part_bytes;
    const int64_t length = mb_max(mb_packed_chain(packing), 1);
    float sum = 0;
    for (int64_t k0 = 0; k0 < packing->k; k0 += length) {
        const int64_t k1 = mb_min(k0 + length, packing->k);
        const float chain = chain_of(packing, &layout, from, n, rows, r, k0, k1);
        if (!layout.chains) return chain;
        float scale;
        memcpy(&scale, from + layout.scales + (size_t)(n * layout.chains + k0 / length) * sizeof scale, sizeof scale);
        sum = sum + scale * chain;
    }
    return sum;
}

// The same of integers: sums of a group are exact, then scaled by the weights' power of two and by the row's scale.
static float int16_dot(const struct mb_packing *packing, const void *packed, int part, int64_t n, const void *row)
{
    static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    const struct layout layout = layout_of(packing);
    const uint8_t *from = (const uint8_t *)packed + (size_t)part * layout.part_bytes;
    const uint8_t *codes = from + (size_t)n * layout.row_bytes;
    const int16_t *integers = row;
    const float *scales = (const float *)(const void *)((const char *)row + mb_int16_scales_at(packing->k));
    float sum = 0;
    for (int64_t k0 = 0; k0 < packing->k; k0 += MB_INT16_GROUP) {
        int32_t exact = 0;
        for (int64_t k = k0; k < mb_min(k0 + MB_INT16_GROUP, packing->k); k++)
            exact += doubled[codes[k / 2] >> (k % 2 * 4) & 15] * integers[k];
        const float scale = mb_from_e8m0(from[layout.scales + (size_t)(n * layout.groups + k0 / MB_INT16_GROUP)]);
        sum = sum + scales[k0 / MB_INT16_GROUP] * (scale * (float)exact);
    }
    return sum;
}

static float output(const struct mb_packing *packing, const void *packed, int part, int64_t n,
                    const struct mb_rows *rows, int64_t r)
{
    if (rows->int16) return int16_dot(packing, packed, part, n, rows->row[r]);
    return dot(packing, packed, part, n, rows, r);
}

static size_t scratch_bytes(const struct mb_packing *packing, int64_t m)
{
    (void)packing;
    (void)m;
    return 0;
}

static void gate_up(const struct mb_gate_up_call *call)
{
    const int last = call->packing->parts - 1;
    for (int64_t r = 0; r < call->rows.m; r++) {
        for (int64_t n = call->n0; n < call->n1; n++) {
            float gate = 0, value;
            if (last) gate = output(call->packing, call->packed, 0, n, &call->rows, r);
            if (last && call->gate_bias) gate = gate + call->gate_bias[n];
            float up = output(call->packing, call->packed, last, n, &call->rows, r);
            if (call->up_bias) up = up + call->up_bias[n];
            mb_activation_apply(call->activation, last ? &gate : NULL, &up, &value, 1);
            value = mb_one_nan(value);
            const int64_t at = r * call->out_stride + n - call->n0;
            if (call->rows.bf16) {
                ((uint16_t *)call->out)[at] = mb_to_bf16(value);
            } else {
                ((float *)call->out)[at] = value;
            }
        }
    }
}

static void project(const struct mb_project_call *call)
{
    for (int64_t r = 0; r < call->rows.m; r++) {
        for (int64_t n = call->n0; n < call->n1; n++) {
            float value = output(call->packing, call->packed, 0, n, &call->rows, r);
            if (call->bias) value = value + call->bias[n];
            value = mb_one_nan(value);
            call->out[r * call->out_stride + n - call->n0] = call->round ? mb_round_bf16(value) : value;
        }
    }
}

static void accumulate(float *y, const float *out, float weight_of_expert, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = mb_one_nan(y[i] + weight_of_expert * out[i]);
}

static void to_bf16(uint16_t *to, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] = mb_to_bf16(from[i]);
}

static void to_int16(void *row, const float *from, int64_t n) { mb_int16_row(row, from, n); }

static bool usable(const char **reason)
{
    *reason = "plain C";
    return true;
}

const struct mb_kernels mb_kernels_ref = {
    .name = "ref",
    .layout = 1,
    .granule = 1,
    .usable = usable,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .gate_up = gate_up,
    .project = project,
    .accumulate = accumulate,
    .to_bf16 = to_bf16,
    .to_int16 = to_int16,
};
