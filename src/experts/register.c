// SPDX-License-Identifier: Apache-2.0
// The built-in expert kinds. The original project calls the routed ones "distributed" or "throughput"; the shared one
// has no name to select it by.
#include "base/context.h"
#include "base/status.h"
#include "experts/expert.h"

const struct mb_registered mb_expert_shared = {.name = "shared", .class_copy = &mb_expert_ffn};

moeblock_status mb_experts_register(moeblock_context *context, moeblock_error *error)
{
    static const char *const names[] = {"distributed", "throughput"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        MB_TRY(mb_register(context, MB_EXPERT_KIND, names[i], &mb_expert_ffn, sizeof mb_expert_ffn, NULL, error));
    return MOEBLOCK_OK;
}
