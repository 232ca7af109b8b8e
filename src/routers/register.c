// SPDX-License-Identifier: Apache-2.0
// The names of the built-in routers. They share one implementation: a name is a preset, and the configuration has
// already turned presets into settings.
#include "base/context.h"
#include "base/status.h"
#include "routers/router.h"

moeblock_status mb_routers_register(moeblock_context *context, moeblock_error *error)
{
    static const char *const names[] = {"moe_gate", "grouped_topk", "topk", "linear"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        MB_TRY(mb_register(context, MB_ROUTER_KIND, names[i], &mb_router_pipeline, sizeof mb_router_pipeline, NULL,
                           error));
    return MOEBLOCK_OK;
}
