// SPDX-License-Identifier: Apache-2.0
// Packing of level `avx512bf16`. For 16 lines at a time every format forms 16 vectors, one for each 32-bit lane of a
// line, that hold the lane's value in the 16 lines; a transposition then makes the lines.
#include <string.h>

#include "base/float.h"
#include "kernels/avx512bf16/layout.h"

size_t mb_avx512bf16_packed_bytes(const struct mb_packing *packing)
{
    const int64_t panels = mb_ceil_div(packing->n, mb_panel_columns(packing));
    return (size_t)(2 * panels) * mb_strip_layout_of(packing).strip_bytes;
}

// Rows of 16 lanes to lines. Interleaving twice with the vector 8 places on, in 32 and then in 64 bits, and then the
// quarters of vectors, moves each index bit to its place.
static inline void transpose(__m512i v[16])
{
    __m512i w[16];
    MB_UNROLL for (int i = 0; i < 16; i += 2)
    {
        w[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        w[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    MB_UNROLL for (int i = 0; i < 16; i += 4)
    {
        v[i] = _mm512_unpacklo_epi64(w[i], w[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(w[i], w[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(w[i + 1], w[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(w[i + 1], w[i + 3]);
    }
    MB_UNROLL for (int j = 0; j < 4; j++)
    { // v[4 i + j], quarter q: lanes 4 i .. 4 i + 3 of line 4 q + j
        const __m512i a = _mm512_shuffle_i32x4(v[j], v[4 + j], 0x44), b = _mm512_shuffle_i32x4(v[j], v[4 + j], 0xee);
        const __m512i c = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0x44);
        const __m512i d = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0xee);
        w[j] = _mm512_shuffle_i32x4(a, c, 0x88);
        w[4 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
        w[8 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
        w[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    MB_UNROLL for (int i = 0; i < 16; i++) v[i] = w[i];
}

// The codes of one strip that a piece holds: code (c, k) at from + c * row + k * column bytes, c < columns, k from 0.
// Factor (c, g) at factors + c * factor_row + g, g from the piece's first.
struct source {
    enum mb_packed_format format;
    const uint8_t *from;
    ptrdiff_t row, column;
    int64_t columns, count; // inputs
    const uint8_t *factors;
    ptrdiff_t factor_row;
    int64_t group;
};

// Inputs [k, k + count) of column c, count at most `most`: where they lie if side by side and complete, else a copy in
// `buffer`, whose rest the caller has filled.
static const uint8_t *inputs_of(const struct source *source, int64_t c, int64_t k, int64_t count, int64_t most,
                                size_t size, uint8_t *buffer)
{
    if (c >= source->columns) return buffer;
    const uint8_t *from = source->from + c * source->row + k * source->column;
    if (count == most && source->column == (ptrdiff_t)size) return from;
    for (int64_t i = 0; i < count; i++) memcpy(buffer + (size_t)i * size, from + i * source->column, size);
    return buffer;
}

// Inputs k of up to 16 outputs side by side, or every second one, in the low halves of 32-bit lanes. Nothing behind the
// last output is read.
static __m512i across(const uint8_t *from, ptrdiff_t row, int64_t columns)
{
    if (row == 2) {
        const __mmask16 mask = (__mmask16)((1u << columns) - 1);
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
    }
    const __mmask32 mask = (__mmask32)((1ull << (2 * columns - 1)) - 1);
    return _mm512_and_si512(_mm512_maskz_loadu_epi16(mask, from), _mm512_set1_epi32(0xffff));
}

// Outputs side by side on disk: a line is made of two loads, without a transposition.
static void pack_bf16_across(const struct source *source, int64_t count, uint8_t *to)
{
    for (int64_t k = 0; k < count; k += 2) {
        for (int v = 0; v < 2; v++) {
            const int64_t columns = mb_max(0, mb_min(16, source->columns - 16 * v));
            const uint8_t *from = source->from + 16 * v * source->row + k * source->column;
            __m512i pair[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
            for (int h = 0; h < 2 && k + h < count && columns > 0; h++)
                pair[h] = across(from + h * source->column, source->row, columns);
            _mm512_storeu_si512(to + k * 64 + 64 * v, _mm512_or_si512(_mm512_slli_epi32(pair[0], 16), pair[1]));
        }
    }
}

// The usual case of each format has no remainders: constant loops keep the transposition in registers.
static void store_lines(uint8_t *to, size_t stride, const __m512i lines[16])
{
    MB_UNROLL for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + (size_t)i * stride, lines[i]);
}

// 32 inputs of 16 whole columns.
static void pack_bf16_full(const uint8_t *from, ptrdiff_t row, uint8_t *to)
{
    __m512i lanes[16];
    MB_UNROLL for (int c = 0; c < 16; c++) lanes[c] = _mm512_rol_epi32(_mm512_loadu_si512(from + c * row), 16);
    transpose(lanes);
    store_lines(to, 128, lanes);
}

static void pack_bf16(const struct source *source, int64_t count, uint8_t *to)
{
    if (source->column != 2 && (source->row == 2 || source->row == 4)) {
        pack_bf16_across(source, count, to);
        return;
    }
    for (int64_t k = 0; k < count; k += 32) {
        const int64_t here = mb_min(32, count - k), lines = mb_ceil_div(here, 2);
        for (int v = 0; v < 2; v++) {
            if (here == 32 && source->columns >= 16 * (v + 1) && source->column == 2) {
                pack_bf16_full(source->from + 16 * v * source->row + 2 * k, source->row, to + k / 2 * 128 + 64 * v);
                continue;
            }
            __m512i lanes[16];
            for (int c = 0; c < 16; c++) {
                uint16_t buffer[32] __attribute__((aligned(64)));
                if (here < 32 || 16 * v + c >= source->columns || source->column != 2)
                    _mm512_store_si512(buffer, _mm512_setzero_si512());
                const uint8_t *row = inputs_of(source, 16 * v + c, k, here, 32, 2, (uint8_t *)buffer);
                lanes[c] = _mm512_rol_epi32(_mm512_loadu_si512(row), 16);
            }
            transpose(lanes);
            for (int64_t i = 0; i < lines; i++) _mm512_storeu_si512(to + (k / 2 + i) * 128 + 64 * v, lanes[i]);
        }
    }
}

// A code of four or eight bits as the tiles want it (layout.h), given its factor.
static uint8_t settled(enum mb_packed_format format, uint8_t code, uint8_t factor)
{
    const uint8_t magnitude = code & (format == MB_PACKED_MXFP8 ? 127 : 7);
    switch (format) {
    case MB_PACKED_FP4: // half of 2^-127
        return factor == 0 && magnitude == 1 ? 0 : code;
    case MB_PACKED_NVFP4:
        return (uint8_t)((code ^ (factor >> 4 & 8)) & (factor & 127 ? 15 : 8));
    case MB_PACKED_MXFP8:
        if (magnitude == 127) return code;
        if (magnitude && (mb_bits(mb_from_mxfp8(magnitude, factor)) >> 23)) return code;
        return code >> 7 ? 127 : 0;
    default:
        return code;
    }
}

// Whether factors of inputs [k, k + count) of a column change codes.
static bool settles(const struct source *s, int64_t c, int64_t k, int64_t count)
{
    bool changes = false;
    if (s->format != MB_PACKED_FP4 && s->format != MB_PACKED_NVFP4 && s->format != MB_PACKED_MXFP8) return false;
    for (int64_t g = k / s->group; g * s->group < k + count; g++) {
        const uint8_t factor = s->factors[c * s->factor_row + g];
        if (s->format == MB_PACKED_FP4) changes = changes || factor == 0;
        if (s->format == MB_PACKED_NVFP4) changes = changes || factor >= 128 || factor == 0;
        if (s->format == MB_PACKED_MXFP8) changes = changes || factor < 10;
    }
    return changes;
}

// Input i of the `here` that are left: its factor, of those beyond the last one the last one's.
static uint8_t factor_at(const struct source *s, int64_t c, int64_t k, int64_t i, int64_t here)
{
    return s->factors[c * s->factor_row + (k + mb_min(i, here - 1)) / s->group];
}

static bool is_integer(enum mb_packed_format format) { return format == MB_PACKED_INT4 || format == MB_PACKED_INT8; }

// Codes [k, k + here) of a column, up to 32 of eight bits, code by code, and behind them what means zero.
static __m256i byte_column(const struct source *s, int64_t c, int64_t k, int64_t here)
{
    uint8_t bytes[32] = {0};
    const uint8_t *from = s->from + c * s->row + k * s->column;
    for (int64_t i = 0; i < here && c < s->columns; i++) bytes[i] = from[i * s->column];
    for (int64_t i = 0; i < here && c < s->columns && s->format == MB_PACKED_MXFP8; i++)
        bytes[i] = settled(s->format, bytes[i], factor_at(s, c, k, i, here));
    for (int64_t i = here; i < 32 && c < s->columns && is_integer(s->format); i++)
        bytes[i] = factor_at(s, c, k, i, here);
    return _mm256_loadu_si256((const __m256i *)(const void *)bytes);
}

// 32 codes to 16 lanes, the pair swapped in the low half.
static inline __m512i byte_pairs(__m256i codes)
{
    return _mm512_cvtepu16_epi32(_mm256_or_si256(_mm256_slli_epi16(codes, 8), _mm256_srli_epi16(codes, 8)));
}

// Whole columns, in which `minus_zero` becomes 127: -0 of MXFP8, 127 itself of others.
static inline __m512i full_pairs(const uint8_t *row, __m256i minus_zero)
{
    const __m256i codes = _mm256_loadu_si256((const __m256i *)(const void *)row);
    return byte_pairs(_mm256_mask_mov_epi8(codes, _mm256_cmpeq_epi8_mask(codes, minus_zero), _mm256_set1_epi8(127)));
}

// First column of a lane of a line, see pack_bytes; the second is the next.
#define BYTE_COLUMN(lane) ((lane) / 4 * 4 + (lane) % 2 * 2 + (lane) % 4 / 2 * 16)

// 32 inputs of 32 whole columns.
static void pack_bytes_full(const uint8_t *from, ptrdiff_t row, __m256i minus_zero, uint8_t *to)
{
    __m512i lanes[16];
    MB_UNROLL for (int lane = 0; lane < 16; lane++)
    {
        const uint8_t *first = from + BYTE_COLUMN(lane) * row;
        const __m512i second = _mm512_slli_epi32(full_pairs(first + row, minus_zero), 16);
        lanes[lane] = _mm512_or_si512(full_pairs(first, minus_zero), second);
    }
    transpose(lanes);
    store_lines(to, 64, lanes);
}

static bool any_settles(const struct source *s, int64_t k, int64_t count)
{
    bool any = false;
    for (int64_t c = 0; c < s->columns; c++) any = settles(s, c, k, count) || any;
    return any;
}

// Codes of eight bits. Lane 4 q + j of a line holds columns 4 q and on for j < 2, 16 + 4 q and on else: unpacking bytes
// then leaves columns 0..15 in one vector and 16..31 in the other.
static void pack_bytes(const struct source *s, uint8_t *to)
{
    const __m256i minus_zero = _mm256_set1_epi8((char)(s->format == MB_PACKED_MXFP8 ? 128 : 127));
    for (int64_t k = 0; k < s->count; k += 32) {
        const int64_t here = mb_min(32, s->count - k), lines = mb_ceil_div(here, 2);
        if (here == 32 && s->columns == MB_STRIP && s->column == 1 && !any_settles(s, k, here)) {
            pack_bytes_full(s->from + k, s->row, minus_zero, to + k / 2 * 64);
            continue;
        }
        __m512i lanes[16];
        for (int lane = 0; lane < 16; lane++) {
            const int column = BYTE_COLUMN(lane);
            const __m512i second = _mm512_slli_epi32(byte_pairs(byte_column(s, column + 1, k, here)), 16);
            lanes[lane] = _mm512_or_si512(byte_pairs(byte_column(s, column, k, here)), second);
        }
        transpose(lanes);
        for (int64_t i = 0; i < lines; i++) _mm512_storeu_si512(to + (k / 2 + i) * 64, lanes[i]);
    }
}

// Codes [k, k + here) of a column, up to 64 of four bits, as 32 bytes, and behind them what means zero.
static __m256i nibble_column(const struct source *s, int64_t c, int64_t k, int64_t here)
{
    if (c >= s->columns) return _mm256_setzero_si256();
    const uint8_t *from = s->from + c * s->row + k / 2;
    if (here == 64 && !settles(s, c, k, here)) return _mm256_loadu_si256((const __m256i *)(const void *)from);
    uint8_t bytes[32] = {0};
    for (int64_t i = 0; i < 64; i++) {
        const uint8_t factor = factor_at(s, c, k, i, here);
        uint8_t code = is_integer(s->format) ? factor : 0;
        if (i < here) code = settled(s->format, from[i / 2] >> (i % 2 * 4) & 15, factor);
        bytes[i / 2] |= (uint8_t)(code << (i % 2 * 4));
    }
    return _mm256_loadu_si256((const __m256i *)(const void *)bytes);
}

// Nibbles of two columns, 32 bytes each, to 16 lanes: even k of both above odd k of both.
static inline __m512i nibble_pairs(__m256i low, __m256i high)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i even =
        _mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_slli_epi16(_mm256_and_si256(high, nibble), 4));
    const __m256i odd =
        _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low, 4), nibble), _mm256_andnot_si256(nibble, high));
    return _mm512_or_si512(_mm512_cvtepu16_epi32(odd), _mm512_slli_epi32(_mm512_cvtepu16_epi32(even), 16));
}

// Lines of 64 inputs from k on, of which `here` exist.
static void nibble_lines(const struct source *s, int64_t k, int64_t here, __m512i lanes[16])
{
    for (int c = 0; c < 16; c++)
        lanes[c] = nibble_pairs(nibble_column(s, c, k, here), nibble_column(s, 16 + c, k, here));
    transpose(lanes);
}

// The same of whole columns, none of which settles.
static void nibble_lines_full(const uint8_t *from, ptrdiff_t row, uint8_t *to)
{
    __m512i lanes[16];
    MB_UNROLL for (int c = 0; c < 16; c++)
    {
        const __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(from + c * row));
        const __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(from + (16 + c) * row));
        lanes[c] = nibble_pairs(low, high);
    }
    transpose(lanes);
    store_lines(to, 64, lanes);
}

// Codes of four bits, lines without end.
static void pack_nibbles(const struct source *s, uint8_t *to)
{
    for (int64_t k = 0; k < s->count; k += 64, to += 1024) {
        const int64_t here = mb_min(64, s->count - k), lines = mb_ceil_div(here, 4);
        if (here == 64 && s->columns == MB_STRIP && !any_settles(s, k, here)) {
            nibble_lines_full(s->from + k / 2, s->row, to);
            continue;
        }
        __m512i lanes[16];
        nibble_lines(s, k, here, lanes);
        for (int64_t i = 0; i < lines; i++) _mm512_storeu_si512(to + i * 64, lanes[i]);
    }
}

// One block of 64 inputs of FP4, or its first or second half; `last` where the matrix ends in it.
static void pack_block(const struct source *s, int64_t k, int64_t here, int half, bool last, uint8_t *block)
{
    const int groups = (int)mb_ceil_div(here, 32);
    uint8_t steps[64] = {0};
    for (int g = 0; g < groups; g++) {
        for (int64_t c = 0; c < s->columns; c++)
            steps[32 * g + c] = (uint8_t)(MB_FP4_TOP - s->factors[c * s->factor_row + k / 32 + g]);
    }
    if (here == MB_FP4_BLOCK && s->columns == MB_STRIP && !any_settles(s, k, here)) {
        nibble_lines_full(s->from + k / 2, s->row, block);
        memcpy(block + 1024, steps, sizeof steps);
        return;
    }
    __m512i lanes[16];
    nibble_lines(s, k, here, lanes);
    const int lines = last ? 16 - 8 * half : 8 * groups;
    for (int i = 0; i < lines; i++) _mm512_storeu_si512(block + (8 * half + i) * 64, lanes[i]);
    memcpy(block + 1024 + 32 * half, steps, (size_t)(last ? 64 - 32 * half : 32 * groups));
}

static void pack_blocks(const struct source *s, int64_t k0, int64_t end, uint8_t *strip)
{
    for (int64_t k = k0, next; k < k0 + s->count; k = next) {
        next = mb_min(k0 + s->count, (k / MB_FP4_BLOCK + 1) * MB_FP4_BLOCK);
        pack_block(s, k - k0, next - k, (int)(k % MB_FP4_BLOCK / 32), next == end,
                   strip + k / MB_FP4_BLOCK * MB_FP4_BLOCK_BYTES);
    }
}

// Whether codes [k0, k1) of a column of MXFP8 hold a NaN.
static bool has_nan(const struct source *s, int64_t c, int64_t k0, int64_t k1)
{
    const uint8_t *codes = s->from + c * s->row;
    bool nan = false;
    for (int64_t k = k0; k < k1; k++) nan |= (codes[k * s->column] & 127) == 127;
    return nan;
}

// A factor as layout.h has it.
static uint8_t factor_of(const struct source *s, int64_t c, int64_t g)
{
    const uint8_t factor = s->factors[c * s->factor_row + g];
    if (s->format == MB_PACKED_MXFP8) {
        const bool nan = has_nan(s, c, g * s->group, mb_min((g + 1) * s->group, s->count));
        return (uint8_t)(MB_MXFP8_TOP - (nan ? 255 : factor));
    }
    if (s->format != MB_PACKED_NVFP4) return factor;
    const uint32_t bits = mb_bits(mb_from_e4m3(factor & 127));
    return (factor & 127) == 127 ? 255 : bits ? (uint8_t)((bits >> 20) - (117 << 3)) : 0;
}

static void pack_factors(const struct source *s, uint8_t *to)
{
    for (int64_t g = 0; g < mb_ceil_div(s->count, s->group); g++, to += MB_STRIP) {
        memset(to, 0, MB_STRIP);
        for (int64_t c = 0; c < s->columns; c++) to[c] = factor_of(s, c, g);
    }
}

// Scales of group g of a strip: one where they agree, and all of them where not.
static void pack_scales(const struct mb_strip_layout *layout, const float *scales, ptrdiff_t stride, int64_t columns,
                        int64_t g, uint8_t *strip)
{
    float line[MB_STRIP] = {0};
    uint16_t halves[2 * MB_STRIP] = {0};
    bool same = true, bf16 = true;
    for (int64_t c = 0; c < columns; c++) {
        line[c] = scales[c * stride];
        halves[c] = mb_to_bf16(line[c]);
        const float back = mb_from_bf16(halves[c]);
        same = same && memcmp(&line[c], &line[0], sizeof *line) == 0;
        bf16 = bf16 && memcmp(&line[c], &back, sizeof back) == 0;
    }
    const uint32_t mark = bf16 ? MB_BF16_SCALES : MB_MIXED_SCALES;
    memcpy(strip + layout->scales + (size_t)g * sizeof(float), same ? (const void *)line : (const void *)&mark, 4);
    memcpy(strip + layout->full + (size_t)g * sizeof line, bf16 && !same ? (const void *)halves : line, sizeof line);
}

static void pack_strip(const struct mb_packing *packing, const struct mb_strip_layout *layout,
                       const struct mb_piece *piece, int64_t n, int64_t columns, uint8_t *strip)
{
    const struct mb_packed_info info = mb_packed_info_of(packing->format);
    const ptrdiff_t size = packing->format == MB_PACKED_BF16 ? 2 : 1, row = n - piece->n0;
    struct source s = {.format = packing->format,
                       .from = (const uint8_t *)piece->codes + row * piece->row_stride * size,
                       .row = piece->row_stride * size,
                       .column = piece->column_stride * size,
                       .columns = columns,
                       .count = piece->k1 - piece->k0,
                       .factors = piece->zeros ? piece->zeros : piece->exponents,
                       .factor_row = piece->scale_stride,
                       .group = packing->group};
    if (info.factors) s.factors += row * piece->scale_stride;
    const int64_t g0 = packing->group ? piece->k0 / packing->group : 0;
    if (packing->format == MB_PACKED_FP4) {
        pack_blocks(&s, piece->k0, packing->k, strip);
        return;
    }
    uint8_t *lines = strip + piece->k0 / (2 * layout->line_pairs) * layout->line_bytes;
    if (packing->format == MB_PACKED_BF16) pack_bf16(&s, s.count, lines);
    if (info.code_bits == 8) pack_bytes(&s, lines);
    if (info.code_bits == 4) pack_nibbles(&s, lines);
    if (info.factors) pack_factors(&s, strip + layout->factors + g0 * MB_STRIP);
    if (packing->format == MB_PACKED_NVFP4) {
        if (piece->k0 == 0) pack_scales(layout, &piece->total, 0, columns, 0, strip);
    } else if (info.scaled) {
        const float *scales = piece->scales + row * piece->scale_stride;
        for (int64_t g = 0; g < mb_ceil_div(s.count, packing->group); g++)
            pack_scales(layout, scales + g, piece->scale_stride, columns, g0 + g, strip);
    }
}

void mb_avx512bf16_pack(const struct mb_packing *packing, void *packed, const struct mb_piece *piece)
{
    const struct mb_strip_layout layout = mb_strip_layout_of(packing);
    const bool paired = packing->parts == 2;
    const int64_t end = paired ? mb_ceil_div(piece->n1, MB_STRIP) : mb_ceil_div(piece->n1, MB_PANEL) * 2;
    for (int64_t i = piece->n0 / MB_STRIP; i < end; i++) {
        const int64_t n = i * MB_STRIP, columns = mb_max(0, mb_min(MB_STRIP, piece->n1 - n));
        const int64_t strip = paired ? 2 * i + piece->part : i;
        uint8_t *to = (uint8_t *)packed + (size_t)strip * layout.strip_bytes;
        if (columns == 0) { // the empty half of the last panel
            memset(to, 0, layout.strip_bytes);
        } else {
            pack_strip(packing, &layout, piece, n, columns, to);
        }
    }
}
