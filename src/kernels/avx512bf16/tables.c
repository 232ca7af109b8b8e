// SPDX-License-Identifier: Apache-2.0
// What the tiles look codes up in.
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

#define LARGE(c) ((c) % 127 == 0 ? 0 : E4M3(c) + ((MB_MXFP8_TOP - 127) << 7))
#define LARGE_HIGH(c) (LARGE(c) >> 8)
#define LARGE_LOW(c) (LARGE(c) & 255)
const uint8_t mb_mxfp8_high[128] = {SIXTY_FOUR(LARGE_HIGH, 0), SIXTY_FOUR(LARGE_HIGH, 64)};
const uint8_t mb_mxfp8_low[128] = {SIXTY_FOUR(LARGE_LOW, 0), SIXTY_FOUR(LARGE_LOW, 64)};

// bf16 of the e2m1 codes times 2^(252 - 127), twice, since look-ups use five bits. -0 is 0: the sums are the same.
#define E2M1(c)                                                                                                        \
    (((c)&7) == 0 ? 0 : ((c) >> 3) << 15 | (((c)&7) == 1 ? 251 << 7 : (251 + (((c)&7) >> 1)) << 7 | ((c)&1) << 6))
#define WITH_ONES(c) (E2M1(c) & 0x40 ? E2M1(c) | 0x1f : E2M1(c))
const uint16_t mb_fp4_values[32] = {SIXTEEN(E2M1, 0), SIXTEEN(E2M1, 0)};
const uint16_t mb_nvfp4_values[32] = {SIXTEEN(WITH_ONES, 0), SIXTEEN(WITH_ONES, 0)};

// bf16 of the integers 0..15 and -16..-1.
#define LOG2(m) ((m) >= 16 ? 4 : (m) >= 8 ? 3 : (m) >= 4 ? 2 : (m) >= 2 ? 1 : 0)
#define MAGNITUDE(m) ((m) == 0 ? 0 : ((127 + LOG2(m)) << 7 | (((m) << (7 - LOG2(m))) & 127)))
#define INTEGER(c) ((c) < 16 ? MAGNITUDE(c) : 0x8000 | MAGNITUDE(32 - (c)))
const uint16_t mb_int_values[32] = {SIXTEEN(INTEGER, 0), SIXTEEN(INTEGER, 16)};

// Of four bytes of each quarter: one in the low byte of either half of a lane.
#define LANE(c) (c), 128, (c), 128
#define QUARTER(q) LANE(4 * (q)), LANE(4 * (q) + 1), LANE(4 * (q) + 2), LANE(4 * (q) + 3)
const uint8_t mb_byte_places[64] = {QUARTER(0), QUARTER(1), QUARTER(2), QUARTER(3)};
