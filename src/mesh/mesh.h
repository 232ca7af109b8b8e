// SPDX-License-Identifier: Apache-2.0
// The mesh as the block sees it: the caller's, or the single process.
#ifndef MB_MESH_MESH_H
#define MB_MESH_MESH_H

#include "moeblock/mesh.h"

extern const moeblock_mesh mb_mesh_single;

// Part `index` of [0, total) cut into `parts` runs whose lengths differ by at most one, the longer ones first.
void mb_split(int64_t total, int parts, int index, int64_t *begin, int64_t *end);

#endif
