// SPDX-License-Identifier: Apache-2.0
// A checked description of one MoE block, from our JSON or from a Hugging Face config.json.
#ifndef MOEBLOCK_CONFIG_H
#define MOEBLOCK_CONFIG_H

#include "moeblock/context.h"
#include "moeblock/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moeblock_config moeblock_config;

typedef struct moeblock_config_options {
    uint32_t struct_size;
    // Layer to describe: -1 takes the file's own (layer_index), else the first MoE layer.
    int64_t layer;
    // The checkpoint that will be loaded, a folder or a file; NULL: the one in CONFIG's own folder, or weights.path.
    // The config.json beside it supplies what our JSON omits, and its tensor names tell in which form a model type is
    // stored that has several.
    const char *weights_path;
    // "key.path=value" settings applied after parsing, n_set of them.
    const char *const *set;
    size_t n_set;
} moeblock_config_options;

// Reads CONFIG: our JSON file, a Hugging Face config.json, or a folder that holds config.json (else moeblock.json).
// `options` may be NULL. Errors: NOT_FOUND, INVALID_CONFIG (file, line, key path, found, allowed), UNSUPPORTED (a model
// type or value that is not known, by name), LIMIT, IO, OUT_OF_MEMORY.
MOEBLOCK_API moeblock_status moeblock_config_open(moeblock_context *context, const char *path,
                                                  const moeblock_config_options *options, moeblock_config **out,
                                                  moeblock_error *error);

// The same from text; `name` stands for the file name in messages.
MOEBLOCK_API moeblock_status moeblock_config_parse(moeblock_context *context, const char *text, size_t bytes,
                                                   const char *name, const moeblock_config_options *options,
                                                   moeblock_config **out, moeblock_error *error);

MOEBLOCK_API void moeblock_config_destroy(moeblock_config **config);

// Prints the description as our JSON, every key that has a value, in schema order. Parsing it again gives the same
// description. Writes at most `capacity` bytes with a terminating NUL and returns the length needed without it.
MOEBLOCK_API size_t moeblock_config_print(const moeblock_config *config, char *to, size_t capacity);

typedef struct moeblock_config_shape {
    int64_t hidden_size;
    int64_t num_experts;              // routed experts, null experts not counted
    int64_t num_experts_per_tok;      // slots per token
    int64_t intermediate_size;        // of a routed expert
    int64_t shared_intermediate_size; // 0: no shared expert
    int64_t layer;                    // -1: not fixed
} moeblock_config_shape;

MOEBLOCK_API void moeblock_config_get_shape(const moeblock_config *config, moeblock_config_shape *out);

// Value of one key as text, for example "router.config.n_group" -> "8". Same length rule as print; 0 with an empty
// string when the key is unknown or has no value.
MOEBLOCK_API size_t moeblock_config_value(const moeblock_config *config, const char *key, char *to, size_t capacity);

// Decodes outputs [first, first + count) of one linear map to float32 rows [count, inputs]: a stored code times its
// scale (docs/formats.md), whatever the number format, the layout and the order of the inputs. `projection` is its
// name under weights.names: "gate", "up", "down", "router_weight", "shared_gate", "latent_up", ...; gate and up are
// found in a fused tensor too. `expert` counts only for a routed expert's. `out` is the caller's. Thread-safe.
// Errors: INVALID_ARGUMENT (no such name, the description has no such map, outputs that it has not), NOT_FOUND,
// INVALID_FILE, UNSUPPORTED, IO, OUT_OF_MEMORY.
MOEBLOCK_API moeblock_status moeblock_config_decode(const moeblock_config *config, moeblock_weights *weights,
                                                    const char *projection, int64_t layer, int64_t expert,
                                                    int64_t first, int64_t count, float *out, moeblock_error *error);

#ifdef __cplusplus
}
#endif
#endif
