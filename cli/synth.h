// SPDX-License-Identifier: Apache-2.0
// The tensors of a made-up layer, and the files they go to.
#ifndef MB_CLI_SYNTH_H
#define MB_CLI_SYNTH_H

#include "base/file.h"
#include "cli/session.h"
#include "config/tensors.h"

enum { SYNTH_FILES_MAX = 512 };

struct synth_tensor {
    moeblock_tensor_need need;
    uint64_t bytes;
    size_t shard;
};

struct synth_plan {
    const moeblock_config *config;
    enum mb_format format;
    int64_t layer;
    uint64_t seed;
    struct synth_tensor *tensors;
    size_t count, shards;
    uint64_t bytes; // of all tensors
};

// Lists the layer's tensors and lays them out on shards of at most shard_bytes (0: one file). CLI_OK, or an exit code
// after a message; `format` must have a published form for these shapes.
int synth_plan_make(const moeblock_config *config, enum mb_format format, int64_t layer, uint64_t seed,
                    int64_t shard_bytes, struct synth_plan *out);
void synth_plan_free(struct synth_plan *plan);

// Writes checkpoint, index and moeblock.json (`description`) and, when `input` is given, input.npy into `folder`. All
// files are complete under temporary names before the first takes its place.
int synth_write(const struct synth_plan *plan, struct cli_session *session, const struct cli_args *args,
                const char *folder, const char *description);

#endif
