// SPDX-License-Identifier: Apache-2.0
// `moeblock config`: the description that moeblock makes of a configuration; with --docs the reference of all keys.
#include <stdio.h>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/exit.h"
#include "cli/session.h"
#include "config/docs.h"

static int print(const moeblock_config *config, bool origins)
{
    size_t (*const printer)(const moeblock_config *, char *, size_t) =
        origins ? mb_config_print_origins : moeblock_config_print;
    const size_t length = printer(config, NULL, 0);
    char *const text = mb_alloc(&mb_default_allocator, length + 1);
    if (!text) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for a configuration of %zu bytes", length);
    printer(config, text, length + 1);
    fwrite(text, 1, length, stdout);
    if (length && text[length - 1] != '\n') fputc('\n', stdout);
    mb_free(&mb_default_allocator, text);
    return CLI_OK;
}

int cli_config(const struct cli_args *args)
{
    static struct cli_session session; // paths and messages inside: too large for the stack's taste
    const char *const path = args->positional[0];
    if (args->docs && path) return cli_fail(CLI_USAGE, "config takes CONFIG or --docs, not both");
    if (!args->docs && !path) return cli_fail(CLI_USAGE, "config needs CONFIG: a configuration or a model's folder");
    if (args->docs) {
        mb_config_docs(stdout);
        return CLI_OK;
    }
    int code = cli_open_context(&session, args, 1);
    if (!code) code = cli_open_config(&session, args, path, NULL, 0);
    if (!code) code = print(session.config, args->origins);
    cli_close(&session);
    return code;
}
