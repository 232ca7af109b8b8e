// SPDX-License-Identifier: Apache-2.0
// The table of level `avx512bf16`, for processors whose bf16 dot instruction beats the float32 FMA (AMD Zen 4 and 5).
// float32 and float16 weights, rows of integers, BF16X2 compute, and groups that no line of codes fits take the
// functions of level `avx512vnni`, with its packing.
#include "kernels/avx512bf16/layout.h"
#include "kernels/avx512bf16/vector.h"
#include "kernels/cpu.h"

#define WIDER mb_kernels_avx512vnni

static bool usable(const char **reason) { return mb_cpu_offers(MB_CPU_LEVEL_AVX512BF16, reason); }

static size_t packed_bytes(const struct mb_packing *packing)
{
    return mb_has_tiles(packing) ? mb_avx512bf16_packed_bytes(packing) : WIDER.packed_bytes(packing);
}

static void pack(const struct mb_packing *packing, void *packed, const struct mb_piece *piece)
{
    (mb_has_tiles(packing) ? mb_avx512bf16_pack : WIDER.pack)(packing, packed, piece);
}

static size_t scratch_bytes(const struct mb_packing *packing, int64_t m)
{
    return mb_has_tiles(packing) ? mb_walk_scratch(packing, m) : WIDER.scratch_bytes(packing, m);
}

static void gate_up(const struct mb_gate_up_call *call)
{
    (mb_has_tiles(call->packing) ? mb_avx512bf16_gate_up : WIDER.gate_up)(call);
}

static void project(const struct mb_project_call *call)
{
    (mb_has_tiles(call->packing) ? mb_avx512bf16_project : WIDER.project)(call);
}

static void accumulate(float *y, const float *out, float weight, int64_t n)
{
    const __m512 factor = _mm512_set1_ps(weight);
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 mask = mb_first(n - i);
        const __m512 product = _mm512_mul_ps(factor, _mm512_maskz_loadu_ps(mask, out + i));
        const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y + i), product);
        _mm512_mask_storeu_ps(y + i, mask, mb_one_nan16(sum));
    }
}

static void to_bf16(uint16_t *to, const float *from, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 mask = mb_first(n - i);
        _mm256_mask_storeu_epi16(to + i, mask, mb_to_bf16_16(_mm512_maskz_loadu_ps(mask, from + i)));
    }
}

static void to_int16(void *row, const float *from, int64_t n) { WIDER.to_int16(row, from, n); }

const struct mb_kernels mb_kernels_avx512bf16 = {
    .name = "avx512bf16",
    .layout = 10,
    .granule = MB_PANEL,
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
