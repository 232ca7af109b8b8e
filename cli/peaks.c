// SPDX-License-Identifier: Apache-2.0
// The loops. Twelve independent chains hide the latency; named variables, because an array would live in memory.
#include "cli/peaks.h"

#include "kernels/cpu.h"

#define CHAINS(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
enum { CHAIN_COUNT = 12 };

// Chains tend to term / (1 - factor) = 2, so that the comparison at the end is never true and no value overflows.
#define START(i) vector chain##i = ZERO + (first + (float)(i));
#define STEP(i) chain##i = MULTIPLY_ADD(chain##i);
#define ADD(i) sum += chain##i;
#define LOOP                                                                                                           \
    CHAINS(START)                                                                                                      \
    for (int64_t step = 0; step < steps; step++) {                                                                     \
        CHAINS(STEP)                                                                                                   \
    }                                                                                                                  \
    vector sum = ZERO;                                                                                                 \
    CHAINS(ADD)                                                                                                        \
    if (sum[0] == 0.5f) *kept = sum[0];
#define ZERO ((vector){0})

static void plain(int64_t steps, float first, volatile float *kept)
{
    typedef float vector __attribute__((vector_size(16)));
    const vector factor = ZERO + 0.5f, term = ZERO + 1.0f;
#define MULTIPLY_ADD(chain) (chain * factor + term)
    LOOP
#undef MULTIPLY_ADD
}

static uint64_t read_words(const void *from, size_t bytes)
{
    const uint64_t *words = from;
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < bytes / sizeof *words; i += 8) {
        __builtin_prefetch(words + i + 256); // past the end it is ignored
        for (int j = 0; j < 8; j++) sums[j] += words[i + (size_t)j];
    }
    for (int j = 1; j < 8; j++) sums[0] += sums[j];
    return sums[0];
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx512f"))) static uint64_t read_wide(const void *from, size_t bytes)
{
    const char *bytes_from = from;
    __m512i sums[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t i = 0; i < bytes; i += 256) {
        for (size_t j = 0; j < 4; j++) {
            _mm_prefetch(bytes_from + i + 64 * j + 2048, _MM_HINT_T0);
            sums[j] = _mm512_add_epi64(sums[j], _mm512_loadu_si512(bytes_from + i + 64 * j));
        }
    }
    for (int j = 1; j < 4; j++) sums[0] = _mm512_add_epi64(sums[0], sums[j]);
    return (uint64_t)_mm512_reduce_add_epi64(sums[0]);
}

__attribute__((target("avx2,fma"))) static void fma_256(int64_t steps, float first, volatile float *kept)
{
    typedef __m256 vector;
    const vector factor = ZERO + 0.5f, term = ZERO + 1.0f;
#define MULTIPLY_ADD(chain) _mm256_fmadd_ps(chain, factor, term)
    LOOP
#undef MULTIPLY_ADD
}

__attribute__((target("avx512f"))) static void fma_512(int64_t steps, float first, volatile float *kept)
{
    typedef __m512 vector;
    const vector factor = ZERO + 0.5f, term = ZERO + 1.0f;
#define MULTIPLY_ADD(chain) _mm512_fmadd_ps(chain, factor, term)
    LOOP
#undef MULTIPLY_ADD
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) static void dot_512(int64_t steps, float first,
                                                                                    volatile float *kept)
{
    typedef __m512 vector;
    const __m512bh zeros = (__m512bh)_mm512_setzero_si512();
#define MULTIPLY_ADD(chain) _mm512_dpbf16_ps(chain, zeros, zeros)
    LOOP
#undef MULTIPLY_ADD
}
#endif

const struct cli_peak cli_peaks[] = {
    {"16-byte float32 multiply, add", 0, false, 2.0 * 4 * CHAIN_COUNT, plain},
#if defined(__x86_64__)
    {"32-byte float32 multiply-add", MB_CPU_AVX2 | MB_CPU_FMA, false, 2.0 * 8 * CHAIN_COUNT, fma_256},
    {"64-byte float32 multiply-add", MB_CPU_AVX512F, false, 2.0 * 16 * CHAIN_COUNT, fma_512},
    {"64-byte bf16 dot product", MB_CPU_AVX512F | MB_CPU_AVX512_BF16, true, 4.0 * 16 * CHAIN_COUNT, dot_512},
#endif
};
uint64_t cli_read_sum(const void *from, size_t bytes)
{
#if defined(__x86_64__)
    const char *reason;
    if (mb_cpu_offers(MB_CPU_AVX512F, &reason)) return read_wide(from, bytes);
#endif
    return read_words(from, bytes);
}

const int cli_peak_count = sizeof cli_peaks / sizeof *cli_peaks;
