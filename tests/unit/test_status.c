// SPDX-License-Identifier: Apache-2.0
// Error text: bounded, on one line, safe on a terminal, and built from arguments that may be the message itself.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "cmocka.h"

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(moeblock_status_name(MOEBLOCK_OK), "OK");
    assert_string_equal(moeblock_status_name(MOEBLOCK_LIMIT), "LIMIT");
    assert_string_equal(moeblock_status_name(MOEBLOCK_INTERNAL), "INTERNAL");
    assert_string_equal(moeblock_status_name((moeblock_status)16), "?");
    assert_string_equal(moeblock_status_name((moeblock_status)-1), "?");
}

static void test_fail_fills_and_allows_null(void **state)
{
    (void)state;
    moeblock_error error;
    assert_int_equal(mb_fail(&error, MOEBLOCK_IO, "reading %s: %d", "a b", 7), MOEBLOCK_IO);
    assert_int_equal(error.code, MOEBLOCK_IO);
    assert_string_equal(error.message, "reading a b: 7");
    assert_int_equal(mb_fail(NULL, MOEBLOCK_LIMIT, "x"), MOEBLOCK_LIMIT);
}

// A message may be made of itself.
static void test_more_is_said_before_it(void **state)
{
    (void)state;
    moeblock_error error;
    mb_fail(&error, MOEBLOCK_NOT_FOUND, "tensor \"%s\" is missing", "w\n");
    assert_int_equal(mb_fail(&error, error.code, "layer %d: %s", 3, error.message), MOEBLOCK_NOT_FOUND);
    assert_string_equal(error.message, "layer 3: tensor \"w\\x0a\" is missing");
}

struct escape_case {
    const char *from, *to;
};

static void test_escapes(void **state)
{
    (void)state;
    static const struct escape_case cases[] = {
        {"plain ~ text", "plain ~ text"},
        {"a\nb\tc\r", "a\\x0ab\\x09c\\x0d"},
        {"\x1b[2J", "\\x1b[2J"},
        {"\x7f", "\\x7f"},
        {"caf\xc3\xa9 \xe4\xb8\xad \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe4\xb8\xad \xf0\x9f\x98\x80"},
        {"\xc2\x9b", "\\xc2\\x9b"},                   // C1 control
        {"\xe2\x80\xae", "\\xe2\\x80\\xae"},          // right-to-left override
        {"\xc0\xaf", "\\xc0\\xaf"},                   // overlong
        {"\xe0\x80\xaf", "\\xe0\\x80\\xaf"},          // overlong
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"},          // surrogate
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"}, // beyond Unicode
        {"\xff\xfe", "\\xff\\xfe"},
        {"\xc3", "\\xc3"}, // cut short
        {"\xe4\xb8", "\\xe4\\xb8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char to[64];
        mb_escape(to, sizeof to, cases[i].from);
        assert_string_equal(to, cases[i].to);
    }
}

static void test_messages_never_overflow(void **state)
{
    (void)state;
    struct {
        moeblock_error error;
        char guard[16];
    } box;
    static const char *const units[] = {"a", "\n", "\xc3\xa9", "\xe4\xb8\xad", "\xf0\x9f\x98\x80"};
    static char text[8192];
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        for (size_t offset = 0; offset < 8; offset++) {
            memset(text, 'x', offset);
            text[offset] = '\0';
            while (strlen(text) + 5 < sizeof text) strcat(text, units[u]);
            memset(&box, 0x55, sizeof box);
            mb_fail(&box.error, MOEBLOCK_IO, "%s", text);
            const size_t length = strlen(box.error.message);
            assert_in_range(length, 1000, sizeof box.error.message - 1);
            assert_string_equal(box.error.message + length - 3, "...");
            for (size_t i = 0; i < sizeof box.guard; i++) assert_int_equal(box.guard[i], 0x55);
            char again[sizeof box.error.message]; // no character was cut in half
            mb_escape(again, sizeof again, box.error.message);
            assert_string_equal(again, box.error.message);
        }
    }
}

static void test_text_that_just_fits(void **state)
{
    (void)state;
    moeblock_error error;
    char text[sizeof error.message + 1];
    memset(text, 'y', sizeof text);
    text[sizeof error.message - 1] = '\0';
    mb_fail(&error, MOEBLOCK_IO, "%s", text);
    assert_string_equal(error.message, text);
    char tiny[3];
    mb_escape(tiny, sizeof tiny, "abcd");
    assert_string_equal(tiny, "ab");
    mb_escape(tiny, 0, "abcd");
    assert_string_equal(tiny, "ab");
}

static void test_prefixes_pile_up_safely(void **state)
{
    (void)state;
    moeblock_error error;
    mb_fail(&error, MOEBLOCK_IO, "end");
    for (int i = 0; i < 1000; i++) mb_fail(&error, MOEBLOCK_IO, "level %d: %s", i, error.message);
    assert_true(strlen(error.message) < sizeof error.message);
    assert_non_null(strstr(error.message, "level 999: level 998: "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_fail_fills_and_allows_null),
        cmocka_unit_test(test_more_is_said_before_it),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_messages_never_overflow),
        cmocka_unit_test(test_text_that_just_fits),
        cmocka_unit_test(test_prefixes_pile_up_safely),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
