// SPDX-License-Identifier: Apache-2.0
// Expert activations: one row of a table each (moe-families 1.10 names them). All levels run the same operations, so
// the bits agree.
#ifndef MB_KERNELS_ACTIVATION_H
#define MB_KERNELS_ACTIVATION_H

#include <stdbool.h>
#include <stdint.h>

enum mb_clamp { MB_CLAMP_NONE, MB_CLAMP_BEFORE, MB_CLAMP_AFTER };

// An activation with its parameters. `limit` only counts with a clamp other than none:
// before: g = min(g, limit), u = clamp(u, -limit, limit); after: act(g) = min(act(g), limit), u as before.
struct mb_activation {
    int kind; // row of mb_activation_kinds
    enum mb_clamp clamp;
    float limit;
    float alpha;             // swiglu_oai: sigmoid(alpha * g)
    bool plus_one;           // swiglu_oai: times u + 1 instead of u
    float beta, linear_beta; // situ
};

// h[i] from gate[i] and up[i]; gate is NULL for kinds without a gate.
struct mb_activation_kind {
    const char *name; // as in JSON: "silu", "swiglu_oai", ...
    void (*apply)(const struct mb_activation *activation, const float *gate, const float *up, float *out, int64_t n);
};

extern const struct mb_activation_kind mb_activation_kinds[]; // ended by a NULL name

// Row of the kind with this name (aliases such as "swiglu" for "silu" included), -1 when there is none.
int mb_activation_find(const char *name);

// Applies one, clamps included. `gate` is NULL for experts without a gate. out may be gate or up.
void mb_activation_apply(const struct mb_activation *activation, const float *gate, const float *up, float *out,
                         int64_t n);

#endif
