// SPDX-License-Identifier: Apache-2.0
// Gate and up of the same columns together, the activation on the tile, the intermediate stored in the rows' type.
#include "base/float.h"
#include "kernels/math_inline.h"

static void store(const struct mb_gate_up_call *call, int64_t r0, int64_t m, int64_t n, const float *values)
{
    const int64_t columns = mb_min(MB_COLUMNS, call->n1 - n);
    for (int64_t r = 0; r < m; r++) {
        const int64_t at = (r0 + r) * call->out_stride + (n - call->n0);
        const float *from = values + r * MB_COLUMNS;
        if (call->rows.bf16) {
            uint16_t *to = (uint16_t *)call->out + at;
            for (int64_t c = 0; c < columns; c++) to[c] = mb_to_bf16(mb_one_nan(from[c]));
        } else {
            float *to = (float *)call->out + at;
            for (int64_t c = 0; c < columns; c++) to[c] = mb_one_nan(from[c]);
        }
    }
}

static void add_bias(float *sums, int64_t m, const float *bias, int64_t columns)
{
    for (int64_t r = 0; bias && r < m; r++) {
        for (int64_t c = 0; c < columns; c++) sums[r * MB_COLUMNS + c] = sums[r * MB_COLUMNS + c] + bias[c];
    }
}

// Bias, activation and output of one panel's sums.
static void finish(const struct mb_gate_up_call *call, int64_t r0, int64_t m, int64_t n, float *sums, float *out)
{
    const int64_t columns = mb_min(MB_COLUMNS, call->n1 - n);
    const bool gated = call->packing->parts == 2;
    float *up = gated ? sums + m * MB_COLUMNS : sums;
    if (gated) add_bias(sums, m, call->gate_bias ? call->gate_bias + n : NULL, columns);
    add_bias(up, m, call->up_bias ? call->up_bias + n : NULL, columns);
    MB_LEVEL(activate)(call->activation, gated ? sums : NULL, up, out, m * MB_COLUMNS);
    store(call, r0, m, n, out);
}

void MB_LEVEL(gate_up)(const struct mb_gate_up_call *call)
{
    const struct mb_fma_scratch scratch = MB_LEVEL(scratch_of)(call->scratch, call->rows.m);
    const int64_t parts = call->packing->parts, most = MB_BLOCK_STRIPS / parts;
    for (int64_t r0 = 0; r0 < call->rows.m; r0 += MB_BLOCK_ROWS) {
        const int64_t m = mb_min(MB_BLOCK_ROWS, call->rows.m - r0);
        for (int64_t n = call->n0; n < call->n1; n += most * MB_COLUMNS) {
            const int64_t panels = mb_min(most, mb_ceil_div(call->n1 - n, MB_COLUMNS));
            MB_LEVEL(sums)
            (call->packing, call->packed, n / MB_COLUMNS, panels, &call->rows, r0, m, false, &scratch);
            for (int64_t p = 0; p < panels; p++)
                finish(call, r0, m, n + p * MB_COLUMNS, scratch.sums + p * parts * m * MB_COLUMNS, scratch.out);
        }
    }
}
