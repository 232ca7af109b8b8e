// SPDX-License-Identifier: Apache-2.0
// Lists the tensors that a checkpoint of a description holds, in a published number format.
#include <stdio.h>
#include <string.h>

#include "config/roles.h"

// What is stored for a role: one tensor, or codes and scales.
struct stored {
    enum mb_role role;
    bool scales;
};
enum { STORED_MAX = 2 * MB_ROLES };

// Routed and shared experts have the format; the rest is floats.
static bool in_format(enum mb_role role)
{
    const enum mb_owner owner = mb_roles[role].owner;
    return (owner == MB_OWNER_ROUTED || owner == MB_OWNER_SHARED) && mb_roles[role].columns != MB_EXTENT_NONE;
}

// Collects the wanted roles that have a tensor an expert, or those that have one for all.
static int collect(const moeblock_config *config, enum mb_format format, bool per_expert, struct stored out[STORED_MAX])
{
    int count = 0;
    for (int i = 0; i < MB_ROLES; i++) {
        const enum mb_role role = (enum mb_role)i;
        const bool each = mb_roles[role].owner == MB_OWNER_ROUTED && config->layout == MB_LAYOUT_PER_EXPERT;
        if (each != per_expert || !mb_role_wanted(config, role)) continue;
        out[count++] = (struct stored){role, false};
        if (in_format(role) && mb_format_table[format].scale_suffix) out[count++] = (struct stored){role, true};
    }
    return count;
}

static void describe(const moeblock_config *config, enum mb_format format, struct stored stored, int64_t layer,
                     int64_t expert, moeblock_tensor_need *out)
{
    const struct mb_format_info *info = &mb_format_table[format];
    const bool coded = in_format(stored.role);
    memset(out, 0, sizeof *out);
    mb_role_name(config, stored.role, layer, expert, out->name);
    if (coded) {
        const char *suffix = stored.scales ? info->scale_suffix : info->codes_suffix;
        const size_t length = strlen(out->name);
        snprintf(out->name + length, sizeof out->name - length, "%s", suffix);
        out->dtype = !stored.scales ? info->dtype : format == MB_FORMAT_MXFP4 ? MOEBLOCK_U8 : MOEBLOCK_F32;
    } else if (stored.role == MB_ROLE_TOKEN_TABLE) {
        out->dtype = MOEBLOCK_I64;
    } else if (stored.role == MB_ROLE_SELECTION_BIAS) { // small corrections beside scores: published in F32
        out->dtype = MOEBLOCK_F32;
    } else {
        out->dtype = info->scale_suffix ? MOEBLOCK_BF16 : info->dtype;
    }
    out->rank = mb_role_dims(config, stored.role, coded ? format : MB_FORMAT_BF16, stored.scales, out->dims);
}

// The i-th tensor of the experts alone, which is all that a second bank has.
static bool expert_tensor(const moeblock_config *config, enum mb_format format, int64_t layer, int64_t i,
                          moeblock_tensor_need *out)
{
    struct stored list[STORED_MAX];
    const bool per_expert = config->layout == MB_LAYOUT_PER_EXPERT;
    int each = 0;
    for (int r = 0, n = collect(config, format, per_expert, list); r < n; r++)
        if (mb_roles[list[r].role].owner == MB_OWNER_ROUTED) list[each++] = list[r];
    if (!each || i / each >= (per_expert ? config->num_experts : 1)) return false;
    describe(config, format, list[i % each], layer, i / each, out);
    return true;
}

int mb_tensor_needed(const moeblock_config *config, enum mb_format format, int64_t layer, int64_t i,
                     moeblock_tensor_need *out)
{
    struct stored list[STORED_MAX];
    const int single = collect(config, format, false, list);
    if (i < 0) return 0;
    if (i < single) {
        describe(config, format, list[i], layer, 0, out);
        return 1;
    }
    const int each = collect(config, format, true, list);
    const int64_t rest = i - single, own = each * config->num_experts;
    if (rest < own) {
        describe(config, format, list[rest % each], layer, rest / each, out);
        return 1;
    }
    if (!config->second.count) return 0;
    moeblock_config second;
    mb_second_bank(config, &second);
    return expert_tensor(&second, format, layer, rest - own, out);
}
