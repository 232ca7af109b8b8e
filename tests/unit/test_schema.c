// SPDX-License-Identifier: Apache-2.0
// The schema table: consistent in itself, and the parser obeys every row. The cases are made from the table, so a new
// key is tested when it is added.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "config/docs.h"
#include "config/preset.h"
#include "config/reader.h"
#include "config/value.h"
#include "moeblock/context.h"

static moeblock_context *context;

static int make_context(void **state)
{
    (void)state;
    return moeblock_context_create(NULL, &context, NULL) == MOEBLOCK_OK ? 0 : -1;
}

static int drop_context(void **state)
{
    (void)state;
    moeblock_context_destroy(&context);
    return 0;
}

// A document that holds one key: {"a":\n{"b":\n{"c":\nVALUE}}}, so that the value stands on line depth + 1.
static int write_key(const char *path, const char *value, char out[2048])
{
    int used = 0, depth = 0;
    for (const char *at = path; *at; depth++) {
        const size_t length = strcspn(at, ".");
        used += snprintf(out + used, 2048 - (size_t)used, "{\"%.*s\":\n", (int)length, at);
        at += length + (at[length] == '.');
    }
    used += snprintf(out + used, 2048 - (size_t)used, "%s", value);
    for (int i = 0; i < depth; i++) used += snprintf(out + used, 2048 - (size_t)used, "}");
    return depth + 1;
}

static moeblock_status parse(const char *text, moeblock_error *error)
{
    moeblock_config *config = NULL;
    memset(error, 0, sizeof *error);
    const moeblock_status status = moeblock_config_parse(context, text, strlen(text), "t.json", NULL, &config, error);
    assert_true((status == MOEBLOCK_OK) == (config != NULL));
    moeblock_config_destroy(&config);
    return status;
}

// The key alone is accepted: what fails then is that all the others are missing.
static void assert_accepted(const char *path, const char *value)
{
    char text[2048];
    moeblock_error error;
    write_key(path, value, text);
    assert_int_not_equal(parse(text, &error), MOEBLOCK_OK);
    if (strncmp(error.message, "t.json: no value for ", 21) && error.code != MOEBLOCK_UNSUPPORTED)
        fail_msg("%s = %s: %s", path, value, error.message);
}

static void assert_refused(int row, const char *path, const char *value, const char *found, const char *more)
{
    char text[2048], allowed[512], expected[1024];
    moeblock_error error;
    const int line = write_key(path, value, text);
    mb_value_allowed(row, allowed, sizeof allowed);
    snprintf(expected, sizeof expected, "t.json:%d: %s is %s, expected %s%s", line, path, found, allowed, more);
    assert_int_equal(parse(text, &error), MOEBLOCK_INVALID_CONFIG);
    assert_string_equal(error.message, expected);
}

static void test_table(void **state)
{
    (void)state;
    for (int i = 0; i < (int)mb_schema_count; i++) {
        const struct mb_schema_row *row = &mb_schema[i];
        assert_int_equal(mb_schema_find(row->path), i);
        assert_non_null(row->help);
        assert_true(strlen(row->path) < MB_PATH_TEXT);
        for (const char *const *alias = row->aliases; alias && *alias; alias++)
            assert_int_equal(mb_schema_find(*alias), i);
        if (row->type == MB_TYPE_ENUM) assert_non_null(row->names);
        if (row->type == MB_TYPE_INT) assert_true(row->minimum <= row->maximum);
    }
    assert_int_equal(mb_schema_find("model_params.num_experts"), mb_schema_find("model.num_experts"));
    assert_int_equal(mb_schema_find("router.n_group"), mb_schema_find("router.config.n_group"));
    assert_int_equal(mb_schema_find("nothing"), -1);
}

// A default is a value that the row accepts, and reads back as itself.
static void test_defaults(void **state)
{
    (void)state;
    for (int i = 0; i < (int)mb_schema_count; i++)
        if (mb_schema[i].fallback) assert_accepted(mb_schema[i].path, mb_schema[i].fallback);
    moeblock_config config = {0};
    mb_config_defaults(&config);
    assert_int_equal(config.layer_index, -1);
    assert_true(config.tp_enabled && config.tp_axis == 1 && config.ep_axis == 0);
    assert_string_equal(config.module_prefix, "model.layers.{layer}");
    assert_int_equal(mb_schema_row_of(&config, &config.router.n_group), mb_schema_find("router.config.n_group"));
}

static void number_text(const struct mb_schema_row *row, double value, char out[40])
{
    if (row->type == MB_TYPE_INT)
        snprintf(out, 40, "%.0f", value);
    else
        mb_number_text(value, false, out);
}

static void test_ranges(void **state)
{
    (void)state;
    for (int i = 0; i < (int)mb_schema_count; i++) {
        const struct mb_schema_row *row = &mb_schema[i];
        char text[40];
        if (row->type != MB_TYPE_INT && row->type != MB_TYPE_NUMBER && row->type != MB_TYPE_FLOAT) continue;
        number_text(row, row->minimum, text);
        assert_accepted(row->path, text);
        number_text(row, row->maximum, text);
        assert_accepted(row->path, text);
        const double outside[] = {row->minimum - 1, row->maximum + 1};
        for (int j = 0; j < 2; j++) {
            moeblock_error error;
            char document[2048], allowed[512];
            number_text(row, outside[j], text);
            write_key(row->path, text, document);
            assert_int_equal(parse(document, &error), MOEBLOCK_INVALID_CONFIG);
            mb_value_allowed(i, allowed, sizeof allowed);
            assert_non_null(strstr(error.message, row->path));
            assert_non_null(strstr(error.message, allowed));
        }
    }
}

static void test_wrong_types(void **state)
{
    (void)state;
    static const char *const values[] = {"null", "true", "3.5", "\"no such name\"", "[1]", "{\"a\":1}"};
    int cases = 0;
    for (int i = 0; i < (int)mb_schema_count; i++) {
        const enum mb_type type = mb_schema[i].type;
        for (size_t j = 0; j < sizeof values / sizeof values[0] && type != MB_TYPE_IGNORED; j++) {
            if ((type == MB_TYPE_BOOL && j == 1) || (type == MB_TYPE_TEXT && j == 3)) continue;
            if ((type == MB_TYPE_NUMBER || type == MB_TYPE_FLOAT) && j == 2) continue;
            assert_refused(i, mb_schema[i].path, values[j], values[j], "");
            cases++;
        }
        if (type == MB_TYPE_INT) assert_refused(i, mb_schema[i].path, "8.0", "8.0", "");
    }
    assert_true(cases > 400);
}

static void test_misspelt_names(void **state)
{
    (void)state;
    for (int i = 0; i < (int)mb_schema_count; i++) {
        for (const char *const *name = mb_schema[i].names; name && *name; name++) {
            char right[80], wrong[80], suggestion[120] = "";
            snprintf(right, sizeof right, "\"%s\"", *name);
            snprintf(wrong, sizeof wrong, "\"%sq\"", *name);
            snprintf(suggestion, sizeof suggestion, "; did you mean \"%s\"?", *name);
            assert_accepted(mb_schema[i].path, right);
            assert_refused(i, mb_schema[i].path, wrong, wrong, suggestion);
        }
    }
    assert_accepted("experts.activation", "\"swiglu\"");
    assert_refused(mb_schema_find("experts.activation"), "experts.activation", "\"swigly\"", "\"swigly\"",
                   "; did you mean \"swiglu\"?");
}

// The second letter of the last word left out.
static void test_misspelt_keys(void **state)
{
    (void)state;
    int cases = 0;
    for (int i = 0; i < (int)mb_schema_count; i++) {
        char wrong[MB_PATH_TEXT], text[2048], expected[512];
        moeblock_error error;
        const char *path = mb_schema[i].path, *dot = strrchr(path, '.');
        const size_t at = dot ? (size_t)(dot - path) + 2 : 1;
        snprintf(wrong, sizeof wrong, "%.*s%s", (int)at, path, path + at + 1);
        if (strlen(path + at) < 2 || mb_schema_find(wrong) >= 0) continue;
        const int line = write_key(wrong, "1", text);
        assert_int_equal(parse(text, &error), MOEBLOCK_INVALID_CONFIG);
        snprintf(expected, sizeof expected, "unknown key \"%s\"; did you mean \"", wrong);
        if (!strstr(error.message, expected)) fail_msg("%s: %s", wrong, error.message);
        snprintf(expected, sizeof expected, "t.json:%d: ", line);
        assert_ptr_equal(strstr(error.message, expected), error.message);
        cases++;
    }
    assert_true(cases > 100);
}

static void test_ignored(void **state)
{
    (void)state;
    static const char *const values[] = {"null", "7", "\"L1\"", "[128, 128]", "{\"decode\": {\"dispatch\": \"L1\"}}"};
    for (size_t i = 0; i < mb_schema_count; i++) {
        if (mb_schema[i].type != MB_TYPE_IGNORED) continue;
        for (size_t j = 0; j < sizeof values / sizeof values[0]; j++) {
            assert_accepted(mb_schema[i].path, values[j]);
            for (const char *const *alias = mb_schema[i].aliases; alias && *alias; alias++)
                assert_accepted(*alias, values[j]);
        }
    }
}

// A value of the row that differs from its default, as JSON.
static const char *other_value(const struct mb_schema_row *row, char out[96])
{
    switch (row->type) {
    case MB_TYPE_BOOL:
        return row->fallback && row->fallback[0] == 't' ? "false" : "true";
    case MB_TYPE_INT:
        snprintf(out, 96, "%.0f", row->maximum);
        return row->fallback && !strcmp(out, row->fallback) ? "0" : out;
    case MB_TYPE_NUMBER:
    case MB_TYPE_FLOAT:
        mb_number_text(row->minimum + (row->maximum - row->minimum) / 8, row->type == MB_TYPE_FLOAT, out);
        return out;
    case MB_TYPE_ENUM:
        snprintf(out, 96, "\"%s\"", row->names[1]);
        return out;
    case MB_TYPE_SPECIAL:
        return "\"relu2\"";
    default:
        return "\"another\"";
    }
}

// Every further spelling sets the key, and stands beside another one only with the same value.
static void test_aliases(void **state)
{
    (void)state;
    for (int i = 0; i < (int)mb_schema_count; i++) {
        char value[96], read[MB_VALUE_TEXT];
        const struct mb_schema_row *row = &mb_schema[i];
        for (const char *const *alias = row->aliases; alias && *alias && row->type != MB_TYPE_IGNORED; alias++) {
            char text[2048];
            struct mb_reader *reader = calloc(1, sizeof *reader);
            moeblock_config *config = calloc(1, sizeof *config);
            reader->config = config;
            reader->name = "t.json";
            mb_config_defaults(config);
            write_key(*alias, other_value(row, value), text);
            json_t *root = json_loads(text, 0, NULL);
            assert_int_equal(mb_reader_document(reader, root, true, NULL), MOEBLOCK_OK);
            mb_value_text(config, i, true, read);
            assert_string_equal(read, other_value(row, value));
            assert_int_equal(config->given[i], MB_FROM_FILE);
            json_decref(root);

            // the canonical spelling with the default, in a second object
            moeblock_error error = {MOEBLOCK_OK, ""};
            const char *second = row->type != MB_TYPE_INT ? row->fallback : strcmp(read, "1") ? "1" : "0";
            write_key(row->path, second ? second : "\"silu\"", text);
            root = json_loads(text, 0, NULL);
            assert_int_equal(mb_reader_document(reader, root, true, &error), MOEBLOCK_INVALID_CONFIG);
            assert_non_null(strstr(error.message, *alias));
            assert_non_null(strstr(error.message, row->path));
            json_decref(root);
            json_decref(reader->router_object);
            json_decref(reader->expert_object);
            free(config);
            free(reader);
        }
    }
}

static char *read_text(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 18);
    if (file) {
        assert_true(fread(text, 1, (1 << 18) - 1, file) > 0);
        fclose(file);
    }
    return text;
}

// MOEBLOCK_UPDATE_DOCS=1 writes the page instead.
static void test_docs(void **state)
{
    (void)state;
    const char *path = MOEBLOCK_SOURCE_DIR "/docs/config.md";
    char *printed = NULL;
    size_t bytes = 0;
    FILE *to = getenv("MOEBLOCK_UPDATE_DOCS") ? fopen(path, "wb") : open_memstream(&printed, &bytes);
    assert_non_null(to);
    mb_config_docs(to);
    fclose(to);
    if (!printed) return;
    char *stored = read_text(path);
    if (strcmp(stored, printed))
        fail_msg("docs/config.md is stale: run tests/test_schema with MOEBLOCK_UPDATE_DOCS=1 in the environment");
    free(stored);
    free(printed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),       cmocka_unit_test(test_defaults),       cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_wrong_types), cmocka_unit_test(test_misspelt_names), cmocka_unit_test(test_misspelt_keys),
        cmocka_unit_test(test_ignored),     cmocka_unit_test(test_aliases),        cmocka_unit_test(test_docs),
    };
    return cmocka_run_group_tests(tests, make_context, drop_context);
}
