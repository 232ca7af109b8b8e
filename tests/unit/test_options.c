// SPDX-License-Identifier: Apache-2.0
// Structs of older and newer callers.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/options.h"
#include "cmocka.h"

struct sample {
    uint32_t struct_size;
    int32_t first;
    int64_t second;
};

struct newer_sample {
    struct sample known;
    int64_t third;
};

static void test_null_gives_zeros(void **state)
{
    (void)state;
    struct sample to = {1, 2, 3};
    assert_int_equal(mb_options_read(&to, sizeof to, NULL, "sample", NULL), MOEBLOCK_OK);
    assert_int_equal(to.struct_size, sizeof to);
    assert_int_equal(to.first, 0);
    assert_int_equal(to.second, 0);
}

static void test_same_size(void **state)
{
    (void)state;
    const struct sample from = {sizeof from, -4, 5};
    struct sample to;
    assert_int_equal(mb_options_read(&to, sizeof to, &from, "sample", NULL), MOEBLOCK_OK);
    assert_memory_equal(&to, &from, sizeof to);
}

static void test_shorter_leaves_the_rest_zero(void **state)
{
    (void)state;
    const struct sample from = {offsetof(struct sample, second), -4, 5};
    struct sample to = {1, 1, 1};
    assert_int_equal(mb_options_read(&to, sizeof to, &from, "sample", NULL), MOEBLOCK_OK);
    assert_int_equal(to.struct_size, sizeof to);
    assert_int_equal(to.first, -4);
    assert_int_equal(to.second, 0);
}

static void test_longer_needs_a_zero_tail(void **state)
{
    (void)state;
    struct newer_sample from = {{sizeof from, -4, 5}, 0};
    struct sample to;
    moeblock_error error;
    assert_int_equal(mb_options_read(&to, sizeof to, &from, "sample", &error), MOEBLOCK_OK);
    assert_int_equal(to.second, 5);
    from.third = INT64_MIN; // the last byte
    assert_int_equal(mb_options_read(&to, sizeof to, &from, "sample", &error), MOEBLOCK_UNSUPPORTED);
    assert_int_equal(error.code, MOEBLOCK_UNSUPPORTED);
    assert_non_null(strstr(error.message, "sample: a field at byte 23"));
}

static void test_impossible_sizes(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {0, 1, 3, 4097, UINT32_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const struct sample from = {sizes[i], 1, 1};
        struct sample to;
        moeblock_error error;
        assert_int_equal(mb_options_read(&to, sizeof to, &from, "sample", &error), MOEBLOCK_INVALID_ARGUMENT);
        assert_non_null(strstr(error.message, "set it to sizeof(sample), which is 16"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_null_gives_zeros),
        cmocka_unit_test(test_same_size),
        cmocka_unit_test(test_shorter_leaves_the_rest_zero),
        cmocka_unit_test(test_longer_needs_a_zero_tail),
        cmocka_unit_test(test_impossible_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
