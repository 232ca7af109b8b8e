// SPDX-License-Identifier: Apache-2.0
// Multiply-adds in independent chains, as many as the registers hold: 24 hide the latency of a dot product, 12 that of
// a multiply-add with 16 registers. Named variables, because an array would live in memory.
#include "cli/peaks.h"

#include "kernels/cpu.h"

#define TWELVE(DO, A)                                                                                                  \
    DO(A##0) DO(A##1) DO(A##2) DO(A##3) DO(A##4) DO(A##5) DO(A##6) DO(A##7) DO(A##8) DO(A##9) DO(A##10) DO(A##11)
#define CHAINS_12(DO) TWELVE(DO, )
#define CHAINS_24(DO) TWELVE(DO, ) TWELVE(DO, 1_)

// A loop over `steps` of one STEP a chain. Each chain starts from a read of its own of *kept, which is 0: the compiler
// must not find them equal. Values neither overflow nor become denormal, and *kept is never written.
#define START(i) vector chain##i = ONE + (element)*kept;
#define ADD(i) sum += chain##i;
#define LOOP(CHAINS)                                                                                                   \
    CHAINS(START)                                                                                                      \
    for (int64_t step = 0; step < steps; step++) {                                                                     \
        CHAINS(STEP)                                                                                                   \
    }                                                                                                                  \
    vector sum = {0};                                                                                                  \
    CHAINS(ADD)                                                                                                        \
    if ((float)sum[0] == 0.25f) *kept = (float)sum[0];

// The compiler makes the best of it: 16-byte vectors on any machine. The chains tend to 2.
static void plain_f32(int64_t steps, volatile float *kept)
{
    typedef float element;
    typedef element vector __attribute__((vector_size(16)));
    const vector ONE = (vector){0} + 1.0f, half = (vector){0} + 0.5f;
#define STEP(i) chain##i = chain##i * half + ONE;
    LOOP(CHAINS_12)
#undef STEP
}

static void plain_int16(int64_t steps, volatile float *kept)
{
    typedef int32_t element;
    typedef element vector __attribute__((vector_size(16)));
    const vector ONE = (vector){0} + 1, odd = (vector){0} + 3;
#define STEP(i) chain##i = (chain##i & odd) * odd + ONE;
    LOOP(CHAINS_12)
#undef STEP
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2,fma"))) static void fma_256(int64_t steps, volatile float *kept)
{
    typedef float element;
    typedef __m256 vector;
    const vector ONE = _mm256_set1_ps(1.0f), half = _mm256_set1_ps(0.5f);
#define STEP(i) chain##i = _mm256_fmadd_ps(chain##i, half, ONE);
    LOOP(CHAINS_12)
#undef STEP
}

// Where there is no dot product of int16: a multiplication of pairs and an addition.
__attribute__((target("avx2"))) static void pairs_256(int64_t steps, volatile float *kept)
{
    typedef int32_t element;
    typedef element vector __attribute__((vector_size(32)));
    const vector ONE = (vector){0} + 1;
#define STEP(i) chain##i = (vector)_mm256_madd_epi16((__m256i)chain##i, (__m256i)ONE) + ONE;
    LOOP(CHAINS_12)
#undef STEP
}

__attribute__((target("avx512f"))) static void fma_512(int64_t steps, volatile float *kept)
{
    typedef float element;
    typedef __m512 vector;
    const vector ONE = _mm512_set1_ps(1.0f), half = _mm512_set1_ps(0.5f);
#define STEP(i) chain##i = _mm512_fmadd_ps(chain##i, half, ONE);
    LOOP(CHAINS_24)
#undef STEP
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) static void dot_512(int64_t steps, volatile float *kept)
{
    typedef float element;
    typedef __m512 vector;
    const vector ONE = _mm512_set1_ps(1.0f);
    const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80), b = (__m512bh)_mm512_set1_epi16(0x3980); // 1, 2^-12
#define STEP(i) chain##i = _mm512_dpbf16_ps(chain##i, a, b);
    LOOP(CHAINS_24)
#undef STEP
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) static void int16_512(int64_t steps, volatile float *kept)
{
    typedef int32_t element;
    typedef element vector __attribute__((vector_size(64)));
    const vector ONE = (vector){0} + 1;
    const __m512i a = _mm512_set1_epi16(3), b = _mm512_set1_epi16(-2);
#define STEP(i) chain##i = (vector)_mm512_dpwssd_epi32((__m512i)chain##i, a, b);
    LOOP(CHAINS_24)
#undef STEP
}

// Products of bfloat16 tiles.
__attribute__((target("amx-tile,amx-bf16"))) static void tiles(int64_t steps, volatile float *kept)
{
    struct {
        uint8_t palette, unused[15];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 7; i++) shape.row_bytes[i] = 64, shape.rows[i] = 16;
    __asm__ volatile("ldtilecfg %0" : : "m"(shape));
    for (int64_t i = 0; i < steps; i++) { // of tiles 3 to 6, zeros at first
        _tile_dpbf16ps(3, 0, 2);
        _tile_dpbf16ps(4, 0, 2);
        _tile_dpbf16ps(5, 0, 2);
        _tile_dpbf16ps(6, 0, 2);
        _tile_dpbf16ps(3, 1, 2);
        _tile_dpbf16ps(4, 1, 2);
        _tile_dpbf16ps(5, 1, 2);
        _tile_dpbf16ps(6, 1, 2);
    }
    _tile_release();
    *kept = 0;
}
#endif

enum { FLOATS = CLI_PEAK_F32 | CLI_PEAK_BF16 | CLI_PEAK_BF16X2 };

const struct cli_peak cli_peaks[] = {
    {"16-byte float32 multiply, add", 0, FLOATS, 2.0 * 4 * 12, plain_f32},
    {"16-byte int32 multiply, add", 0, CLI_PEAK_INT16, 2.0 * 4 * 12, plain_int16},
#if defined(__x86_64__)
    {"32-byte float32 multiply-add", MB_CPU_AVX2 | MB_CPU_FMA, FLOATS, 2.0 * 8 * 12, fma_256},
    {"32-byte int16 multiply pairs, add", MB_CPU_AVX2, CLI_PEAK_INT16, 2.0 * 16 * 12, pairs_256},
    {"64-byte float32 multiply-add", MB_CPU_AVX512F, FLOATS, 2.0 * 16 * 24, fma_512},
    {"64-byte bf16 dot product", MB_CPU_AVX512F | MB_CPU_AVX512_BF16, CLI_PEAK_BF16, 4.0 * 16 * 24, dot_512},
    {"64-byte int16 dot product", MB_CPU_AVX512F | MB_CPU_AVX512_VNNI, CLI_PEAK_INT16, 4.0 * 16 * 24, int16_512},
    {"bf16 tile products", MB_CPU_AMX_TILE | MB_CPU_AMX_BF16, CLI_PEAK_BF16X2, 2.0 * 16 * 16 * 32 * 8, tiles},
#endif
};
const int cli_peak_count = sizeof cli_peaks / sizeof *cli_peaks;

// --- reading --------------------------------------------------------------------------------------------------------

// Reads in STREAMS sequential streams side by side, eight vectors of WIDTH bytes a turn in all, each line asked for
// AHEAD bytes early (0: left to the hardware). A line past the end is asked for too, which is allowed.
#define READER(NAME, TARGET, WIDTH, STREAMS, AHEAD)                                                                    \
    TARGET static uint64_t NAME(const char *from, size_t bytes)                                                        \
    {                                                                                                                  \
        typedef uint64_t vector __attribute__((vector_size(WIDTH), aligned(8), may_alias));                            \
        enum { EACH = 8 / (STREAMS) };                                                                                 \
        const size_t share = bytes / (STREAMS);                                                                        \
        vector sum[8] = {0};                                                                                           \
        for (size_t at = 0; at < share; at += EACH * (WIDTH)) {                                                        \
            _Pragma("GCC unroll 8") for (size_t i = 0; i < 8; i++)                                                     \
            {                                                                                                          \
                const char *const place = from + i / EACH * share + at + i % EACH * (WIDTH);                           \
                if ((AHEAD) && i % EACH * (WIDTH) % 64 == 0) __builtin_prefetch(place + (AHEAD), 0, 3);                \
                sum[i] += *(const vector *)(const void *)place;                                                        \
            }                                                                                                          \
        }                                                                                                              \
        for (int i = 1; i < 8; i++) sum[0] += sum[i];                                                                  \
        return sum[0][0] + sum[0][1];                                                                                  \
    }
#define READERS(NAME, TARGET, WIDTH)                                                                                   \
    READER(NAME##_plain, TARGET, WIDTH, 1, 0)                                                                          \
    READER(NAME##_near, TARGET, WIDTH, 1, 2048)                                                                        \
    READER(NAME##_far, TARGET, WIDTH, 1, 4096)                                                                         \
    READER(NAME##_two, TARGET, WIDTH, 2, 0)                                                                            \
    READER(NAME##_four, TARGET, WIDTH, 4, 0)                                                                           \
    READER(NAME##_both, TARGET, WIDTH, 2, 2048)
#define PATTERNS(NAME)                                                                                                 \
    {                                                                                                                  \
        {"one stream", NAME##_plain}, {"one stream, prefetch 2 KiB ahead", NAME##_near},                               \
            {"one stream, prefetch 4 KiB ahead", NAME##_far}, {"two streams", NAME##_two},                             \
            {"four streams", NAME##_four}, {"two streams, prefetch 2 KiB ahead", NAME##_both},                         \
    }

READERS(read_16, , 16)
#if defined(__x86_64__)
READERS(read_32, __attribute__((target("avx2"))), 32)
READERS(read_64, __attribute__((target("avx512f"))), 64)
#endif

const struct cli_reader *cli_readers(void)
{
    static const struct {
        uint32_t features;
        struct cli_reader patterns[CLI_READERS];
    } widths[] = {
#if defined(__x86_64__)
        {MB_CPU_AVX512F, PATTERNS(read_64)},
        {MB_CPU_AVX2, PATTERNS(read_32)},
#endif
        {0, PATTERNS(read_16)},
    };
    const char *reason;
    int i = 0;
    while (!mb_cpu_offers(widths[i].features, &reason)) i++;
    return widths[i].patterns;
}
