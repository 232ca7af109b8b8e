// SPDX-License-Identifier: Apache-2.0
// The processor's features against what Linux tells of them, and the reasons when one is missing.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "cmocka.h"
#include "kernels/cpu.h"

static const struct {
    uint32_t feature;
    const char *flag;
} flags[] = {
    {MB_CPU_AVX2, " avx2 "},
    {MB_CPU_FMA, " fma "},
    {MB_CPU_F16C, " f16c "},
    {MB_CPU_AVX512F, " avx512f "},
    {MB_CPU_AVX512BW, " avx512bw "},
    {MB_CPU_AVX512DQ, " avx512dq "},
    {MB_CPU_AVX512VL, " avx512vl "},
    {MB_CPU_AVX512_VBMI, " avx512vbmi "},
    {MB_CPU_AVX512_VNNI, " avx512_vnni "},
    {MB_CPU_AVX512_BF16, " avx512_bf16 "},
    {MB_CPU_AMX_TILE, " amx_tile "},
    {MB_CPU_AMX_BF16, " amx_bf16 "},
    {MB_CPU_AMX_INT8, " amx_int8 "},
};

static void test_features(void **state)
{
    (void)state;
    static char line[16384];
    const struct mb_cpu cpu = mb_cpu_detect();
    FILE *file = fopen("/proc/cpuinfo", "r");
    bool told = false;
    while (file && !told && fgets(line, sizeof line, file)) told = strncmp(line, "flags", 5) == 0;
    if (file) fclose(file);
    if (!told) {
        assert_int_equal(cpu.features, 0); // not x86
        return;
    }
    char *end = strchr(line, '\n');
    assert_non_null(end);
    *end = ' ';
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        assert_int_equal((cpu.features & flags[i].feature) != 0, strstr(line, flags[i].flag) != NULL);
}

static void test_reasons(void **state)
{
    (void)state;
    const uint32_t features = mb_cpu_detect().features;
    const char *reason = NULL;
    assert_true(mb_cpu_offers(0, &reason));
    assert_non_null(reason);
    assert_true(mb_cpu_offers(features, &reason));
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (features & flags[i].feature) continue;
        assert_false(mb_cpu_offers(features | flags[i].feature, &reason));
        assert_non_null(strstr(reason, "lacks"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_features),
        cmocka_unit_test(test_reasons),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
