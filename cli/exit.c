// SPDX-License-Identifier: Apache-2.0
// Which exit code a failure has (docs and `--help` print the same list), and how it is told.
#include "cli/exit.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/status.h"

static const unsigned char exit_codes[][CLI_SUBJECTS] = {
    //                             options,            configuration,      data
    [MOEBLOCK_OK] = {CLI_OK, CLI_OK, CLI_OK},
    [MOEBLOCK_INVALID_ARGUMENT] = {CLI_USAGE, CLI_BAD_CONFIG, CLI_BAD_DATA},
    [MOEBLOCK_INVALID_CONFIG] = {CLI_BAD_CONFIG, CLI_BAD_CONFIG, CLI_BAD_CONFIG},
    [MOEBLOCK_INVALID_FILE] = {CLI_BAD_DATA, CLI_BAD_DATA, CLI_BAD_DATA},
    [MOEBLOCK_UNSUPPORTED] = {CLI_USAGE, CLI_BAD_CONFIG, CLI_BAD_DATA},
    [MOEBLOCK_NOT_FOUND] = {CLI_NO_INPUT, CLI_NO_INPUT, CLI_NO_INPUT},
    [MOEBLOCK_OUT_OF_MEMORY] = {CLI_SYSTEM_REFUSED, CLI_SYSTEM_REFUSED, CLI_SYSTEM_REFUSED},
    [MOEBLOCK_LIMIT] = {CLI_USAGE, CLI_BAD_CONFIG, CLI_BAD_DATA},
    [MOEBLOCK_IO] = {CLI_IO, CLI_IO, CLI_IO},
    [MOEBLOCK_WRONG_STATE] = {CLI_OUR_BUG, CLI_OUR_BUG, CLI_OUR_BUG},
    [MOEBLOCK_NONFINITE] = {CLI_BAD_DATA, CLI_BAD_DATA, CLI_BAD_DATA},
    [MOEBLOCK_MISMATCH] = {CLI_BAD_DATA, CLI_BAD_DATA, CLI_BAD_DATA},
    [MOEBLOCK_PEER_FAILED] = {CLI_PEER_FAILED, CLI_PEER_FAILED, CLI_PEER_FAILED},
    [MOEBLOCK_TIMEOUT] = {CLI_TIMEOUT, CLI_TIMEOUT, CLI_TIMEOUT},
    [MOEBLOCK_CANCELLED] = {CLI_OUR_BUG, CLI_OUR_BUG, CLI_OUR_BUG},
    [MOEBLOCK_INTERNAL] = {CLI_OUR_BUG, CLI_OUR_BUG, CLI_OUR_BUG},
};

int cli_exit_code(enum cli_subject subject, moeblock_status status)
{
    const unsigned row = (unsigned)status;
    return row < sizeof exit_codes / sizeof *exit_codes ? exit_codes[row][subject] : CLI_OUR_BUG;
}

// Arguments come from outside: what would move the cursor is escaped.
static void tell(const char *prefix, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));

static void tell(const char *prefix, const char *format, va_list arguments)
{
    char text[2048], safe[2048];
    vsnprintf(text, sizeof text, format, arguments);
    mb_escape(safe, sizeof safe, text);
    fprintf(stderr, "moeblock: %s%s\n", prefix, safe);
}

int cli_fail(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tell("error: ", format, arguments);
    va_end(arguments);
    return code;
}

int cli_fail_status(enum cli_subject subject, const moeblock_error *error)
{
    return cli_fail(cli_exit_code(subject, error->code), "%s", error->message);
}

void cli_note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tell("", format, arguments);
    va_end(arguments);
}
