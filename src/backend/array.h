// SPDX-License-Identifier: Apache-2.0
// The caller's arrays: checking, finding a token's row, converting rows.
#ifndef MB_BACKEND_ARRAY_H
#define MB_BACKEND_ARRAY_H

#include <stdbool.h>

#include "moeblock/block.h"

// Checks dtype, rank, dims and strides of `array` named `name`; *tokens is the product of all dims but the last. An
// array without elements may have no data.
moeblock_status mb_array_check(const moeblock_array *array, const char *name, int64_t *tokens, moeblock_error *error);
// Whether no two rows share an element, as every array that is written must be.
bool mb_array_rows_apart(const moeblock_array *array);
// Whether two dense arrays of `tokens` rows share memory without being the same rows.
bool mb_array_overlaps(const moeblock_array *a, const moeblock_array *b, int64_t tokens);
// First element of token `t`, counting tokens in row-major order of the leading dimensions.
void *mb_array_row(const moeblock_array *array, int64_t t);

void mb_to_floats(float *to, const void *from, moeblock_dtype dtype, int64_t n);
void mb_from_floats(void *to, const float *from, moeblock_dtype dtype, int64_t n);

#endif
