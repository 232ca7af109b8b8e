// SPDX-License-Identifier: Apache-2.0
// Plain linear maps: 16 columns at a time, outputs float32, rounded to bfloat16 where the call says so.
#include "base/float.h"
#include "kernels/generic/layout.h"
#include "kernels/math_inline.h"

enum { COLUMNS = MB_GENERIC_COLUMNS };

void mb_generic_project(const struct mb_project_call *call)
{
    const struct mb_generic_scratch scratch = mb_generic_scratch_of(call->scratch);
    for (int64_t n = call->n0; n < call->n1; n += COLUMNS) {
        const int64_t columns = mb_min(COLUMNS, call->n1 - n);
        for (int64_t r0 = 0; r0 < call->rows.m; r0 += MB_GENERIC_ROWS) {
            const int64_t m = mb_min(MB_GENERIC_ROWS, call->rows.m - r0);
            mb_generic_panel(call->packing, call->packed, n / COLUMNS, &call->rows, r0, m, &scratch);
            if (call->bias) mb_generic_add_bias(scratch.sums[0], m, call->bias + n, columns);
            for (int64_t r = 0; r < m; r++) {
                float *to = call->out + (r0 + r) * call->out_stride + (n - call->n0);
                const float *from = scratch.sums[0] + r * COLUMNS;
                for (int64_t c = 0; c < columns; c++) {
                    const float value = mb_one_nan(from[c]);
                    to[c] = call->round ? mb_round_bf16(value) : value;
                }
            }
        }
    }
}
