// SPDX-License-Identifier: Apache-2.0
// A block of a JSON description with random weights in the caller's memory, which a test may change before loading.
#ifndef TESTS_SUPPORT_TINY_BLOCK_H
#define TESTS_SUPPORT_TINY_BLOCK_H

#include "config/tensors.h"
#include "moeblock/moeblock.h"

enum { TINY_TENSORS = 256 };

struct tiny_settings {
    const char *level; // NULL: the best
    int threads;       // 0: default
    enum mb_format format;
    unsigned seed;
};

struct tiny_block {
    moeblock_context *context;
    moeblock_config *config;
    moeblock_block *block;                    // NULL before tiny_load
    moeblock_workspace *workspace;            // NULL before tiny_load
    moeblock_tensor_need needs[TINY_TENSORS]; // hold the names
    moeblock_tensor tensors[TINY_TENSORS];
    size_t count;
    int64_t hidden, experts, k;
};

// Reads the description and makes its tensors: values in [-0.5, 0.5], the same for the same seed. Fails the test on any
// error, as the calls below do.
void tiny_make(struct tiny_block *out, const char *json, const struct tiny_settings *settings);
// Makes the block with the tensors as they are now, and a workspace for up to `tokens`.
void tiny_load(struct tiny_block *tiny, moeblock_compute compute, int64_t tokens);
void tiny_free(struct tiny_block *tiny);

// The tensor of a full name; its data may be written.
moeblock_tensor *tiny_tensor(struct tiny_block *tiny, const char *name);
void *tiny_data(struct tiny_block *tiny, const char *name);

// x [tokens, hidden] to y; ids and weights [tokens, k] may be NULL, as may stats.
struct tiny_result {
    float *y;
    int32_t *ids;
    float *weights;
};
struct tiny_result tiny_result_make(const struct tiny_block *tiny, int64_t tokens);
void tiny_result_free(struct tiny_result *result);
void tiny_forward(const struct tiny_block *tiny, const float *x, int64_t tokens, const struct tiny_result *out,
                  moeblock_forward_stats *stats);

// The next of a sequence that `state` alone decides: below `below`, and uniform in [-1, 1).
uint32_t tiny_random(uint64_t *state, uint32_t below);
float tiny_uniform(uint64_t *state);
// count uniform values.
float *tiny_values(uint64_t *state, int64_t count);

#endif
