// SPDX-License-Identifier: Apache-2.0
// Packing alone, source and target resident: GB/s of source bytes on one core, for every level that this machine runs,
// every format and both orientations, beside the 1.5 GB/s that bf16, FP8 and MXFP4 must reach.
//   pack_rate [LEVEL]
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/arith.h"
#include "base/clock.h"
#include "kernels/kernels.h"

// A projection of an expert, in pieces as the loader cuts them; with the target it is far larger than the caches.
enum { OUTPUTS = 8192, INPUTS = 4096, ROUNDS = 5, PIECE_BYTES = 512 << 10 };
static const size_t huge_page = (size_t)2 << 20;
static const double target_rate = 1.5;

static const struct layout {
    const char *name;
    enum mb_packed_format format;
    int code_bits;
    int64_t group;
    bool output_major, required;
} layouts[] = {
    {"f32", MB_PACKED_F32, 32, 0, true, false},  {"f32 input-major", MB_PACKED_F32, 32, 0, false, false},
    {"f16", MB_PACKED_F16, 16, 0, true, false},  {"f16 input-major", MB_PACKED_F16, 16, 0, false, false},
    {"bf16", MB_PACKED_BF16, 16, 0, true, true}, {"bf16 input-major", MB_PACKED_BF16, 16, 0, false, true},
    {"fp8", MB_PACKED_FP8, 8, 128, true, true},  {"mxfp4", MB_PACKED_FP4, 4, 32, true, true},
};

static void *resident(size_t bytes, unsigned seed)
{
    const size_t rounded = mb_round_up(bytes, huge_page);
    uint8_t *memory = aligned_alloc(huge_page, rounded);
    if (!memory) {
        fprintf(stderr, "pack_rate: no memory for %zu bytes\n", rounded);
        exit(71);
    }
    madvise(memory, rounded, MADV_HUGEPAGE);
    for (size_t i = 0; i < rounded; i++) {
        seed = seed * 1664525u + 1013904223u;
        memory[i] = (uint8_t)((seed >> 26) + 32); // no NaN, and as an exponent an ordinary one
    }
    return memory;
}

// Packs the whole matrix once.
static void pack_all(const struct mb_kernels *kernels, const struct mb_packing *packing, const struct layout *layout,
                     const void *codes, const void *scales, void *packed)
{
    const int64_t line_bytes = (layout->output_major ? INPUTS : OUTPUTS) * layout->code_bits / 8;
    const int64_t multiple = layout->output_major ? kernels->granule : mb_max(layout->group, 16);
    const int64_t lines = mb_max(1, PIECE_BYTES / line_bytes / multiple) * multiple;
    const int64_t end = layout->output_major ? OUTPUTS : INPUTS;
    for (int64_t first = 0; first < end; first += lines) {
        const int64_t behind = mb_min(end, first + lines);
        struct mb_piece piece = {.n1 = OUTPUTS, .k1 = INPUTS, .codes = (const char *)codes + first * line_bytes};
        if (layout->output_major) {
            piece.n0 = first;
            piece.n1 = behind;
            piece.row_stride = layout->code_bits == 4 ? INPUTS / 2 : INPUTS;
            piece.column_stride = 1;
        } else {
            piece.k0 = first;
            piece.k1 = behind;
            piece.row_stride = 1;
            piece.column_stride = OUTPUTS;
        }
        if (layout->group) {
            piece.scale_stride = INPUTS / layout->group;
            const int64_t skipped = piece.n0 * piece.scale_stride;
            piece.scales = layout->format == MB_PACKED_FP8 ? (const float *)scales + skipped : NULL;
            piece.exponents = layout->format == MB_PACKED_FP4 ? (const uint8_t *)scales + skipped : NULL;
        }
        kernels->pack(packing, packed, &piece);
    }
}

// False where the format must reach the target and does not.
static bool measure(const struct mb_kernels *kernels, const struct layout *layout)
{
    const struct mb_packing packing = {
        .format = layout->format, .parts = 1, .n = OUTPUTS, .k = INPUTS, .group = layout->group};
    const size_t bytes = (size_t)OUTPUTS * INPUTS * (size_t)layout->code_bits / 8;
    const size_t groups = layout->group ? (size_t)OUTPUTS * (size_t)(INPUTS / layout->group) : 0;
    const size_t scale_bytes = groups * (layout->format == MB_PACKED_FP8 ? sizeof(float) : 1);
    void *codes = resident(bytes, 1), *scales = resident(scale_bytes + 1, 2);
    void *packed = resident(kernels->packed_bytes(&packing), 3);
    double best = 0;
    for (int i = 0; i < ROUNDS; i++) {
        const double start = mb_seconds();
        pack_all(kernels, &packing, layout, codes, scales, packed);
        const double rate = (double)(bytes + scale_bytes) / (mb_seconds() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
    free(codes);
    free(scales);
    free(packed);
    const bool missed = layout->required && best < target_rate;
    printf("%-11s %-17s %6.2f GB/s%s\n", kernels->name, layout->name, best,
           missed             ? "  below the target of 1.5"
           : layout->required ? "  target 1.5"
                              : "");
    return !missed;
}

int main(int argc, char **argv)
{
    bool met = true;
    for (int i = 0; mb_kernel_levels[i]; i++) {
        const struct mb_kernels *kernels = mb_kernel_levels[i];
        const bool wanted = argc < 2 ? strcmp(kernels->name, "ref") != 0 : !strcmp(kernels->name, argv[1]);
        const char *reason;
        if (!wanted || !kernels->usable(&reason)) continue;
        for (size_t l = 0; l < sizeof layouts / sizeof layouts[0]; l++) met = measure(kernels, &layouts[l]) && met;
    }
    return met ? 0 : 1;
}
