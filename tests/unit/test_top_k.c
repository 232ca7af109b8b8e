// SPDX-License-Identifier: Apache-2.0
// mb_top_k against sorting: random and adversarial values, every k.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "cmocka.h"
#include "routers/router.h"

enum { MAX_N = 4096 };

static uint64_t random_state = 1;

static uint32_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static const float *sorted_values;

// NaN below -infinity, -0 equal to 0, ties to the lower index.
static int by_rank(const void *left, const void *right)
{
    const int32_t i = *(const int32_t *)left, j = *(const int32_t *)right;
    const float a = sorted_values[i], b = sorted_values[j];
    if (isnan(a) != isnan(b)) return isnan(a) ? 1 : -1;
    if (!isnan(a) && a != b) return a > b ? -1 : 1;
    return i < j ? -1 : 1;
}

static void check(const float *values, int64_t n, int64_t k)
{
    static int32_t expected[MAX_N], found[MAX_N + 1];
    for (int64_t i = 0; i < n; i++) expected[i] = (int32_t)i;
    sorted_values = values;
    qsort(expected, (size_t)n, sizeof *expected, by_rank);
    found[k] = -7;
    mb_top_k(values, n, k, found);
    assert_int_equal(found[k], -7);
    assert_memory_equal(found, expected, (size_t)k * sizeof *found);
}

// The kinds of rows that have broken routers elsewhere.
static float draw(int kind, int64_t i, int64_t n)
{
    static const float special[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1.0f, -1.0f, 3.4e38f, -3.4e38f, 1.2e-38f};
    const float uniform = (float)next_random() / 2147483648.0f - 0.5f;
    switch (kind) {
    case 0:
        return uniform;
    case 1:
        return special[next_random() % 10];
    case 2:
        return NAN;
    case 3:
        return (next_random() & 1) ? 0.0f : -0.0f;
    case 4:
        return (float)(next_random() % 3);
    case 5:
        return (float)i;
    case 6:
        return (float)(n - i);
    case 7:
        return next_random() % 8 ? uniform : NAN;
    case 8:
        return i + 1 == n ? -INFINITY : NAN;
    default:
        return -INFINITY;
    }
}

enum { KINDS = 10 };

static void small_rows_with_every_k(void **state)
{
    (void)state;
    float values[20];
    for (int round = 0; round < 40; round++)
        for (int kind = 0; kind < KINDS; kind++)
            for (int64_t n = 1; n <= 20; n++) {
                for (int64_t i = 0; i < n; i++) values[i] = draw(kind, i, n);
                for (int64_t k = 1; k <= n; k++) check(values, n, k);
            }
}

static void large_rows(void **state)
{
    (void)state;
    static float values[MAX_N];
    static const int64_t sizes[] = {64, 65, 256, 384, 768, 896, 4096};
    static const int64_t counts[] = {1, 2, 8, 22, 63, 64, 65, 66, 127, 256, 1000, 4095, 4096};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int kind = 0; kind < KINDS; kind++) {
            for (int64_t i = 0; i < sizes[s]; i++) values[i] = draw(kind, i, sizes[s]);
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
                if (counts[c] <= sizes[s]) check(values, sizes[s], counts[c]);
        }
}

static void no_choice_writes_nothing(void **state)
{
    (void)state;
    const float value = 1.0f;
    int32_t untouched = 42;
    mb_top_k(&value, 1, 0, &untouched);
    assert_int_equal(untouched, 42);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_rows_with_every_k),
        cmocka_unit_test(large_rows),
        cmocka_unit_test(no_choice_writes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
