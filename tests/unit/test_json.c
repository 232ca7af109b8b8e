// SPDX-License-Identifier: Apache-2.0
// Which JSON is refused, with which status and where; comments; the line of a key path.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cmocka.h"

static const struct mb_json_options strict = {.invalid = MOEBLOCK_INVALID_FILE};
static const struct mb_json_options commented = {.comments = true, .invalid = MOEBLOCK_INVALID_CONFIG};

static moeblock_status parse(const char *text, size_t bytes, const struct mb_json_options *options,
                             moeblock_error *error)
{
    // An exact copy on the heap, so that a sanitizer sees a read outside the text.
    char *copy = malloc(bytes ? bytes : 1);
    if (bytes) memcpy(copy, text, bytes);
    json_t *root = NULL;
    memset(error, 0, sizeof *error);
    const moeblock_status status = mb_json_parse(copy, bytes, "f.json", options, &root, error);
    assert_int_equal(status == MOEBLOCK_OK, root != NULL);
    assert_int_equal(error->code, status);
    if (root) assert_true(json_is_object(root));
    json_decref(root);
    free(copy);
    return status;
}

struct refused {
    const char *text;
    size_t bytes; // 0: strlen
    const char *message;
};

// Each row of the comparison in which parsers differ, and the plain syntax errors.
static const struct refused refused[] = {
    {"{\"a\":1,\n \"a\":2}", 0, "f.json:2:4: not valid JSON: duplicate object key"},
    {"{\"a\":1,\"\\u0061\":2}", 0, "duplicate object key"},
    {"{\"a\":{\"b\":1,\"b\":1}}", 0, "duplicate object key"},
    {"{} x", 0, "f.json:1:4: not valid JSON: end of file expected"},
    {"{}{}", 0, "end of file expected"},
    {"{\"a\":9223372036854775808}", 0, "too big integer"},
    {"{\"a\":18446744073709551615}", 0, "too big integer"},
    {"{\"a\":18446744073709551616}", 0, "too big integer"},
    {"{\"a\":1e400}", 0, "real number overflow"},
    {"{\"a\":NaN}", 0, "invalid token near 'NaN'"},
    {"{\"a\":Infinity}", 0, "invalid token"},
    {"{\"a\":-Infinity}", 0, "invalid token"},
    {"{\"a\":01}", 0, "invalid token"},
    {"{\"a\":+1}", 0, "invalid token"},
    {"{\"a\":0x10}", 0, "near 'x'"},
    {"{\"a\":\"\xff\"}", 0, "unable to decode byte"},
    {"{\"a\":\"\xc0\xaf\"}", 0, "unable to decode byte"},
    {"{\"a\":\"\xed\xa0\x80\"}", 0, "unable to decode byte"},
    {"{\"a\":\"\\ud800\"}", 0, "invalid Unicode"},
    {"{\"a\":\"x\0y\"}", 11, "f.json:1:8: a NUL byte is not allowed"},
    {"{}\0", 3, "f.json:1:3: a NUL byte"},
    {"{\"a\":\"\\u0000\"}", 0, "\\u0000 is not allowed"},
    {"\xef\xbb\xbf{}", 0, "f.json:1:1: the text starts with a byte-order mark"},
    {"{'a':1}", 0, "f.json:1:2: not valid JSON"},
    {"{\"a\":'x'}", 0, "invalid token"},
    {"{\"a\":1,}", 0, "f.json:1:8: not valid JSON"},
    {"{\"a\":[1,]}", 0, "not valid JSON"},
    {"{\"a\" 1}", 0, "':' expected"},
    {"{\"a\":1", 0, "'}' expected near end of file"},
    {"{\"a\":\"x", 0, "premature end of input"},
    {"{\"a\":\"x\ny\"}", 0, "unexpected newline"},
    {"{\"a\":tru}", 0, "invalid token"},
    {"{a:1}", 0, "not valid JSON"},
    {"// c\n{}", 0, "f.json:1:1: expected an object"},
    {"{} // c", 0, "end of file expected"},
    {"[]", 0, "f.json:1:1: expected an object"},
    {"\n\n  3", 0, "f.json:3:3: expected an object"},
    {"", 0, "f.json:1:1: the text is empty"},
    {" \n ", 0, "f.json:2:2: the text is empty"},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        moeblock_error error;
        const size_t bytes = refused[i].bytes ? refused[i].bytes : strlen(refused[i].text);
        assert_int_equal(parse(refused[i].text, bytes, &strict, &error), MOEBLOCK_INVALID_FILE);
        if (!strstr(error.message, refused[i].message)) {
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, error.message, refused[i].message);
        }
    }
}

static void test_every_cut_of_a_text_is_refused(void **state)
{
    (void)state;
    static const char text[] = "{\"a\\n\": [1, -2.5e3, true, null, {\"b\": \"\\u00e9\\\"\"}] /* c */ }";
    moeblock_error error;
    for (size_t bytes = 0; bytes < sizeof text - 1; bytes++) {
        assert_int_equal(parse(text, bytes, &commented, &error), MOEBLOCK_INVALID_CONFIG);
    }
    assert_int_equal(parse(text, sizeof text - 1, &commented, &error), MOEBLOCK_OK);
}

static void test_integers_are_exact(void **state)
{
    (void)state;
    static const char text[] = "{\"a\": 9007199254740993, \"b\": -9223372036854775808, \"c\": 1.0}";
    json_t *root = NULL;
    assert_int_equal(mb_json_parse(text, sizeof text - 1, "f", &strict, &root, NULL), MOEBLOCK_OK);
    assert_int_equal(json_integer_value(json_object_get(root, "a")), 9007199254740993);
    assert_int_equal(json_integer_value(json_object_get(root, "b")), INT64_MIN);
    assert_false(json_is_integer(json_object_get(root, "c")));
    json_decref(root);
}

// {"a": [[ ... ]]} with `depth` levels in all.
static char *nested(int depth)
{
    char *text = malloc((size_t)depth * 2 + 8);
    size_t at = (size_t)sprintf(text, "{\"a\":");
    for (int i = 1; i < depth; i++) text[at++] = '[';
    if (depth == 1) text[at++] = '1';
    for (int i = 1; i < depth; i++) text[at++] = ']';
    text[at++] = '}';
    text[at] = '\0';
    return text;
}

static void test_depth(void **state)
{
    (void)state;
    static const int depths[] = {1, 31, 32, 33, 1000, 2049, 200000};
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        char *text = nested(depths[i]);
        moeblock_error error;
        const moeblock_status expected = depths[i] <= 32 ? MOEBLOCK_OK : MOEBLOCK_LIMIT;
        assert_int_equal(parse(text, strlen(text), &strict, &error), expected);
        if (expected)
            assert_string_equal(error.message, "f.json:1:37: values are nested deeper than the 32 levels allowed");
        free(text);
    }
    const struct mb_json_options shallow = {.max_depth = 2, .invalid = MOEBLOCK_INVALID_FILE};
    moeblock_error error;
    assert_int_equal(parse("{\"a\":[\"[[[[\"]}", 14, &shallow, &error), MOEBLOCK_OK); // brackets in a string
    assert_int_equal(parse("{\"a\":[{}]}", 10, &shallow, &error), MOEBLOCK_LIMIT);
}

static void test_string_and_text_limits(void **state)
{
    (void)state;
    enum { LONGEST = 64 << 10 };
    static char text[LONGEST + 32];
    moeblock_error error;
    for (int extra = 0; extra < 2; extra++) {
        const int letters = LONGEST + extra;
        size_t at = (size_t)sprintf(text, "{\n\"a\":\"");
        memset(text + at, 'x', (size_t)letters);
        at += (size_t)letters;
        at += (size_t)sprintf(text + at, "\"}");
        assert_int_equal(parse(text, at, &strict, &error), extra ? MOEBLOCK_LIMIT : MOEBLOCK_OK);
        if (extra) assert_string_equal(error.message, "f.json:2:5: this string is longer than the 65536 bytes allowed");
    }
    const struct mb_json_options small = {.max_bytes = 8, .invalid = MOEBLOCK_INVALID_FILE};
    assert_int_equal(parse("{\"a\":12}", 8, &small, &error), MOEBLOCK_OK);
    assert_int_equal(parse("{\"a\":123}", 9, &small, &error), MOEBLOCK_LIMIT);
    assert_string_equal(error.message, "f.json: 9 bytes of JSON; at most 8 are allowed");
}

static void test_comments(void **state)
{
    (void)state;
    static const char good[] = "// first\n/* second\n * third */ {\"a\": \"// no /* comment\", // x\r\n"
                               "\"b\" /**/ : 1 /* \xff \" */ } // end";
    json_t *root = NULL;
    assert_int_equal(mb_json_parse(good, sizeof good - 1, "f", &commented, &root, NULL), MOEBLOCK_OK);
    assert_string_equal(json_string_value(json_object_get(root, "a")), "// no /* comment");
    assert_int_equal(json_integer_value(json_object_get(root, "b")), 1);
    json_decref(root);
}

// As Python writes it in published files; strict files have none.
static void test_infinity(void **state)
{
    (void)state;
    static const char text[] = "{\"a\": [0.0, Infinity], \"b\": -Infinity, \"c\": \"Infinity\"}";
    static const struct mb_json_options python = {.infinity = true, .invalid = MOEBLOCK_INVALID_CONFIG};
    moeblock_error error;
    json_t *root = NULL;
    assert_int_equal(mb_json_parse(text, sizeof text - 1, "f", &python, &root, NULL), MOEBLOCK_OK);
    assert_true(json_is_null(json_array_get(json_object_get(root, "a"), 1)));
    assert_true(json_is_null(json_object_get(root, "b")));
    assert_string_equal(json_string_value(json_object_get(root, "c")), "Infinity");
    json_decref(root);
    assert_int_equal(parse(text, sizeof text - 1, &strict, &error), MOEBLOCK_INVALID_FILE);
    static const char cut[] = "{\"a\": Infinit}", nan[] = "{\"a\": NaN}";
    assert_int_equal(parse(cut, sizeof cut - 1, &python, &error), MOEBLOCK_INVALID_CONFIG);
    assert_int_equal(parse(nan, sizeof nan - 1, &python, &error), MOEBLOCK_INVALID_CONFIG);
}

static void test_comments_that_are_wrong(void **state)
{
    (void)state;
    static const struct refused cases[] = {
        {"{}\n  /* open", 0, "f.json:2:3: this comment is not closed"},
        {"{} /*/", 0, "f.json:1:4: this comment is not closed"},
        {"/* a /* b */ */ {}", 0, "expected an object"}, // comments do not nest
        {"{ /\"a\": 1}", 0, "f.json:1:3: not valid JSON"},
        {"/* x\n\n */ {\n\"a\": ?}", 0, "f.json:4:6: not valid JSON"}, // lines are kept
        {"{\"a\": 1 # no\n}", 0, "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        moeblock_error error;
        assert_int_equal(parse(cases[i].text, strlen(cases[i].text), &commented, &error), MOEBLOCK_INVALID_CONFIG);
        if (!strstr(error.message, cases[i].message)) {
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, error.message, cases[i].message);
        }
    }
}

static const char lines_text[] = "// head\n"                               // 1
                                 "{\n"                                     // 2
                                 "  \"model\": {\"hidden\": 1,\n"          // 3
                                 "    \"x}\\\"\": \"]\", /* \"k\": 1 */\n" // 4
                                 "    \"k\":\n"                            // 5
                                 "      2},\n"                             // 6
                                 "  \"list\": [1,\n"                       // 7
                                 "    {\"a\": true,\n"                     // 8
                                 "     \"b\": [[], {}, \"\",\n"            // 9
                                 "       -1.5e3]}\n"                       // 10
                                 "  ],\n"                                  // 11
                                 "  \"a.b\": {\n"                          // 12
                                 "    \"c\": null}\n"                      // 13
                                 "}\n";

static void test_lines(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        int line;
    } cases[] = {
        {"", 2},
        {"model", 3},
        {"model.hidden", 3},
        {"model.k", 6},
        {"model.missing", 3},
        {"model.k.deeper", 6},
        {"list", 7},
        {"list[0]", 7},
        {"list[1]", 8},
        {"list[1].a", 8},
        {"list[1].b", 9},
        {"list[1].b[3]", 10},
        {"list[1].b[4]", 9},
        {"list[2].a", 7},
        {"list[", 7},
        {"list[x]", 7},
        {"list[99999999999999999999]", 7},
        {"list.a", 7},
        {"a.b", 12},
        {"a.b.c", 13},
        {"absent.key", 2},
        {"mod", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int line = mb_json_line(lines_text, sizeof lines_text - 1, cases[i].path);
        if (line != cases[i].line) fail_msg("%s: line %d instead of %d", cases[i].path, line, cases[i].line);
    }
    assert_int_equal(mb_json_line("", 0, "a"), 1);
}

// Any bytes give a line of the text.
static void test_lines_of_broken_text(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < sizeof lines_text - 1; bytes++) {
        char *copy = malloc(bytes ? bytes : 1);
        memcpy(copy, lines_text, bytes);
        assert_in_range(mb_json_line(copy, bytes, "list[1].b[3]"), 1, 14);
        for (size_t i = 0; i < bytes; i += 7) copy[i] = "{}[],:\"/*\0"[(i + bytes) % 10];
        assert_in_range(mb_json_line(copy, bytes, "list[1].b[3]"), 1, 14);
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_every_cut_of_a_text_is_refused),
        cmocka_unit_test(test_integers_are_exact),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_string_and_text_limits),
        cmocka_unit_test(test_comments),
        cmocka_unit_test(test_infinity),
        cmocka_unit_test(test_comments_that_are_wrong),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_lines_of_broken_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
