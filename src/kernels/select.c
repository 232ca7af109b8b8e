// SPDX-License-Identifier: Apache-2.0
// Which kernel levels this build has and which one runs: by rules on what the CPU does well, never by timing.
#include <stdbool.h>
#include <string.h>

#include "base/status.h"
#include "kernels/cpu.h"
#include "kernels/kernels.h"

// Slowest first.
const struct mb_kernels *const mb_kernel_levels[] = {
    &mb_kernels_ref,
    &mb_kernels_generic,
#if defined(__x86_64__)
    &mb_kernels_avx2,
    &mb_kernels_avx512,
    &mb_kernels_avx512vnni,
    &mb_kernels_amx,
    &mb_kernels_avx512bf16,
#endif
    NULL,
};

// The first rule that fits the machine and names a level of this build decides. A flag says that instructions exist,
// not that they are fast: AMD's bf16 dot product does twice the work of a float32 multiply-add per cycle, Intel's
// outside the AMX unit half of it, and its int16 dot product twice. AMX's bf16 product (TDPBF16PS) has sixteen times
// its rate, and adds the even and the odd inputs of a tile apart and only their sum to the output: not the one
// ascending chain that bf16 compute promises, but the sum of bf16x2 compute, and as good as any where sums are exact,
// as those of int16 compute are. `int16`, `bf16x2`: whether AUTO stands for that instead of bf16, for int16 where all
// weights have integers.
static const struct rule {
    enum mb_cpu_vendor vendor; // MB_CPU_OTHER: any
    uint32_t features;
    const char *level;
    bool int16, bf16x2;
    const char *why;
} rules[] = {
    {MB_CPU_AMD, MB_CPU_LEVEL_AVX512BF16, "avx512bf16", false, false,
     "AMD's bf16 dot product outruns its float32 multiply-add"},
    {MB_CPU_INTEL, MB_CPU_LEVEL_AMX, "amx", true, true,
     "AMX outruns Intel's float32 multiply-add, in bf16x2 and int16 compute, and that its avx512_bf16"},
    {MB_CPU_INTEL, MB_CPU_LEVEL_AVX512VNNI, "avx512vnni", true, false,
     "Intel's float32 multiply-add outruns its avx512_bf16, and its int16 dot product both"},
    {MB_CPU_OTHER, MB_CPU_LEVEL_AVX512VNNI, "avx512vnni", false, false,
     "the widest float32 multiply-add of this machine"},
    {MB_CPU_OTHER, MB_CPU_LEVEL_AVX512, "avx512", false, false, "the widest float32 multiply-add of this machine"},
    {MB_CPU_OTHER, MB_CPU_LEVEL_AVX2, "avx2", false, false, "the widest float32 multiply-add of this machine"},
    {MB_CPU_OTHER, 0, "generic", false, false, "the only fast level that this machine can run"},
};

static const struct mb_kernels *find(const char *name)
{
    for (int i = 0; mb_kernel_levels[i]; i++) {
        if (strcmp(mb_kernel_levels[i]->name, name) == 0) return mb_kernel_levels[i];
    }
    return NULL;
}

static const struct rule *rule_of_machine(void)
{
    const struct mb_cpu cpu = mb_cpu_detect();
    const struct rule *rule = rules;
    while ((rule->vendor != MB_CPU_OTHER && rule->vendor != cpu.vendor) || !find(rule->level) ||
           (cpu.features & rule->features) != rule->features)
        rule++;
    return rule; // the last one fits every machine
}

const struct mb_kernels *mb_kernels_best(const char **why)
{
    const struct rule *rule = rule_of_machine();
    if (why) *why = rule->why;
    return find(rule->level);
}

bool mb_kernels_prefer_int16(void) { return rule_of_machine()->int16; }

bool mb_kernels_prefer_bf16x2(void) { return rule_of_machine()->bf16x2; }

const struct mb_kernels *mb_kernels_apart(const struct mb_kernels *level)
{
    return level->fused ? &mb_kernels_generic : level;
}

const struct mb_kernels *mb_kernels_select(const char *name, moeblock_error *error)
{
    if (!name) return mb_kernels_best(NULL);
    const struct mb_kernels *kernels = find(name);
    if (!kernels) {
        char known[256] = "";
        for (int i = 0; mb_kernel_levels[i]; i++) {
            if (i) strncat(known, ", ", sizeof known - strlen(known) - 1);
            strncat(known, mb_kernel_levels[i]->name, sizeof known - strlen(known) - 1);
        }
        mb_fail(error, MOEBLOCK_UNSUPPORTED, "CPU level \"%s\" is unknown; this build has %s", name, known);
        return NULL;
    }
    const char *reason;
    if (kernels->usable(&reason)) return kernels;
    mb_fail(error, MOEBLOCK_UNSUPPORTED,
            "CPU level \"%s\" cannot run on this machine (%s); leave the level out for the best", name, reason);
    return NULL;
}
