// SPDX-License-Identifier: Apache-2.0
// The parser of the option table: `--name value` and `--name=value`, each option once, `--` ends the options.
#include "cli/opt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/words.h"
#include "cli/exit.h"

static bool word_in(const char *words, const char *word, size_t bytes)
{
    for (const char *at = words; at && *at;) {
        const size_t length = strcspn(at, " ");
        if (length == bytes && memcmp(at, word, bytes) == 0) return true;
        at += length + (at[length] == ' ');
    }
    return false;
}

bool cli_option_of(const struct cli_option *option, const struct cli_command *command)
{
    return strcmp(option->commands, "*") == 0 || word_in(option->commands, command->name, strlen(command->name));
}

static const struct cli_option *find(const struct cli_command *command, const char *name, size_t bytes)
{
    for (size_t i = 0; i < cli_option_count; i++) {
        const struct cli_option *option = &cli_options[i];
        if (strlen(option->name) == bytes && memcmp(option->name, name, bytes) == 0 && cli_option_of(option, command))
            return option;
    }
    return NULL;
}

bool cli_given(const struct cli_command *command, const struct cli_args *args, const char *name)
{
    const struct cli_option *option = find(command, name, strlen(name));
    return option && args->given[option - cli_options];
}

const char *cli_nearest(const char *word, const char *const *candidates, size_t count)
{
    const char *best = NULL;
    int least = (int)strlen(word) / 3 + 2;
    for (size_t i = 0; i < count; i++) {
        const int distance = mb_edit_distance(word, candidates[i]);
        if (distance >= least) continue;
        best = candidates[i];
        least = distance;
    }
    return best;
}

static int usage(const struct cli_command *command)
{
    fprintf(stderr, "moeblock: `moeblock %s --help` lists what there is\n", command->name);
    return CLI_USAGE;
}

static int unknown_option(const struct cli_command *command, const char *argument)
{
    const char *names[CLI_OPTIONS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < cli_option_count; i++)
        if (cli_option_of(&cli_options[i], command)) names[count++] = cli_options[i].name;
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)strcspn(argument + 2, "="), argument + 2);
    const char *nearest = cli_nearest(word, names, count);
    if (nearest)
        cli_fail(CLI_USAGE, "%s has no option '%.200s'; did you mean --%s?", command->name, argument, nearest);
    else
        cli_fail(CLI_USAGE, "%s has no option '%.200s'", command->name, argument);
    return usage(command);
}

// An integer with an optional suffix of powers of 1024; `end` is where it stops.
static bool read_integer(const char *text, bool suffixes, int64_t *out, const char **end)
{
    char *stop;
    errno = 0;
    const long long value = strtoll(text, &stop, 10);
    if (stop == text || errno || text[0] == ' ') return false;
    *out = value;
    if (suffixes && *stop) {
        const char *const letters = "kMGT", *letter = strchr(letters, *stop == 'K' ? 'k' : *stop);
        int64_t scale = 1;
        if (letter) {
            for (const char *at = letters; at <= letter; at++) scale *= 1024;
            stop++;
        }
        if (__builtin_mul_overflow(*out, scale, out)) return false;
    }
    *end = stop;
    return true;
}

static int bad_value(const struct cli_option *option, const char *text, const char *expected)
{
    return cli_fail(CLI_USAGE, "option --%s: found '%.200s', expected %s", option->name, text, expected);
}

static int bad_number(const struct cli_option *option, const char *text, const char *what)
{
    char expected[160];
    snprintf(expected, sizeof expected, "%s from %.15g to %.15g", what, option->minimum, option->maximum);
    return bad_value(option, text, expected);
}

static bool in_range(const struct cli_option *option, double value)
{
    return value >= option->minimum && value <= option->maximum;
}

static int take_integer(const struct cli_option *option, const char *text, int64_t *out)
{
    const char *end;
    const bool suffixes = option->type == CLI_BYTES;
    if (read_integer(text, suffixes, out, &end) && *end == '\0' && in_range(option, (double)*out)) return CLI_OK;
    return bad_number(option, text, suffixes ? "a size (suffixes k, M, G)" : "an integer");
}

static int take_number(const struct cli_option *option, const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end != text && *end == '\0' && in_range(option, *out)) return CLI_OK;
    return bad_number(option, text, "a number");
}

static int take_list(const struct cli_option *option, const char *text, struct cli_list *out)
{
    out->count = 0;
    for (const char *at = text;; at++) {
        if (out->count == CLI_LIST_MAX) return bad_value(option, text, "at most 64 integers");
        int64_t *value = &out->value[out->count++];
        if (!read_integer(at, false, value, &at) || (*at && *at != ',') || !in_range(option, (double)*value))
            return bad_number(option, text, "integers separated by commas, each");
        if (*at == '\0') return CLI_OK;
    }
}

static int take_set(const struct cli_option *option, const char *text, struct cli_set *out)
{
    if (!strchr(text, '=') || *text == '=') return bad_value(option, text, option->value);
    if (out->count == CLI_SET_MAX)
        return cli_fail(CLI_USAGE, "option --%s: given more than %d times", option->name, CLI_SET_MAX);
    out->text[out->count++] = text;
    return CLI_OK;
}

static int take_choice(const struct cli_option *option, const char *text, const char **out)
{
    char expected[400] = "one of ";
    *out = text;
    if (*text && word_in(option->choices, text, strlen(text))) return CLI_OK;
    strncat(expected, option->choices, sizeof expected - sizeof "one of ");
    return bad_value(option, text, expected);
}

// Stores one value. `text` is NULL for flags.
static int take(const struct cli_option *option, const char *text, struct cli_args *args)
{
    void *const to = (char *)args + option->offset;
    switch (option->type) {
    case CLI_FLAG:
        *(bool *)to = true;
        return CLI_OK;
    case CLI_TEXT:
    case CLI_FILE:
    case CLI_FOLDER:
        if (*text == '\0') return bad_value(option, text, option->value);
        *(const char **)to = text;
        return CLI_OK;
    case CLI_CHOICE:
        return take_choice(option, text, to);
    case CLI_INT:
    case CLI_BYTES:
        return take_integer(option, text, to);
    case CLI_NUMBER:
        return take_number(option, text, to);
    case CLI_LIST:
        return take_list(option, text, to);
    case CLI_SET:
        return take_set(option, text, to);
    }
    return CLI_OUR_BUG;
}

// One argument that starts with "--", and its value when that is the next one: *used counts the words.
static int take_option(const struct cli_command *command, int argc, char **argv, int *used, struct cli_args *args)
{
    const char *const argument = argv[0], *const equals = strchr(argument, '=');
    const size_t bytes = equals ? (size_t)(equals - argument) - 2 : strlen(argument + 2);
    const struct cli_option *option = find(command, argument + 2, bytes);
    *used = 1;
    if (!option) return unknown_option(command, argument);
    const bool flag = option->type == CLI_FLAG;
    const char *text = equals ? equals + 1 : NULL;
    if (flag && text) return cli_fail(CLI_USAGE, "option --%s takes no value", option->name);
    if (!flag && !text) {
        // A word with two dashes is the next option; a value that starts so can be given as --name=value.
        if (argc < 2 || strncmp(argv[1], "--", 2) == 0) {
            cli_fail(CLI_USAGE, "option --%s needs a value: --%s %s", option->name, option->name, option->value);
            return usage(command);
        }
        text = argv[1];
        *used = 2;
    }
    bool *const given = &args->given[option - cli_options];
    if (*given && option->type != CLI_SET) return cli_fail(CLI_USAGE, "option --%s is given twice", option->name);
    *given = true;
    return take(option, text, args);
}

static int take_defaults(const struct cli_command *command, struct cli_args *args)
{
    *args = (struct cli_args){.layer = -1, .tolerance = -1};
    for (size_t i = 0; i < cli_option_count; i++) {
        if (!cli_options[i].fallback || !cli_option_of(&cli_options[i], command)) continue;
        const int code = take(&cli_options[i], cli_options[i].fallback, args);
        if (code) return code;
    }
    return CLI_OK;
}

// Required options, and pairs that need or exclude each other.
static int check_together(const struct cli_command *command, const struct cli_args *args)
{
    for (size_t i = 0; i < cli_option_count; i++) {
        const struct cli_option *option = &cli_options[i];
        if (!cli_option_of(option, command)) continue;
        if (option->required && !args->given[i]) {
            cli_fail(CLI_USAGE, "%s needs --%s %s", command->name, option->name, option->value);
            return usage(command);
        }
        if (!args->given[i]) continue;
        if (option->needs && !cli_given(command, args, option->needs))
            return cli_fail(CLI_USAGE, "option --%s means nothing without --%s", option->name, option->needs);
        if (option->excludes && cli_given(command, args, option->excludes))
            return cli_fail(CLI_USAGE, "options --%s and --%s contradict each other: give one", option->name,
                            option->excludes);
    }
    return CLI_OK;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

int cli_parse(const struct cli_command *command, int argc, char **argv, struct cli_args *args)
{
    int code = take_defaults(command, args);
    args->help = wants_help(argc, argv);
    if (code || args->help) return code;
    int positionals = 0;
    bool options_ended = false;
    for (int i = 0, used = 1; i < argc; i += used, used = 1) {
        if (!options_ended && strcmp(argv[i], "--") == 0) {
            options_ended = true;
        } else if (!options_ended && strncmp(argv[i], "--", 2) == 0) {
            if ((code = take_option(command, argc - i, argv + i, &used, args))) return code;
        } else if (!options_ended && argv[i][0] == '-' && argv[i][1]) {
            cli_fail(CLI_USAGE, "%s has no option '%.200s': options start with two dashes", command->name, argv[i]);
            return usage(command);
        } else if (positionals == command->maximum) {
            cli_fail(CLI_USAGE, "%s takes %s: '%.200s' is one argument too many", command->name,
                     command->maximum ? command->arguments : "no arguments", argv[i]);
            return usage(command);
        } else {
            args->positional[positionals++] = argv[i];
        }
    }
    if (positionals < command->minimum) {
        cli_fail(CLI_USAGE, "%s needs %s", command->name, command->arguments);
        return usage(command);
    }
    return check_together(command, args);
}
