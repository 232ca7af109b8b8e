// SPDX-License-Identifier: Apache-2.0
// The best k of n values in a total order, so that routing has an answer for any input (moe-families section 7, ties
// and NaN): NaN < -infinity < finite < +infinity, -0 equals 0, ties to the lower index.
#include <stdbool.h>

#include "routers/router.h"

enum { INSERTION_MAX_K = 64 }; // above it a heap is faster than moving the sorted list

// Strictly above in value. Every comparison with a NaN is false, hence the second half.
static inline bool above(float a, float b) { return a > b || (b != b && a == a); }

// Whether index i ranks below index j.
static inline bool below(const float *values, int32_t i, int32_t j)
{
    if (above(values[j], values[i])) return true;
    return i > j && !above(values[i], values[j]);
}

// Keeps out[0, k) sorted while indices come in ascending order: an equal value never displaces an earlier one. Most
// values fail the one comparison with the last that is kept.
static void top_k_by_insertion(const float *values, int64_t n, int64_t k, int32_t *out)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        const float value = values[i];
        if (count == k && !above(value, values[out[k - 1]])) continue;
        int64_t at = count < k ? count++ : k - 1;
        for (; at > 0 && above(value, values[out[at - 1]]); at--) out[at] = out[at - 1];
        out[at] = (int32_t)i;
    }
}

// Restores the heap (the lowest rank at the root) below position `at`.
static void sift_down(const float *values, int32_t *heap, int64_t count, int64_t at)
{
    const int32_t moved = heap[at];
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && below(values, heap[child + 1], heap[child])) child++;
        if (!below(values, heap[child], moved)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

// O(n log k): the k best so far as a heap; emptying it lowest rank first leaves `out` best first.
static void top_k_by_heap(const float *values, int64_t n, int64_t k, int32_t *out)
{
    for (int64_t i = 0; i < k; i++) out[i] = (int32_t)i;
    for (int64_t at = k / 2 - 1; at >= 0; at--) sift_down(values, out, k, at);
    for (int64_t i = k; i < n; i++) {
        if (!above(values[i], values[out[0]])) continue;
        out[0] = (int32_t)i;
        sift_down(values, out, k, 0);
    }
    for (int64_t count = k - 1; count > 0; count--) {
        const int32_t lowest = out[0];
        out[0] = out[count];
        out[count] = lowest;
        sift_down(values, out, count, 0);
    }
}

void mb_top_k(const float *values, int64_t n, int64_t k, int32_t *out)
{
    if (k <= 0) return;
    if (k <= INSERTION_MAX_K)
        top_k_by_insertion(values, n, k, out);
    else
        top_k_by_heap(values, n, k, out);
}
