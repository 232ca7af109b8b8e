// SPDX-License-Identifier: Apache-2.0
// The reference's stored tensors as float weights, its one product, and its memory.
#include "reference_parts.h"

#include <math.h>
#include <string.h>

#include "base/float.h"
#include "base/memory.h"
#include "base/status.h"
#include "kernels/math_inline.h"

struct mb_chunk { // of memory; all of it is released at the end, an expert's part after the expert
    struct mb_chunk *previous;
    char memory[];
};

moeblock_status mb_reference_take(struct mb_reference *r, int64_t count, size_t size, void *out)
{
    struct mb_chunk *chunk = mb_alloc_zero(r->allocator, sizeof *chunk + (size_t)count * size);
    if (!chunk) return mb_fail(r->error, MOEBLOCK_OUT_OF_MEMORY, "computing the reference: no memory");
    chunk->previous = r->last;
    r->last = chunk;
    void *memory = chunk->memory;
    memcpy(out, &memory, sizeof memory);
    return MOEBLOCK_OK;
}

void mb_reference_release(struct mb_reference *r, const struct mb_chunk *down_to)
{
    while (r->last != down_to) {
        struct mb_chunk *previous = r->last->previous;
        mb_free(r->allocator, r->last);
        r->last = previous;
    }
}

// --- stored tensors -------------------------------------------------------------------------------------------------

static float number(moeblock_dtype dtype, const uint8_t *at)
{
    uint32_t wide;
    uint16_t half;
    if (dtype == MOEBLOCK_F32) return memcpy(&wide, at, sizeof wide), mb_float(wide);
    if (dtype == MOEBLOCK_F8_E4M3) return mb_from_e4m3(*at);
    if (dtype == MOEBLOCK_F8_E8M0 || dtype == MOEBLOCK_U8) return mb_from_e8m0(*at);
    memcpy(&half, at, sizeof half);
    return dtype == MOEBLOCK_F16 ? mb_from_f16(half) : mb_from_bf16(half);
}

// Decodes a projection of an expert. FP4 codes take their power of two at once (exact); FP8 scales stay apart.
// `rounds`: an expert's weight, which BF16 compute holds in bfloat16 when it is stored wider.
moeblock_status mb_reference_linear(struct mb_reference *r, enum mb_projection projection, int64_t expert,
                                    bool has_bias, bool rounds, struct mb_linear *out)
{
    struct mb_matrix m;
    MB_TRY(mb_projection_find(r->config, r->weights, projection, r->layer, expert, &m, r->error));
    const struct mb_format_info *format = &mb_format_table[m.format];
    const bool fp4 = m.format == MB_FORMAT_MXFP4, scaled = format->scale_suffix && !fp4;
    const size_t code_bytes = moeblock_dtype_bytes(m.codes.dtype), scale_bytes = moeblock_dtype_bytes(m.scales.dtype);
    *out = (struct mb_linear){m.rows, m.columns, scaled ? format->column_tile : m.columns, NULL, NULL, NULL};
    const int64_t groups = (m.columns + out->group - 1) / out->group;
    uint8_t *codes = NULL, *scales = NULL;
    MB_TRY(mb_reference_take(r, m.rows * m.columns, sizeof(float), &out->w));
    MB_TRY(mb_reference_take(r, (int64_t)m.codes.bytes, 1, &codes));
    MB_TRY(moeblock_weights_read(r->weights, &m.codes, 0, (size_t)m.codes.bytes, codes, r->error));
    if (format->scale_suffix) {
        MB_TRY(mb_reference_take(r, m.rows * groups, sizeof(float), &out->scale));
        MB_TRY(mb_reference_take(r, (int64_t)m.scales.bytes, 1, &scales));
        MB_TRY(moeblock_weights_read(r->weights, &m.scales, 0, (size_t)m.scales.bytes, scales, r->error));
    }
    for (int64_t n = 0; n < m.rows; n++) {
        const uint64_t tile_row =
            format->row_tile
                ? (uint64_t)((m.scale_row_first + n * m.scale_row_step) / format->row_tile * m.scale_row_stride)
                : 0;
        for (int64_t k = 0; k < m.columns; k++) {
            const uint64_t at = m.code_offset + (uint64_t)(n * m.row_stride + k * m.column_stride);
            float *w = &out->w[n * m.columns + k];
            const uint8_t *scale = NULL;
            if (scales)
                scale = scales + (m.scale_offset + tile_row + (uint64_t)(k / format->column_tile)) * scale_bytes;
            *w = fp4 ? mb_from_fp4(codes[at / 2] >> (at % 2 * 4) & 15, *scale)
                     : number(m.codes.dtype, codes + at * code_bytes);
            if (rounds && r->bf16) *w = mb_round_bf16(*w);
            if (scaled) out->scale[n * groups + k / out->group] = number(m.scales.dtype, scale);
        }
    }
    if (fp4) out->scale = NULL;
    if (!has_bias) return MOEBLOCK_OK;
    MB_TRY(mb_reference_take(r, m.rows, sizeof(float), &out->bias));
    return mb_projection_bias(r->config, r->weights, projection, r->layer, expert, m.rows, out->bias, r->error);
}

moeblock_status mb_reference_vector(struct mb_reference *r, enum mb_role role, int64_t count, float **out)
{
    *out = NULL;
    if (!mb_role_wanted(r->config, role)) return MOEBLOCK_OK;
    MB_TRY(mb_reference_take(r, count, sizeof(float), out));
    return mb_role_floats(r->config, r->weights, role, r->layer, count, *out, r->error);
}

// --- arithmetic -----------------------------------------------------------------------------------------------------

float mb_reference_dot(const struct mb_linear *m, int64_t n, const float *x)
{
    const float *w = m->w + n * m->columns;
    const int64_t groups = (m->columns + m->group - 1) / m->group;
    float sum = 0.0f;
    for (int64_t g = 0; g < groups; g++) {
        float chain = 0.0f;
        for (int64_t k = g * m->group; k < (g + 1) * m->group && k < m->columns; k++) chain = chain + w[k] * x[k];
        sum = m->scale ? sum + m->scale[n * groups + g] * chain : chain;
    }
    return mb_one_nan(m->bias ? sum + m->bias[n] : sum);
}

void mb_reference_rms_norm(float *x, int64_t n, double eps)
{
    float sum = 0.0f;
    for (int64_t i = 0; i < n; i++) sum = sum + x[i] * x[i];
    const float factor = 1.0f / sqrtf(sum / (float)n + (float)eps);
    for (int64_t i = 0; i < n; i++) x[i] = x[i] * factor;
}
