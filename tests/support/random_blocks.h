// SPDX-License-Identifier: Apache-2.0
// Random descriptions of blocks, checkpoints in memory for them, inputs, and what the reference makes of these. The
// random numbers of a program follow from nothing but the order of its calls.
#ifndef TESTS_SUPPORT_RANDOM_BLOCKS_H
#define TESTS_SUPPORT_RANDOM_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moeblock/moeblock.h"
#include "weights/format.h"

enum { TOKENS = 9, MOST_HIDDEN = 192, MOST_TENSORS = 256, DESCRIPTION = 4096, STATE = 24, VOCABULARY = 40 };

#define COUNT(list) (sizeof(list) / sizeof *(list))

uint32_t random_below(uint32_t below);
float random_uniform(void); // in [-1, 1)

// Appends to a description.
void add_text(char text[DESCRIPTION], const char *format, ...) __attribute__((format(printf, 2, 3)));

// A linear router with any of the pipeline's primitives; not every one is valid.
void describe_block(char text[DESCRIPTION], enum mb_format format, int experts, int k);
// The named operators, a second bank and experts by token id.
void describe_operator(char text[DESCRIPTION], enum mb_format format, int experts, int k);

// `storage` members of "weights" that lay gate and up into one tensor, or not.
extern const char *const random_storage[];
extern const size_t random_storages;

// All tensors that a description needs; returns how many. `tensors` holds MOST_TENSORS.
size_t make_random_tensors(const moeblock_config *config, enum mb_format format, moeblock_tensor *tensors);
void free_random_tensors(moeblock_tensor *tensors, size_t n);

extern struct further_inputs {
    int64_t token_ids[TOKENS], seq_lens[3];
    int32_t token_types[TOKENS];
    float state[TOKENS * STATE];
} further;
void fill_further(void);

// Special values among them where `wild`.
void fill_input(float *x, size_t count, bool wild, bool fused);
moeblock_array array_of(const moeblock_config *config, float *data); // [TOKENS, hidden]; of NULL: none

struct block_result {
    float *y, *weights, state[TOKENS * STATE];
    int32_t *ids;
    size_t y_bytes, slot_bytes;
};
struct block_result make_result(const moeblock_config *config);
void free_result(struct block_result *r);

// Any compute type that the weights have.
moeblock_compute any_compute(const moeblock_config *config, enum mb_format format);

void run_reference(moeblock_context *context, const moeblock_config *config, const moeblock_tensor *tensors, size_t n,
                   moeblock_compute compute, const float *x, const float *aux, struct block_result *out);

#endif
