// SPDX-License-Identifier: Apache-2.0
// Codes of a strip to bf16 pairs in scratch, exact for every code and exponent: for many rows, float32 rows, and
// exponents that the tiles cannot decode.
#include "base/float.h"
#include "kernels/avx512bf16/layout.h"

// bf16 of e4m3 magnitude c: NaN, (8 + fraction) * 2^(exponent - 10), or fraction * 2^-9 normalised.
#define NORMAL(c) (((((c) >> 3) + 120) << 7) | (((c)&7) << 4))
#define TINY(c) ((c) == 0 ? 0 : (c) < 2 ? 118 << 7 : (c) < 4 ? 119 << 7 | ((c)&1) << 6 : 120 << 7 | ((c)&3) << 5)
#define E4M3(c) ((c) == 127 ? 0x7fc0 : (c) < 8 ? TINY(c) : NORMAL(c))
#define HIGH(c) (E4M3(c) >> 8)
#define LOW(c) (E4M3(c) & 255)
#define FOUR(F, c) F(c), F((c) + 1), F((c) + 2), F((c) + 3)
#define SIXTEEN(F, c) FOUR(F, c), FOUR(F, (c) + 4), FOUR(F, (c) + 8), FOUR(F, (c) + 12)
#define SIXTY_FOUR(F, c) SIXTEEN(F, c), SIXTEEN(F, (c) + 16), SIXTEEN(F, (c) + 32), SIXTEEN(F, (c) + 48)
const uint8_t mb_fp8_high[128] = {SIXTY_FOUR(HIGH, 0), SIXTY_FOUR(HIGH, 64)};
const uint8_t mb_fp8_low[128] = {SIXTY_FOUR(LOW, 0), SIXTY_FOUR(LOW, 64)};

// bf16 of the e2m1 codes times 2^(252 - 127), twice, since look-ups use five bits. -0 is 0: the sums are the same.
#define E2M1(c)                                                                                                        \
    (((c)&7) == 0 ? 0 : ((c) >> 3) << 15 | (((c)&7) == 1 ? 251 << 7 : (251 + (((c)&7) >> 1)) << 7 | ((c)&1) << 6))
const uint16_t mb_fp4_values[32] = {SIXTEEN(E2M1, 0), SIXTEEN(E2M1, 0)};

void mb_expand_fp8(const uint8_t *codes, int64_t pairs, uint8_t *to)
{
    const struct mb_fp8_tables tables = mb_fp8_tables_load();
    for (int64_t p = 0; p < pairs; p++, to += 128) {
        __m512i w0, w1;
        _mm_prefetch((const char *)codes + p * 64 + MB_AHEAD, _MM_HINT_T0);
        mb_fp8_decode(&tables, codes + p * 64, &w0, &w1);
        _mm512_storeu_si512(to, w0);
        _mm512_storeu_si512(to + 64, w1);
    }
}

static void expand_block(const uint8_t *block, bool signed_zeros, uint8_t *to)
{
    const __m512i values = _mm512_loadu_si512(mb_fp4_values);
    const __m512i kept = _mm512_set1_epi16(signed_zeros ? (short)0x8000 : 0);
    for (int line = 0; line < 16; line++, to += 256) {
        const __m512i steps[2] = {mb_fp4_steps(block + 1024, line / 8, 0), mb_fp4_steps(block + 1024, line / 8, 1)};
        const __m512i codes = _mm512_loadu_si512(block + 64 * line);
        _mm_prefetch((const char *)block + 64 * line + MB_AHEAD, _MM_HINT_T0);
        MB_UNROLL for (int j = 0; j < 4; j++)
        {
            const __m512i code = mb_shift_right(codes, 4 * j);
            const __m512i sign = _mm512_and_si512(_mm512_slli_epi16(code, 12), kept);
            _mm512_storeu_si512(to + 64 * j, _mm512_or_si512(mb_fp4_decode(code, values, steps[j % 2]), sign));
        }
    }
}

// Exponents from 253 on: infinities and NaN.
static void expand_any_block(const uint8_t *block, bool signed_zeros, uint8_t *to)
{
    for (int64_t i = 0; i < MB_FP4_BLOCK / 2 * MB_STRIP * 2; i++) {
        const int64_t pair = i / (2 * MB_STRIP), column = i / 2 % MB_STRIP, half = i % 2;
        const uint8_t *lane = block + pair / 2 * 64 + (column % 16 * 2 + half) * 2;
        const int nibble = (int)(pair % 2 * 2 + column / 16);
        const uint8_t code = (uint8_t)(lane[nibble / 2] >> (nibble % 2 * 4) & 15);
        const uint8_t exponent = (uint8_t)(MB_FP4_TOP - block[1024 + pair / 16 * MB_STRIP + column]);
        const uint16_t value = (uint16_t)(mb_bits(mb_from_fp4(code & 7 || signed_zeros ? code : 0, exponent)) >> 16);
        memcpy(to + i * 2, &value, sizeof value);
    }
}

void mb_expand_fp4(const uint8_t *blocks, int64_t pairs, bool signed_zeros, uint8_t *to)
{
    for (int64_t p = 0; p < pairs; p += MB_FP4_BLOCK / 2, blocks += MB_FP4_BLOCK_BYTES, to += 64 * MB_FP4_BLOCK) {
        const __mmask64 high =
            _mm512_cmpgt_epu8_mask(_mm512_loadu_si512(blocks + 1024), _mm512_set1_epi8((char)MB_FP4_TOP));
        if (high) {
            expand_any_block(blocks, signed_zeros, to);
        } else {
            expand_block(blocks, signed_zeros, to);
        }
    }
}
