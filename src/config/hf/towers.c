// SPDX-License-Identifier: Apache-2.0
// Which tower of a model with several a checkpoint holds: a speech model's talker beside its thinker, a vision encoder
// with experts of its own.
#include <string.h>

#include "config/hf/map.h"

// Whether the checkpoint has a tensor under a row's prefix, in any layer.
static bool holds_tower(moeblock_weights *weights, const struct mb_hf_family *family)
{
    const char *end = strstr(family->prefix, "{layer}");
    const size_t length = end ? (size_t)(end - family->prefix) : strlen(family->prefix);
    size_t count = 0;
    if (moeblock_weights_count(weights, &count, NULL) != MOEBLOCK_OK) return false;
    for (size_t i = 0; i < count; i++) {
        moeblock_tensor_info tensor;
        if (moeblock_weights_at(weights, i, &tensor, NULL) == MOEBLOCK_OK &&
            !strncmp(tensor.name, family->prefix, length))
            return true;
    }
    return false;
}

void mb_hf_choose_tower(struct mb_hf_source *source, const struct mb_hf_input *input)
{
    moeblock_weights *weights = NULL;
    for (const struct mb_hf_tower *tower = mb_hf_towers; tower->model_type; tower++) {
        const json_t *scope = mb_hf_at(source->root, tower->scope);
        if (strcmp(tower->model_type, source->family->model_type) || !json_is_object(scope) || !input->checkpoint)
            continue;
        // A checkpoint that cannot be opened says nothing here; whoever loads it gets the error.
        if (!weights && moeblock_weights_open(input->context, input->checkpoint, &weights, NULL) != MOEBLOCK_OK) return;
        const struct mb_hf_family *family = mb_hf_find_family(tower->row);
        if (!family || holds_tower(weights, source->family) || !holds_tower(weights, family)) continue;
        source->family = family;
        source->scope = scope;
        source->scope_name = tower->scope;
        source->model_type = tower->row;
        break;
    }
    moeblock_weights_destroy(&weights);
}
