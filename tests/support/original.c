// SPDX-License-Identifier: Apache-2.0
// The original's flow in double. Each device computes what it computed there: its whole experts and its slice of the
// shared expert, so that the last step is a true sum over the columns.
#include "support/original.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *zeros(int count)
{
    double *values = calloc((size_t)count + 1, sizeof *values);
    if (!values) abort();
    return values;
}

static double dot(const float *w, const double *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)w[i] * x[i];
    return sum;
}

static double silu(double g) { return g / (1 + exp(-g)); }

// The largest `count` of values, best first, the lower index first among equals.
static void top(const double *values, int n, int count, int *out)
{
    bool *taken = calloc((size_t)n, sizeof *taken);
    if (!taken) abort();
    for (int j = 0; j < count; j++) {
        int best = -1;
        for (int i = 0; i < n; i++)
            if (!taken[i] && (best < 0 || values[i] > values[best])) best = i;
        out[j] = best;
        taken[best] = true;
    }
    free(taken);
}

// Scores outside the best groups become -infinity. A group counts as much as its two best together.
static void keep_best_groups(const struct original_layer *layer, double *biased)
{
    const int size = layer->experts / layer->n_group;
    double *group = zeros(layer->n_group);
    int *kept = calloc((size_t)layer->n_group, sizeof *kept);
    if (!kept) abort();
    for (int g = 0; g < layer->n_group; g++) {
        int best[2];
        top(biased + g * size, size, 2, best);
        group[g] = biased[g * size + best[0]] + biased[g * size + best[1]];
    }
    top(group, layer->n_group, layer->topk_group, kept);
    for (int g = 0; g < layer->n_group; g++) {
        bool keep = false;
        for (int j = 0; j < layer->topk_group; j++) keep |= kept[j] == g;
        for (int i = 0; i < size && !keep; i++) biased[g * size + i] = -HUGE_VAL;
    }
    free(kept);
    free(group);
}

void original_gate(const struct original_layer *layer, const double *x, int *ids, double *weights)
{
    double *score = zeros(layer->experts), *biased = zeros(layer->experts), sum = 0;
    for (int e = 0; e < layer->experts; e++) {
        score[e] = 1 / (1 + exp(-dot(layer->gate + e * layer->hidden, x, layer->hidden)));
        biased[e] = score[e] + (layer->bias ? (double)layer->bias[e] : 0);
    }
    if (layer->n_group > 1) keep_best_groups(layer, biased);
    top(biased, layer->experts, layer->k, ids);
    for (int j = 0; j < layer->k; j++) sum += weights[j] = score[ids[j]];
    for (int j = 0; j < layer->k; j++) {
        if (layer->normalised && layer->k > 1) weights[j] /= sum + 1e-20;
        weights[j] *= layer->scale;
    }
    free(score);
    free(biased);
}

// out += weight * w2[:, i0..i1) (silu(w1 x) * (w3 x))[i0..i1): a feed-forward, or a column's slice of it.
static void add_feed_forward(const float *w1, const float *w3, const float *w2, int hidden, int inner, int i0, int i1,
                             const double *x, double weight, double *out)
{
    for (int i = i0; i < i1; i++) {
        const double h = silu(dot(w1 + i * hidden, x, hidden)) * dot(w3 + i * hidden, x, hidden);
        for (int o = 0; o < hidden; o++) out[o] += weight * (double)w2[o * inner + i] * h;
    }
}

// Step 3 for the tokens of one row: what the experts of one column give. Expert e lives whole on device e / El of the
// row-major mesh; dispatch and combine run inside a column, so a column sees its own experts only.
static void moe_of_column(const struct original_layer *layer, const struct original_mesh *mesh, int column, int tokens,
                          const double *x, double *partial)
{
    const int per_device = layer->experts / (mesh->rows * mesh->columns), hidden = layer->hidden;
    int *ids = calloc((size_t)layer->k, sizeof *ids);
    double *weights = zeros(layer->k);
    if (!ids) abort();
    for (int t = 0; t < tokens; t++) {
        original_gate(layer, x + t * hidden, ids, weights);
        for (int j = 0; j < layer->k; j++) {
            const int matrix = ids[j] * layer->inner * hidden;
            if (ids[j] / per_device % mesh->columns != column) continue;
            add_feed_forward(layer->w1 + matrix, layer->w3 + matrix, layer->w2 + matrix, hidden, layer->inner, 0,
                             layer->inner, x + t * hidden, weights[j], partial + t * hidden);
        }
    }
    free(ids);
    free(weights);
}

// Step 4: the shared expert, column-parallel and then row-parallel: a slice of its width in each column.
static void shared_of_column(const struct original_layer *layer, const struct original_mesh *mesh, int column,
                             int tokens, const double *x, double *partial)
{
    const int i0 = layer->shared * column / mesh->columns, i1 = layer->shared * (column + 1) / mesh->columns;
    for (int t = 0; t < tokens; t++)
        add_feed_forward(layer->s1, layer->s3, layer->s2, layer->hidden, layer->shared, i0, i1, x + t * layer->hidden,
                         1, partial + t * layer->hidden);
}

// Columns [from, from + n) of rows of `width` values.
static void copy_columns(const double *source, int source_width, int source_at, double *target, int target_width,
                         int target_at, int rows, int n)
{
    for (int t = 0; t < rows; t++)
        memcpy(target + t * target_width + target_at, source + t * source_width + source_at,
               (size_t)n * sizeof *target);
}

void original_forward_row(const struct original_layer *layer, const struct original_mesh *mesh, int row, int width,
                          const double *const *x, double *const *y)
{
    const int columns = mesh->columns, tokens = mesh->tokens[row], hidden = layer->hidden;
    const bool sharded = columns > 1 && width == hidden / columns; // 1. x_dim == hidden_size / tp_size
    double *gathered = zeros(tokens * hidden), *sum = zeros(tokens * hidden);
    for (int c = 0; c < (sharded ? columns : 1); c++) // 2. all-gather over the columns
        copy_columns(x[row * columns + c], width, 0, gathered, hidden, c * width, tokens, width);
    for (int c = 0; c < columns; c++) {
        double *moe = zeros(tokens * hidden), *shared = zeros(tokens * hidden);
        moe_of_column(layer, mesh, c, tokens, gathered, moe); // 3. MoE.forward_prefill
        if (layer->shared)
            shared_of_column(layer, mesh, c, tokens, gathered, shared);         // 4. SharedExpert.forward_prefill
        for (int i = 0; i < tokens * hidden; i++) sum[i] += moe[i] + shared[i]; // 5. add; 6. sum over the columns
        free(moe);
        free(shared);
    }
    for (int c = 0; c < columns; c++) // 6. each column keeps its own part; replicated x ends in an all-reduce
        copy_columns(sum, hidden, sharded ? c * width : 0, y[row * columns + c], width, 0, tokens, width);
    free(gathered);
    free(sum);
}

void original_forward_mlp_prefill(const struct original_layer *layer, const struct original_mesh *mesh, int width,
                                  const double *const *x, double *const *y)
{
    for (int row = 0; row < mesh->rows; row++) original_forward_row(layer, mesh, row, width, x, y);
}
