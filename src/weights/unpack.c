// SPDX-License-Identifier: Apache-2.0
// Codes that do not lie as a piece's rows do: bytes or words along the inputs or across the outputs, inputs that change
// places. A row of four-bit codes becomes bytes of two, low nibble first, a row of eight-bit codes bytes.
#include <string.h>

#include "base/arith.h"
#include "base/memory.h"
#include "base/status.h"
#include "weights/checkpoint.h"
#include "weights/matrix_load.h"

enum { BLOCK_WORDS = 16, BLOCK_BYTES = 64 }; // of a row: a cache line

bool mb_needs_unpack(const struct mb_matrix *matrix)
{
    return mb_format_table[matrix->format].order >= MB_CODES_WORDS_DOWN || mb_bytes_down(matrix) || matrix->permutation;
}

// Rows of whole bytes or words, so that they can be moved as they are.
static int64_t row_bytes(const struct mb_matrix *matrix, const struct mb_rectangle *r)
{
    if (mb_bytes_down(matrix)) return mb_ceil_div(r->k1 - r->k0, 2);
    return mb_ceil_div(r->k1 - r->k0, mb_format_word_codes(matrix->format)) * 4;
}

size_t mb_unpack_bytes(const struct mb_matrix *matrix, const struct mb_rectangle *rectangle)
{
    if (!mb_needs_unpack(matrix)) return 0;
    return (size_t)((rectangle->n1 - rectangle->n0) * row_bytes(matrix, rectangle));
}

static uint32_t word_at(const struct mb_loaded *loaded, int64_t row, int64_t column)
{
    uint32_t word;
    memcpy(&word, (const uint32_t *)loaded->codes + row * loaded->row_stride + column * loaded->column_stride,
           sizeof word);
    return word;
}

// Words of inputs change from one below the other to side by side.
static void turn_words(const struct mb_rectangle *r, const struct mb_loaded *loaded, int64_t bytes, uint8_t *to)
{
    for (int64_t j0 = 0; j0 < bytes / 4; j0 += BLOCK_WORDS)
        for (int64_t n = 0; n < r->n1 - r->n0; n++)
            for (int64_t j = j0; j < mb_min(bytes / 4, j0 + BLOCK_WORDS); j++) {
                const uint32_t word = word_at(loaded, n, j);
                memcpy(to + n * bytes + 4 * j, &word, sizeof word);
            }
}

// Bytes likewise.
static void turn_bytes(const struct mb_rectangle *r, const struct mb_loaded *loaded, int64_t bytes, uint8_t *to)
{
    const uint8_t *codes = loaded->codes;
    for (int64_t j0 = 0; j0 < bytes; j0 += BLOCK_BYTES)
        for (int64_t n = 0; n < r->n1 - r->n0; n++)
            for (int64_t j = j0; j < mb_min(bytes, j0 + BLOCK_BYTES); j++)
                to[n * bytes + j] = codes[n * loaded->row_stride + j * loaded->column_stride];
}

// Eight outputs of a word go to eight rows; two inputs make a byte.
static void spread_words(const struct mb_rectangle *r, const struct mb_loaded *loaded, int64_t bytes, uint8_t *to)
{
    static const uint32_t shift[8] = {0, 16, 4, 20, 8, 24, 12, 28};
    const int64_t first = r->n0 % 8, count = r->k1 - r->k0;
    for (int64_t k = 0; k < count; k += 2)
        for (int64_t n = r->n0; n < r->n1; n++) {
            const int64_t unit = (n - r->n0 + first) / 8;
            const uint32_t low = word_at(loaded, unit, k), high = k + 1 < count ? word_at(loaded, unit, k + 1) : 0;
            to[(n - r->n0) * bytes + k / 2] = (uint8_t)((low >> shift[n % 8] & 15) | (high >> shift[n % 8] & 15) << 4);
        }
}

// Code (n, k) of a row of words, wherever the words are.
static uint8_t code_at(const struct mb_matrix *matrix, const struct mb_loaded *loaded, int64_t n, int64_t k)
{
    const int64_t codes = mb_format_word_codes(matrix->format);
    const uint32_t bits = 32 / (uint32_t)codes;
    if (mb_format_table[matrix->format].order == MB_CODES_WORDS_DOWN)
        return (uint8_t)(word_at(loaded, n, k / codes) >> (bits * (uint32_t)(k % codes)) & ((1u << bits) - 1));
    const uint8_t *row = (const uint8_t *)loaded->codes + n * loaded->row_stride;
    return codes == 4 ? row[k] : (uint8_t)(row[k / 2] >> (k % 2 * 4) & 15);
}

static void permute(const struct mb_matrix *matrix, const struct mb_rectangle *r, const struct mb_loaded *loaded,
                    int64_t bytes, uint8_t *to)
{
    const bool nibbles = mb_format_word_codes(matrix->format) == 8;
    const int64_t outputs = r->n1 - r->n0;
    memset(to, 0, (size_t)(outputs * bytes));
    for (int64_t j = 0; j < matrix->columns; j++)
        for (int64_t n = 0; n < outputs; n++) {
            const uint8_t code = code_at(matrix, loaded, n, matrix->permutation[j]);
            if (nibbles)
                to[n * bytes + j / 2] |= (uint8_t)(code << (j % 2 * 4));
            else
                to[n * bytes + j] = code;
        }
}

void mb_unpack(const struct mb_matrix *matrix, const struct mb_rectangle *r, struct mb_loaded *loaded, uint8_t *to)
{
    const int64_t bytes = row_bytes(matrix, r);
    if (matrix->permutation)
        permute(matrix, r, loaded, bytes, to);
    else if (mb_bytes_down(matrix))
        turn_bytes(r, loaded, bytes, to);
    else if (mb_format_table[matrix->format].order == MB_CODES_WORDS_DOWN)
        turn_words(r, loaded, bytes, to);
    else
        spread_words(r, loaded, bytes, to);
    loaded->codes = to;
    loaded->row_stride = (ptrdiff_t)bytes;
    loaded->column_stride = 1;
}

// A stable counting sort by group: first how many inputs each group has, which is known, then the places.
static moeblock_status sort_inputs(const struct mb_matrix *matrix, const int32_t *group_of, int32_t *next, int32_t *out,
                                   bool *sorted, moeblock_error *error)
{
    const int64_t group = mb_matrix_group(matrix), groups = mb_ceil_div(matrix->columns, group);
    *sorted = true;
    for (int64_t g = 0; g < groups; g++) next[g] = (int32_t)(g * group);
    for (int64_t k = 0; k < matrix->columns; k++) {
        const int32_t g = group_of[k];
        const int64_t end = g >= 0 && g < groups ? mb_min((g + 1) * group, matrix->columns) : 0;
        if (g < 0 || g >= groups || next[g] >= end)
            return mb_fail(error, MOEBLOCK_INVALID_FILE,
                           "tensor '%.300s': input %lld is said to be in group %d, expected %lld groups of %lld inputs",
                           matrix->order.name, (long long)k, (int)g, (long long)groups, (long long)group);
        *sorted = *sorted && next[g] == k;
        out[next[g]++] = (int32_t)k;
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_matrix_order(moeblock_weights *weights, const moeblock_allocator *allocator,
                                const struct mb_matrix *matrix, int32_t *out, bool *sorted, moeblock_error *error)
{
    const size_t count = (size_t)matrix->columns;
    int32_t *memory = mb_alloc(allocator, 2 * count * sizeof *memory); // groups of the inputs, next place of a group
    if (!memory)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "tensor '%.300s': no memory to read it", matrix->order.name);
    moeblock_status status = moeblock_weights_read(weights, &matrix->order, matrix->order_offset * sizeof *memory,
                                                   count * sizeof *memory, memory, error);
    if (status == MOEBLOCK_OK) status = sort_inputs(matrix, memory, memory + count, out, sorted, error);
    mb_free(allocator, memory);
    return status;
}

moeblock_status mb_matrix_check_order(moeblock_weights *weights, const moeblock_allocator *allocator,
                                      const struct mb_matrix *matrix, moeblock_error *error)
{
    if (!matrix->order.name) return MOEBLOCK_OK;
    bool sorted = true;
    int32_t *order = mb_alloc(allocator, (size_t)matrix->columns * sizeof *order);
    if (!order)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "tensor '%.300s': no memory to read it", matrix->order.name);
    const moeblock_status status = mb_matrix_order(weights, allocator, matrix, order, &sorted, error);
    mb_free(allocator, order);
    if (status != MOEBLOCK_OK || sorted) return status;
    return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                   "tensor '%.300s' puts the inputs in another order, which is read for experts only",
                   matrix->order.name);
}
