// SPDX-License-Identifier: Apache-2.0
// Who computes a matrix: one whose groups do not fit the lines takes the functions of level `generic`, with its
// packing.

static bool has_lines(const struct mb_packing *packing)
{
    return packing->group >= packing->k || packing->group % 8 == 0; // no group ends within a line
}

static size_t packed_bytes(const struct mb_packing *packing)
{
    return has_lines(packing) ? MB_LEVEL(packed_bytes)(packing) : mb_kernels_generic.packed_bytes(packing);
}

static void pack(const struct mb_packing *packing, void *packed, const struct mb_piece *piece)
{
    (has_lines(packing) ? MB_LEVEL(pack) : mb_kernels_generic.pack)(packing, packed, piece);
}

static size_t scratch_bytes(const struct mb_packing *packing, int64_t m)
{
    return has_lines(packing) ? MB_LEVEL(scratch_bytes)(packing, m) : mb_kernels_generic.scratch_bytes(packing, m);
}

static void gate_up(const struct mb_gate_up_call *call)
{
    (has_lines(call->packing) ? MB_LEVEL(gate_up) : mb_kernels_generic.gate_up)(call);
}

static void project(const struct mb_project_call *call)
{
    (has_lines(call->packing) ? MB_LEVEL(project) : mb_kernels_generic.project)(call);
}
