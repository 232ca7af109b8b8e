// SPDX-License-Identifier: Apache-2.0
// The commands: each runs on parsed arguments and returns an exit code.
#ifndef MB_CLI_COMMANDS_H
#define MB_CLI_COMMANDS_H

#include "cli/opt.h"

int cli_run(const struct cli_args *args);
int cli_bench(const struct cli_args *args);
int cli_synth(const struct cli_args *args);
int cli_config(const struct cli_args *args);
int cli_inspect(const struct cli_args *args);
int cli_validate(const struct cli_args *args);
int cli_route(const struct cli_args *args);
int cli_plan(const struct cli_args *args);
int cli_info(const struct cli_args *args);

#endif
