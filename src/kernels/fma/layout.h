// SPDX-License-Identifier: Apache-2.0
// What the levels with fused multiply-add share: their packing, their scratch and the functions that each of them
// compiles from kernels/fma/*.inl for its own vectors. A level's vector.h comes first and sets MB_LANES (floats in a
// vector) and MB_LEVEL (its prefix).
//
// Outputs lie in strips of two vectors of columns. A panel is the strips of the same columns of all parts, gate first,
// one after the other. A strip holds its codes as lines, and then its scales [groups][columns] (FP8: float32; FP4:
// exponent + 1, a byte). A line is the next 1 (f32), 2 (bf16, f16), 4 (FP8) or 8 (FP4) inputs of all columns, four
// bytes a column, so that one vector load brings MB_LANES columns. Within a vector of a line: f32, bf16 and FP4 column
// by column, the lowest input in the lowest bits; f16 first the even inputs of all columns, then the odd ones; FP8 as
// f16, where inputs 0 and 2 share the two bytes of the first half and 1 and 3 those of the second. FP4: the even inputs
// in the lower two bytes of a column, the odd ones in the upper, so that what four bits hold in both is a pair of
// neighbours for the int16 dot product.
//
// What no float32 holds is settled here, so that the kernels have no rare cases. FP8: a group with a NaN code gets a
// NaN scale. FP4: exponent 254 becomes 253 with codes of twice the value, and exponent 255 (NaN) the byte 255, read as
// infinity, with codes of zero. Inputs beyond k and columns beyond n have codes of zero. Packed for int16 rows only
// exponent 255 is rare, and exponents are stored as they are.
#ifndef MB_KERNELS_FMA_LAYOUT_H
#define MB_KERNELS_FMA_LAYOUT_H

#include "base/arith.h"
#include "kernels/kernels.h"

#define MB_STRIP_VECTORS 2
#define MB_COLUMNS (MB_STRIP_VECTORS * MB_LANES)
#define MB_LINE_BYTES ((size_t)MB_COLUMNS * 4)

// A call walks K in chunks of inputs (FP8: one group; FP4: whole groups; groups are at most a chunk and multiples of
// 8), for up to MB_BLOCK_ROWS rows and MB_BLOCK_STRIPS strips at a time, of which a tile takes up to MB_TILE_STRIPS.
// Rows are float32 in the scratch, MB_X_STRIDE apart: rows a power of two apart would fight for the same cache sets.
enum { MB_CHUNK = 256, MB_X_STRIDE = MB_CHUNK + 16, MB_BLOCK_ROWS = 240, MB_BLOCK_STRIPS = 16, MB_TILE_STRIPS = 4 };

struct mb_fma_layout {
    int64_t line_inputs; // inputs of a line
    int64_t groups;
    int64_t chunk;
    size_t scale_bytes;
    size_t scales; // where a strip's scales begin
    size_t strip_bytes, panel_bytes;
};

static inline struct mb_fma_layout mb_fma_layout_of(const struct mb_packing *packing)
{
    static const int64_t line_inputs[MB_PACKED_FORMATS] = {1, 2, 2, 4, 8};
    static const size_t scale_bytes[MB_PACKED_FORMATS] = {0, 0, 0, 4, 1};
    struct mb_fma_layout layout = {
        .line_inputs = line_inputs[packing->format], .scale_bytes = scale_bytes[packing->format], .chunk = MB_CHUNK};
    layout.groups = packing->group ? mb_ceil_div(packing->k, packing->group) : 0;
    if (packing->format == MB_PACKED_FP8) layout.chunk = packing->group;
    if (packing->format == MB_PACKED_FP4) layout.chunk = MB_CHUNK / packing->group * packing->group;
    layout.scales = (size_t)mb_ceil_div(packing->k, layout.line_inputs) * MB_LINE_BYTES;
    layout.strip_bytes = layout.scales + mb_round_up((size_t)layout.groups * MB_COLUMNS * layout.scale_bytes, 64);
    layout.panel_bytes = (size_t)packing->parts * layout.strip_bytes;
    return layout;
}

// Scratch of a call on m rows.
struct mb_fma_scratch {
    float *x;       // [rows][MB_X_STRIDE]
    float *sums;    // [strips][rows][MB_COLUMNS]
    float *out;     // [rows][MB_COLUMNS]
    float *weights; // [strips][MB_CHUNK][MB_COLUMNS]
};

// One tile: rows x strips outputs continue their chains over `count` inputs, a whole number of lines.
struct mb_fma_tile {
    const uint8_t *lines[MB_TILE_STRIPS];     // of the strips, at the first input
    const uint8_t *exponents[MB_TILE_STRIPS]; // FP4
    const float *scales[MB_TILE_STRIPS];      // NULL, or the chains start at zero and sums = sums + scale * chain
    float *sums[MB_TILE_STRIPS];              // [rows][MB_COLUMNS]
    ptrdiff_t ahead;                          // bytes between what is read and what is fetched
    const float *x;                           // [rows][MB_X_STRIDE]
    int64_t count, group;
};
typedef void (*mb_fma_tile_call)(const struct mb_fma_tile *tile);

// Tiles by strips (1, 2, 4) and rows - 1. The most rows of each are the level's: MB_TILE_ROWS fill the registers with
// one strip; more strips keep the pipeline full when rows are few.
enum { MB_SHAPES = 3, MB_TILE_ROWS_MOST = 12 };
typedef const mb_fma_tile_call mb_fma_tiles[MB_SHAPES][MB_TILE_ROWS_MOST];
extern mb_fma_tiles MB_LEVEL(tiles_f32), MB_LEVEL(tiles_f32_separate), MB_LEVEL(tiles_f16), MB_LEVEL(tiles_bf16),
    MB_LEVEL(tiles_fp8), MB_LEVEL(tiles_fp4);

// The same as MB_LEVEL(sums) for int16 rows.
void MB_LEVEL(int16_sums)(const struct mb_packing *packing, const void *packed, int64_t panel, int64_t panels,
                          const struct mb_rows *rows, int64_t r0, int64_t m, const struct mb_fma_scratch *scratch);

// A chunk of a strip as float32 lines, FP8 without its scale.
void MB_LEVEL(expand)(const struct mb_packing *packing, const struct mb_fma_tile *tile, float *to);

struct mb_fma_scratch MB_LEVEL(scratch_of)(void *memory, int64_t m);
// Sums of the strips of `panels` panels for rows [r0, r0 + m) into scratch->sums.
void MB_LEVEL(sums)(const struct mb_packing *packing, const void *packed, int64_t panel, int64_t panels,
                    const struct mb_rows *rows, int64_t r0, int64_t m, bool separate,
                    const struct mb_fma_scratch *scratch);

size_t MB_LEVEL(packed_bytes)(const struct mb_packing *packing);
void MB_LEVEL(pack)(const struct mb_packing *packing, void *packed, const struct mb_piece *piece);
// mb_activation_apply in the level's vectors.
void MB_LEVEL(activate)(const struct mb_activation *activation, const float *gate, const float *up, float *out,
                        int64_t n);
size_t MB_LEVEL(scratch_bytes)(const struct mb_packing *packing, int64_t m);
void MB_LEVEL(gate_up)(const struct mb_gate_up_call *call);
void MB_LEVEL(project)(const struct mb_project_call *call);

#endif
