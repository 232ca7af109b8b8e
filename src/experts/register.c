// SPDX-License-Identifier: Apache-2.0
// The built-in expert kinds. The original project calls the routed ones "distributed" or "throughput"; the shared one
// has no name to select it by.
#include "base/context.h"
#include "base/status.h"
#include "experts/expert.h"

const struct mb_registered mb_expert_shared = {.name = "shared", .class_copy = &mb_expert_ffn};

bool mb_expert_size(const moeblock_expert_class *kind, void *self, enum mb_format format)
{
    static const struct {
        const moeblock_expert_class *expert;
        void (*size)(void *self, enum mb_format format);
    } kinds[] = {{&mb_expert_ffn, mb_ffn_size},
                 {&mb_expert_banked, mb_banked_size},
                 {&mb_expert_post_normed, mb_post_normed_size}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (kinds[i].expert->inner != kind->inner) continue;
        kinds[i].size(self, format);
        return true;
    }
    return false;
}

moeblock_status mb_experts_register(moeblock_context *context, moeblock_error *error)
{
    static const struct {
        const char *name;
        const moeblock_expert_class *expert;
    } kinds[] = {{"distributed", &mb_expert_ffn},
                 {"throughput", &mb_expert_ffn},
                 {"banked", &mb_expert_banked},
                 {"post_normed", &mb_expert_post_normed}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        MB_TRY(
            mb_register(context, MB_EXPERT_KIND, kinds[i].name, kinds[i].expert, sizeof *kinds[i].expert, NULL, error));
    return MOEBLOCK_OK;
}
