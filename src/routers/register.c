// SPDX-License-Identifier: Apache-2.0
// The names of the built-in routers. Those of the pipeline share one implementation: a name is a preset, and the
// configuration has already turned presets into settings.
#include "base/context.h"
#include "base/status.h"
#include "routers/router.h"

moeblock_status mb_routers_register(moeblock_context *context, moeblock_error *error)
{
    static const struct {
        const char *name;
        const moeblock_router_class *router;
    } kinds[] = {
        {"moe_gate", &mb_router_pipeline},
        {"grouped_topk", &mb_router_pipeline},
        {"topk", &mb_router_pipeline},
        {"linear", &mb_router_pipeline},
        {"sparsemixer", &mb_router_sparsemixer},
        {"capacity", &mb_router_capacity},
        {"capacity_by_choice", &mb_router_capacity_by_choice},
        {"mlp_state", &mb_router_mlp_state},
        {"joint", &mb_router_joint},
        {"product_keys", &mb_router_product_keys},
        {"token_type", &mb_router_token_type},
        {"adjugate", &mb_router_adjugate},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        MB_TRY(
            mb_register(context, MB_ROUTER_KIND, kinds[i].name, kinds[i].router, sizeof *kinds[i].router, NULL, error));
    return MOEBLOCK_OK;
}
