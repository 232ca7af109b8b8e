// SPDX-License-Identifier: Apache-2.0
// Gate and up of the same 16 columns together, the activation on the tile, the intermediate stored in the rows' type.
#include "base/float.h"
#include "kernels/generic/layout.h"
#include "kernels/math_inline.h"

enum { COLUMNS = MB_GENERIC_COLUMNS };

static void store(const struct mb_gate_up_call *call, int64_t r0, int64_t m, int64_t n, int64_t columns,
                  const float *values)
{
    for (int64_t r = 0; r < m; r++) {
        const int64_t at = (r0 + r) * call->out_stride + (n - call->n0);
        const float *from = values + r * COLUMNS;
        if (call->rows.bf16) {
            uint16_t *to = (uint16_t *)call->out + at;
            for (int64_t c = 0; c < columns; c++) to[c] = mb_to_bf16(mb_one_nan(from[c]));
        } else {
            float *to = (float *)call->out + at;
            for (int64_t c = 0; c < columns; c++) to[c] = mb_one_nan(from[c]);
        }
    }
}

void mb_generic_gate_up(const struct mb_gate_up_call *call)
{
    const struct mb_generic_scratch scratch = mb_generic_scratch_of(call->scratch);
    const bool gated = call->packing->parts == 2;
    float *up = scratch.sums[gated];
    for (int64_t n = call->n0; n < call->n1; n += COLUMNS) {
        const int64_t columns = mb_min(COLUMNS, call->n1 - n);
        for (int64_t r0 = 0; r0 < call->rows.m; r0 += MB_GENERIC_ROWS) {
            const int64_t m = mb_min(MB_GENERIC_ROWS, call->rows.m - r0);
            mb_generic_panel(call->packing, call->packed, n / COLUMNS, &call->rows, r0, m, &scratch);
            if (gated && call->gate_bias) mb_generic_add_bias(scratch.sums[0], m, call->gate_bias + n, columns);
            if (call->up_bias) mb_generic_add_bias(up, m, call->up_bias + n, columns);
            mb_activation_apply(call->activation, gated ? scratch.sums[0] : NULL, up, scratch.out, m * COLUMNS);
            store(call, r0, m, n, columns, scratch.out);
        }
    }
}
