// SPDX-License-Identifier: Apache-2.0
// Gate and up of the same 32 columns in one panel (or 64 of up alone), the activation on the sums, the intermediate
// stored in the rows' type.
#include "kernels/avx512bf16/layout.h"
#include "kernels/avx512bf16/vector.h"

enum { AT_ONCE = 8 }; // rows whose activations are computed together: enough for the pipeline

// Sums of some rows of a panel to gate[rows][width] and up[rows][width], with their biases.
static void add_biases(const struct mb_gate_up_call *call, const float *sums, int64_t rows, int64_t n, int64_t columns,
                       float *gate, float *up)
{
    const int64_t width = mb_panel_columns(call->packing);
    const bool gated = call->packing->parts == 2;
    for (int64_t c = 0; c < width; c += 16) {
        const __mmask16 mask = mb_first(mb_max(0, columns - c));
        for (int64_t r = 0; r < rows; r++) {
            const float *from = sums + r * MB_PANEL + c;
            const __m512 u = _mm512_loadu_ps(from + (gated ? MB_STRIP : 0));
            _mm512_storeu_ps(up + r * width + c, mb_add_bias(u, call->up_bias, n + c, mask));
            if (!gated) continue;
            _mm512_storeu_ps(gate + r * width + c, mb_add_bias(_mm512_loadu_ps(from), call->gate_bias, n + c, mask));
        }
    }
}

static void store_row(const struct mb_gate_up_call *call, const float *h, int64_t columns, void *out)
{
    for (int64_t c = 0; c < columns; c += 16) {
        const __mmask16 mask = mb_first(columns - c);
        const __m512 value = mb_one_nan16(_mm512_loadu_ps(h + c));
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
    float gate[AT_ONCE * MB_PANEL], up[AT_ONCE * MB_PANEL], h[AT_ONCE * MB_PANEL];
    for (int64_t r = 0, rows; r < m; r += rows) {
        rows = mb_min(AT_ONCE, m - r);
        add_biases(call, sums + r * MB_PANEL, rows, n, columns, gate, up);
        mb_avx512bf16_activate(call->activation, call->packing->parts == 2 ? gate : NULL, up, h, rows * width);
        for (int64_t i = 0; i < rows; i++) {
            const int64_t at = (r0 + r + i) * call->out_stride + n - call->n0;
            store_row(call, h + i * width, columns, (char *)call->out + (size_t)at * element);
        }
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
