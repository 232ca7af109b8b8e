// SPDX-License-Identifier: Apache-2.0
// Which stored tensors belong to the routed experts and which to the shared one, picked by name out of the layer's
// list.
#include <string.h>

#include "experts/ffn.h"

static const enum mb_role shared_roles[] = {MB_ROLE_SHARED_GATE,     MB_ROLE_SHARED_UP,        MB_ROLE_SHARED_GATE_UP,
                                            MB_ROLE_SHARED_DOWN,     MB_ROLE_SHARED_GATE_BIAS, MB_ROLE_SHARED_UP_BIAS,
                                            MB_ROLE_SHARED_DOWN_BIAS};
static const enum mb_role other_roles[] = {MB_ROLE_ROUTER,           MB_ROLE_ROUTER_BIAS,     MB_ROLE_SELECTION_BIAS,
                                           MB_ROLE_INPUT_SCALE,      MB_ROLE_OUTPUT_BIAS,     MB_ROLE_SHARED_SIGMOID,
                                           MB_ROLE_PER_EXPERT_SCALE, MB_ROLE_LATENT_DOWN,     MB_ROLE_LATENT_UP,
                                           MB_ROLE_LATENT_IN_NORM,   MB_ROLE_LATENT_OUT_NORM, MB_ROLE_LATENT_DOWN_BIAS,
                                           MB_ROLE_LATENT_UP_BIAS};

enum { SHARED = sizeof shared_roles / sizeof *shared_roles, OTHERS = sizeof other_roles / sizeof *other_roles };

struct names {
    char shared[SHARED][256], others[OTHERS][256];
};

// Names begin alike: a scale's name is the tensor's with a suffix.
static bool begins_with_any(const char *name, char list[][256], int count)
{
    for (int i = 0; i < count; i++) {
        if (list[i][0] && strncmp(name, list[i], strlen(list[i])) == 0) return true;
    }
    return false;
}

static void name_roles(const moeblock_config *config, const enum mb_role *roles, int count, int64_t layer,
                       char out[][256])
{
    for (int i = 0; i < count; i++) {
        out[i][0] = '\0';
        if (mb_role_wanted(config, roles[i])) mb_role_name(config, roles[i], layer, 0, out[i]);
    }
}

int mb_ffn_need(const void *self, int64_t layer, const char *format, int64_t i, moeblock_tensor_need *out)
{
    const struct ffn *ffn = self;
    const moeblock_config *config = ffn->build.config;
    const int found = mb_format_find(format ? format : "bf16");
    if (found < 0) return 0;
    struct names names;
    name_roles(config, shared_roles, SHARED, layer, names.shared);
    name_roles(config, other_roles, OTHERS, layer, names.others);
    for (int64_t at = 0; mb_tensor_needed(config, (enum mb_format)found, layer, at, out); at++) {
        const bool shared = begins_with_any(out->name, names.shared, SHARED);
        const bool routed = !shared && !begins_with_any(out->name, names.others, OTHERS);
        if ((ffn->build.shared ? shared : routed) && i-- == 0) return 1;
    }
    return 0;
}
