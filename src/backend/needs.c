// SPDX-License-Identifier: Apache-2.0
// Before a kind from outside reads anything: are the tensors there that it says it needs? All that are missing stand in
// one sentence. The built-in kinds look under several names and say so themselves.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "base/status.h"
#include "config/preset.h"

enum { NEEDS_MAX = 1 << 20 }; // a kind that never says "no more" must not keep the load from ending

typedef int (*need_call)(const struct mb_registered *kind, const void *self, int64_t layer, int64_t i,
                         moeblock_tensor_need *out);

static int router_need(const struct mb_registered *kind, const void *self, int64_t layer, int64_t i,
                       moeblock_tensor_need *out)
{
    return ((const moeblock_router_class *)kind->class_copy)->need(self, layer, (int)i, out);
}

static int expert_need(const struct mb_registered *kind, const void *self, int64_t layer, int64_t i,
                       moeblock_tensor_need *out)
{
    return ((const moeblock_expert_class *)kind->class_copy)->need(self, layer, NULL, i, out);
}

static moeblock_status check(const char *what, const struct mb_registered *kind, need_call need, const void *self,
                             moeblock_weights *weights, int64_t layer, moeblock_error *error)
{
    char list[700] = "";
    size_t used = 0;
    int64_t missing = 0, i = 0;
    moeblock_tensor_need one = {.name = ""};
    for (; i < NEEDS_MAX && need(kind, self, layer, i, &one); i++) {
        moeblock_tensor_info found;
        moeblock_error reason = {MOEBLOCK_OK, ""};
        one.name[sizeof one.name - 1] = 0;
        const moeblock_status status = moeblock_weights_find(weights, one.name, &found, &reason);
        if (status != MOEBLOCK_OK && status != MOEBLOCK_NOT_FOUND) {
            *error = reason;
            return status;
        }
        if (status == MOEBLOCK_OK) continue;
        missing++;
        if (used + strlen(one.name) + 8 > sizeof list) continue; // the number tells that there are more
        used += (size_t)snprintf(list + used, sizeof list - used, "%s'%s'", used ? ", " : "", one.name);
    }
    if (i == NEEDS_MAX)
        return mb_fail(error, MOEBLOCK_INTERNAL, "%s kind \"%s\" needs more than %d tensors", what, kind->name,
                       NEEDS_MAX);
    if (!missing) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_NOT_FOUND,
                   "%s kind \"%s\" needs %" PRId64 " tensor%s that the checkpoint does not have: %s", what, kind->name,
                   missing, missing == 1 ? "" : "s", list);
}

moeblock_status mb_router_needs(const struct mb_registered *kind, const void *self, moeblock_weights *weights,
                                int64_t layer, moeblock_error *error)
{
    const bool built_in = ((const moeblock_router_class *)kind->class_copy)->need == mb_router_pipeline.need;
    return built_in ? MOEBLOCK_OK : check("router", kind, router_need, self, weights, layer, error);
}

moeblock_status mb_expert_needs(const struct mb_registered *kind, const void *self, moeblock_weights *weights,
                                int64_t layer, moeblock_error *error)
{
    const bool built_in = kind == &mb_expert_shared || mb_expert_is_builtin(kind->name);
    return built_in ? MOEBLOCK_OK : check("expert", kind, expert_need, self, weights, layer, error);
}
