// SPDX-License-Identifier: Apache-2.0
// Plain linear maps: 64 columns a panel, outputs float32, rounded to bfloat16 where the call says so.
#include "kernels/avx512bf16/layout.h"
#include "kernels/avx512bf16/vector.h"

static void finish(const void *context, int64_t panel, int64_t r0, int64_t m, const float *sums)
{
    const struct mb_project_call *call = context;
    const int64_t n = panel * MB_PANEL, columns = mb_min(MB_PANEL, call->n1 - n);
    for (int64_t r = 0; r < m; r++) {
        float *out = call->out + (r0 + r) * call->out_stride + n - call->n0;
        for (int64_t c = 0; c < columns; c += 16) {
            const __mmask16 mask = mb_first(columns - c);
            __m512 value = _mm512_loadu_ps(sums + r * MB_PANEL + c);
            value = mb_one_nan16(mb_add_bias(value, call->bias, n + c, mask));
            if (call->round) {
                const __m512i half = _mm512_cvtepu16_epi32(mb_to_bf16_16(value));
                value = _mm512_castsi512_ps(_mm512_slli_epi32(half, 16));
            }
            _mm512_mask_storeu_ps(out + c, mask, value);
        }
    }
}

void mb_avx512bf16_project(const struct mb_project_call *call)
{
    const struct mb_walk walk = {.packing = call->packing,
                                 .packed = call->packed,
                                 .rows = &call->rows,
                                 .p0 = call->n0 / MB_PANEL,
                                 .p1 = mb_ceil_div(call->n1, MB_PANEL),
                                 .separate = call->separate,
                                 .scratch = call->scratch,
                                 .finish = finish,
                                 .call = call};
    mb_walk_panels(&walk);
}
