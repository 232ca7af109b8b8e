// SPDX-License-Identifier: Apache-2.0
// The table of level `avx2`: float32 fused multiply-add, codes expanded in registers or once into the scratch.
#include "kernels/avx2/vector.h"
#include "kernels/cpu.h"
#include "kernels/fma/fma_formats.inl"
#include "kernels/fma/fma_table.inl"

static bool usable(const char **reason) { return mb_cpu_offers(MB_CPU_LEVEL_AVX2, reason); }

const struct mb_kernels mb_kernels_avx2 = {
    .name = "avx2",
    .layout = 6,
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
