// SPDX-License-Identifier: Apache-2.0
// `moeblock config`: the description that moeblock makes of a configuration; with --docs the reference of all keys.
#include <stdio.h>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/exit.h"
#include "cli/session.h"

// A text of the length that a first call without memory tells.
typedef size_t (*print_text)(const moeblock_config *config, char *to, size_t capacity);

static int print(print_text text, const moeblock_config *config)
{
    const size_t length = text(config, NULL, 0);
    char *const memory = mb_alloc(&mb_default_allocator, length + 1);
    if (!memory) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for a text of %zu bytes", length);
    text(config, memory, length + 1);
    fwrite(memory, 1, length, stdout);
    if (length && memory[length - 1] != '\n') fputc('\n', stdout);
    mb_free(&mb_default_allocator, memory);
    return CLI_OK;
}

int cli_config(const struct cli_args *args)
{
    static struct cli_session session; // paths and messages inside: too large for the stack's taste
    const char *const path = args->positional[0];
    if (!path) return cli_fail(CLI_USAGE, "config needs CONFIG: a configuration file or a model's folder");
    int code = cli_open_context(&session, args, 1);
    if (!code) code = cli_open_config(&session, args, path, NULL, 0);
    if (!code) code = print(moeblock_config_print, session.config);
    cli_close(&session);
    return code;
}
