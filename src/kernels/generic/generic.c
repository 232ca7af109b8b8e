// SPDX-License-Identifier: Apache-2.0
// The table of level `generic`: blocked C that compilers vectorise for any machine.
#include "base/float.h"
#include "kernels/generic/layout.h"
#include "kernels/int16.h"
#include "kernels/math_inline.h"

static bool usable(const char **reason)
{
    *reason = "vectors of plain C, any machine";
    return true;
}

static void accumulate(float *restrict y, const float *restrict out, float weight, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = mb_one_nan(y[i] + weight * out[i]);
}

static void to_bf16(uint16_t *restrict to, const float *restrict from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] = mb_to_bf16(from[i]);
}

static void to_int16(void *row, const float *from, int64_t n) { mb_int16_row(row, from, n); }

const struct mb_kernels mb_kernels_generic = {
    .name = "generic",
    .layout = 2,
    .granule = MB_GENERIC_COLUMNS,
    .usable = usable,
    .packed_bytes = mb_generic_packed_bytes,
    .pack = mb_generic_pack,
    .scratch_bytes = mb_generic_scratch_bytes,
    .gate_up = mb_generic_gate_up,
    .project = mb_generic_project,
    .accumulate = accumulate,
    .to_bf16 = to_bf16,
    .to_int16 = to_int16,
};
