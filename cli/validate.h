// SPDX-License-Identifier: Apache-2.0
// What `moeblock validate` finds out, and its check of a configuration against the tensors.
#ifndef MB_CLI_VALIDATE_H
#define MB_CLI_VALIDATE_H

#include "base/json.h"
#include "cli/session.h"

struct cli_findings {
    size_t tensors;
    uint64_t values, nans, infinities;
    char first_bad[256]; // the first tensor with a value that is not finite
    // Of the configuration. A problem is a sentence; layers are numbers, those that the checkpoint has and those of
    // which it has nothing.
    json_t *layers, *absent, *problems, *unused;
    size_t layer_tensors; // of the first layer
    int code;             // exit code of the first problem
    char router[64], experts[64], format[32], shared_format[32];
    moeblock_compute compute;
};

// Checks every MoE layer that the checkpoint has anything of, or the one of --layer: each tensor that the description
// calls for, its type, shape and scales. CLI_OK also when there are problems.
int cli_validate_layers(struct cli_session *session, const struct cli_args *args, const char *config,
                        struct cli_findings *findings);

#endif
