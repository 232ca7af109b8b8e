// SPDX-License-Identifier: Apache-2.0
// Slips of the finger and their words.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/words.h"
#include "cmocka.h"

static void test_distances(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        int distance;
    } cases[] = {{"", "", 0},         {"", "abc", 3},           {"abc", "", 3},      {"same", "same", 0},
                 {"silu", "silo", 1}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"ab", "ba", 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(mb_edit_distance(cases[i].a, cases[i].b), cases[i].distance);
        assert_int_equal(mb_edit_distance(cases[i].b, cases[i].a), cases[i].distance);
    }
}

// 64 bytes are compared; one more is far from everything, itself included.
static void test_long_words(void **state)
{
    (void)state;
    char longest[66], other[66];
    memset(longest, 'w', sizeof longest - 1);
    memset(other, 'w', sizeof other - 1);
    longest[64] = other[64] = 0;
    other[0] = 'v';
    assert_int_equal(mb_edit_distance(longest, other), 1);
    longest[64] = 'w';
    longest[65] = 0;
    assert_true(mb_edit_distance(longest, longest) > 64);
}

static void test_nearest(void **state)
{
    (void)state;
    static const char *const names[] = {"softmax", "sigmoid", "sqrt_softplus", "identity", NULL};
    static const char *const none[] = {NULL};
    assert_string_equal(mb_nearest_name("sofmax", names), "softmax");
    assert_string_equal(mb_nearest_name("sigmoyd", names), "sigmoid");
    assert_string_equal(mb_nearest_name("sqrt_softpuls", names), "sqrt_softplus");
    assert_null(mb_nearest_name("relu", names));
    assert_null(mb_nearest_name("", names));
    assert_null(mb_nearest_name("softmax", none));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distances),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
