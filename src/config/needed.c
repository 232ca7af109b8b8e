// SPDX-License-Identifier: Apache-2.0
// Lists the tensors that a checkpoint of a description holds, in a published number format.
#include <stdio.h>
#include <string.h>

#include "config/roles.h"

// What is stored for a role: one tensor, or the parts of its format.
struct stored {
    enum mb_role role;
    enum mb_part part;
};
enum { STORED_MAX = MB_PARTS * MB_ROLES };

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
        for (int p = 0; p < MB_PARTS; p++) {
            const enum mb_part part = (enum mb_part)p;
            const bool coded = in_format(role) && mb_format_suffix(format, part);
            const bool left_out = part == MB_PART_ORDER && mb_format_table[format].order_optional;
            if (part == MB_PART_CODES || (coded && !left_out)) out[count++] = (struct stored){role, part};
        }
    }
    return count;
}

static moeblock_dtype scale_type(const struct mb_format_info *info)
{
    const bool v4 = info->scale_suffix[0] == '.'; // powers of two under their own type
    if (info->scales == MB_SCALE_E4M3) return MOEBLOCK_F8_E4M3;
    if (info->any_group) return info->order == MB_CODES_WORDS ? MOEBLOCK_BF16 : MOEBLOCK_F16;
    if (info->scales == MB_SCALE_E8M0 || v4) return v4 ? MOEBLOCK_F8_E8M0 : MOEBLOCK_U8;
    return MOEBLOCK_F32;
}

static moeblock_dtype part_type(const struct mb_format_info *info, enum mb_part part)
{
    switch (part) {
    case MB_PART_CODES:
        return info->dtype;
    case MB_PART_SCALES:
        return scale_type(info);
    case MB_PART_TOTAL:
        return MOEBLOCK_F32;
    case MB_PART_SHAPE:
        return MOEBLOCK_I64;
    default:
        return MOEBLOCK_I32;
    }
}

static void describe(const moeblock_config *config, enum mb_format format, struct stored stored, int64_t layer,
                     int64_t expert, moeblock_tensor_need *out)
{
    const struct mb_format_info *info = &mb_format_table[format];
    const bool coded = in_format(stored.role);
    const int64_t columns = mb_extent(config, mb_roles[stored.role].columns);
    char name[256], full[288];
    memset(out, 0, sizeof *out);
    mb_role_name(config, stored.role, layer, expert, name);
    mb_name_with(name, coded ? mb_format_suffix(format, stored.part) : "", full);
    snprintf(out->name, sizeof out->name, "%.255s", full);
    if (coded) {
        out->dtype = part_type(info, stored.part);
    } else if (stored.role == MB_ROLE_TOKEN_TABLE) {
        out->dtype = MOEBLOCK_I64;
    } else if (stored.role == MB_ROLE_SELECTION_BIAS) { // small corrections beside scores: published in F32
        out->dtype = MOEBLOCK_F32;
    } else {
        out->dtype = info->scale_suffix ? MOEBLOCK_BF16 : info->dtype;
    }
    int64_t group = mb_format_group(format, columns);
    if (info->any_group && config->group_size) group = config->group_size;
    out->rank = mb_role_dims(config, stored.role, coded ? format : MB_FORMAT_BF16, stored.part, group, out->dims);
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
