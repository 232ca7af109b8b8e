// SPDX-License-Identifier: Apache-2.0
// The original project's flow, forward_mlp_prefill, written down step by step in plain C from the description of it
// (its README and the semantics of its parents). It uses nothing of the library: equality with it means something.
#ifndef TESTS_SUPPORT_ORIGINAL_H
#define TESTS_SUPPORT_ORIGINAL_H

#include <stdbool.h>

// One layer; matrices [out][in] as checkpoints store them, experts one after the other.
struct original_layer {
    int hidden, experts, k, n_group, topk_group;
    int inner, shared;         // widths of a routed expert and of the shared expert; shared 0: none
    bool normalised;           // norm_topk_prob
    double scale;              // routed_scaling_factor
    const float *gate;         // [experts][hidden]
    const float *bias;         // e_score_correction_bias [experts]; NULL: none
    const float *w1, *w3, *w2; // gate, up [experts][inner][hidden]; down [experts][hidden][inner]
    const float *s1, *s3, *s2; // the same of the shared expert
};

// The mesh holds tokens over its rows: tokens[row]. Arrays of pointers go by device, row * columns + column: each is
// [tokens[row]][width], width the hidden size, or hidden / columns when the input is sharded over the columns.
struct original_mesh {
    int rows, columns;
    const int *tokens;
};

// DeepSeek's gate on one token: k distinct ids, best first, and their weights.
void original_gate(const struct original_layer *layer, const double *x, int *ids, double *weights);

// The six steps. y has x's shape and sharding. experts and hidden are multiples of the devices and the columns.
void original_forward_mlp_prefill(const struct original_layer *layer, const struct original_mesh *mesh, int width,
                                  const double *const *x, double *const *y);
// The same for one row of the mesh: rows meet at the experts only, which are all here.
void original_forward_row(const struct original_layer *layer, const struct original_mesh *mesh, int row, int width,
                          const double *const *x, double *const *y);

#endif
