// SPDX-License-Identifier: Apache-2.0
// Module name patterns: what published quantisation configurations write, and what is not a pattern.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cmocka.h"
#include "config/hf/pattern.h"

static void expressions(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *name;
        bool matches;
    } rows[] = {
        {".*mlp\\.(gate|up|gate_up|down)_proj.*", "model.layers.0.mlp.down_proj", true},
        {".*mlp\\.(gate|up|gate_up|down)_proj.*", "model.layers.2.mlp.experts.0.down_proj", false},
        {".*mlp.gate$", "model.layers.1.mlp.gate", true},
        {".*mlp.gate$", "model.layers.1.mlp.gate_proj", false},
        {".*self_attn.*", "model.layers.1.self_attn.q_proj", true},
        {"model\\.layers\\.\\d+\\.mlp", "model.layers.17.mlp.experts.0.up_proj", true},
        {"model\\.layers\\.[0-2]\\.", "model.layers.3.mlp", false},
        {"model\\.layers\\.[^0-2]\\.", "model.layers.3.mlp", true},
        {"experts", "model.experts", false}, // from the beginning
        {"(?:a|b)+c?d*?$", "abab", true},
        {"^a|b$", "b", true},
        {"", "anything", true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool valid = false;
        if (mb_pattern_matches(rows[i].pattern, rows[i].name, &valid) != rows[i].matches || !valid)
            fail_msg("\"%s\" on \"%s\"", rows[i].pattern, rows[i].name);
    }
}

static void not_expressions(void **state)
{
    (void)state;
    static const char *const patterns[] = {"(a", "a)", "[a", "*a", "a{2}", "\\1", "(?=a)", "a\\"};
    char nested[200] = "";
    bool valid = true;
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        valid = true;
        assert_false(mb_pattern_matches(patterns[i], "aaa", &valid));
        if (valid) fail_msg("\"%s\" is taken for a pattern", patterns[i]);
    }
    memset(nested, '(', 100);
    assert_false(mb_pattern_matches(nested, "a", &valid));
    assert_false(valid);
    char longer[600];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_false(mb_pattern_matches(longer, longer, &valid));
    assert_false(valid);
}

// Nested repetitions, which a matcher that goes back would try in countless ways.
static void no_explosion(void **state)
{
    (void)state;
    char name[300];
    bool valid;
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_false(mb_pattern_matches("((a*)*)*b", name, &valid));
    assert_true(valid);
}

static void wildcards(void **state)
{
    (void)state;
    assert_true(mb_wildcard_matches("model.layers.*.mlp.gate", "model.layers.12.mlp.gate"));
    assert_false(mb_wildcard_matches("model.layers.*.mlp.gate", "model.layers.12.mlp.gate_proj"));
    assert_true(mb_wildcard_matches("*", ""));
    assert_true(mb_wildcard_matches("*.experts.*", "a.experts.0.down_proj"));
    assert_false(mb_wildcard_matches("", "a"));
    assert_true(mb_wildcard_matches("a*b*c", "a-b-b-c"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(expressions), cmocka_unit_test(not_expressions),
                                       cmocka_unit_test(no_explosion), cmocka_unit_test(wildcards)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
