// SPDX-License-Identifier: Apache-2.0
// Chains that are longer than a tile's, and factors that no tile reads.

// Whether chains that are scaled behind the tiles need memory beside the sums: a single one may lie there.
static inline bool has_own_chains(const struct mb_packing *packing, const struct mb_fma_layout *layout)
{
    return layout->late && layout->chain < packing->k;
}

// Whether tiles cannot read one of the factors: NVFP4's 255, MXFP8's 255 and those below 8.
static inline bool has_rare_factors(enum mb_packed_format format, const uint8_t *factors, int64_t count)
{
    const uint8_t last = format == MB_PACKED_MXFP8 ? 8 : 0;
    uint8_t rare = 0;
    if (format != MB_PACKED_MXFP8 && format != MB_PACKED_NVFP4) return false;
    for (int64_t i = 0; i < count; i++) rare |= (uint8_t)(factors[i] + 1) <= last;
    return rare;
}

// The end of chains that no tile scales: sums = sums + scale * chain, and new chains begin. A single chain lies where
// the sums are wanted.
static inline void end_chains(const struct mb_packing *packing, const uint8_t *block, int64_t strips, int64_t g,
                              int64_t m, float *chains, float *sums)
{
    const struct mb_fma_layout layout = mb_fma_layout_of(packing);
    for (int64_t s = 0; s < strips; s++) {
        const uint8_t *strip = block + (size_t)s * layout.strip_bytes;
        const float *scales = (const float *)(const void *)(strip + layout.scales) + g * MB_COLUMNS;
        for (int64_t i = s * m * MB_COLUMNS; i < (s + 1) * m * MB_COLUMNS; i++) {
            const float before = chains == sums ? 0.0f : sums[i];
            sums[i] = before + scales[i % MB_COLUMNS] * chains[i];
            if (chains != sums) chains[i] = 0;
        }
    }
}
