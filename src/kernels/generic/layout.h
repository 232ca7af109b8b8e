// SPDX-License-Identifier: Apache-2.0
// Level `generic`: its packing and what its files share. Outputs lie in panels of 16 columns; a panel holds its parts
// (gate, up) one after the other, a part its codes [k][16], then float32 scales [chains][16], then the factors
// [groups][16] (exponents, e4m3 factors, zero points). Four-bit codes: [k][8] bytes, column 2b in the low and 2b + 1 in
// the high nibble of byte b. Everything starts at a multiple of 64 bytes.
#ifndef MB_KERNELS_GENERIC_LAYOUT_H
#define MB_KERNELS_GENERIC_LAYOUT_H

#include <string.h>

#include "base/arith.h"
#include "kernels/kernels.h"

// Four floats: the vector that every machine of this level has.
typedef float mb_v4 __attribute__((vector_size(16)));

static inline mb_v4 mb_load4(const float *from)
{
    mb_v4 v;
    memcpy(&v, from, sizeof v);
    return v;
}
static inline void mb_store4(float *to, mb_v4 v) { memcpy(to, &v, sizeof v); }

// A call works on up to ROWS rows at a time, so that a chunk of weights, expanded to float32 once for all of them, and
// the rows' part of that chunk stay in the first-level cache.
enum { MB_GENERIC_COLUMNS = 16, MB_GENERIC_ROWS = 48, MB_GENERIC_CHUNK = 128, MB_GENERIC_ALIGNMENT = 64 };

struct mb_generic_layout {
    size_t line_bytes;      // codes of one k of a panel's part
    size_t scales, factors; // where a part's scales and factors begin
    size_t part_bytes, panel_bytes;
    bool scaled, has_factors;
    int64_t chain; // inputs whose chain a scale multiplies; k without scales
    int64_t chunk; // the most inputs expanded at a time: whole groups, unless one is longer
};

static inline struct mb_generic_layout mb_generic_layout_of(const struct mb_packing *packing)
{
    const struct mb_packed_info info = mb_packed_info_of(packing->format);
    const int64_t group = mb_max(packing->group, 1);
    struct mb_generic_layout layout = {.line_bytes = MB_GENERIC_COLUMNS * info.code_bits / 8,
                                       .scaled = info.scaled,
                                       .has_factors = info.factors,
                                       .chain = mb_max(mb_packed_chain(packing), 1)};
    const size_t chains = info.scaled ? (size_t)mb_ceil_div(packing->k, layout.chain) : 0;
    const size_t groups = info.factors ? (size_t)mb_packed_groups(packing) : 0;
    layout.scales = mb_round_up((size_t)packing->k * layout.line_bytes, MB_GENERIC_ALIGNMENT);
    layout.factors = layout.scales + chains * MB_GENERIC_COLUMNS * sizeof(float);
    layout.part_bytes = layout.factors + mb_round_up(groups * MB_GENERIC_COLUMNS, MB_GENERIC_ALIGNMENT);
    layout.panel_bytes = (size_t)packing->parts * layout.part_bytes;
    layout.chunk = group < MB_GENERIC_CHUNK ? MB_GENERIC_CHUNK / group * group : MB_GENERIC_CHUNK;
    return layout;
}

static inline const uint8_t *mb_generic_part(const struct mb_generic_layout *layout, const void *packed, int64_t panel,
                                             int part)
{
    return (const uint8_t *)packed + (size_t)panel * layout->panel_bytes + (size_t)part * layout->part_bytes;
}

// Scratch of a call, in floats.
struct mb_generic_scratch {
    float *weights;   // [CHUNK][16]
    float *rows;      // [ROWS][CHUNK]
    float *sums[2];   // per part [ROWS][16]
    float *chains[2]; // the same: the chain of the group at hand
    float *out;       // [ROWS][16]
};

size_t mb_generic_scratch_bytes(const struct mb_packing *packing, int64_t m);
struct mb_generic_scratch mb_generic_scratch_of(void *memory);

size_t mb_generic_packed_bytes(const struct mb_packing *packing);
void mb_generic_pack(const struct mb_packing *packing, void *packed, const struct mb_piece *piece);

// Inputs [k0, k0 + count) of a part as float32 [count][16], without float32 scales; in `to`, or where they lie. k0 is a
// multiple of the group, or the inputs are of one group.
const float *mb_generic_expand(const struct mb_packing *packing, const struct mb_generic_layout *layout,
                               const uint8_t *part, int64_t k0, int64_t count, float *to);

// sums[r][c] continues its chain: + weights[i][c] * x[r][first + i], i ascending.
void mb_generic_tile(const float *weights, int64_t first, int64_t count, const float *const *x, int64_t rows,
                     float *sums);

// Sums of all parts of one panel for rows [r0, r0 + m), m at most ROWS, into scratch->sums.
void mb_generic_panel(const struct mb_packing *packing, const void *packed, int64_t panel, const struct mb_rows *rows,
                      int64_t r0, int64_t m, const struct mb_generic_scratch *scratch);
// The same for int16 rows.
void mb_generic_int16_panel(const struct mb_packing *packing, const void *packed, int64_t panel,
                            const struct mb_rows *rows, int64_t r0, int64_t m,
                            const struct mb_generic_scratch *scratch);
// Adds bias[c] to m rows of sums for `columns` columns; bias may be NULL.
void mb_generic_add_bias(float *sums, int64_t m, const float *bias, int64_t columns);

void mb_generic_gate_up(const struct mb_gate_up_call *call);
void mb_generic_project(const struct mb_project_call *call);

#endif
