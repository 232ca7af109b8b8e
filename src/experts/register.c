// SPDX-License-Identifier: Apache-2.0
// The names of the built-in expert kinds. The original project calls the routed ones "distributed" or "throughput".
#include "base/context.h"
#include "base/status.h"
#include "experts/expert.h"

moeblock_status mb_experts_register(moeblock_context *context, moeblock_error *error)
{
    static const char *const names[] = {"distributed", "throughput", "shared"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        MB_TRY(mb_register(context, MB_EXPERT_KIND, names[i], &mb_expert_ffn, sizeof mb_expert_ffn, NULL, error));
    return MOEBLOCK_OK;
}
