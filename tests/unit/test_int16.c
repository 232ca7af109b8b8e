// SPDX-License-Identifier: Apache-2.0
// Rows of integers and what kernels make of them: the definition of docs/numerics.md written out once more, every level
// byte by byte against it, at the corners too.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/float.h"
#include "base/fpmode.h"
#include "cmocka.h"
#include "kernels/int16.h"
#include "kernels/kernels.h"

enum { GROUP = 32, GUARD = 3 };

static uint64_t random_state;

static uint32_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float unit_random(void) { return (float)(int32_t)next_random() * 0x1p-31f; }

// Memory of exactly this size, so that the sanitizer sees every byte beyond.
static void *memory_of(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    assert_non_null(memory);
    memset(memory, 0x5a, bytes);
    return memory;
}

static bool runs(const struct mb_kernels *kernels)
{
    const char *reason;
    return kernels->usable(&reason);
}

// --- rows -----------------------------------------------------------------------------------------------------------

enum inputs { UNIFORM, OUTLIER_100, OUTLIER_1000, EXTREME, HUGE_FIT, HUGE_OVER, WIDE, SPECIAL, ZEROS, INPUTS };

static float random_value(enum inputs kind, int64_t k)
{
    static const uint32_t special[] = {0x7fc00000u, 0x7f800000u, 0xff800000u, 0x80000000u, 0x7f7fffffu, 0xffa00001u};
    switch (kind) {
    case OUTLIER_100:
        return unit_random() * (k % 50 == 7 ? 100.0f : 1.0f);
    case OUTLIER_1000:
        return unit_random() * (k % 50 == 7 ? 1000.0f : 1.0f);
    case EXTREME: // the largest integer wherever one is
        return next_random() % 2 ? 32767.0f : -32767.0f;
    case HUGE_FIT: // a scale of 2^103, with which the largest sum of all just stays in range, and twice that
        return 32767 * 0x1p104f;
    case HUGE_OVER:
        return 32767 * 0x1p105f;
    case WIDE:
        return mb_float(next_random());
    case SPECIAL:
        return next_random() % 200 ? unit_random() : mb_float(special[next_random() % 6]);
    case ZEROS:
        return next_random() % 2 ? 0.0f : mb_float(next_random() & 0x807fffffu);
    default:
        return unit_random();
    }
}

// The definition in double: the smallest power of two that keeps the rounded integers within 15 bits.
static void define_group(const float *from, int64_t count, int16_t *integers, float *scale)
{
    double largest = 0;
    bool finite = true;
    for (int64_t i = 0; i < count; i++) {
        finite = finite && isfinite(from[i]);
        largest = fmax(largest, fabs((double)from[i]));
    }
    memset(integers, 0, GROUP * sizeof *integers);
    *scale = finite ? 0.0f : NAN;
    if (!finite || largest < 0x1p-126) return;
    double unit = 0x1p-125; // of an integer; half of it is a normal float32
    while (nearbyint(largest / unit) > 32767) unit *= 2;
    *scale = (float)(unit / 2);
    for (int64_t i = 0; i < count; i++) integers[i] = (int16_t)nearbyint((double)from[i] / unit);
}

static void check_row(const struct mb_kernels *kernels, enum inputs kind, int64_t n)
{
    float *from = memory_of((size_t)n * sizeof *from);
    for (int64_t i = 0; i < n; i++) from[i] = random_value(kind, i);
    void *row = memory_of(mb_int16_row_bytes(n)), *flushed = memory_of(mb_int16_row_bytes(n));
    kernels->to_int16(row, from, n);
    const uint64_t saved = mb_flush_begin();
    kernels->to_int16(flushed, from, n);
    mb_flush_end(saved);
    const size_t used = mb_int16_scales_at(n) + (size_t)mb_int16_groups(n) * sizeof(float);
    assert_memory_equal(row, flushed, used);
    for (int64_t g = 0; g < mb_int16_groups(n); g++) {
        int16_t integers[GROUP];
        float scale, found;
        define_group(from + g * GROUP, mb_min(GROUP, n - g * GROUP), integers, &scale);
        memcpy(&found, (char *)row + mb_int16_scales_at(n) + (size_t)g * sizeof found, sizeof found);
        assert_memory_equal((int16_t *)row + g * GROUP, integers, sizeof integers);
        assert_int_equal(mb_bits(found), isnan(scale) ? 0x7fc00000u : mb_bits(scale));
    }
    free(from);
    free(row);
    free(flushed);
}

static void test_rows(void **state)
{
    (void)state;
    random_state = 1;
    for (int level = 0; mb_kernel_levels[level]; level++) {
        if (!runs(mb_kernel_levels[level])) continue;
        for (int kind = 0; kind < INPUTS; kind++) {
            for (int64_t n = 1; n <= 131; n += 13) check_row(mb_kernel_levels[level], (enum inputs)kind, n);
        }
    }
}

// Just below and at the magnitude that rounds to 32768, ties, the smallest and the largest exponents.
static void test_edges_of_rows(void **state)
{
    (void)state;
    static const uint32_t largest[] = {0x46fffeffu, 0x46ffff00u, 0x46ffff01u, 0x46fffe00u, 0x47000000u, 0x7f7fffffu,
                                       0x7f7fff00u, 0x00800000u, 0x00ffffffu, 0x07800000u, 0x08000000u, 0x007fffffu};
    for (size_t i = 0; i < sizeof largest / sizeof *largest; i++) {
        const float top = mb_float(largest[i]);
        const float from[] = {top, -top, top / 2, top / 3, top / 32768, top / 65536, 1.5f, 2.5f, -0.5f, 0.0f};
        const int64_t n = sizeof from / sizeof *from;
        int16_t integers[GROUP];
        float scale;
        char row[128] __attribute__((aligned(4)));
        define_group(from, n, integers, &scale);
        mb_int16_row(row, from, n);
        assert_memory_equal(row, integers, sizeof integers);
        assert_memory_equal(row + sizeof integers, &scale, sizeof scale);
    }
}

// --- kernels --------------------------------------------------------------------------------------------------------

// SMALL: scales whose product with one half (EXTREME rows') is normal, TINY: a denormal.
enum weights { PLAIN, LARGEST, SMALL, TINY, ANY_EXPONENT };

static uint8_t random_exponent(enum weights kind)
{
    const uint32_t random = next_random() >> 8;
    static const uint8_t small[] = {0, 2, 3}, tiny[] = {0, 1, 2};
    if (kind == SMALL) return small[random % 3];
    if (kind == TINY) return tiny[random % 3];
    return (uint8_t)(kind == ANY_EXPONENT ? random : 113 + random % 15);
}

struct source {
    struct mb_packing packing;
    uint8_t *codes[2], *exponents[2];
    int64_t groups, row_bytes;
};

static struct source make_source(enum weights kind, int parts, int64_t n, int64_t k)
{
    struct source s = {
        .packing = {.format = MB_PACKED_FP4, .parts = parts, .n = n, .k = k, .group = GROUP, .int16 = true}};
    s.groups = mb_ceil_div(k, GROUP);
    s.row_bytes = mb_ceil_div(k, 2);
    for (int part = 0; part < parts; part++) {
        s.codes[part] = memory_of((size_t)(n * s.row_bytes));
        s.exponents[part] = memory_of((size_t)(n * s.groups));
        for (int64_t i = 0; i < n * s.row_bytes; i++)
            s.codes[part][i] =
                kind == LARGEST ? (uint8_t)(i / s.row_bytes % 2 ? 0x77 : 0xff) : (uint8_t)(next_random() >> 24);
        for (int64_t i = 0; i < n * s.groups; i++) s.exponents[part][i] = random_exponent(kind);
    }
    return s;
}

static void free_source(struct source *s)
{
    for (int part = 0; part < s->packing.parts; part++) {
        free(s->codes[part]);
        free(s->exponents[part]);
    }
}

static void pack(const struct mb_kernels *kernels, const struct source *s, void *packed, int part, int64_t n0,
                 int64_t n1, int64_t k0, int64_t k1)
{
    const struct mb_piece piece = {.part = part,
                                   .n0 = n0,
                                   .n1 = n1,
                                   .k0 = k0,
                                   .k1 = k1,
                                   .codes = s->codes[part] + n0 * s->row_bytes + k0 / 2,
                                   .row_stride = s->row_bytes,
                                   .column_stride = 1,
                                   .exponents = s->exponents[part] + n0 * s->groups + k0 / GROUP,
                                   .scale_stride = s->groups};
    kernels->pack(&s->packing, packed, &piece);
}

static void *pack_whole(const struct mb_kernels *kernels, const struct source *s)
{
    void *packed = NULL;
    const size_t bytes = kernels->packed_bytes(&s->packing);
    assert_int_equal(posix_memalign(&packed, 64, bytes), 0);
    memset(packed, 0x5a, bytes);
    for (int part = 0; part < s->packing.parts; part++)
        pack(kernels, s, packed, part, 0, s->packing.n, 0, s->packing.k);
    return packed;
}

// Rows 4 bytes off the alignment of memory.
struct rows {
    char *memory;
    const void **row;
    struct mb_rows rows;
};

static struct rows make_rows(enum inputs kind, int64_t m, int64_t k)
{
    const size_t bytes = mb_int16_row_bytes(k) + 4;
    struct rows r = {.memory = memory_of((size_t)m * bytes + 4), .row = memory_of((size_t)m * sizeof(void *))};
    float *from = memory_of((size_t)k * sizeof *from);
    for (int64_t i = 0; i < m; i++) {
        char *row = r.memory + 4 + (size_t)i * bytes;
        for (int64_t j = 0; j < k; j++) from[j] = random_value(kind, j);
        mb_int16_row(row, from, k);
        if (kind == UNIFORM && i % 3 == 1) mb_int16_weigh(row, row, k, 0.3f); // a scale of any value
        r.row[i] = row;
    }
    free(from);
    r.rows = (struct mb_rows){.row = r.row, .m = m, .int16 = true};
    return r;
}

static void free_rows(struct rows *r)
{
    free(r->memory);
    free(r->row);
}

enum form { PROJECT, PROJECT_ROUND, PLAIN_GATE_UP, GATED_GATE_UP, FORMS };

static float *run_level(const struct mb_kernels *kernels, const struct source *s, const struct rows *rows,
                        enum form form, const float *bias, int64_t n0, int64_t n1)
{
    static const struct mb_activation silu = {.kind = 0};
    void *packed = pack_whole(kernels, s), *scratch = NULL;
    const size_t bytes = kernels->scratch_bytes(&s->packing, rows->rows.m);
    assert_int_equal(posix_memalign(&scratch, 64, bytes ? bytes : 1), 0);
    const int64_t stride = n1 - n0 + GUARD;
    float *out = memory_of((size_t)(rows->rows.m * stride) * sizeof *out);
    const uint64_t saved = mb_flush_begin();
    if (form < PLAIN_GATE_UP) {
        const struct mb_project_call call = {.packing = &s->packing,
                                             .packed = packed,
                                             .rows = rows->rows,
                                             .n0 = n0,
                                             .n1 = n1,
                                             .bias = bias,
                                             .round = form == PROJECT_ROUND,
                                             .out = out,
                                             .out_stride = stride,
                                             .scratch = scratch};
        kernels->project(&call);
    } else {
        const struct mb_gate_up_call call = {.packing = &s->packing,
                                             .packed = packed,
                                             .rows = rows->rows,
                                             .n0 = n0,
                                             .n1 = n1,
                                             .gate_bias = bias,
                                             .up_bias = bias,
                                             .activation = &silu,
                                             .out = out,
                                             .out_stride = stride,
                                             .scratch = scratch};
        kernels->gate_up(&call);
    }
    mb_flush_end(saved);
    free(packed);
    free(scratch);
    return out;
}

static void compare_levels(enum weights weights, enum inputs inputs, int64_t m, int64_t n, int64_t k)
{
    struct rows rows = make_rows(inputs, m, k);
    float *bias = memory_of((size_t)n * sizeof *bias);
    for (int64_t i = 0; i < n; i++) bias[i] = unit_random();
    for (int form = 0; form < FORMS; form++) {
        struct source source = make_source(weights, form == GATED_GATE_UP ? 2 : 1, n, k);
        const float *own = form % 2 ? bias : NULL;
        float *expected = run_level(&mb_kernels_ref, &source, &rows, (enum form)form, own, 0, n);
        for (int level = 1; mb_kernel_levels[level]; level++) {
            if (!runs(mb_kernel_levels[level])) continue;
            float *found = run_level(mb_kernel_levels[level], &source, &rows, (enum form)form, own, 0, n);
            if (memcmp(found, expected, (size_t)(m * (n + GUARD)) * sizeof *found) != 0)
                fail_msg("%s differs: weights %d inputs %d m %d n %d k %d form %d", mb_kernel_levels[level]->name,
                         (int)weights, (int)inputs, (int)m, (int)n, (int)k, form);
            free(found);
        }
        free(expected);
        free_source(&source);
    }
    free(bias);
    free_rows(&rows);
}

static void test_every_row_count(void **state)
{
    (void)state;
    random_state = 2;
    for (int64_t m = 1; m <= 33; m++) compare_levels(PLAIN, UNIFORM, m, 33 + m % 3, 129 + 7 * (m % 5));
}

static void test_every_input(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1}, {2, 7, 31}, {3, 31, 33}, {5, 100, 129}, {33, 17, 257}, {26, 70, 95}};
    random_state = 3;
    for (int weights = PLAIN; weights <= ANY_EXPONENT; weights++) {
        for (int inputs = 0; inputs < INPUTS; inputs++) {
            for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
                compare_levels((enum weights)weights, (enum inputs)inputs, shapes[i][0], shapes[i][1], shapes[i][2]);
        }
    }
}

// Rows that fill several tiles of any height, with scales that are powers of two.
static void test_tiles(void **state)
{
    (void)state;
    random_state = 5;
    for (int64_t m = 22; m <= 50; m++) compare_levels(PLAIN, OUTLIER_100, m, 31 + m % 4, 1 + 19 * (m % 17));
    compare_levels(SMALL, EXTREME, 40, 65, 290);
    compare_levels(TINY, EXTREME, 40, 65, 290);
}

// Several chunks of inputs and blocks of rows, wherever a level cuts them.
static void test_long_rows(void **state)
{
    (void)state;
    random_state = 4;
    compare_levels(PLAIN, OUTLIER_100, 1, 150, 2081);
    compare_levels(PLAIN, OUTLIER_100, 3, 150, 1500);
    compare_levels(PLAIN, OUTLIER_1000, 29, 70, 1057);
    compare_levels(LARGEST, EXTREME, 260, 34, 545);
}

// ref itself: sums in 64 bits, each step of the rest written out.
static void test_definition(void **state)
{
    (void)state;
    static const int8_t doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    const int64_t m = 4, n = 5, k = 77;
    random_state = 5;
    for (int weights = PLAIN; weights <= LARGEST; weights++) {
        struct source s = make_source((enum weights)weights, 1, n, k);
        struct rows rows = make_rows(weights == LARGEST ? EXTREME : UNIFORM, m, k);
        float *found = run_level(&mb_kernels_ref, &s, &rows, PROJECT, NULL, 0, n);
        for (int64_t r = 0; r < m; r++) {
            for (int64_t c = 0; c < n; c++) {
                const int16_t *integers = rows.row[r];
                float sum = 0;
                for (int64_t g = 0; g < s.groups; g++) {
                    int64_t exact = 0;
                    for (int64_t i = g * GROUP; i < mb_min(k, (g + 1) * GROUP); i++)
                        exact += doubled[s.codes[0][c * s.row_bytes + i / 2] >> (i % 2 * 4) & 15] * integers[i];
                    assert_true(exact > -(1 << 24) && exact < 1 << 24);
                    float scale;
                    memcpy(&scale, (const char *)rows.row[r] + mb_int16_scales_at(k) + (size_t)g * 4, sizeof scale);
                    const float chain = ldexpf((float)exact, s.exponents[0][c * s.groups + g] - 127);
                    const float product = scale * chain;
                    sum = sum + product;
                }
                assert_int_equal(mb_bits(found[r * (n + GUARD) + c]), mb_bits(sum));
            }
        }
        free(found);
        free_rows(&rows);
        free_source(&s);
    }
}

static void test_column_ranges(void **state)
{
    (void)state;
    const int64_t m = 5, n = 140, k = 129;
    random_state = 6;
    struct source source = make_source(PLAIN, 2, n, k);
    struct rows rows = make_rows(UNIFORM, m, k);
    float *whole = run_level(&mb_kernels_ref, &source, &rows, GATED_GATE_UP, NULL, 0, n);
    for (int level = 0; mb_kernel_levels[level]; level++) {
        const struct mb_kernels *kernels = mb_kernel_levels[level];
        if (!runs(kernels)) continue;
        for (int64_t n0 = 0; n0 < n; n0 += mb_max(kernels->granule, 32)) {
            const int64_t n1 = mb_min(n, n0 + 21);
            float *part = run_level(kernels, &source, &rows, GATED_GATE_UP, NULL, n0, n1);
            for (int64_t r = 0; r < m; r++)
                assert_memory_equal(part + r * (n1 - n0 + GUARD), whole + r * (n + GUARD) + n0,
                                    (size_t)(n1 - n0) * sizeof *part);
            free(part);
        }
    }
    free(whole);
    free_rows(&rows);
    free_source(&source);
}

// A NaN or an infinity makes its own row NaN, and no other.
static void test_rows_are_independent(void **state)
{
    (void)state;
    const int64_t m = 9, n = 35, k = 129;
    random_state = 7;
    struct source source = make_source(PLAIN, 1, n, k);
    struct rows rows = make_rows(OUTLIER_100, m, k);
    for (int level = 0; mb_kernel_levels[level]; level++) {
        if (!runs(mb_kernel_levels[level])) continue;
        float *before = run_level(mb_kernel_levels[level], &source, &rows, PROJECT, NULL, 0, n);
        float values[129] = {0};
        values[77] = level % 2 ? NAN : -INFINITY;
        char spoilt[512] __attribute__((aligned(4)));
        assert_true(mb_int16_row_bytes(k) <= sizeof spoilt);
        mb_int16_row(spoilt, values, k);
        const void *kept = rows.row[4];
        rows.row[4] = spoilt;
        float *after = run_level(mb_kernel_levels[level], &source, &rows, PROJECT, NULL, 0, n);
        rows.row[4] = kept;
        for (int64_t r = 0; r < m; r++) {
            for (int64_t c = 0; c < n; c++) {
                const int64_t at = r * (n + GUARD) + c;
                assert_int_equal(mb_bits(after[at]), r == 4 ? 0x7fc00000u : mb_bits(before[at]));
            }
        }
        free(before);
        free(after);
    }
    free_rows(&rows);
    free_source(&source);
}

static void test_pieces(void **state)
{
    (void)state;
    const int64_t n = 83, k = 301;
    random_state = 8;
    for (int level = 0; mb_kernel_levels[level]; level++) {
        const struct mb_kernels *kernels = mb_kernel_levels[level];
        const int64_t step = mb_max(kernels->granule, 16);
        if (!runs(kernels)) continue;
        struct source source = make_source(ANY_EXPONENT, 2, n, k);
        const size_t bytes = kernels->packed_bytes(&source.packing);
        void *whole = pack_whole(kernels, &source), *packed = memory_of(bytes);
        for (int part = 1; part >= 0; part--) {
            for (int64_t n0 = (n - 1) / step * step; n0 >= 0; n0 -= step) {
                for (int64_t k0 = 288; k0 >= 0; k0 -= 96)
                    pack(kernels, &source, packed, part, n0, mb_min(n, n0 + step), k0, mb_min(k, k0 + 96));
            }
        }
        assert_memory_equal(packed, whole, bytes);
        free(packed);
        free(whole);
        free_source(&source);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),          cmocka_unit_test(test_edges_of_rows),
        cmocka_unit_test(test_definition),    cmocka_unit_test(test_every_row_count),
        cmocka_unit_test(test_every_input),   cmocka_unit_test(test_long_rows),
        cmocka_unit_test(test_column_ranges), cmocka_unit_test(test_rows_are_independent),
        cmocka_unit_test(test_pieces),        cmocka_unit_test(test_tiles),
    };
    return cmocka_run_group_tests_name("int16", tests, NULL, NULL);
}
