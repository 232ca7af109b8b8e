// SPDX-License-Identifier: Apache-2.0
// How many bytes a message between two ranks takes: the one place that real runs and predictions take them from.
#ifndef MB_BACKEND_WIRE_H
#define MB_BACKEND_WIRE_H

#include <stdint.h>

// Of the header of every message, of a dispatched row's count of experts, and of each expert there (id and weight).
enum { MB_WIRE_HEADER = 32, MB_WIRE_COUNT = 4, MB_WIRE_PAIR = 8 };

// A parcel of the dispatch: rows of `row` bytes, their counts, then all pairs. Nothing where no row goes.
static inline uint64_t mb_wire_counts_at(uint64_t rows, uint64_t row)
{
    return (rows * row + MB_WIRE_COUNT - 1) / MB_WIRE_COUNT * MB_WIRE_COUNT;
}
static inline uint64_t mb_wire_parcel(uint64_t rows, uint64_t row, uint64_t pairs)
{
    return mb_wire_counts_at(rows, row) + rows * MB_WIRE_COUNT + pairs * MB_WIRE_PAIR;
}
// The least that could be sent for it, header included: each row once.
static inline uint64_t mb_wire_bound(uint64_t rows, uint64_t row, uint64_t pairs)
{
    return MB_WIRE_HEADER + rows * (row + MB_WIRE_COUNT) + pairs * MB_WIRE_PAIR;
}

#endif
