// SPDX-License-Identifier: Apache-2.0
// Hugging Face config.json -> our description. Rules are data: families.c has a row per model type, spellings.c a row
// per meaning.
#ifndef MB_CONFIG_HF_HF_H
#define MB_CONFIG_HF_HF_H

#include "base/json.h"
#include "config/config.h"

// True when the object is a Hugging Face configuration (it has a "model_type", of whatever kind, itself or in
// text_config).
bool mb_hf_is_config(const json_t *root);

struct mb_hf_input {
    const json_t *root;
    const char *name; // of the file, for messages
    int64_t layer;    // -1: the first MoE layer
    // Where the tensors are (a file or folder, NULL: nowhere yet). Its names are looked at when the model type is
    // stored in more than one form; without it, or when it holds none of them, the first form is meant.
    const char *checkpoint;
    moeblock_context *context; // opens the checkpoint; NULL when there is none
};

// Fills `out` (zeroed or holding schema defaults), marking what it sets as MB_FROM_MODEL. Errors: UNSUPPORTED (model
// type or value by name), INVALID_CONFIG (a missing key, a dense layer: the MoE layers are listed).
moeblock_status mb_hf_map(const struct mb_hf_input *input, moeblock_config *out, moeblock_error *error);

// Model types that are mapped, NULL past the end.
const char *mb_hf_model_type(int i);

#endif
