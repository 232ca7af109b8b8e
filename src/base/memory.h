// SPDX-License-Identifier: Apache-2.0
// The only place that allocates. All memory is 64-byte aligned.
#ifndef MB_BASE_MEMORY_H
#define MB_BASE_MEMORY_H

#include <stddef.h>

#include "moeblock/context.h"

// The C library's allocator; from 4 MiB on anonymous pages that ask for huge ones.
extern const moeblock_allocator mb_default_allocator;

// NULL when memory is short, also for sizes near SIZE_MAX; 0 bytes give a valid pointer. Contents are undefined
// (mb_alloc) or zero (mb_alloc_zero).
void *mb_alloc(const moeblock_allocator *allocator, size_t bytes);
void *mb_alloc_zero(const moeblock_allocator *allocator, size_t bytes);
void mb_free(const moeblock_allocator *allocator, void *memory); // NULL allowed; knows the size itself

#endif
