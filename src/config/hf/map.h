// SPDX-License-Identifier: Apache-2.0
// What the files that apply a family's row share: map.c (sizes, experts), map_router.c, forms.c (storage).
#ifndef MB_CONFIG_HF_MAP_H
#define MB_CONFIG_HF_MAP_H

#include <stdio.h>

#include "config/hf/hf.h"
#include "config/hf/source.h"
#include "config/schema.h"

#define SET(config, field, value) ((config)->field = (value), mb_config_mark(config, &(config)->field, MB_FROM_MODEL))

static inline void mb_hf_set_text(moeblock_config *config, char *field, size_t capacity, const char *text)
{
    snprintf(field, capacity, "%s", text);
    mb_config_mark(config, field, MB_FROM_MODEL);
}

moeblock_status mb_hf_map_router(const struct mb_hf_source *source, moeblock_config *config);
// Names, layout and number format: the family's, or those among the published ones that the checkpoint has.
moeblock_status mb_hf_map_storage(const struct mb_hf_source *source, const struct mb_hf_input *input,
                                  moeblock_config *config);
// banks.c: puts the prefix under which the checkpoint holds the layer's bank before the names of the banks, and that of
// the layer before the others, where it is another one; `module` gets the bank's. INVALID_FILE with the candidates when
// the bank is nowhere or in several places.
moeblock_status mb_hf_find_banks(const struct mb_hf_source *source, moeblock_config *config, moeblock_weights *weights,
                                 char module[MB_TEXT]);
// Moves to another tower of the model where the checkpoint has that one alone: towers.c.
void mb_hf_choose_tower(struct mb_hf_source *source, const struct mb_hf_input *input);
// The row of a model type; NULL: none.
const struct mb_hf_family *mb_hf_find_family(const char *model_type);
// Records which key gave each value, for `config --origins`.
void mb_hf_note_keys(const struct mb_hf_source *source, moeblock_config *config);

#endif
