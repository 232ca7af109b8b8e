// SPDX-License-Identifier: Apache-2.0
// Random contents for the tensors that a checkpoint of any number format holds.
#ifndef TESTS_SUPPORT_STORED_VALUES_H
#define TESTS_SUPPORT_STORED_VALUES_H

#include "config/tensors.h"

enum { STORED_GROUP = 32 }; // inputs per scale where the format leaves it open

// What widths must be multiples of.
int stored_multiple(enum mb_format format);
// Members of the description's `weights` object without which the format cannot be read, each followed by a comma.
const char *stored_keys(enum mb_format format);
// Bytes of a tensor, and random contents for it; the inputs of formats with an order are in a random one.
size_t stored_bytes(const moeblock_tensor_need *need);
void stored_fill(enum mb_format format, const moeblock_tensor_need *need, uint64_t *state, void *data);

#endif
