// SPDX-License-Identifier: Apache-2.0
// The activations, one table row each, for the file that includes this: activation.c for any machine, and a file of
// each level that has wider vectors. A row is two formulas: what happens to the gate g (to u, for experts without a
// gate) and what to u; h is their product, rounded separately. The operations are the same everywhere, and so are the
// bits. The file defines MB_KINDS, the table's name, and MB_ACTIVATIONS, its declaration.
#include <stddef.h>
#include <string.h>

#include "kernels/activation.h"
#include "kernels/math_inline.h"

// Formulas on the gate. `a` holds the parameters.
#define MB_SILU(a, g) ((g)*mb_sigmoid_body(g))
#define MB_GELU(a, g) (0.5f * (g) * (1.0f + mb_erf_body((g)*0.707106769f)))
#define MB_GELU_TANH(a, g) (0.5f * (g) * (1.0f + mb_tanh_body(0.797884583f * ((g) + 0.0447149985f * (g) * (g) * (g)))))
#define MB_RELU(a, g) mb_pick((g) < 0.0f, 0.0f, g) // NaN stays
#define MB_RELU2(a, g) (MB_RELU(a, g) * MB_RELU(a, g))
#define MB_SILU_ALPHA(a, g) ((g)*mb_sigmoid_body((a).alpha * (g)))
#define MB_SITU(a, g) ((a).beta * mb_tanh_body((g) / (a).beta) * mb_sigmoid_body(g))
#define MB_SAME(a, v) (v)

// Formulas on u.
#define MB_PLUS_ONE(a, u) mb_pick((a).plus_one, (u) + 1.0f, u)
#define MB_SOFT_LIMIT(a, u) mb_pick((a).linear_beta == 0.0f, u, (a).linear_beta * mb_tanh_body((u) / (a).linear_beta))

// The loops of one kind. `out` must not overlap the inputs: mb_activation_apply sees to it, so that the loops
// vectorise without a check.
#define MB_KIND(NAME, ON_GATE, ON_UP)                                                                                  \
    static void NAME(const struct mb_activation *activation, const float *restrict gate, const float *restrict up,     \
                     float *restrict out, int64_t n)                                                                   \
    {                                                                                                                  \
        const struct mb_activation a = *activation;                                                                    \
        (void)a;                                                                                                       \
        if (gate) {                                                                                                    \
            for (int64_t i = 0; i < n; i++) out[i] = ON_GATE(a, gate[i]) * ON_UP(a, up[i]);                            \
        } else {                                                                                                       \
            for (int64_t i = 0; i < n; i++) out[i] = ON_GATE(a, up[i]);                                                \
        }                                                                                                              \
    }

MB_KIND(apply_silu, MB_SILU, MB_SAME)
MB_KIND(apply_gelu, MB_GELU, MB_SAME)
MB_KIND(apply_gelu_tanh, MB_GELU_TANH, MB_SAME)
MB_KIND(apply_relu, MB_RELU, MB_SAME)
MB_KIND(apply_relu2, MB_RELU2, MB_SAME)
MB_KIND(apply_swiglu_oai, MB_SILU_ALPHA, MB_PLUS_ONE)
MB_KIND(apply_situ, MB_SITU, MB_SOFT_LIMIT)
MB_KIND(apply_identity, MB_SAME, MB_SAME)

// Rows with the same function are aliases; mb_activation_find returns the first.
MB_ACTIVATIONS = {
    {"silu", apply_silu},
    {"gelu", apply_gelu},
    {"gelu_tanh", apply_gelu_tanh},
    {"relu", apply_relu},
    {"relu2", apply_relu2},
    {"swiglu_oai", apply_swiglu_oai},
    {"situ", apply_situ},
    {"identity", apply_identity},
    {"swiglu", apply_silu},
    {"silu_glu", apply_silu},
    {"gelu_pytorch_tanh", apply_gelu_tanh},
    {"gelu_new", apply_gelu_tanh},
    {"clamped_swiglu", apply_swiglu_oai},
    {NULL, NULL},
};

// NaN passes both: the comparison is false.
static inline float at_most(float x, float limit) { return mb_pick(x > limit, limit, x); }
static inline float within(float x, float limit) { return at_most(mb_pick(x < -limit, -limit, x), limit); }

// One block. g is NULL without a gate; then the clamps that belong to the gate apply to u. g and u may be changed.
enum { BLOCK = 128 };
static void apply_block(const struct mb_activation *activation, float *g, float *u, float *h, int n)
{
    const struct mb_activation_kind *kind = &MB_KINDS[activation->kind];
    const float limit = activation->limit;
    float *first = g ? g : u;
    if (activation->clamp == MB_CLAMP_BEFORE) {
        for (int i = 0; i < n; i++) first[i] = at_most(first[i], limit);
    }
    if (g && activation->clamp != MB_CLAMP_NONE) {
        for (int i = 0; i < n; i++) u[i] = within(u[i], limit);
    }
    if (activation->clamp != MB_CLAMP_AFTER) {
        kind->apply(activation, g, u, h, n);
        return;
    }
    kind->apply(activation, NULL, first, h, n);
    for (int i = 0; i < n; i++) h[i] = at_most(h[i], limit);
    if (g) {
        for (int i = 0; i < n; i++) h[i] = h[i] * u[i];
    }
}

static inline void apply_activation(const struct mb_activation *activation, const float *gate, const float *up,
                                    float *out, int64_t n)
{
    float g[BLOCK], u[BLOCK], h[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int block = (int)(n - i < BLOCK ? n - i : BLOCK);
        if (gate) memcpy(g, gate + i, (size_t)block * sizeof *g);
        memcpy(u, up + i, (size_t)block * sizeof *u);
        apply_block(activation, gate ? g : NULL, u, h, block);
        memcpy(out + i, h, (size_t)block * sizeof *h);
    }
}
