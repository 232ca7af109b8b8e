// SPDX-License-Identifier: Apache-2.0
// Decides which stored tensor holds each linear map of the block, alone or fused, and which holds its bias.
#include <inttypes.h>
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

moeblock_status mb_projection_find(const moeblock_config *config, moeblock_weights *weights,
                                   enum mb_projection projection, int64_t layer, int64_t expert, struct mb_matrix *out,
                                   moeblock_error *error)
{
    const struct projection *p = &projections[projection];
    const enum mb_role role = stored_role(config, p);
    memset(out, 0, sizeof *out);
    if (expert < 0 || (mb_roles[role].owner == MB_OWNER_ROUTED && expert >= config->num_experts))
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "expert %" PRId64 " is asked for, there are %" PRId64, expert,
                       config->num_experts);
    out->columns = mb_extent(config, mb_roles[role].columns);
    out->rows = mb_extent(config, mb_roles[p->alone].rows);
    return mb_stored_find(config, weights, role, role == p->fused ? p->part : 0, layer, expert, out, error);
}

enum mb_projection mb_projection_named(const char *name)
{
    int i = 0;
    while (i < MB_PROJECTIONS && strcmp(name, mb_roles[projections[i].alone].key) != 0) i++;
    return (enum mb_projection)i;
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
    const int rank = mb_role_dims(config, role, MB_FORMAT_BF16, MB_PART_CODES, 0, dims);
    while (tensor->rank - skipped > rank && tensor->dims[skipped] == 1) skipped++;
    moeblock_tensor_info rest = *tensor;
    rest.rank -= skipped;
    memmove(rest.dims, tensor->dims + skipped, (size_t)rest.rank * sizeof rest.dims[0]);
    if (rest.rank == rank && !memcmp(rest.dims, dims, (size_t)rank * sizeof dims[0])) return MOEBLOCK_OK;
    return mb_check_dims(tensor, rank, dims, error);
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
                                                    : mb_check_dims(&tensor, 1, &count, error));
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
