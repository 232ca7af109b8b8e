// SPDX-License-Identifier: Apache-2.0
// What a rank owns. Whole experts are placed on the EP axis, columns of x and y on the TP axis; columns of the experts:
// cpu/columns.c.
#include <inttypes.h>

#include "backend/backend.h"
#include "base/status.h"

void mb_share_columns(const struct mb_share *share, int64_t total, int index, int64_t *begin, int64_t *end)
{
    mb_split(total, share->tp, index, begin, end);
}

moeblock_status mb_share_make(const moeblock_config *config, const moeblock_mesh *mesh, struct mb_share *out,
                              moeblock_error *error)
{
    const int tp_axis = (int)config->tp_axis, ep_axis = (int)config->ep_axis;
    if (mesh && tp_axis == ep_axis && mesh->size > 1 && config->tp_enabled && config->ep_enabled)
        return mb_fail(error, MOEBLOCK_INVALID_CONFIG,
                       "placing the block on a %d x %d mesh: tensor_parallel.cluster_axis and "
                       "experts.distributed.dispatch_cluster_axis are both %d; they must be different axes",
                       mesh->rows, mesh->columns, tp_axis);
    if (mesh && ((config->mesh_rows && config->mesh_rows != mesh->rows) ||
                 (config->mesh_columns && config->mesh_columns != mesh->columns)))
        return mb_fail(error, MOEBLOCK_INVALID_CONFIG,
                       "placing the block on a %d x %d mesh: the configuration's mesh.rows and mesh.columns are "
                       "%" PRId64 " and %" PRId64 " (0: any); leave them out, or make a mesh of that shape",
                       mesh->rows, mesh->columns, config->mesh_rows, config->mesh_columns);
    *out = (struct mb_share){.tp = 1, .ep = 1, .tp_axis = tp_axis, .ep_axis = ep_axis};
    if (mesh && config->tp_enabled) {
        out->tp = mb_mesh_axis_size(mesh, tp_axis);
        out->tp_index = mb_mesh_axis_index(mesh, tp_axis);
    }
    if (mesh && config->ep_enabled) {
        out->ep = mb_mesh_axis_size(mesh, ep_axis);
        out->ep_index = mb_mesh_axis_index(mesh, ep_axis);
    }
    mb_share_columns(out, config->hidden_size, out->tp_index, &out->h0, &out->h1);
    return MOEBLOCK_OK;
}

moeblock_status mb_share_place(moeblock_block *block, moeblock_error *error)
{
    const moeblock_config *config = block->config;
    struct mb_share *share = &block->share;
    const moeblock_allocator *allocator = &block->context->allocator;
    // One rank holds everything, whatever mesh a table was made for.
    const char *name = share->ep == 1 ? "contiguous" : config->placement;
    MB_TRY(mb_placement_named(allocator, name, mb_all_experts(config), share->ep, &block->placement, error));
    block->owns = mb_alloc_zero(allocator, (size_t)mb_all_experts(config));
    if (!block->owns) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "placing experts: no memory");
    for (int64_t e = 0; e < mb_all_experts(config); e++) {
        if (!mb_placement_holds(&block->placement, e, share->ep_index)) continue;
        block->owns[e] = 1;
        if (!share->owned++) share->e0 = e;
        share->e1 = e + 1;
    }
    return MOEBLOCK_OK;
}
