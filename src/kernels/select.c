// SPDX-License-Identifier: Apache-2.0
// Which kernel levels this build has and which one runs.
#include <string.h>

#include "base/status.h"
#include "kernels/kernels.h"

const struct mb_kernels *const mb_kernel_levels[] = {&mb_kernels_ref, &mb_kernels_generic, NULL};

static const struct mb_kernels *find(const char *name)
{
    for (int i = 0; mb_kernel_levels[i]; i++) {
        if (strcmp(mb_kernel_levels[i]->name, name) == 0) return mb_kernel_levels[i];
    }
    return NULL;
}

static const struct mb_kernels *best(void)
{
    const struct mb_kernels *chosen = mb_kernel_levels[0];
    const char *reason;
    for (int i = 0; mb_kernel_levels[i]; i++) {
        if (mb_kernel_levels[i]->usable(&reason)) chosen = mb_kernel_levels[i];
    }
    return chosen;
}

const struct mb_kernels *mb_kernels_select(const char *name, moeblock_error *error)
{
    if (!name) return best();
    const struct mb_kernels *kernels = find(name);
    if (!kernels) {
        char known[256] = "";
        for (int i = 0; mb_kernel_levels[i]; i++) {
            if (i) strncat(known, ", ", sizeof known - strlen(known) - 1);
            strncat(known, mb_kernel_levels[i]->name, sizeof known - strlen(known) - 1);
        }
        mb_fail(error, MOEBLOCK_UNSUPPORTED, "CPU level \"%s\" is unknown; this build has %s", name, known);
        return NULL;
    }
    const char *reason;
    if (kernels->usable(&reason)) return kernels;
    mb_fail(error, MOEBLOCK_UNSUPPORTED,
            "CPU level \"%s\" cannot run on this machine (%s); leave the level out for the best", name, reason);
    return NULL;
}
