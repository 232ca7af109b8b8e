// SPDX-License-Identifier: Apache-2.0
// The reference's linear maps and vectors, its one product, and its memory.
#include "reference_parts.h"

#include <math.h>
#include <string.h>

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

moeblock_status mb_reference_linear(struct mb_reference *r, enum mb_projection projection, int64_t expert,
                                    bool has_bias, bool rounds, struct mb_linear *out)
{
    struct mb_matrix m;
    MB_TRY(mb_projection_find(r->config, r->weights, projection, r->layer, expert, &m, r->error));
    MB_TRY(mb_reference_decode(r, &m, rounds, out));
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

enum {
    INTEGERS = 32, // that share a scale in INT16
    PAIRED = 32,   // inputs whose even and odd ones are summed apart in BF16X2
};

int64_t mb_reference_length(const struct mb_reference *r, int64_t n)
{
    return r->compute == MOEBLOCK_COMPUTE_INT16 ? n + (n + INTEGERS - 1) / INTEGERS : n;
}

// n values, at most 32, as integers of at most 32767. One of them stands for `unit`, the smallest power of two that
// allows that (its half is a normal number); the weights' integers are twice their values, so the scale is half a unit.
static float to_integers(const float *from, int64_t n, float *integers)
{
    float largest = 0.0f;
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        finite = finite && isfinite(from[i]);
        largest = fabsf(from[i]) > largest ? fabsf(from[i]) : largest;
        integers[i] = 0.0f;
    }
    if (!finite) return mb_float(0x7fc00000u);
    if (mb_bits(largest) < 0x00800000u) return 0.0f; // zeros and denormals
    int unit = -125;
    while (rint(ldexp((double)largest, -unit)) > 32767) unit++;
    for (int64_t i = 0; i < n; i++) integers[i] = (float)rint(ldexp((double)from[i], -unit));
    return ldexpf(1.0f, unit - 1);
}

void mb_reference_row(const struct mb_reference *r, const float *from, int64_t n, float *row)
{
    for (int64_t i = 0; i < n && r->compute != MOEBLOCK_COMPUTE_INT16; i++)
        row[i] = r->compute == MOEBLOCK_COMPUTE_F32 ? from[i] : mb_round_bf16(from[i]);
    for (int64_t i = 0; i < n && r->compute == MOEBLOCK_COMPUTE_INT16; i += INTEGERS)
        row[n + i / INTEGERS] = to_integers(from + i, n - i < INTEGERS ? n - i : INTEGERS, row + i);
}

void mb_reference_scale_row(const struct mb_reference *r, const float *row, float weight, int64_t n, float *out)
{
    const bool int16 = r->compute == MOEBLOCK_COMPUTE_INT16;
    for (int64_t i = 0; i < mb_reference_length(r, n); i++) out[i] = int16 && i < n ? row[i] : weight * row[i];
    if (!int16) mb_reference_row(r, out, n, out);
}

// Sums of 32 products of integers are exact; the weights' scale, a power of two, and then the row's multiply them.
static float integer_dot(const struct mb_linear *m, int64_t n, const float *row)
{
    const float *w = m->w + n * m->columns, *row_scale = row + m->columns;
    const int64_t groups = (m->columns + INTEGERS - 1) / INTEGERS;
    float sum = 0.0f;
    for (int64_t g = 0; g < groups; g++) {
        int32_t exact = 0;
        for (int64_t k = g * INTEGERS; k < (g + 1) * INTEGERS && k < m->columns; k++)
            exact += (int32_t)w[k] * (int32_t)row[k];
        sum = sum + row_scale[g] * (m->scale[n * groups + g] * (float)exact);
    }
    return sum;
}

// Products of inputs [k0, k1) of output n, added up.
static float chain_of(const struct mb_linear *m, int64_t n, const float *x, int64_t k0, int64_t k1)
{
    const float *w = m->w + n * m->columns;
    float chain = 0.0f, even = 0.0f, odd = 0.0f;
    for (int64_t k = k0; k < k1; k++) {
        const float product = w[k] * x[m->order ? m->order[k] : k];
        float *sum = !m->even_odd ? &chain : (k - k0) % 2 ? &odd : &even;
        *sum = *sum + product;
        if (!m->even_odd || ((k + 1 - k0) % PAIRED != 0 && k + 1 < k1)) continue;
        chain = chain + (even + odd);
        even = odd = 0.0f;
    }
    return chain;
}

float mb_reference_dot(const struct mb_linear *m, int64_t n, const float *x)
{
    if (m->integers) {
        const float sum = integer_dot(m, n, x);
        return mb_one_nan(m->bias ? sum + m->bias[n] : sum);
    }
    const int64_t groups = (m->columns + m->group - 1) / m->group;
    float sum = 0.0f;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t k0 = g * m->group, k1 = k0 + m->group;
        const float chain = chain_of(m, n, x, k0, k1 < m->columns ? k1 : m->columns);
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
