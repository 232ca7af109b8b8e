// SPDX-License-Identifier: Apache-2.0
// Where a checkpoint holds the banks of router and experts that its layers share (intern_s2_mobius). They stand outside
// of the layers, and the descriptions at hand do not say under which prefix: the one under which the layer's bank has a
// router is it.
#include <string.h>

#include "base/status.h"
#include "config/hf/map.h"
#include "weights/checkpoint.h"

enum { PREFIXES_MAX = 4 };

// The prefixes before `tail` in the checkpoint's names: how many, the first of them in `found`.
static int find_prefixes(moeblock_weights *weights, const char *tail, char found[PREFIXES_MAX][MB_TEXT])
{
    size_t tensors = 0;
    int count = 0;
    const size_t end = strlen(tail);
    if (moeblock_weights_count(weights, &tensors, NULL) != MOEBLOCK_OK) return 0;
    for (size_t i = 0; i < tensors; i++) {
        moeblock_tensor_info tensor;
        if (moeblock_weights_at(weights, i, &tensor, NULL) != MOEBLOCK_OK) return 0;
        const size_t length = strlen(tensor.name);
        if (length < end || length - end >= MB_TEXT || strcmp(tensor.name + length - end, tail)) continue;
        if (length > end && tensor.name[length - end - 1] != '.') continue;
        if (count < PREFIXES_MAX) snprintf(found[count], MB_TEXT, "%.*s", (int)(length - end), tensor.name);
        count++;
    }
    return count;
}

static moeblock_status fail(const struct mb_hf_source *source, const moeblock_weights *weights, const char *tail,
                            int count, char found[PREFIXES_MAX][MB_TEXT])
{
    char list[PREFIXES_MAX * (MB_TEXT + 4)] = "";
    for (int i = 0; i < count && i < PREFIXES_MAX; i++) {
        const size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s\"%s\"", i ? ", " : "", found[i]);
    }
    if (!count)
        return mb_fail(
            source->error, MOEBLOCK_INVALID_FILE,
            "%s: no tensor is called PREFIX%s, the router of the bank that layer %lld of this %s uses, with any "
            "prefix (\"model.language_model.\", \"model.\" or another)",
            weights->path, tail, (long long)source->layer, source->model_type);
    return mb_fail(
        source->error, MOEBLOCK_INVALID_FILE,
        "%s: %d tensors are called PREFIX%s, the router of the bank that layer %lld of this %s uses, expected "
        "one; the prefixes are %s%s",
        weights->path, count, tail, (long long)source->layer, source->model_type, list,
        count > PREFIXES_MAX ? ", ..." : "");
}

// The layer's own prefix, by its shared expert: another than the family's where the checkpoint has just one.
static void find_layer(const struct mb_hf_source *source, moeblock_config *config, moeblock_weights *weights)
{
    static const char place[] = "layers.{layer}";
    char tail[MB_TEXT], found[PREFIXES_MAX][MB_TEXT], prefix[2 * MB_TEXT];
    moeblock_tensor_info own;
    if (mb_role_find(config, weights, MB_ROLE_SHARED_SIGMOID, "", source->layer, 0, &own, NULL) == MOEBLOCK_OK) return;
    snprintf(tail, sizeof tail, "layers.%lld.%.100s", (long long)source->layer, config->tensor[MB_ROLE_SHARED_SIGMOID]);
    if (find_prefixes(weights, tail, found) != 1) return;
    snprintf(prefix, sizeof prefix, "%s%s", found[0], place);
    if (strlen(prefix) < sizeof config->module_prefix)
        mb_hf_set_text(config, config->module_prefix, sizeof config->module_prefix, prefix);
}

moeblock_status mb_hf_find_banks(const struct mb_hf_source *source, moeblock_config *config, moeblock_weights *weights,
                                 char module[MB_TEXT])
{
    static const size_t before = sizeof MB_HF_BANK_PREFIX - 1;
    char tail[64], found[PREFIXES_MAX][MB_TEXT] = {MB_HF_BANK_PREFIX};
    snprintf(module, MB_TEXT, "%s", MB_HF_BANK_PREFIX MB_HF_BANK_MODULE);
    if (!weights) return MOEBLOCK_OK;
    find_layer(source, config, weights);
    snprintf(tail, sizeof tail, "meta_mlp.%lld.gate.weight", (long long)(source->layer % config->banks));
    const int count = find_prefixes(weights, tail, found);
    if (count != 1) return fail(source, weights, tail, count, found);
    snprintf(module, MB_TEXT, "/%.100s%s", found[0], MB_HF_BANK_MODULE);
    for (int role = 0; role < MB_ROLES; role++) {
        char name[2 * MB_TEXT];
        if (strncmp(config->tensor[role], MB_HF_BANK_PREFIX, before)) continue;
        snprintf(name, sizeof name, "/%s%s", found[0], config->tensor[role] + before);
        if (strlen(name) < MB_TEXT) mb_hf_set_text(config, config->tensor[role], MB_TEXT, name);
    }
    return MOEBLOCK_OK;
}
