// SPDX-License-Identifier: Apache-2.0
// Reads /proc and /sys; what is missing there stays "unknown" or 0.
#include "cli/machine.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const telling_features[] = {
    "sse4_2",      "avx",         "f16c",        "fma",      "avx2",     "avx_vnni", "avx512f", "avx512bw", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd",    "bf16",    "i8mm",     "sve",
};

static bool has_word(const char *line, const char *word)
{
    const size_t bytes = strlen(word);
    for (const char *at = line; (at = strstr(at, word)); at += bytes)
        if (at > line && at[-1] == ' ' && (at[bytes] == ' ' || at[bytes] == '\n' || at[bytes] == '\0')) return true;
    return false;
}

static void keep_features(const char *line, struct cli_machine *out)
{
    size_t used = 0;
    out->features[0] = '\0';
    for (size_t i = 0; i < sizeof telling_features / sizeof *telling_features; i++)
        if (has_word(line, telling_features[i]))
            used += (size_t)snprintf(out->features + used, sizeof out->features - used, "%s%s", used ? " " : "",
                                     telling_features[i]);
}

static void read_cpu(struct cli_machine *out)
{
    char line[8192];
    FILE *const file = fopen("/proc/cpuinfo", "re");
    bool named = false, told = false;
    while (file && !(named && told) && fgets(line, sizeof line, file)) {
        const char *value = strchr(line, ':');
        if (!value) continue;
        value += value[1] == ' ' ? 2 : 1;
        if (!named && strncmp(line, "model name", 10) == 0) {
            snprintf(out->cpu, sizeof out->cpu, "%.*s", (int)strcspn(value, "\n"), value);
            named = true;
        } else if (!told && (strncmp(line, "flags", 5) == 0 || strncmp(line, "Features", 8) == 0)) {
            keep_features(line, out);
            told = true;
        }
    }
    if (file) fclose(file);
}

static void read_memory(struct cli_machine *out)
{
    char line[256];
    FILE *const file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof line, file)) {
        const char *const value = strchr(line, ':');
        if (!value) continue;
        const uint64_t bytes = 1024 * strtoull(value + 1, NULL, 10);
        if (strncmp(line, "MemTotal:", 9) == 0) out->memory_bytes = bytes;
        if (strncmp(line, "MemAvailable:", 13) == 0) out->available_bytes = bytes;
    }
    if (file) fclose(file);
}

// The choice in brackets of "always [madvise] never".
static void read_huge_pages(struct cli_machine *out)
{
    char line[128] = "";
    FILE *const file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    const char *const begin = file && fgets(line, sizeof line, file) ? strchr(line, '[') : NULL;
    if (begin) snprintf(out->huge_pages, sizeof out->huge_pages, "%.*s", (int)strcspn(begin + 1, "]"), begin + 1);
    if (file) fclose(file);
}

uint64_t cli_huge_page_bytes(void)
{
    char line[256];
    uint64_t bytes = 0;
    FILE *const file = fopen("/proc/self/smaps_rollup", "re");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "AnonHugePages:", 14) == 0) bytes = 1024 * strtoull(line + 14, NULL, 10);
    if (file) fclose(file);
    return bytes;
}

static void read_cache(struct cli_machine *out)
{
    for (int i = 0; i < 8; i++) {
        char path[96], line[32];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        FILE *const file = fopen(path, "re");
        if (!file) return;
        if (fgets(line, sizeof line, file)) {
            char *unit;
            uint64_t bytes = strtoull(line, &unit, 10);
            bytes *= *unit == 'M' ? 1 << 20 : *unit == 'K' ? 1 << 10 : 1;
            if (bytes > out->cache_bytes) out->cache_bytes = bytes;
        }
        fclose(file);
    }
}

void cli_machine_read(struct cli_machine *out)
{
    *out = (struct cli_machine){.cpu = "unknown", .features = "unknown", .huge_pages = "unknown"};
    read_cpu(out);
    read_memory(out);
    read_huge_pages(out);
    read_cache(out);
}
