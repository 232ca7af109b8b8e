// SPDX-License-Identifier: Apache-2.0
// The table of level `amx`: level `avx512vnni`, its packing too, with products of tiles for int16 rows.
#include "kernels/amx/vector.h"
#include "kernels/cpu.h"
#include "kernels/fma/fma_table.inl"

#define OTHERS mb_kernels_avx512vnni

static bool usable(const char **reason) { return mb_cpu_offers(MB_CPU_LEVEL_AMX, reason); }

static size_t packed_bytes(const struct mb_packing *packing) { return OTHERS.packed_bytes(packing); }

static void pack(const struct mb_packing *packing, void *packed, const struct mb_piece *piece)
{
    OTHERS.pack(packing, packed, piece);
}

static size_t scratch_bytes(const struct mb_packing *packing, int64_t m) { return OTHERS.scratch_bytes(packing, m); }

static void gate_up(const struct mb_gate_up_call *call)
{
    (call->rows.int16 ? MB_LEVEL(gate_up) : OTHERS.gate_up)(call);
}

static void project(const struct mb_project_call *call)
{
    (call->rows.int16 ? MB_LEVEL(project) : OTHERS.project)(call);
}

const struct mb_kernels mb_kernels_amx = {
    .name = "amx",
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
