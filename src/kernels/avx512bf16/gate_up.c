// SPDX-License-Identifier: Apache-2.0
// Gate and up of the same 32 columns in one panel (or 64 of up alone), the activation on the sums, the intermediate
// stored in the rows' type.
#include "kernels/avx512bf16/layout.h"
#include "kernels/avx512bf16/vector.h"

// One row of a panel: bias, activation, store. `columns` are wanted.
static void finish_row(const struct mb_gate_up_call *call, const float *sums, int64_t n, int64_t columns, void *out)
{
    const bool gated = call->packing->parts == 2;
    float gate[MB_PANEL] = {0}, up[MB_PANEL] = {0}, h[MB_PANEL];
    for (int64_t c = 0; c < columns; c += 16) {
        const __mmask16 mask = mb_first(columns - c);
        if (gated) _mm512_storeu_ps(gate + c, mb_add_bias(_mm512_loadu_ps(sums + c), call->gate_bias, n + c, mask));
        const float *from = sums + (gated ? MB_STRIP : 0) + c;
        _mm512_storeu_ps(up + c, mb_add_bias(_mm512_loadu_ps(from), call->up_bias, n + c, mask));
    }
    mb_avx512bf16_activate(call->activation, gated ? gate : NULL, up, h, columns);
    for (int64_t c = 0; c < columns; c += 16) {
        const __mmask16 mask = mb_first(columns - c);
        const __m512 value = mb_one_nan16(_mm512_maskz_loadu_ps(mask, h + c));
        if (call->rows.bf16) {
            _mm256_mask_storeu_epi16((uint16_t *)out + c, mask, mb_to_bf16_16(value));
        } else {
            _mm512_mask_storeu_ps((float *)out + c, mask, value);
        }
    }
}

static void finish(const void *context, int64_t panel, int64_t r0, int64_t m, const float *sums)
{
    const struct mb_gate_up_call *call = context;
    const int64_t width = mb_panel_columns(call->packing), n = panel * width;
    const int64_t columns = mb_min(width, call->n1 - n);
    const size_t element = call->rows.bf16 ? sizeof(uint16_t) : sizeof(float);
    for (int64_t r = 0; r < m; r++) {
        char *out = (char *)call->out + (size_t)((r0 + r) * call->out_stride + n - call->n0) * element;
        finish_row(call, sums + r * MB_PANEL, n, columns, out);
    }
}

void mb_avx512bf16_gate_up(const struct mb_gate_up_call *call)
{
    const int64_t width = mb_panel_columns(call->packing);
    const struct mb_walk walk = {.packing = call->packing,
                                 .packed = call->packed,
                                 .rows = &call->rows,
                                 .p0 = call->n0 / width,
                                 .p1 = mb_ceil_div(call->n1, width),
                                 .scratch = call->scratch,
                                 .finish = finish,
                                 .call = call};
    mb_walk_panels(&walk);
}
