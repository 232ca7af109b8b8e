// SPDX-License-Identifier: Apache-2.0
// The activations as any machine runs them, and their names.
#include "kernels/activation.h"

#define MB_KINDS mb_activation_kinds
#define MB_ACTIVATIONS const struct mb_activation_kind mb_activation_kinds[]
#include "kernels/activation.inl"

int mb_activation_find(const char *name)
{
    for (int i = 0; mb_activation_kinds[i].name; i++) {
        if (strcmp(mb_activation_kinds[i].name, name) != 0) continue;
        int first = 0;
        while (mb_activation_kinds[first].apply != mb_activation_kinds[i].apply) first++;
        return first;
    }
    return -1;
}

void mb_activation_apply(const struct mb_activation *activation, const float *gate, const float *up, float *out,
                         int64_t n)
{
    apply_activation(activation, gate, up, out, n);
}
