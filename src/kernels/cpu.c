// SPDX-License-Identifier: Apache-2.0
// CPUID for what the processor has, XGETBV for which registers the operating system saves (XCR0). AMX's tiles a process
// must ask for beside that. Machines other than x86-64 have none of these features.
#include "kernels/cpu.h"

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum output { EAX, EBX, ECX, EDX, OUTPUTS };

// One bit of a CPUID answer, and the bits of XCR0 that must be set for its use.
enum { NO_STATE = 0, YMM_STATE = 0x06, ZMM_STATE = 0xe6, TILE_STATE = 0x60000 };
static const struct {
    uint32_t leaf, subleaf, output, bit, state, feature;
} feature_bits[] = {
    {1, 0, ECX, 12, YMM_STATE, MB_CPU_FMA},         {1, 0, ECX, 29, YMM_STATE, MB_CPU_F16C},
    {7, 0, EBX, 5, YMM_STATE, MB_CPU_AVX2},         {7, 0, EBX, 16, ZMM_STATE, MB_CPU_AVX512F},
    {7, 0, EBX, 17, ZMM_STATE, MB_CPU_AVX512DQ},    {7, 0, EBX, 30, ZMM_STATE, MB_CPU_AVX512BW},
    {7, 0, EBX, 31, ZMM_STATE, MB_CPU_AVX512VL},    {7, 0, ECX, 1, ZMM_STATE, MB_CPU_AVX512_VBMI},
    {7, 0, ECX, 11, ZMM_STATE, MB_CPU_AVX512_VNNI}, {7, 1, EAX, 5, ZMM_STATE, MB_CPU_AVX512_BF16},
    {7, 0, EDX, 24, TILE_STATE, MB_CPU_AMX_TILE},   {7, 0, EDX, 22, TILE_STATE, MB_CPU_AMX_BF16},
    {7, 0, EDX, 25, TILE_STATE, MB_CPU_AMX_INT8},
};

static bool ask(uint32_t leaf, uint32_t subleaf, uint32_t out[OUTPUTS])
{
    return __get_cpuid_count(leaf, subleaf, &out[EAX], &out[EBX], &out[ECX], &out[EDX]) != 0;
}

// XCR0, or 0 when programs cannot read it.
static uint64_t saved_state(void)
{
    uint32_t leaf[OUTPUTS], low, high;
    if (!ask(1, 0, leaf) || !(leaf[ECX] & 1u << 27)) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

// Whether this process may use tiles: asked once for all of its threads and children, and granted again when it was. A
// kernel without the question, or one whose answer is no, leaves the first use of a tile to end the process.
static bool granted_tiles(void)
{
#if defined(SYS_arch_prctl)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

static enum mb_cpu_vendor vendor(void)
{
    uint32_t leaf[OUTPUTS];
    char name[13] = "";
    if (!ask(0, 0, leaf)) return MB_CPU_OTHER;
    memcpy(name, &leaf[EBX], 4);
    memcpy(name + 4, &leaf[EDX], 4);
    memcpy(name + 8, &leaf[ECX], 4);
    if (strcmp(name, "AuthenticAMD") == 0 || strcmp(name, "HygonGenuine") == 0) return MB_CPU_AMD;
    return strcmp(name, "GenuineIntel") == 0 ? MB_CPU_INTEL : MB_CPU_OTHER;
}

struct mb_cpu mb_cpu_detect(void)
{
    struct mb_cpu cpu = {.vendor = vendor()};
    const uint64_t saved = saved_state();
    uint32_t leaf[OUTPUTS];
    if (ask(1, 0, leaf)) {
        const uint32_t family = leaf[EAX] >> 8 & 15, model = leaf[EAX] >> 4 & 15;
        cpu.family = (int)(family == 15 ? family + (leaf[EAX] >> 20 & 255) : family);
        cpu.model = (int)(family == 6 || family == 15 ? model + (leaf[EAX] >> 16 & 15) * 16 : model);
    }
    for (size_t i = 0; i < sizeof feature_bits / sizeof *feature_bits; i++) {
        if (!ask(feature_bits[i].leaf, feature_bits[i].subleaf, leaf)) continue;
        if (!(leaf[feature_bits[i].output] >> feature_bits[i].bit & 1)) continue;
        if ((saved & feature_bits[i].state) == feature_bits[i].state) cpu.features |= feature_bits[i].feature;
    }
    const uint32_t tiles = MB_CPU_AMX_TILE | MB_CPU_AMX_BF16 | MB_CPU_AMX_INT8;
    if ((cpu.features & tiles) && !granted_tiles()) cpu.features &= ~tiles;
    return cpu;
}

#else

struct mb_cpu mb_cpu_detect(void) { return (struct mb_cpu){.vendor = MB_CPU_OTHER}; }

#endif

static const struct {
    uint32_t feature;
    const char *missing;
} feature_names[] = {
    {MB_CPU_AVX2, "it lacks avx2"},
    {MB_CPU_FMA, "it lacks fma"},
    {MB_CPU_F16C, "it lacks f16c"},
    {MB_CPU_AVX512F, "it lacks avx512f"},
    {MB_CPU_AVX512BW, "it lacks avx512bw"},
    {MB_CPU_AVX512DQ, "it lacks avx512dq"},
    {MB_CPU_AVX512VL, "it lacks avx512vl"},
    {MB_CPU_AVX512_VBMI, "it lacks avx512_vbmi"},
    {MB_CPU_AVX512_VNNI, "it lacks avx512_vnni"},
    {MB_CPU_AVX512_BF16, "it lacks avx512_bf16"},
    {MB_CPU_AMX_TILE, "it lacks amx_tile, or this process may not use it"},
    {MB_CPU_AMX_BF16, "it lacks amx_bf16"},
    {MB_CPU_AMX_INT8, "it lacks amx_int8"},
};

bool mb_cpu_offers(uint32_t features, const char **reason)
{
    const uint32_t missing = features & ~mb_cpu_detect().features;
    *reason = "this machine has its instructions";
    for (size_t i = 0; i < sizeof feature_names / sizeof *feature_names; i++) {
        if (!(missing & feature_names[i].feature)) continue;
        *reason = feature_names[i].missing;
        return false;
    }
    return true;
}
