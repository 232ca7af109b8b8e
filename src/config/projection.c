// SPDX-License-Identifier: Apache-2.0
// Decides where each linear map of the block lies among the stored tensors: which tensor, in which format, and at what
// offset and strides (layouts L1 to L8 of moe-families 1.11).
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/arith.h"
#include "base/memory.h"
#include "base/status.h"
#include "config/roles.h"
#include "config/schema.h"

#define NO_ROLE MB_ROLES

// The role of a projection alone, and of the fused tensor that may hold it instead.
static const struct projection {
    enum mb_role alone, fused, alone_bias, fused_bias;
    int part; // in the fused tensor
} projections[MB_PROJECTIONS] = {
    [MB_PROJ_ROUTER] = {MB_ROLE_ROUTER, NO_ROLE, MB_ROLE_ROUTER_BIAS, NO_ROLE, 0},
    [MB_PROJ_GATE] = {MB_ROLE_GATE, MB_ROLE_GATE_UP, MB_ROLE_GATE_BIAS, MB_ROLE_GATE_UP_BIAS, 0},
    [MB_PROJ_UP] = {MB_ROLE_UP, MB_ROLE_GATE_UP, MB_ROLE_UP_BIAS, MB_ROLE_GATE_UP_BIAS, 1},
    [MB_PROJ_DOWN] = {MB_ROLE_DOWN, NO_ROLE, MB_ROLE_DOWN_BIAS, NO_ROLE, 0},
    [MB_PROJ_SHARED_GATE] = {MB_ROLE_SHARED_GATE, MB_ROLE_SHARED_GATE_UP, MB_ROLE_SHARED_GATE_BIAS, NO_ROLE, 0},
    [MB_PROJ_SHARED_UP] = {MB_ROLE_SHARED_UP, MB_ROLE_SHARED_GATE_UP, MB_ROLE_SHARED_UP_BIAS, NO_ROLE, 1},
    [MB_PROJ_SHARED_DOWN] = {MB_ROLE_SHARED_DOWN, NO_ROLE, MB_ROLE_SHARED_DOWN_BIAS, NO_ROLE, 0},
    [MB_PROJ_SHARED_SIGMOID] = {MB_ROLE_SHARED_SIGMOID, NO_ROLE, NO_ROLE, NO_ROLE, 0},
    [MB_PROJ_LATENT_DOWN] = {MB_ROLE_LATENT_DOWN, NO_ROLE, MB_ROLE_LATENT_DOWN_BIAS, NO_ROLE, 0},
    [MB_PROJ_LATENT_UP] = {MB_ROLE_LATENT_UP, NO_ROLE, MB_ROLE_LATENT_UP_BIAS, NO_ROLE, 0},
    [MB_PROJ_MIX_COEFFICIENT] = {MB_ROLE_MIX_COEFFICIENT, NO_ROLE, MB_ROLE_MIX_COEFFICIENT_BIAS, NO_ROLE, 0},
    [MB_PROJ_ROUTER_SECOND] = {MB_ROLE_ROUTER_SECOND, NO_ROLE, NO_ROLE, NO_ROLE, 0},
    [MB_PROJ_STATE_DOWN] = {MB_ROLE_STATE_DOWN, NO_ROLE, MB_ROLE_STATE_DOWN_BIAS, NO_ROLE, 0},
    [MB_PROJ_STATE_FC1] = {MB_ROLE_STATE_FC1, NO_ROLE, MB_ROLE_STATE_FC1_BIAS, NO_ROLE, 0},
    [MB_PROJ_STATE_FC2] = {MB_ROLE_STATE_FC2, NO_ROLE, MB_ROLE_STATE_FC2_BIAS, NO_ROLE, 0},
};

static enum mb_role stored_role(const moeblock_config *config, const struct projection *p)
{
    return p->fused != NO_ROLE && mb_role_wanted(config, p->fused) ? p->fused : p->alone;
}

// "[4, 2880]" for messages.
static void dims_text(int rank, const int64_t *dims, char out[160])
{
    int used = snprintf(out, 160, "[");
    for (int i = 0; i < rank && used < 130; i++)
        used += snprintf(out + used, 160 - (size_t)used, "%s%" PRId64, i ? ", " : "", dims[i]);
    snprintf(out + used, 160 - (size_t)used, "]");
}

static moeblock_status check_dims(const moeblock_tensor_info *tensor, int rank, const int64_t *dims,
                                  moeblock_error *error)
{
    char found[160], expected[160];
    bool same = tensor->rank == rank;
    for (int i = 0; same && i < rank; i++) same = tensor->dims[i] == dims[i];
    if (same) return MOEBLOCK_OK;
    dims_text(tensor->rank, tensor->dims, found);
    dims_text(rank, dims, expected);
    return mb_fail(error, MOEBLOCK_INVALID_FILE, "tensor '%.300s' has shape %s, the configuration expects %s",
                   tensor->name, found, expected);
}

// The format whose codes have this suffix and type.
static moeblock_status match_format(const char *suffix, struct mb_matrix *out, moeblock_error *error)
{
    for (int f = 0; f < MB_FORMATS; f++) {
        if (strcmp(mb_format_table[f].codes_suffix, suffix) || mb_format_table[f].dtype != out->codes.dtype) continue;
        out->format = (enum mb_format)f;
        return MOEBLOCK_OK;
    }
    return mb_fail(
        error, MOEBLOCK_UNSUPPORTED,
        "tensor '%.300s' has dtype %.32s; weights of F32, F16, BF16, F8_E4M3 with scales, and MXFP4 blocks are "
        "read",
        out->codes.name, out->codes.dtype_name);
}

static bool suffix_seen(int format)
{
    for (int f = 0; f < format; f++)
        if (!strcmp(mb_format_table[f].codes_suffix, mb_format_table[format].codes_suffix)) return true;
    return false;
}

// Finds the tensor with the weights: its name and type tell the format. Reported missing is the name in the format that
// `weights.format` asks for, the plain one with auto.
static moeblock_status find_codes(const moeblock_config *config, moeblock_weights *weights, enum mb_role role,
                                  int64_t layer, int64_t expert, struct mb_matrix *out, moeblock_error *error)
{
    const int asked = mb_roles[role].owner == MB_OWNER_ROUTED ? mb_format_find(config->format) : -1;
    const char *expected = asked < 0 ? "" : mb_format_table[asked].codes_suffix;
    moeblock_error missing = {MOEBLOCK_OK, ""};
    for (int f = 0; f < MB_FORMATS; f++) {
        const char *suffix = mb_format_table[f].codes_suffix;
        moeblock_error reason = {MOEBLOCK_OK, ""};
        if (suffix_seen(f)) continue;
        const moeblock_status status = mb_role_find(config, weights, role, suffix, layer, expert, &out->codes, &reason);
        if (status == MOEBLOCK_OK) return match_format(suffix, out, error);
        if (status != MOEBLOCK_NOT_FOUND) {
            if (error) *error = reason;
            return status;
        }
        if (!strcmp(suffix, expected)) missing = reason;
    }
    if (error) *error = missing;
    return MOEBLOCK_NOT_FOUND;
}

// `weights.format` speaks of the routed experts; the others may be stored otherwise.
static moeblock_status check_format(const moeblock_config *config, enum mb_role role, const struct mb_matrix *matrix,
                                    moeblock_error *error)
{
    const char *found = mb_format_table[matrix->format].name;
    const bool announced = config->given[mb_schema_row_of(config, config->format)] == MB_FROM_MODEL;
    if (mb_roles[role].owner != MB_OWNER_ROUTED || !strcmp(config->format, "auto") || !strcmp(config->format, found))
        return MOEBLOCK_OK;
    return mb_fail(
        error, MOEBLOCK_INVALID_FILE,
        "tensor '%.300s' is stored as %s, weights.format expects %s%s; with --set weights.format=auto any one "
        "format will do that all routed experts of the layer share",
        matrix->codes.name, found, config->format, announced ? " (from quantization_config)" : "");
}

static moeblock_status find_scales(const moeblock_config *config, moeblock_weights *weights, enum mb_role role,
                                   int64_t layer, int64_t expert, struct mb_matrix *out, moeblock_error *error)
{
    const struct mb_format_info *format = &mb_format_table[out->format];
    int64_t dims[MOEBLOCK_MAX_RANK];
    memset(&out->scales, 0, sizeof out->scales);
    if (!format->scale_suffix) return MOEBLOCK_OK;
    MB_TRY(mb_role_find(config, weights, role, format->scale_suffix, layer, expert, &out->scales, error));
    const moeblock_dtype dtype = out->scales.dtype;
    const bool exponents = dtype == MOEBLOCK_U8 || dtype == MOEBLOCK_F8_E8M0;
    const bool floats = dtype == MOEBLOCK_F32 && out->format != MB_FORMAT_MXFP4;
    if (!exponents && !floats)
        return mb_fail(error, MOEBLOCK_UNSUPPORTED, "tensor '%.300s' has dtype %.32s, expected %sF8_E8M0 or U8 scales",
                       out->scales.name, out->scales.dtype_name, out->format == MB_FORMAT_MXFP4 ? "" : "F32, ");
    const int rank = mb_role_dims(config, role, out->format, true, dims);
    return check_dims(&out->scales, rank, dims, error);
}

// Offsets and strides, in elements, of part `part` of the role's matrix. Sizes are bounded by the schema, so that no
// product overflows.
static void place(const moeblock_config *config, enum mb_role role, int part, int64_t expert, struct mb_matrix *out)
{
    const struct mb_format_info *format = &mb_format_table[out->format];
    const int64_t stored_rows = mb_extent(config, mb_roles[role].rows), columns = out->columns;
    const bool alternating = mb_role_joined(config, role) == MB_GATE_UP_INTERLEAVED;
    const int64_t step = alternating ? 2 : 1;                    // stored rows from one logical row to the next
    const int64_t first = alternating ? part : part * out->rows; // stored row of logical row 0
    const int64_t slot = mb_role_stacked(config, role) ? expert : 0;
    const bool input_major = mb_role_input_major(config, role, out->format);
    const int64_t stored_row = input_major ? 1 : columns; // elements from one stored row to the next
    out->row_stride = step * stored_row;
    out->column_stride = input_major ? stored_rows : 1;
    out->code_offset = (uint64_t)(slot * stored_rows * columns + first * stored_row);
    out->scale_offset = 0;
    out->scale_row_stride = 0;
    out->scale_row_step = step;
    out->scale_row_first = first;
    if (!format->scale_suffix) return;
    out->scale_row_stride = mb_ceil_div(columns, format->column_tile);
    out->scale_offset = (uint64_t)(slot * mb_ceil_div(stored_rows, format->row_tile) * out->scale_row_stride);
}

moeblock_status mb_projection_find(const moeblock_config *config, moeblock_weights *weights,
                                   enum mb_projection projection, int64_t layer, int64_t expert, struct mb_matrix *out,
                                   moeblock_error *error)
{
    const struct projection *p = &projections[projection];
    const enum mb_role role = stored_role(config, p);
    int64_t dims[MOEBLOCK_MAX_RANK];
    memset(out, 0, sizeof *out);
    if (expert < 0 || (mb_roles[role].owner == MB_OWNER_ROUTED && expert >= config->num_experts))
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "expert %" PRId64 " is asked for, there are %" PRId64, expert,
                       config->num_experts);
    MB_TRY(find_codes(config, weights, role, layer, expert, out, error));
    MB_TRY(check_format(config, role, out, error));
    out->columns = mb_extent(config, mb_roles[role].columns);
    out->rows = mb_extent(config, mb_roles[p->alone].rows);
    if (out->format == MB_FORMAT_MXFP4 && out->columns % 32)
        return mb_fail(
            error, MOEBLOCK_INVALID_FILE,
            "tensor '%.300s' is MXFP4, whose rows are groups of 32, but the configuration gives rows of %" PRId64,
            out->codes.name, out->columns);
    const int rank = mb_role_dims(config, role, out->format, false, dims);
    MB_TRY(check_dims(&out->codes, rank, dims, error));
    MB_TRY(find_scales(config, weights, role, layer, expert, out, error));
    place(config, role, role == p->fused ? p->part : 0, expert, out);
    return MOEBLOCK_OK;
}

bool mb_projection_wanted(const moeblock_config *config, enum mb_projection projection)
{
    return mb_role_wanted(config, stored_role(config, &projections[projection]));
}

// Checks a role's vector, whatever its leading dimensions of 1.
static moeblock_status check_vector(const moeblock_config *config, enum mb_role role,
                                    const moeblock_tensor_info *tensor, moeblock_error *error)
{
    int64_t dims[MOEBLOCK_MAX_RANK];
    int skipped = 0;
    const int rank = mb_role_dims(config, role, MB_FORMAT_BF16, false, dims);
    while (tensor->rank - skipped > rank && tensor->dims[skipped] == 1) skipped++;
    moeblock_tensor_info rest = *tensor;
    rest.rank -= skipped;
    memmove(rest.dims, tensor->dims + skipped, (size_t)rest.rank * sizeof rest.dims[0]);
    if (rest.rank == rank && !memcmp(rest.dims, dims, (size_t)rank * sizeof dims[0])) return MOEBLOCK_OK;
    return check_dims(tensor, rank, dims, error);
}

moeblock_status mb_projection_bias(const moeblock_config *config, moeblock_weights *weights,
                                   enum mb_projection projection, int64_t layer, int64_t expert, int64_t count,
                                   float *out, moeblock_error *error)
{
    const struct projection *p = &projections[projection];
    const bool fused = p->fused_bias != NO_ROLE && stored_role(config, p) == p->fused;
    const enum mb_role role = fused ? p->fused_bias : p->alone_bias;
    const int64_t stored = fused ? 2 * count : count;
    moeblock_tensor_info tensor;
    if (role == NO_ROLE) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "projection %d has no bias", (int)projection);
    MB_TRY(mb_role_find(config, weights, role, "", layer, expert, &tensor, error));
    MB_TRY(check_vector(config, role, &tensor, error));
    const uint64_t first = mb_role_stacked(config, role) ? (uint64_t)(expert * stored) : 0;
    const bool alternating = mb_role_joined(config, role) == MB_GATE_UP_INTERLEAVED;
    if (!alternating)
        return mb_read_floats(weights, &config->allocator, &tensor, first + (uint64_t)(p->part * (stored - count)),
                              count, out, error);
    float *both = mb_alloc(&config->allocator, (size_t)stored * sizeof *both);
    if (!both)
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "tensor '%.300s': no memory for %" PRId64 " values", tensor.name,
                       stored);
    const moeblock_status status = mb_read_floats(weights, &config->allocator, &tensor, first, stored, both, error);
    for (int64_t i = 0; status == MOEBLOCK_OK && i < count; i++) out[i] = both[2 * i + p->part];
    mb_free(&config->allocator, both);
    return status;
}

moeblock_status mb_role_floats(const moeblock_config *config, moeblock_weights *weights, enum mb_role role,
                               int64_t layer, int64_t count, float *out, moeblock_error *error)
{
    moeblock_tensor_info tensor;
    MB_TRY(mb_role_find(config, weights, role, "", layer, 0, &tensor, error));
    MB_TRY(mb_roles[role].columns == MB_EXTENT_NONE ? check_vector(config, role, &tensor, error)
                                                    : check_dims(&tensor, 1, &count, error));
    return mb_read_floats(weights, &config->allocator, &tensor, 0, count, out, error);
}

moeblock_status mb_role_check(const moeblock_config *config, moeblock_weights *weights, enum mb_role role,
                              int64_t layer, int64_t expert, moeblock_error *error)
{
    moeblock_tensor_info tensor;
    if (role == MB_ROLE_TOKEN_TABLE) return mb_token_table(config, weights, layer, NULL, error);
    MB_TRY(mb_role_find(config, weights, role, "", layer, expert, &tensor, error));
    return check_vector(config, role, &tensor, error);
}
