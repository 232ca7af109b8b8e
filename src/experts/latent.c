// SPDX-License-Identifier: Apache-2.0
// Latent projections around the routed experts: down H -> L before them, up L -> H after their sum, each with an
// optional bias; an RMSNorm may follow the down projection and precede the up projection. Numbers follow the routed
// experts' compute type (docs/numerics.md).
#include <math.h>
#include <string.h>

#include "base/arith.h"
#include "base/context.h"
#include "base/status.h"
#include "config/tensors.h"
#include "experts/expert.h"
#include "kernels/int16.h"
#include "kernels/math_inline.h"

enum { PIECE_BYTES = 4 << 20, ALIGNMENT = 64 };

struct linear {
    struct mb_packing packing;
    void *packed;
    float *bias; // NULL: none
};

struct mb_latent {
    moeblock_context *context;
    const moeblock_config *config;
    moeblock_compute compute;
    const struct mb_kernels *kernels;
    int64_t hidden, width;
    struct linear down, up;
    float *in_norm, *out_norm; // factors [L], NULL: none
};

moeblock_status mb_latent_create(moeblock_context *context, const moeblock_config *config, moeblock_compute compute,
                                 const struct mb_kernels *kernels, struct mb_latent **out, moeblock_error *error)
{
    *out = NULL;
    if (!config->latent_size) return MOEBLOCK_OK;
    struct mb_latent *latent = mb_alloc_zero(&context->allocator, sizeof *latent);
    if (!latent) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating the latent projections: no memory");
    latent->context = context;
    latent->config = config;
    latent->compute = compute;
    latent->kernels = kernels;
    latent->hidden = config->hidden_size;
    latent->width = config->latent_size;
    // Until a load tells the stored format: what the sizes go by where they are asked for without one.
    const enum mb_packed_format format = compute == MOEBLOCK_COMPUTE_F32 ? MB_PACKED_F32 : MB_PACKED_BF16;
    latent->down.packing = (struct mb_packing){.format = format, .parts = 1, .n = latent->width, .k = latent->hidden};
    latent->up.packing = (struct mb_packing){.format = format, .parts = 1, .n = latent->hidden, .k = latent->width};
    *out = latent;
    return MOEBLOCK_OK;
}

void mb_latent_destroy(struct mb_latent *latent)
{
    if (!latent) return;
    const moeblock_allocator *allocator = &latent->context->allocator;
    void *owned[] = {latent->down.packed, latent->down.bias, latent->up.packed,
                     latent->up.bias,     latent->in_norm,   latent->out_norm};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) mb_free(allocator, owned[i]);
    mb_free(allocator, latent);
}

static moeblock_status pack_piece(const struct mb_latent *latent, moeblock_weights *weights,
                                  const struct mb_matrix *matrix, struct linear *linear, int64_t piece,
                                  moeblock_error *error)
{
    const moeblock_allocator *allocator = &latent->context->allocator;
    const struct mb_kernels *kernels = latent->kernels;
    int64_t n0, n1, k0, k1;
    mb_matrix_piece(matrix, &linear->packing, kernels->granule, PIECE_BYTES, piece, &n0, &n1, &k0, &k1);
    const size_t bytes = mb_stage_bytes(matrix, n0, n1, k0, k1);
    void *staging = mb_alloc(allocator, bytes);
    if (!staging)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "packing '%s': no memory for %zu bytes", matrix->codes.name,
                       bytes);
    const struct mb_target target = {.kernels = kernels, .packing = &linear->packing, .packed = linear->packed};
    const moeblock_status status = mb_matrix_pack(weights, matrix, &target, n0, n1, k0, k1, staging, error);
    mb_free(allocator, staging);
    return status;
}

static moeblock_status load_linear(struct mb_latent *latent, moeblock_weights *weights, int64_t layer,
                                   enum mb_projection projection, struct linear *linear, moeblock_error *error)
{
    const moeblock_allocator *allocator = &latent->context->allocator;
    const struct mb_kernels *kernels = latent->kernels;
    struct mb_matrix matrix;
    MB_TRY(mb_projection_find(latent->config, weights, projection, layer, 0, &matrix, error));
    linear->packing = (struct mb_packing){.parts = 1, .n = matrix.rows, .k = matrix.columns};
    MB_TRY(mb_compute_check(latent->compute, &matrix, error));
    MB_TRY(mb_matrix_check_order(weights, allocator, &matrix, error));
    mb_compute_packing(latent->compute, matrix.format, mb_matrix_group(&matrix), &linear->packing);
    linear->packed = mb_alloc(allocator, kernels->packed_bytes(&linear->packing));
    if (latent->config->latent_bias) linear->bias = mb_alloc(allocator, (size_t)matrix.rows * sizeof(float));
    if (!linear->packed || (latent->config->latent_bias && !linear->bias))
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading '%s': no memory for its packed form", matrix.codes.name);
    const int64_t pieces = mb_matrix_pieces(&matrix, &linear->packing, kernels->granule, PIECE_BYTES);
    for (int64_t i = 0; i < pieces; i++) MB_TRY(pack_piece(latent, weights, &matrix, linear, i, error));
    if (!linear->bias) return MOEBLOCK_OK;
    return mb_projection_bias(latent->config, weights, projection, layer, 0, matrix.rows, linear->bias, error);
}

// Factors of an RMSNorm; stored as w or, in some models, as w of (1 + w).
static moeblock_status load_norm(struct mb_latent *latent, moeblock_weights *weights, int64_t layer, enum mb_role role,
                                 float **out, moeblock_error *error)
{
    *out = mb_alloc(&latent->context->allocator, (size_t)latent->width * sizeof(float));
    if (!*out) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading a latent norm: no memory");
    MB_TRY(mb_role_floats(latent->config, weights, role, layer, latent->width, *out, error));
    if (latent->config->latent_norm_plus_one) {
        for (int64_t i = 0; i < latent->width; i++) (*out)[i] = 1.0f + (*out)[i];
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_latent_load(struct mb_latent *latent, moeblock_weights *weights, int64_t layer,
                               moeblock_error *error)
{
    if (!latent) return MOEBLOCK_OK;
    MB_TRY(load_linear(latent, weights, layer, MB_PROJ_LATENT_DOWN, &latent->down, error));
    MB_TRY(load_linear(latent, weights, layer, MB_PROJ_LATENT_UP, &latent->up, error));
    if (latent->config->latent_in_norm)
        MB_TRY(load_norm(latent, weights, layer, MB_ROLE_LATENT_IN_NORM, &latent->in_norm, error));
    if (latent->config->latent_out_norm)
        MB_TRY(load_norm(latent, weights, layer, MB_ROLE_LATENT_OUT_NORM, &latent->out_norm, error));
    return MOEBLOCK_OK;
}

size_t mb_latent_packed_bytes(const struct mb_latent *latent)
{
    if (!latent) return 0;
    const struct mb_kernels *kernels = latent->kernels;
    return kernels->packed_bytes(&latent->down.packing) + kernels->packed_bytes(&latent->up.packing);
}

// out = v / sqrt(mean(v^2) + eps) * factor, the sum of squares one chain over ascending i. out may be v.
static void rms_norm(const struct mb_latent *latent, const float *factors, const float *v, float *out)
{
    float sum = 0;
    for (int64_t i = 0; i < latent->width; i++) sum = sum + v[i] * v[i];
    const float mean = sum / (float)latent->width;
    const float scale = 1.0f / sqrtf(mean + (float)latent->config->rms_norm_eps);
    for (int64_t i = 0; i < latent->width; i++) out[i] = mb_one_nan(v[i] * scale * factors[i]);
}

// Bytes of a row of L, in the form of the compute type.
static size_t row_bytes(const struct mb_latent *latent)
{
    if (latent->compute == MOEBLOCK_COMPUTE_INT16) return mb_int16_row_bytes(latent->width);
    return (size_t)latent->width * (mb_has_bf16_rows(latent->compute) ? 2 : 4);
}

static struct mb_rows rows_of(const struct mb_latent *latent, const void *const *rows, int64_t m)
{
    return (struct mb_rows){.row = rows,
                            .m = m,
                            .bf16 = mb_has_bf16_rows(latent->compute),
                            .int16 = latent->compute == MOEBLOCK_COMPUTE_INT16};
}

// Scratch: [m][L] floats, m rows of L with a pointer each, a tile of one granule, then the kernel's own. Offsets in
// bytes.
struct sections {
    size_t floats, elements, rows, tile, kernel;
};

static struct sections sections_of(const struct mb_latent *latent, int64_t m)
{
    const size_t values = (size_t)m * (size_t)latent->width;
    const size_t tile_floats = (size_t)(m * latent->kernels->granule);
    struct sections s = {.floats = 0};
    s.elements = s.floats + mb_round_up(values * sizeof(float), ALIGNMENT);
    s.rows = s.elements + mb_round_up((size_t)m * row_bytes(latent), ALIGNMENT);
    s.tile = s.rows + mb_round_up((size_t)m * sizeof(void *), ALIGNMENT);
    s.kernel = s.tile + mb_round_up(tile_floats * sizeof(float), ALIGNMENT);
    return s;
}

size_t mb_latent_scratch_bytes(const struct mb_latent *latent, int64_t m)
{
    if (!latent) return 0;
    const struct mb_kernels *kernels = latent->kernels;
    const size_t down = kernels->scratch_bytes(&latent->down.packing, m);
    const size_t up = kernels->scratch_bytes(&latent->up.packing, m);
    return sections_of(latent, m).kernel + (down > up ? down : up);
}

static void to_row(const struct mb_latent *latent, const float *from, void *to)
{
    if (latent->compute == MOEBLOCK_COMPUTE_INT16) {
        latent->kernels->to_int16(to, from, latent->width);
    } else if (mb_has_bf16_rows(latent->compute)) {
        latent->kernels->to_bf16(to, from, latent->width);
    } else {
        memcpy(to, from, (size_t)latent->width * sizeof(float));
    }
}

void mb_latent_down(const struct mb_latent *latent, const void *const *rows, int64_t m, void *out, void *scratch)
{
    const struct sections at = sections_of(latent, m);
    float *floats = (float *)(void *)((char *)scratch + at.floats);
    const struct mb_project_call call = {
        .packing = &latent->down.packing,
        .packed = latent->down.packed,
        .rows = rows_of(latent, rows, m),
        .n1 = latent->width,
        .bias = latent->down.bias,
        .out = floats,
        .out_stride = latent->width,
        .scratch = (char *)scratch + at.kernel,
    };
    latent->kernels->project(&call);
    for (int64_t r = 0; r < m; r++) {
        float *row = floats + r * latent->width;
        if (latent->in_norm) rms_norm(latent, latent->in_norm, row, row);
        to_row(latent, row, (char *)out + (size_t)r * row_bytes(latent));
    }
}

// Columns that start inside a granule are computed from its start on and copied.
static void project_columns(const struct mb_latent *latent, struct mb_project_call *call, int64_t h0, int64_t h1,
                            float *out, int64_t out_stride, float *tile)
{
    const struct mb_kernels *kernels = latent->kernels;
    const int64_t granule = kernels->granule;
    const int64_t aligned = mb_ceil_div(h0, granule) * granule;
    if (aligned != h0) {
        call->n0 = aligned - granule;
        call->n1 = mb_min(aligned, h1);
        call->out = tile;
        call->out_stride = granule;
        kernels->project(call);
        for (int64_t r = 0; r < call->rows.m; r++) {
            memcpy(out + r * out_stride, tile + r * granule + (h0 - call->n0), (size_t)(call->n1 - h0) * sizeof(float));
        }
    }
    if (aligned >= h1) return;
    call->n0 = aligned;
    call->n1 = h1;
    call->out = out + (aligned - h0);
    call->out_stride = out_stride;
    kernels->project(call);
}

void mb_latent_up(const struct mb_latent *latent, const float *sums, int64_t m, int64_t h0, int64_t h1, float *out,
                  int64_t out_stride, void *scratch)
{
    const struct sections at = sections_of(latent, m);
    float *normed = (float *)(void *)((char *)scratch + at.floats);
    char *elements = (char *)scratch + at.elements;
    const void **rows = (const void **)(void *)((char *)scratch + at.rows);
    for (int64_t r = 0; r < m; r++) {
        const float *row = sums + r * latent->width;
        if (latent->out_norm) {
            rms_norm(latent, latent->out_norm, row, normed);
            row = normed;
        }
        char *to = elements + (size_t)r * row_bytes(latent);
        to_row(latent, row, to);
        rows[r] = to;
    }
    struct mb_project_call call = {
        .packing = &latent->up.packing,
        .packed = latent->up.packed,
        .rows = rows_of(latent, rows, m),
        .bias = latent->up.bias,
        .round = latent->compute != MOEBLOCK_COMPUTE_F32,
        .scratch = (char *)scratch + at.kernel,
    };
    project_columns(latent, &call, h0, h1, out, out_stride, (float *)(void *)((char *)scratch + at.tile));
}
