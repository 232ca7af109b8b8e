// SPDX-License-Identifier: Apache-2.0
// What the levels with fused multiply-add share: their packing, their scratch and the functions that each of them
// compiles from kernels/fma/*.inl for its own vectors. A level's vector.h comes first and sets MB_LANES (floats in a
// vector) and MB_LEVEL (its prefix).
//
// Outputs lie in strips of two vectors of columns. A panel is the strips of the same columns of all parts, gate first,
// one after the other. A strip holds its codes as lines, then its float32 scales [chains][columns], then its factors
// [groups][columns], a byte each. A line is the next 1 (f32), 2 (bf16, f16), 4 (eight-bit codes) or 8 (four-bit codes)
// inputs of all columns, four bytes a column, so that one vector load brings MB_LANES columns. Within a vector of a
// line: column by column, the lowest input in the lowest bits; but f16 first the even inputs of all columns, then the
// odd ones; FP8 and MXFP8 as f16, where inputs 0 and 2 share the two bytes of the first half and 1 and 3 those of the
// second. FP4: the even inputs in the lower two bytes of a column, the odd ones in the upper, so that what four bits
// hold in both is a pair of neighbours for the int16 dot product.
//
// A factor is a byte that one shift makes a float32:
//   FP4     exponent + 1; the codes are read as halves of their values
//   MXFP8   exponent + 8, modulo 256; the codes are read as float16, which makes them 2^-8 of their values
//   NVFP4   the magnitude of the e4m3 factor with five bits for the exponent, 10 more than its own: times 2^-117 then,
//           and the codes are read as 2^117 times their values; its sign went to the codes
//   INT4/8  the zero point
//
// What no float32 holds is settled here, so that the tiles have no rare cases. FP8: a group with a NaN code gets a
// NaN scale. FP4: exponent 254 becomes 253 with codes of twice the value, and exponent 255 (NaN) the byte 255, read as
// infinity, with codes of zero. MXFP8: exponents from 247 on, and groups with a NaN code, which are stored as of
// exponent 255, have bytes that no others have, as NaN factors of NVFP4 do; chunks with such a byte are expanded.
// Inputs beyond k have codes that mean zero, and so have columns beyond n. Packed for int16 rows only exponent 255 is
// rare, and exponents are stored as they are.
#ifndef MB_KERNELS_FMA_LAYOUT_H
#define MB_KERNELS_FMA_LAYOUT_H

#include "base/arith.h"
#include "kernels/kernels.h"

#define MB_STRIP_VECTORS 2
#define MB_COLUMNS (MB_STRIP_VECTORS * MB_LANES)
#define MB_LINE_BYTES ((size_t)MB_COLUMNS * 4)

// A call walks K in chunks of inputs (whole groups, or parts of one that is longer), for up to MB_BLOCK_ROWS rows and
// MB_BLOCK_STRIPS strips at a time, of which a tile takes up to MB_TILE_STRIPS. Rows are float32 in the scratch,
// MB_X_STRIDE apart: rows a power of two apart would fight for the same cache sets. Rows that fit one tile of two
// strips go through chunks of up to MB_CHUNK_FEW and some inputs, so that weights come in long streams.
enum {
    MB_CHUNK = 256,
    MB_CHUNK_FEW = 3072,
    MB_X_STRIDE = MB_CHUNK + 16,
    MB_X_STRIDE_FEW = MB_CHUNK_FEW + MB_CHUNK + 16,
    MB_BLOCK_ROWS = 240,
    MB_BLOCK_STRIPS = 16,
    MB_TILE_STRIPS = 4,
    MB_BF16_FEW = 2048, // inputs of up to MB_BF16_ROWS_FEW rows where they stay bfloat16 (level `amx`)
    MB_BF16_ROWS_FEW = 64
};

struct mb_fma_layout {
    int64_t line_inputs; // inputs of a line
    int64_t chunk;
    int64_t chain;          // inputs whose chain a float32 scale multiplies; 0 without such scales
    bool late;              // chains are longer than a tile's: they are scaled behind the tiles
    size_t scales, factors; // where a strip's begin
    size_t strip_bytes, panel_bytes;
};

static inline struct mb_fma_layout mb_fma_layout_of(const struct mb_packing *packing)
{
    const struct mb_packed_info info = mb_packed_info_of(packing->format);
    const int64_t group = packing->group;
    struct mb_fma_layout layout = {.line_inputs = 32 / (int64_t)info.code_bits, .chunk = MB_CHUNK};
    if (group && group < MB_CHUNK) layout.chunk = MB_CHUNK / group * group;
    if (info.scaled) layout.chain = mb_packed_chain(packing);
    layout.late = layout.chain > MB_CHUNK || packing->format == MB_PACKED_NVFP4;
    const size_t chains = layout.chain ? (size_t)mb_ceil_div(packing->k, layout.chain) : 0;
    const size_t groups = info.factors ? (size_t)mb_packed_groups(packing) : 0;
    layout.scales = (size_t)mb_ceil_div(packing->k, layout.line_inputs) * MB_LINE_BYTES;
    layout.factors = layout.scales + chains * MB_COLUMNS * sizeof(float);
    layout.strip_bytes = layout.factors + mb_round_up(groups * MB_COLUMNS, 64);
    layout.panel_bytes = (size_t)packing->parts * layout.strip_bytes;
    return layout;
}

// Scratch of a call on m rows.
struct mb_fma_scratch {
    float *x;       // [rows][MB_X_STRIDE]
    float *sums;    // [strips][rows][MB_COLUMNS]
    float *out;     // [rows][MB_COLUMNS]
    float *weights; // [strips][MB_CHUNK][MB_COLUMNS]
    float *chains;  // as sums, where several chains an output are scaled behind the tiles
};

// One tile: rows x strips outputs continue their chains over `count` inputs, a whole number of lines.
struct mb_fma_tile {
    const uint8_t *lines[MB_TILE_STRIPS];   // of the strips, at the first input
    const uint8_t *factors[MB_TILE_STRIPS]; // [groups][MB_COLUMNS]
    const float *scales[MB_TILE_STRIPS]; // the same, or NULL. Then each group is a chain: sums = sums + scale * chain
    float *sums[MB_TILE_STRIPS];         // [rows][MB_COLUMNS]
    ptrdiff_t ahead;                     // from a strip's first line to what is fetched beside it
    ptrdiff_t pace;                      // bytes that fetching goes on a line
    size_t turn;                         // beside the line at this offset
    ptrdiff_t jump;                      // so many bytes more
    const float *x;                      // [rows][MB_X_STRIDE], of few rows [rows][MB_X_STRIDE_FEW]
    int64_t count, group;
};
typedef void (*mb_fma_tile_call)(const struct mb_fma_tile *tile);

// Tiles by strips (1, 2, 4) and rows - 1. The most rows of each are the level's: MB_TILE_ROWS fill the registers with
// one strip; more strips keep the pipeline full when rows are few.
enum { MB_SHAPES = 3, MB_TILE_ROWS_MOST = 12 };
typedef const mb_fma_tile_call mb_fma_tiles[MB_SHAPES][MB_TILE_ROWS_MOST];
extern mb_fma_tiles MB_LEVEL(tiles_f32), MB_LEVEL(tiles_f32_separate), MB_LEVEL(tiles_f16), MB_LEVEL(tiles_bf16),
    MB_LEVEL(tiles_fp8), MB_LEVEL(tiles_fp4), MB_LEVEL(tiles_mxfp8), MB_LEVEL(tiles_nvfp4), MB_LEVEL(tiles_int4),
    MB_LEVEL(tiles_int8);
// Those of BF16X2 compute by packed format; of a format's codes as many rows as two strips have, of F32 lines all.
extern const mb_fma_tile_call (*const MB_LEVEL(tiles_even_odd)[MB_PACKED_FORMATS])[MB_TILE_ROWS_MOST];

// The same as MB_LEVEL(sums) for int16 rows.
void MB_LEVEL(int16_sums)(const struct mb_packing *packing, const void *packed, int64_t panel, int64_t panels,
                          const struct mb_rows *rows, int64_t r0, int64_t m, const struct mb_fma_scratch *scratch);

// A chunk of a strip as float32 lines, without float32 scales. `rare`: for factors that tiles cannot read.
void MB_LEVEL(expand)(const struct mb_packing *packing, const struct mb_fma_tile *tile, bool rare, float *to);

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
