// SPDX-License-Identifier: Apache-2.0
// Tables of experts and ranks: contiguous runs, balance of measured loads with copies, files.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "cmocka.h"
#include "mesh/mesh.h"
#include "mesh/placement.h"
#include "unit/files.h"

static const moeblock_allocator *const allocator = &mb_default_allocator;

// Every expert has ascending, valid holders, each home finds one of them, and no rank holds more than `most`.
static void check_table(const struct mb_placement_table *table, int64_t most)
{
    for (int64_t e = 0; e < table->experts; e++) {
        assert_true(table->begin[e] < table->begin[e + 1]);
        for (int64_t i = table->begin[e]; i < table->begin[e + 1]; i++) {
            assert_in_range(table->holder[i], 0, table->ranks - 1);
            if (i > table->begin[e]) assert_true(table->holder[i] > table->holder[i - 1]);
        }
        for (int home = 0; home < table->ranks; home++) {
            const int rank = mb_placement_rank(table, e, home);
            assert_true(mb_placement_holds(table, e, rank));
            if (mb_placement_holds(table, e, home)) assert_int_equal(rank, home);
        }
    }
    for (int r = 0; r < table->ranks; r++) assert_true(mb_placement_count(table, r) <= most);
}

static double worst(const struct mb_placement_table *table, const int64_t *load)
{
    double loads[64], most = 0;
    mb_placement_loads(table, load, loads);
    for (int r = 0; r < table->ranks; r++) most = loads[r] > most ? loads[r] : most;
    return most;
}

static void runs_for_any_size(void **state)
{
    (void)state;
    moeblock_error error;
    for (int64_t experts = 1; experts < 20; experts++)
        for (int ranks = 1; ranks < 25; ranks++) {
            struct mb_placement_table table;
            assert_int_equal(mb_placement_contiguous(allocator, experts, ranks, &table, &error), MOEBLOCK_OK);
            check_table(&table, (experts + ranks - 1) / ranks);
            for (int r = 0; r < ranks; r++) {
                int64_t begin, end;
                mb_split(experts, ranks, r, &begin, &end);
                assert_int_equal(mb_placement_count(&table, r), end - begin);
                for (int64_t e = begin; e < end; e++) assert_int_equal(mb_placement_rank(&table, e, 0), r);
            }
            mb_placement_free(&table);
        }
}

// Never worse than runs, and within the memory that was allowed, for any load, ranks and copies.
static void balance_is_never_worse(void **state)
{
    (void)state;
    moeblock_error error;
    uint32_t seed = 1;
    int64_t load[40];
    for (int round = 0; round < 200; round++) {
        const int64_t experts = 1 + round % 40, copies = round % 3;
        const int ranks = 1 + round * 7 % 24;
        for (int64_t e = 0; e < experts; e++) {
            seed = seed * 1664525u + 1013904223u;
            load[e] = round % 5 == 0 ? 0 : (int64_t)(seed >> 24) * (round % 2 && e % 7 == 0 ? 20 : 1);
        }
        struct mb_placement_table table, runs;
        assert_int_equal(mb_placement_contiguous(allocator, experts, ranks, &runs, &error), MOEBLOCK_OK);
        assert_int_equal(mb_placement_balanced(allocator, load, experts, ranks, copies, &table, &error), MOEBLOCK_OK);
        check_table(&table, (experts + ranks - 1) / ranks + copies);
        assert_true(worst(&table, load) <= worst(&runs, load));
        mb_placement_free(&table);
        mb_placement_free(&runs);
    }
}

// One expert has half of all tokens: only copies help.
static void copies_divide_a_hot_expert(void **state)
{
    (void)state;
    moeblock_error error;
    int64_t load[16];
    for (int e = 0; e < 16; e++) load[e] = e == 5 ? 1500 : 100;
    struct mb_placement_table packed, copied;
    assert_int_equal(mb_placement_balanced(allocator, load, 16, 4, 0, &packed, &error), MOEBLOCK_OK);
    assert_int_equal(mb_placement_balanced(allocator, load, 16, 4, 1, &copied, &error), MOEBLOCK_OK);
    assert_int_equal(packed.begin[16], 16);
    assert_true(worst(&packed, load) >= 1500);
    assert_int_equal(copied.begin[6] - copied.begin[5], 4);
    assert_true(worst(&copied, load) <= 800); // 750 is the mean
    mb_placement_free(&packed);
    mb_placement_free(&copied);
}

static void a_file_gives_the_table_back(void **state)
{
    (void)state;
    moeblock_error error;
    const int64_t load[6] = {9, 1, 1, 1, 1, 1};
    char path[600];
    struct mb_placement_table made, read;
    assert_int_equal(mb_placement_balanced(allocator, load, 6, 3, 1, &made, &error), MOEBLOCK_OK);
    char *text = mb_placement_text(&made);
    assert_non_null(text);
    snprintf(path, sizeof path, "%s", files_put("placement.json", text, strlen(text)));
    assert_int_equal(mb_placement_named(allocator, path, 6, 3, &read, &error), MOEBLOCK_OK);
    assert_memory_equal(made.begin, read.begin, 7 * sizeof *made.begin);
    assert_memory_equal(made.holder, read.holder, (size_t)made.begin[6] * sizeof *made.holder);
    mb_placement_free(&read);
    assert_int_equal(mb_placement_named(allocator, path, 6, 4, &read, &error), MOEBLOCK_INVALID_CONFIG);
    assert_non_null(strstr(error.message, "on 3 ranks, expected 6 on 4"));
    assert_int_equal(mb_placement_named(allocator, path, 7, 3, &read, &error), MOEBLOCK_INVALID_CONFIG);
    mb_placement_free(&made);
    mb_free(allocator, text);
}

static void bad_files_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"{}", "schema"},
        {"[]", "placement.json"},
        {"{\"schema\": \"moeblock.load/1\"}", "moeblock.load/1"},
        {"{\"schema\": \"moeblock.placement/1\", \"ranks\": 2}", "0 experts"},
        {"{\"schema\": \"moeblock.placement/1\", \"ranks\": 2, \"experts\": [[0], []]}", "expert 1 has no list"},
        {"{\"schema\": \"moeblock.placement/1\", \"ranks\": 2, \"experts\": [[0], 1]}", "expert 1 has no list"},
        {"{\"schema\": \"moeblock.placement/1\", \"ranks\": 2, \"experts\": [[2], [0]]}",
         "expert 0 has a rank outside"},
        {"{\"schema\": \"moeblock.placement/1\", \"ranks\": 2, \"experts\": [[0], [-1]]}", "outside the mesh"},
        {"{\"schema\": \"moeblock.placement/1\", \"ranks\": 2, \"experts\": [[0, 0], [1]]}", "do not ascend"},
    };
    moeblock_error error;
    struct mb_placement_table table;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = files_put("placement.json", cases[i].text, strlen(cases[i].text));
        assert_int_not_equal(mb_placement_named(allocator, path, 2, 2, &table, &error), MOEBLOCK_OK);
        if (!strstr(error.message, cases[i].part)) fail_msg("case %zu: %s", i, error.message);
    }
    assert_int_equal(mb_placement_named(allocator, "no such file", 2, 2, &table, &error), MOEBLOCK_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_for_any_size),          cmocka_unit_test(balance_is_never_worse),
        cmocka_unit_test(copies_divide_a_hot_expert), cmocka_unit_test(a_file_gives_the_table_back),
        cmocka_unit_test(bad_files_are_named),
    };
    return cmocka_run_group_tests_name("placement", tests, files_begin, files_end);
}
