// SPDX-License-Identifier: Apache-2.0
// The reference's own reading of every published number format: one weight at a time, straight from the stored bytes
// (docs/formats.md has the formulas). Factors that are exact stay in the weight, other scales apart.
#include <string.h>

#include "base/float.h"
#include "base/status.h"
#include "reference_parts.h"

// The tensors of one linear map as read.
struct stored {
    const struct mb_matrix *m;
    const struct mb_format_info *format;
    int64_t group; // inputs per scale or factor; all of them where there is none
    bool integers; // FP4 codes as integers, their power of two as a scale
    uint8_t *codes, *scales, *zeros, *total, *order;
};

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

// `bits` bits of the 32-bit word `at` of a tensor.
static uint32_t bits_of(const uint8_t *words, uint64_t at, uint32_t shift, uint32_t bits)
{
    uint32_t word;
    memcpy(&word, words + 4 * at, sizeof word);
    return word >> shift & ((1u << bits) - 1);
}

// Where the nibble of output n of a word of AWQ begins: outputs 0 2 4 6 lie in the lower half, 1 3 5 7 in the upper.
static uint32_t across(int64_t n) { return (uint32_t)(n % 8 / 2 + n % 2 * 4) * 4; }

// The code of output n and input k, as an unsigned number.
static uint32_t code(const struct stored *s, int64_t n, int64_t k)
{
    const struct mb_matrix *m = s->m;
    const int64_t per = mb_format_word_codes(m->format);
    const uint32_t bits = 32 / (uint32_t)per;
    if (s->format->order == MB_CODES_WORDS_DOWN)
        return bits_of(s->codes, m->code_offset + (uint64_t)(n * m->row_stride + k / per * m->column_stride),
                       bits * (uint32_t)(k % per), bits);
    if (s->format->order == MB_CODES_WORDS_ACROSS)
        return bits_of(s->codes, m->code_offset + (uint64_t)(n / 8 + k * m->column_stride), across(n), 4);
    const uint64_t at = m->code_offset + (uint64_t)(n * m->row_stride + k * m->column_stride);
    const bool nibbles = mb_packed_info_of(s->format->packed).code_bits == 4;
    if (nibbles && m->column_stride > 1) // bytes of two inputs, one below the other
        return s->codes[m->code_offset + (uint64_t)(n * m->row_stride + k / 2 * m->column_stride)] >> (k % 2 * 4) & 15u;
    return nibbles ? s->codes[at / 2] >> (at % 2 * 4) & 15u : s->codes[at];
}

// Where the scale of output n and group g lies.
static const uint8_t *scale_at(const struct stored *s, int64_t n, int64_t g)
{
    const struct mb_matrix *m = s->m;
    const int64_t row = (m->scale_row_first + n * m->scale_row_step) / s->format->row_tile;
    const int64_t column_stride = m->scale_column_stride ? m->scale_column_stride : 1;
    const uint64_t at = m->scale_offset + (uint64_t)(row * m->scale_row_stride + g * column_stride);
    return s->scales + at * moeblock_dtype_bytes(m->scales.dtype);
}

static uint32_t zero(const struct stored *s, int64_t n, int64_t g)
{
    const struct mb_matrix *m = s->m;
    const int64_t per = mb_format_word_codes(m->format), row = m->scale_row_first + n * m->scale_row_step;
    const uint32_t bits = 32 / (uint32_t)per, half = 1u << (bits - 1);
    if (!s->zeros) return half;
    const bool by_group = s->format->order != MB_CODES_WORDS; // rows of the tensor are groups
    const int64_t words = (m->scale_column_stride + per - 1) / per;
    const uint64_t at =
        m->zero_offset + (uint64_t)(by_group ? g * words + row / per : row / per * m->scale_row_stride + g);
    const uint32_t shift = s->format->order == MB_CODES_WORDS_ACROSS ? across(row) : bits * (uint32_t)(row % per);
    return (bits_of(s->zeros, at, shift, bits) + s->format->zero_offset) % (2 * half);
}

// A weight without the scale that stays apart.
static float weight(const struct stored *s, int64_t n, int64_t k, int64_t g)
{
    const struct mb_matrix *m = s->m;
    switch (s->format->packed) {
    case MB_PACKED_FP8:
        return mb_from_e4m3((uint8_t)code(s, n, k));
    case MB_PACKED_FP4:
        // Integers are twice the values of the codes: their scale is that of exponent 127 + 1.
        return mb_from_fp4((uint8_t)code(s, n, k), s->integers ? 128 : *scale_at(s, n, g));
    case MB_PACKED_MXFP8:
        return mb_from_mxfp8((uint8_t)code(s, n, k), *scale_at(s, n, g));
    case MB_PACKED_NVFP4:
        return mb_from_e2m1((uint8_t)code(s, n, k)) * mb_from_e4m3(*scale_at(s, n, g));
    case MB_PACKED_INT4:
    case MB_PACKED_INT8:
        return (float)code(s, n, k) - (float)zero(s, n, g);
    default:
        return number(m->codes.dtype,
                      s->codes + (m->code_offset + (uint64_t)(n * m->row_stride + k * m->column_stride)) *
                                     moeblock_dtype_bytes(m->codes.dtype));
    }
}

static moeblock_status read_whole(struct mb_reference *r, const moeblock_tensor_info *tensor, uint8_t **out)
{
    *out = NULL;
    if (!tensor->name) return MOEBLOCK_OK;
    MB_TRY(mb_reference_take(r, (int64_t)tensor->bytes, 1, out));
    return moeblock_weights_read(r->weights, tensor, 0, (size_t)tensor->bytes, *out, r->error);
}

// Inputs by ascending group, within a group ascending.
static moeblock_status sort_inputs(struct mb_reference *r, const struct stored *s, int32_t **out)
{
    int64_t next = 0;
    *out = NULL;
    if (!s->order) return MOEBLOCK_OK;
    MB_TRY(mb_reference_take(r, s->m->columns, sizeof **out, out));
    for (int32_t g = 0; g * s->group < s->m->columns; g++)
        for (int64_t k = 0; k < s->m->columns; k++) {
            int32_t group;
            memcpy(&group, s->order + 4 * (s->m->order_offset + (uint64_t)k), sizeof group);
            if (group == g) (*out)[next++] = (int32_t)k;
        }
    return MOEBLOCK_OK;
}

moeblock_status mb_reference_decode(struct mb_reference *r, const struct mb_matrix *m, bool rounds,
                                    struct mb_linear *out)
{
    struct stored s = {.m = m, .format = &mb_format_table[m->format], .group = mb_matrix_group(m)};
    const bool totals = s.format->packed == MB_PACKED_NVFP4;
    s.integers = rounds && r->compute == MOEBLOCK_COMPUTE_INT16;
    if (s.integers && s.format->packed != MB_PACKED_FP4)
        return mb_fail(r->error, MOEBLOCK_UNSUPPORTED, "computing the reference: '%s' as %s has no exact integers",
                       m->codes.name, s.format->name);
    const bool scaled = mb_packed_info_of(s.format->packed).scaled || s.integers;
    if (!s.group) s.group = m->columns;
    *out = (struct mb_linear){.rows = m->rows,
                              .columns = m->columns,
                              .integers = s.integers,
                              .even_odd = rounds && r->compute == MOEBLOCK_COMPUTE_BF16X2};
    out->group = scaled && !totals ? s.group : m->columns;
    const int64_t groups = (m->columns + out->group - 1) / out->group;
    MB_TRY(read_whole(r, &m->codes, &s.codes));
    MB_TRY(read_whole(r, &m->scales, &s.scales));
    MB_TRY(read_whole(r, &m->zeros, &s.zeros));
    MB_TRY(read_whole(r, &m->total, &s.total));
    MB_TRY(read_whole(r, &m->order, &s.order));
    MB_TRY(sort_inputs(r, &s, &out->order));
    MB_TRY(mb_reference_take(r, m->rows * m->columns, sizeof(float), &out->w));
    if (scaled) MB_TRY(mb_reference_take(r, m->rows * groups, sizeof(float), &out->scale));
    for (int64_t n = 0; n < m->rows; n++) {
        for (int64_t j = 0; j < m->columns; j++) {
            float *w = &out->w[n * m->columns + j];
            *w = weight(&s, n, out->order ? out->order[j] : j, j / s.group);
            if (rounds && r->compute != MOEBLOCK_COMPUTE_F32) *w = mb_round_bf16(*w);
        }
        for (int64_t g = 0; scaled && g < groups; g++) {
            const float value = totals ? number(MOEBLOCK_F32, s.total + 4 * m->total_offset)
                                       : number(m->scales.dtype, scale_at(&s, n, g));
            out->scale[n * groups + g] = s.format->divides ? 1.0f / value : value;
        }
    }
    return MOEBLOCK_OK;
}
