// SPDX-License-Identifier: Apache-2.0
// The one tile of dot products: rows x both vectors of each strip, all sums in registers. A format's file says first
// how a strip's bytes become bf16 pairs:
//   LINE_PAIRS, LINE_BYTES  pairs of inputs that a line holds, and its bytes
//   GROUPS, SKIP_BYTES      lines come in blocks of span->group_pairs, in parts with decoding of their own, behind each
//                           of which are bytes that are no lines
//   SCALED                  where the span has scales, a block is a chain of its own; its scaled sum is added to `sums`
//                           in memory, so that the registers are free for the chains
//   struct decoder          start: once a tile; enter: strip s at the first line of part g of a block; decode: pair h
//                           of a line of strip s as two vectors
//   after_block             what expanding a block leaves to be done, see struct mb_tiles
// `rows`, `strips` and `many` are constants where these are inlined.

// What a tile of few rows asks memory for ahead of its reads: the line `by` bytes on, and from `turn` on, whence that
// lies behind the strip's codes, the lines of what is read next. 0: nothing.
struct reach {
    ptrdiff_t by;
    uintptr_t turn;
};

// The reach into the first-level cache and the second-level one. Many rows take long over a line, and memory must have
// answered well before it is due; with few rows a short run keeps more of the fetched lines in the first-level cache.
// Zen 4 has too few places for lines on their way there: they go to the second level, from where bf16 comes by itself
// and codes, which take longer, are fetched once more.
MB_INLINE void set_reaches(const int rows, const int strips, const struct mb_span *span, struct reach *first,
                           struct reach *second)
{
    const bool pairs = LINE_BYTES == 128;
    first->by = strips == 1 ? mb_min(128 / LINE_PAIRS * LINE_BYTES, 8192) : rows >= 3 || LINE_PAIRS > 1 ? 4096 : 2048;
    second->by = 0;
    if (span->zen4 && (pairs || strips > 1)) {
        first->by = pairs ? 0 : 1024;
        second->by = strips == 1 ? 8192 : pairs ? 1024 : 4096;
    }
    first->turn = (uintptr_t)span->end - (uintptr_t)first->by;
    second->turn = (uintptr_t)span->end - (uintptr_t)second->by;
}

// Whether there is something to ask for beside the line at `at`.
MB_INLINE bool reaches(struct reach *reach, const struct mb_span *span, const uint8_t *at)
{
    if (reach->by && (uintptr_t)at >= reach->turn) {
        reach->turn = UINTPTR_MAX;
        reach->by = span->after ? reach->by + (span->after - span->end) : 0;
    }
    return reach->by != 0;
}

MB_INLINE void fetch(const int strips, const struct mb_span *span, const uint8_t *const *at, struct reach *first,
                     struct reach *second)
{
    enum { EACH = LINE_BYTES / 64 };
    if (reaches(second, span, at[0])) {
        MB_UNROLL for (int i = 0; i < strips * EACH; i++)
            _mm_prefetch((const char *)at[i / EACH] + second->by + i % EACH * 64, _MM_HINT_T1);
    }
    if (reaches(first, span, at[0])) {
        MB_UNROLL for (int i = 0; i < strips * EACH; i++)
            _mm_prefetch((const char *)at[i / EACH] + first->by + i % EACH * 64, _MM_HINT_T0);
    }
}

// Factors and scales come beside the codes, in streams too slow for the processor to foresee: those of a group whose
// codes are some 4 KiB ahead, behind the last one of what is read next.
MB_INLINE void fetch_beside(const int strips, const struct mb_span *span, bool scaled, int64_t block, int64_t ahead)
{
    const bool beyond = span->group + block + ahead >= span->groups;
    const int64_t group = block + ahead - (beyond ? span->groups : 0);
    const ptrdiff_t next = beyond ? span->stride : 0;
    if (beyond && !span->after) return;
    MB_UNROLL for (int s = 0; s < strips; s++)
    {
        if (span->factors[s]) _mm_prefetch((const char *)span->factors[s] + next + group * MB_STRIP, _MM_HINT_T0);
        if (!scaled) continue;
        _mm_prefetch((const char *)(span->scales[s] + group) + next, _MM_HINT_T0);
        if (!mb_scales_differ(span, s, block)) continue;
        const char *full = (const char *)(span->full[s] + group * MB_STRIP) + next;
        _mm_prefetch(full, _MM_HINT_T0);
        _mm_prefetch(full + 64, _MM_HINT_T0);
    }
}

MB_INLINE float *sums_at(const struct mb_span *span, const int r, const int v)
{
    return span->sums + v / 4 * span->panel_sums + r * MB_PANEL + v % 4 * 16;
}

MB_INLINE void load_sums(const int rows, const int strips, const struct mb_span *span, bool scaled,
                         __m512 sum[MB_TILE_ROWS][8])
{
    MB_UNROLL for (int r = 0; r < rows; r++)
    {
        MB_UNROLL for (int v = 0; v < 2 * strips; v++)
        {
            sum[r][v] = scaled ? _mm512_setzero_ps() : _mm512_loadu_ps(sums_at(span, r, v));
        }
    }
}

MB_INLINE void store_sums(const int rows, const int strips, const struct mb_span *span, bool scaled, int64_t block,
                          __m512 sum[MB_TILE_ROWS][8])
{
    MB_UNROLL for (int v = 0; v < 2 * strips; v++)
    {
        const __m512 scale = scaled ? mb_scale(span, v / 2, block, v % 2) : _mm512_setzero_ps();
        MB_UNROLL for (int r = 0; r < rows; r++)
        {
            float *to = sums_at(span, r, v);
            const __m512 value = sum[r][v];
            _mm512_storeu_ps(to, scaled ? _mm512_add_ps(_mm512_loadu_ps(to), _mm512_mul_ps(scale, value)) : value);
            sum[r][v] = _mm512_setzero_ps();
        }
    }
}

MB_INLINE void tile(const int rows, const int strips, const bool many, const struct mb_span *span)
{
    __m512 sum[MB_TILE_ROWS][8];
    struct decoder decoder;
    const uint8_t *at[4], *next = many ? span->next : span->weights[0]; // few rows fetch nothing through it
    const uint32_t *x = span->x;
    const bool scaled = SCALED && span->scales[0];
    struct reach first, second;
    set_reaches(rows, strips, span, &first, &second);
    const int64_t groups_ahead = 1 + 4096 / mb_max(span->group_pairs * (LINE_BYTES / LINE_PAIRS), 1);
    start(&decoder);
    MB_UNROLL for (int s = 0; s < strips; s++) at[s] = span->weights[s];
    load_sums(rows, strips, span, scaled, sum);
    for (int64_t p = 0, block = 0; p < span->pairs; p += span->group_pairs, block++) {
        if (!many && GROUPS == 1) fetch_beside(strips, span, scaled, block, groups_ahead);
        MB_UNROLL for (int g = 0; g < GROUPS; g++)
        {
            MB_UNROLL for (int s = 0; s < strips; s++) enter(&decoder, span, s, at[s], block, g);
            const int64_t length = span->group_pairs / GROUPS;
            const uint32_t *end = x + mb_min(length, span->pairs - p - g * length);
            for (; x < end; x += LINE_PAIRS, next += 64) {
                if (many) _mm_prefetch((const char *)next, _MM_HINT_T1);
                if (!many) fetch(strips, span, at, &first, &second);
                MB_UNROLL for (int h = 0; h < LINE_PAIRS; h++)
                {
                    __m512i w[8];
                    MB_UNROLL for (int s = 0; s < strips; s++) decode(&decoder, s, at[s], h, &w[2 * s]);
                    MB_UNROLL for (int r = 0; r < rows; r++)
                    {
                        const __m512i pair = mb_pair(x + h + r * MB_X_STRIDE);
                        MB_UNROLL for (int v = 0; v < 2 * strips; v++) sum[r][v] = mb_dot(sum[r][v], pair, w[v]);
                    }
                }
                MB_UNROLL for (int s = 0; s < strips; s++) at[s] += LINE_BYTES;
            }
        }
        MB_UNROLL for (int s = 0; s < strips; s++) at[s] += SKIP_BYTES;
        if (scaled) store_sums(rows, strips, span, true, block, sum);
    }
    if (!scaled) store_sums(rows, strips, span, false, 0, sum);
}

#if !defined(STORED_AS_PAIRS)
static void expand(const struct mb_span *span, bool signed_zeros, uint8_t *to)
{
    struct decoder decoder;
    const uint8_t *line = span->weights[0];
    start(&decoder);
    for (int64_t p = 0, block = 0; p < span->pairs; p += span->group_pairs, block++) {
        const uint8_t *lines = line;
        uint8_t *const begin = to;
        for (int g = 0; g < GROUPS; g++) {
            enter(&decoder, span, 0, line, block, g);
            const int64_t length = span->group_pairs / GROUPS, pairs = mb_min(length, span->pairs - p - g * length);
            for (int64_t i = 0; i < pairs; i += LINE_PAIRS, line += LINE_BYTES) {
                _mm_prefetch((const char *)line + MB_AHEAD, _MM_HINT_T0);
                MB_UNROLL for (int h = 0; h < LINE_PAIRS; h++, to += 128)
                {
                    __m512i w[2];
                    decode(&decoder, 0, line, h, w);
                    _mm512_storeu_si512(to, w[0]);
                    _mm512_storeu_si512(to + 64, w[1]);
                }
            }
        }
        after_block(span, lines, block, (to - begin) / 128, signed_zeros, begin);
        line += SKIP_BYTES;
    }
}
#endif

// Tiles by name, and their table.
#define MB_FEW(STRIPS, R)                                                                                              \
    static void few_##STRIPS##x##R(const struct mb_span *span) { tile(R, STRIPS, false, span); }
#define MB_MANY(STRIPS, R)                                                                                             \
    static void many_##STRIPS##x##R(const struct mb_span *span) { tile(R, STRIPS, true, span); }

MB_FEW(1, 4)
MB_FEW(1, 5)
MB_FEW(1, 6)
MB_FEW(1, 7)
MB_FEW(1, 8)
MB_FEW(1, 9)
MB_FEW(1, 10)
MB_FEW(1, 11)
MB_FEW(1, 12)
MB_FEW(2, 1)
MB_FEW(2, 2)
MB_FEW(2, 3)
MB_FEW(2, 4)
MB_FEW(4, 1)
MB_FEW(4, 2)
