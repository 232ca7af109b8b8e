// SPDX-License-Identifier: Apache-2.0
// Made-up tensor values for synth and bench: a pure function of seed, tensor name and position, so that any piece can
// be made on its own, in any order and by any thread.
#ifndef MB_CLI_VALUES_H
#define MB_CLI_VALUES_H

#include "config/tensors.h"

struct cli_values {
    uint64_t key;
    moeblock_dtype dtype;
    float centre, spread; // floats: uniform in [centre - spread, centre + spread)
    uint8_t code[256];    // one-byte types: the code that a random byte stands for
    uint32_t keep, plus;  // words of codes: (random & keep) + plus
    int64_t group;        // the groups of inputs: element i is i / group; 0: not these
    int64_t shape[2];     // 64-bit integers: the shape
};

// Chooses the distribution of a tensor by what it is: weights have the standard deviation 1 / sqrt(inputs), biases are
// small, scales are such that code times scale has that deviation, norms and per-expert scales lie around 1.
void cli_values_choose(const moeblock_config *config, enum mb_format format, int64_t layer,
                       const moeblock_tensor_need *tensor, uint64_t seed, struct cli_values *out);

// Fills `to` with bytes [first, first + bytes) of the tensor; `first` is a multiple of 8.
void cli_values_fill(const moeblock_context *context, const struct cli_values *values, uint64_t first, size_t bytes,
                     void *to);

// An input of `count` floats with standard deviation 1, each exact in bfloat16.
void cli_values_input(const moeblock_context *context, uint64_t seed, int64_t count, float *out);

// A tensor's element type (the format's float type when it is left open) and size in bytes.
moeblock_dtype cli_need_dtype(const moeblock_tensor_need *tensor, enum mb_format format);
uint64_t cli_need_bytes(const moeblock_tensor_need *tensor, enum mb_format format);

#endif
