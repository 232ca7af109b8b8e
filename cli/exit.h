// SPDX-License-Identifier: Apache-2.0
// Exit codes of the command line and the first line on stderr of a failure.
#ifndef MB_CLI_EXIT_H
#define MB_CLI_EXIT_H

#include "moeblock/status.h"

enum cli_exit {
    CLI_OK = 0,
    CLI_USAGE = 64,
    CLI_BAD_DATA = 65,
    CLI_NO_INPUT = 66,
    CLI_PEER_FAILED = 69,
    CLI_OUR_BUG = 70,
    CLI_SYSTEM_REFUSED = 71,
    CLI_IO = 74,
    CLI_TIMEOUT = 75,
    CLI_BAD_CONFIG = 78
};

// What a library call was about: the same status means different things to the user of a program.
enum cli_subject { CLI_ABOUT_OPTIONS, CLI_ABOUT_CONFIG, CLI_ABOUT_DATA, CLI_SUBJECTS };

int cli_exit_code(enum cli_subject subject, moeblock_status status);

// Prints "moeblock: error: ..." to stderr and returns `code`.
int cli_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The same for a failed library call.
int cli_fail_status(enum cli_subject subject, const moeblock_error *error);
// Prints "moeblock: ..." to stderr: something the user should know that is no failure.
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
