// SPDX-License-Identifier: Apache-2.0
// Sums of int16 rows: a group of 32 inputs of 16 columns as integers, once for all rows; exact int32 sums, scaled.
#include "kernels/int16.h"

#include <string.h>

#include "base/float.h"
#include "kernels/generic/layout.h"

enum { COLUMNS = MB_GENERIC_COLUMNS, GROUP = MB_INT16_GROUP };

// Integers, twice the values, of a group's codes. Inputs from `count` on are 0.
static void expand(const uint8_t *codes, int64_t count, int16_t to[GROUP][COLUMNS])
{
    static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    memset(to[count], 0, (size_t)(GROUP - count) * sizeof *to);
    for (int64_t k = 0; k < count; k++) {
        for (int b = 0; b < COLUMNS / 2; b++) {
            to[k][2 * b] = doubled[codes[k * (COLUMNS / 2) + b] & 15];
            to[k][2 * b + 1] = doubled[codes[k * (COLUMNS / 2) + b] >> 4];
        }
    }
}

// One row and group: sums[c] = sums[c] + scale * (weight_scales[c] * the exact sum).
static void add_group(int16_t weights[GROUP][COLUMNS], const int16_t *integers, float scale, const float *weight_scales,
                      float *sums)
{
    int32_t exact[COLUMNS] = {0};
    for (int k = 0; k < GROUP; k++) {
        for (int c = 0; c < COLUMNS; c++) exact[c] += weights[k][c] * integers[k];
    }
    for (int c = 0; c < COLUMNS; c++) sums[c] = sums[c] + scale * (weight_scales[c] * (float)exact[c]);
}

void mb_generic_int16_panel(const struct mb_packing *packing, const void *packed, int64_t panel,
                            const struct mb_rows *rows, int64_t r0, int64_t m, const struct mb_generic_scratch *scratch)
{
    const struct mb_generic_layout layout = mb_generic_layout_of(packing);
    const size_t scales_at = mb_int16_scales_at(packing->k);
    for (int part = 0; part < packing->parts; part++) {
        const uint8_t *from = mb_generic_part(&layout, packed, panel, part);
        memset(scratch->sums[part], 0, (size_t)m * COLUMNS * sizeof(float));
        for (int64_t g = 0; g < mb_packed_groups(packing); g++) {
            int16_t weights[GROUP][COLUMNS];
            float weight_scales[COLUMNS];
            const int64_t count = mb_min(GROUP, packing->k - g * GROUP);
            expand(from + (size_t)(g * GROUP) * layout.line_bytes, count, weights);
            for (int c = 0; c < COLUMNS; c++)
                weight_scales[c] = mb_from_e8m0(from[layout.factors + (size_t)(g * COLUMNS + c)]);
            for (int64_t r = 0; r < m; r++) {
                const char *row = rows->row[r0 + r];
                float scale;
                memcpy(&scale, row + scales_at + (size_t)g * sizeof scale, sizeof scale);
                add_group(weights, (const int16_t *)(const void *)row + g * GROUP, scale, weight_scales,
                          scratch->sums[part] + r * COLUMNS);
            }
        }
    }
}
