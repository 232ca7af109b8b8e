// SPDX-License-Identifier: Apache-2.0
// Flush-to-zero and denormals-are-zero during forward, restored afterwards (docs/numerics.md).
#ifndef MB_BASE_FPMODE_H
#define MB_BASE_FPMODE_H

#include <stdint.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
static inline uint64_t mb_flush_begin(void)
{
    const unsigned saved = _mm_getcsr();
    _mm_setcsr((saved & ~0x6000u) | 0x8040u); // FTZ and DAZ on, round to nearest
    return saved;
}
static inline void mb_flush_end(uint64_t saved) { _mm_setcsr((unsigned)saved); }
#elif defined(__aarch64__)
static inline uint64_t mb_flush_begin(void)
{
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" ::"r"((saved & ~(3ull << 22)) | 1ull << 24));
    return saved;
}
static inline void mb_flush_end(uint64_t saved) { __asm__ volatile("msr fpcr, %0" ::"r"(saved)); }
#else
static inline uint64_t mb_flush_begin(void) { return 0; }
static inline void mb_flush_end(uint64_t saved) { (void)saved; }
#endif

#endif
