// SPDX-License-Identifier: Apache-2.0
// How the checkpoint stores the layer: the family's names and layout, or another published form that it has.
#include <string.h>

#include "base/status.h"
#include "config/hf/map.h"

// Whether the checkpoint has the layer's down projections under this form's name, in any number format.
static bool holds_form(moeblock_config *config, moeblock_weights *weights, int64_t layer,
                       const struct mb_hf_storage *storage)
{
    moeblock_tensor_info found;
    char *down = config->tensor[MB_ROLE_DOWN];
    snprintf(down, sizeof config->tensor[0], "%s", storage->pattern[MB_ROLE_DOWN]);
    for (int f = 0; f < MB_FORMATS; f++)
        if (mb_role_find(config, weights, MB_ROLE_DOWN, mb_format_table[f].codes_suffix, layer, 0, &found, NULL) ==
            MOEBLOCK_OK)
            return true;
    return false;
}

// The form in which the checkpoint stores the model type: the first of the list that it holds. Opens it only for types
// that have a choice. One that cannot be opened says nothing here; whoever loads it gets the error.
static const struct mb_hf_storage *choose_storage(const struct mb_hf_source *source, const struct mb_hf_input *input,
                                                  moeblock_config *config)
{
    const struct mb_hf_storage *first = source->family->storage, *chosen = NULL;
    moeblock_weights *weights = NULL;
    for (const struct mb_hf_alternative *a = mb_hf_alternatives; a->model_type && input->checkpoint && !chosen; a++) {
        if (strcmp(a->model_type, source->model_type)) continue;
        if (!weights && moeblock_weights_open(input->context, input->checkpoint, &weights, NULL) != MOEBLOCK_OK) break;
        if (holds_form(config, weights, source->layer, first)) break;
        if (holds_form(config, weights, source->layer, a->storage)) chosen = a->storage;
    }
    moeblock_weights_destroy(&weights);
    return chosen ? chosen : first;
}

moeblock_status mb_hf_map_storage(const struct mb_hf_source *source, const struct mb_hf_input *input,
                                  moeblock_config *config)
{
    const char *format;
    MB_TRY(mb_hf_format(source, &format));
    mb_hf_set_text(config, config->format, sizeof config->format, format);
    mb_hf_set_text(config, config->module_prefix, sizeof config->module_prefix, source->family->prefix);
    const struct mb_hf_storage *storage = choose_storage(source, input, config);
    SET(config, layout, storage->layout);
    SET(config, orientation, storage->orientation);
    SET(config, down_orientation, mb_hf_down_orientation(storage));
    SET(config, gate_up, storage->gate_up);
    SET(config, shared_gate_up, storage->shared_gate_up);
    for (int role = 0; role < MB_ROLES; role++)
        if (storage->pattern[role])
            mb_hf_set_text(config, config->tensor[role], sizeof config->tensor[role], storage->pattern[role]);
    return MOEBLOCK_OK;
}
