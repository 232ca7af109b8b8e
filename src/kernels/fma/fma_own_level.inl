// SPDX-License-Identifier: Apache-2.0
// The table of a level with some products of its own, those where IS_OWN(call): all else, and the packing, is level
// OTHERS'. Before it stand OTHERS, TABLE and NAME, FEATURES that the level asks of the processor, IS_OWN, and the
// level's vectors.
#include "kernels/cpu.h"
#include "kernels/fma/fma_table.inl"

static bool usable(const char **reason) { return mb_cpu_offers(FEATURES, reason); }

static size_t packed_bytes(const struct mb_packing *packing) { return OTHERS.packed_bytes(packing); }

static void pack(const struct mb_packing *packing, void *packed, const struct mb_piece *piece)
{
    OTHERS.pack(packing, packed, piece);
}

static size_t scratch_bytes(const struct mb_packing *packing, int64_t m) { return OTHERS.scratch_bytes(packing, m); }

static void gate_up(const struct mb_gate_up_call *call) { (IS_OWN(call) ? MB_LEVEL(gate_up) : OTHERS.gate_up)(call); }

static void project(const struct mb_project_call *call) { (IS_OWN(call) ? MB_LEVEL(project) : OTHERS.project)(call); }

const struct mb_kernels TABLE = {
    .name = NAME,
    .layout = 7,
    .granule = MB_COLUMNS,
    .fused = true,
    .usable = usable,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .gate_up = gate_up,
    .project = project,
    .accumulate = accumulate,
    .to_bf16 = to_bf16,
    .to_int16 = to_int16,
};
