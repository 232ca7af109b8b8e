// SPDX-License-Identifier: Apache-2.0
// Arithmetic on sizes that come from outside: every product and sum is checked.
#ifndef MB_BASE_ARITH_H
#define MB_BASE_ARITH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool mb_mul_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool mb_add_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }

static inline size_t mb_round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }
static inline int64_t mb_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t mb_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t mb_max(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
