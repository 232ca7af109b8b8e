// SPDX-License-Identifier: Apache-2.0
// The files of configs/: each parses, prints, parses back to the same text, and says what the mapping makes of the
// published config.json it comes from.
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmocka.h"
#include "moeblock/moeblock.h"

static moeblock_context *context;

static int set_up(void **state)
{
    (void)state;
    return moeblock_context_create(NULL, &context, NULL) != MOEBLOCK_OK;
}

static int tear_down(void **state)
{
    (void)state;
    moeblock_context_destroy(&context);
    return 0;
}

static moeblock_config *open_config(const char *folder, const char *name)
{
    char path[1024];
    moeblock_error error = {0};
    moeblock_config *config = NULL;
    snprintf(path, sizeof path, "%s/%s/%s", MOEBLOCK_SOURCE_DIR, folder, name);
    if (moeblock_config_open(context, path, NULL, &config, &error) != MOEBLOCK_OK) fail_msg("%s", error.message);
    return config;
}

static moeblock_config *parse_config(const char *text)
{
    moeblock_error error = {0};
    moeblock_config *config = NULL;
    if (moeblock_config_parse(context, text, strlen(text), "printed", NULL, &config, &error) != MOEBLOCK_OK)
        fail_msg("%s in\n%s", error.message, text);
    return config;
}

// The printed description; freed by the caller.
static char *printed(const moeblock_config *config)
{
    const size_t length = moeblock_config_print(config, NULL, 0);
    char *text = malloc(length + 1);
    assert_non_null(text);
    assert_int_equal(moeblock_config_print(config, text, length + 1), length);
    assert_int_equal(strlen(text), length);
    return text;
}

// Takes the line of the free-text name out, which a config.json has no word for.
static void drop_name(char *text)
{
    char *line = strstr(text, "  \"name\"");
    if (!line) return;
    const char *rest = strchr(line, '\n') + 1;
    memmove(line, rest, strlen(rest) + 1);
}

static void check_round_trip(const char *name)
{
    moeblock_config *config = open_config("configs", name);
    char *text = printed(config);
    moeblock_config *again = parse_config(text);
    char *second = printed(again);
    assert_string_equal(text, second);
    free(text);
    free(second);
    moeblock_config_destroy(&config);
    moeblock_config_destroy(&again);
}

static void check_against_model(const char *name)
{
    moeblock_config *ours = open_config("configs", name), *theirs = open_config("tests/hf", name);
    char *text = printed(ours), *mapped = printed(theirs);
    drop_name(text);
    drop_name(mapped);
    if (strcmp(text, mapped)) fail_msg("configs/%s is\n%s\nbut its config.json gives\n%s", name, text, mapped);
    free(text);
    free(mapped);
    moeblock_config_destroy(&ours);
    moeblock_config_destroy(&theirs);
}

static bool exists(const char *folder, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s/%s", MOEBLOCK_SOURCE_DIR, folder, name);
    return access(path, R_OK) == 0;
}

static void test_all_files(void **state)
{
    (void)state;
    char folder[512];
    int files = 0, models = 0;
    snprintf(folder, sizeof folder, "%s/configs", MOEBLOCK_SOURCE_DIR);
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (entry->d_name[0] == '.' || !dot || strcmp(dot, ".json")) continue;
        check_round_trip(entry->d_name);
        files++;
        if (!exists("tests/hf", entry->d_name)) continue;
        check_against_model(entry->d_name);
        models++;
    }
    closedir(entries);
    assert_int_equal(models, 37);
    assert_int_equal(files, models + 4); // two links, the invented one, one without a usable config.json
}

static void test_links(void **state)
{
    (void)state;
    static const char *const links[][2] = {{"gpt_oss.json", "gpt_oss_120b.json"},
                                           {"mixtral.json", "mixtral_8x7b.json"}};
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        moeblock_config *link = open_config("configs", links[i][0]), *target = open_config("configs", links[i][1]);
        char *text = printed(link), *expected = printed(target);
        assert_string_equal(text, expected);
        free(text);
        free(expected);
        moeblock_config_destroy(&link);
        moeblock_config_destroy(&target);
    }
}

static void assert_value(const moeblock_config *config, const char *key, const char *expected)
{
    char value[256];
    moeblock_config_value(config, key, value, sizeof value);
    if (strcmp(value, expected)) fail_msg("%s is \"%s\", expected \"%s\"", key, value, expected);
}

// The published values that the original's own file had wrong.
static void test_deepseek_v3(void **state)
{
    (void)state;
    moeblock_config *config = open_config("configs", "deepseek_v3.json");
    moeblock_config_shape shape;
    moeblock_config_get_shape(config, &shape);
    assert_int_equal(shape.num_experts_per_tok, 8);
    assert_int_equal(shape.shared_intermediate_size, 2048);
    assert_int_equal(shape.layer, 3);
    assert_value(config, "router.config.topk_group", "4");
    assert_value(config, "router.config.routed_scaling_factor", "2.5");
    assert_value(config, "router.config.norm", "sum");
    assert_value(config, "router.config.group_fill", "-inf");
    assert_value(config, "weights.format", "fp8");
    moeblock_config_destroy(&config);
}

static void test_custom_example(void **state)
{
    (void)state;
    moeblock_config *config = open_config("configs", "custom_example.json");
    assert_value(config, "router.config.softcap", "12");
    assert_value(config, "router.config.norm", "sum_clamped");
    assert_value(config, "router.config.scale_on", "output");
    assert_value(config, "experts.distributed.activation", "relu2");
    assert_value(config, "experts.distributed.gated", "false");
    assert_value(config, "experts.shared.activation", "silu");
    assert_value(config, "experts.shared.gate", "sigmoid");
    assert_value(config, "weights.names.up", "moe.experts.{expert}.up.weight");
    moeblock_config_destroy(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_links, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_deepseek_v3, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_custom_example, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
