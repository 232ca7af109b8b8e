// SPDX-License-Identifier: Apache-2.0
// Plain linear maps: outputs float32, rounded to bfloat16 where the call says so.
#include "base/float.h"
#include "kernels/math_inline.h"

// Bias and output of one panel's sums.
static void finish(const struct mb_project_call *call, int64_t r0, int64_t m, int64_t n, float *sums)
{
    const int64_t columns = mb_min(MB_COLUMNS, call->n1 - n);
    for (int64_t r = 0; r < m; r++) {
        float *from = sums + r * MB_COLUMNS, *to = call->out + (r0 + r) * call->out_stride + (n - call->n0);
        for (int64_t c = 0; call->bias && c < columns; c++) from[c] = from[c] + call->bias[n + c];
        if (call->round) {
            for (int64_t c = 0; c < columns; c++) to[c] = mb_round_bf16(mb_one_nan(from[c]));
        } else {
            for (int64_t c = 0; c < columns; c++) to[c] = mb_one_nan(from[c]);
        }
    }
}

void MB_LEVEL(project)(const struct mb_project_call *call)
{
    const struct mb_fma_scratch scratch = MB_LEVEL(scratch_of)(call->scratch, call->rows.m);
    for (int64_t r0 = 0; r0 < call->rows.m; r0 += MB_BLOCK_ROWS) {
        const int64_t m = mb_min(MB_BLOCK_ROWS, call->rows.m - r0);
        for (int64_t n = call->n0; n < call->n1; n += MB_BLOCK_STRIPS * MB_COLUMNS) {
            const int64_t panels = mb_min(MB_BLOCK_STRIPS, mb_ceil_div(call->n1 - n, MB_COLUMNS));
            MB_LEVEL(sums)
            (call->packing, call->packed, n / MB_COLUMNS, panels, &call->rows, r0, m, call->separate, &scratch);
            for (int64_t p = 0; p < panels; p++)
                finish(call, r0, m, n + p * MB_COLUMNS, scratch.sums + p * m * MB_COLUMNS);
        }
    }
}
