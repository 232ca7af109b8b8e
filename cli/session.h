// SPDX-License-Identifier: Apache-2.0
// What most commands start with: a context, the configuration that CONFIG means, its weights, a loaded block.
#ifndef MB_CLI_SESSION_H
#define MB_CLI_SESSION_H

#include "cli/exit.h"
#include "cli/opt.h"
#include "cli/ranks.h"
#include "config/config.h"
#include "moeblock/block.h"

enum { CLI_PATH_MAX = 4096 };

struct cli_session {
    moeblock_context *context;
    moeblock_config *config;
    moeblock_weights *weights;
    moeblock_block *block;
    struct cli_ranks ranks;
    char config_path[CLI_PATH_MAX], weights_path[CLI_PATH_MAX]; // weights_path: "" when there is none
    double load_seconds;
    moeblock_error error;
};

// Each returns CLI_OK, or an exit code after a message; cli_close is due in any case.
int cli_open_context(struct cli_session *session, const struct cli_args *args, int threads);
// CONFIG, or when it is a folder without config.json, the moeblock.json in it that synth wrote. `set` holds further
// settings after those of --set; n_set of them.
int cli_open_config(struct cli_session *session, const struct cli_args *args, const char *config,
                    const char *const *set, size_t n_set);
// --weights, the configuration's weight_path, or the folder of CONFIG when that holds a checkpoint.
int cli_find_weights(struct cli_session *session, const struct cli_args *args);
int cli_open_weights(struct cli_session *session, const char *path);
int cli_make_block(struct cli_session *session, const struct cli_args *args);
// Weights of this format are expected, where the configuration names one.
void cli_expect_format(moeblock_config *config, const char *format);
// Loads session->weights into the block, with progress.
int cli_load(struct cli_session *session, const struct cli_args *args);
// The router's tensors alone.
int cli_load_router(struct cli_session *session);
void cli_close(struct cli_session *session);

// Largest resident size of this process so far, in bytes.
double cli_peak_memory(void);
// NULL: auto.
moeblock_compute cli_compute_of(const char *name);
const char *cli_compute_name(moeblock_compute compute);

#endif
