// SPDX-License-Identifier: Apache-2.0
// The single process as a 1 x 1 mesh, the TP-sharding rule, and how ranges are split.
#include "mesh/mesh.h"

#include <inttypes.h>
#include <string.h>

#include "base/status.h"

static moeblock_status single_all_gather(void *user, int axis, const void *mine, const size_t *bytes, void *all,
                                         moeblock_error *error)
{
    (void)user, (void)axis, (void)error;
    memcpy(all, mine, bytes[0]);
    return MOEBLOCK_OK;
}

static moeblock_status single_all_to_all(void *user, int axis, const void *send, const size_t *send_bytes,
                                         void *receive, const size_t *receive_bytes, moeblock_error *error)
{
    (void)user, (void)axis, (void)receive_bytes, (void)error;
    memcpy(receive, send, send_bytes[0]);
    return MOEBLOCK_OK;
}

static moeblock_status single_reduce_scatter(void *user, int axis, const void *mine, size_t bytes, void *scattered,
                                             moeblock_error *error)
{
    (void)user, (void)axis, (void)error;
    if (scattered != mine) memcpy(scattered, mine, bytes);
    return MOEBLOCK_OK;
}

static moeblock_status single_agree(void *user, int64_t mine, int64_t *largest, moeblock_error *error)
{
    (void)user, (void)error;
    *largest = mine;
    return MOEBLOCK_OK;
}

const moeblock_mesh mb_mesh_single = {
    .struct_size = sizeof(moeblock_mesh),
    .rows = 1,
    .columns = 1,
    .all_gather = single_all_gather,
    .all_to_all = single_all_to_all,
    .reduce_scatter = single_reduce_scatter,
    .agree = single_agree,
};

moeblock_status moeblock_tp_sharding(int64_t width, int64_t hidden, int columns, int enabled, moeblock_sharding *out,
                                     moeblock_error *error)
{
    if (!out) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "detecting TP sharding: out is NULL");
    *out = MOEBLOCK_REPLICATED;
    if (width == hidden) return MOEBLOCK_OK;
    const int can_shard = enabled && columns > 1 && hidden % columns == 0;
    if (can_shard && width == hidden / columns) {
        *out = MOEBLOCK_SHARDED;
        return MOEBLOCK_OK;
    }
    if (can_shard)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "detecting TP sharding: x has last dimension %" PRId64 ", expected %" PRId64
                       " (replicated) or %" PRId64 " (sharded over %d columns)",
                       width, hidden, hidden / columns, columns);
    return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                   "detecting TP sharding: x has last dimension %" PRId64 ", expected %" PRId64
                   "; a sharded x needs tensor parallelism on more than one column (enabled: %s, columns: %d) and a "
                   "hidden size that the columns divide",
                   width, hidden, enabled ? "true" : "false", columns);
}

void mb_split(int64_t total, int parts, int index, int64_t *begin, int64_t *end)
{
    const int64_t each = total / parts, extra = total % parts;
    *begin = each * index + (index < extra ? index : extra);
    *end = *begin + each + (index < extra);
}
