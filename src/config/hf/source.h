// SPDX-License-Identifier: Apache-2.0
// Reading values of a Hugging Face config.json by meaning: the first spelling that is there and not null counts, a list
// stands for one value per layer. Every number is checked against its range before anyone computes with it.
#ifndef MB_CONFIG_HF_SOURCE_H
#define MB_CONFIG_HF_SOURCE_H

#include "base/json.h"
#include "config/hf/families.h"

struct mb_hf_source {
    const json_t *root;     // the whole file
    const json_t *scope;    // the object with the text model's keys
    const char *scope_name; // "text_config" when it is not the root; else NULL
    const char *name;       // of the file, for messages
    const char *model_type;
    const struct mb_hf_family *family;
    int64_t layer; // -1 until it is known; lists need it
    int64_t bank;  // which entry counts where a family's lists have one a bank of experts
    bool hashed;   // the layer takes its experts from a table of token ids
    moeblock_error *error;
};

// Value at a dotted path, NULL when it is absent or null.
const json_t *mb_hf_at(const json_t *object, const char *path);
// Value of a meaning (NULL: absent); *key gets the spelling that was found.
const json_t *mb_hf_find(const struct mb_hf_source *source, enum mb_hf_meaning meaning, const char **key);
// Whether the file has a key of this meaning; null, which says "none", counts.
bool mb_hf_said(const struct mb_hf_source *source, enum mb_hf_meaning meaning);

// The meaning that gives the routed experts' width.
enum mb_hf_meaning mb_hf_width_meaning(const struct mb_hf_source *source);

// These leave *value alone when the key is absent.
moeblock_status mb_hf_int(const struct mb_hf_source *source, enum mb_hf_meaning meaning, int64_t *value);
moeblock_status mb_hf_number(const struct mb_hf_source *source, enum mb_hf_meaning meaning, double *value);
moeblock_status mb_hf_flag(const struct mb_hf_source *source, enum mb_hf_meaning meaning, bool *value);
moeblock_status mb_hf_text(const struct mb_hf_source *source, enum mb_hf_meaning meaning, const char **value);
// INVALID_CONFIG with the usual spellings when the key is absent.
moeblock_status mb_hf_int_required(const struct mb_hf_source *source, enum mb_hf_meaning meaning, int64_t *value);

// INVALID_CONFIG: found and expected at a key.
moeblock_status mb_hf_wrong(const struct mb_hf_source *source, const char *key, const json_t *found,
                            const char *expected);

// INVALID_CONFIG that lists all keys the family needs and the file lacks: complete.c.
moeblock_status mb_hf_check_complete(const struct mb_hf_source *source);

// Which layers are MoE: layers.c.
enum mb_hf_layer_kind { MB_HF_DENSE, MB_HF_MOE, MB_HF_HASHED };
// Number of layers; of the list of blocks where the file has no count.
moeblock_status mb_hf_layer_count(const struct mb_hf_source *source, int64_t *count);
// Resolves `layer` (-1: the first MoE layer) into source->layer and writes the MoE layers as "3-60" into `list`, empty
// when that does not fit.
moeblock_status mb_hf_choose_layer(struct mb_hf_source *source, int64_t layer, int64_t count, char *list,
                                   size_t capacity);

// The stored format that quantization_config announces for the routed experts, whose module is `module`, and its inputs
// per scale (0: not said): "auto" when it announces none. `beside` is hf_quant_config.json, or NULL: quantization.c.
moeblock_status mb_hf_format(const struct mb_hf_source *source, const json_t *beside, const char *module,
                             const char **format, int64_t *group);

#endif
