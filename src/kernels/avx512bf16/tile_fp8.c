// SPDX-License-Identifier: Apache-2.0
// Tiles on FP8 codes, decoded in registers.
#include "kernels/avx512bf16/layout.h"

enum { LINE_PAIRS = 1, LINE_BYTES = 64, GROUPS = 1, SKIP_BYTES = 0 };
#define SCALED true
#define TILES mb_tiles_fp8
#define NOTHING_AFTER_BLOCK

struct decoder {
    struct mb_e4m3_tables tables;
};
MB_INLINE void start(struct decoder *decoder) { decoder->tables = mb_e4m3_load(mb_fp8_high, mb_fp8_low); }
MB_INLINE void enter(struct decoder *decoder, const struct mb_span *span, const int s, const uint8_t *line,
                     int64_t block, const int g)
{
    (void)decoder, (void)span, (void)s, (void)line, (void)block, (void)g;
}
MB_INLINE void decode(struct decoder *decoder, const int s, const uint8_t *line, const int h, __m512i *w)
{
    (void)s, (void)h;
    mb_e4m3_decode(&decoder->tables, line, w);
}

#include "kernels/avx512bf16/tile_decoded.inl"
