// SPDX-License-Identifier: Apache-2.0
// Every kernel level over packed formats, row types, shapes and hostile inputs, byte by byte as kernels.h promises;
// `ref` against double; packing in pieces and from other layouts; nothing written outside the outputs.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/float.h"
#include "base/fpmode.h"
#include "cmocka.h"
#include "kernels/kernels.h"

// Products of two RANGED or two TINY values are normal or zero (denormals count as zero), so that fused multiply-add
// gives the bytes of separate roundings when the product is exact; those of WIDE and DENORMAL values leave that range.
enum inputs { UNIFORM, RANGED, TINY, SPECIAL, ZEROS, WIDE, DENORMAL, INPUTS };
static bool products_in_range(enum inputs kind) { return kind < WIDE; }

static uint64_t random_state;

static uint32_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float unit_random(void) { return (float)(int32_t)next_random() * 0x1p-31f; }

static float random_value(enum inputs kind)
{
    static const uint32_t special[] = {0x7fc00000u, 0x7f800000u, 0xff800000u, 0x80000000u, 0x7f7fffffu, 0xffa00001u};
    switch (kind) {
    case UNIFORM:
        return unit_random();
    case RANGED: // magnitudes from 2^-60 to 2^60
        return mb_float((next_random() & 0x807fffffu) | (67 + next_random() % 120) << 23);
    case TINY: // 2^-60, or a denormal
        return mb_float((next_random() & 0x807fffffu) | (next_random() % 3 ? 67u << 23 : 0));
    case WIDE:
        return unit_random() * mb_float((next_random() % 254 + 1) << 23);
    case DENORMAL:
        return next_random() % 3 ? unit_random() * 0x1p-63f : mb_float(next_random() & 0x807fffffu);
    case SPECIAL:
        return next_random() % 40 ? unit_random() : mb_float(special[next_random() % 6]);
    default:
        return next_random() % 2 ? 0.0f : -0.0f;
    }
}

// Memory of exactly this size, so that the sanitizer sees every byte beyond.
static void *memory_of(size_t bytes)
{
    void *memory = NULL;
    assert_int_equal(posix_memalign(&memory, 64, bytes ? bytes : 1), 0);
    memset(memory, 0x5a, bytes);
    return memory;
}

// Source weights of one packing, output-major: codes, and scales and factors (exponents, e4m3 factors, zero points)
// where the format has them.
struct source {
    struct mb_packing packing;
    uint8_t *codes[2];
    float *scales[2], total[2];
    uint8_t *factors[2];
    int64_t groups, row_stride;
};

static bool has_nibbles(enum mb_packed_format format) { return mb_packed_info_of(format).code_bits == 4; }

static size_t element_bytes(enum mb_packed_format format)
{
    return has_nibbles(format) ? 1 : mb_packed_info_of(format).code_bits / 8;
}

static bool has_integers(enum mb_packed_format format) { return format == MB_PACKED_INT4 || format == MB_PACKED_INT8; }

// Inputs per scale or zero point of FP8, INT4 and INT8, beyond k for one an output; 0 for what they are published with.
static int64_t wanted_group;
static bool wanted_even_odd;

// Inputs per scale, exponent or zero point that the format is published with; k for one an output.
static int64_t group_of(enum mb_packed_format format, int64_t n, int64_t k)
{
    static const int64_t integers[] = {32, 128, 48, 1 << 20};
    switch (format) {
    case MB_PACKED_FP8:
        return mb_min(wanted_group ? wanted_group : 128, mb_max(k, 128));
    case MB_PACKED_FP4:
    case MB_PACKED_MXFP8:
        return 32;
    case MB_PACKED_NVFP4:
        return 16;
    case MB_PACKED_INT4:
    case MB_PACKED_INT8:
        return mb_min(wanted_group ? wanted_group : integers[(n + k) % 4], mb_max(k, 16));
    default:
        return 0;
    }
}

// Exponents beside the codes' values of 0.5 to 6 (FP4) or 2^-9 to 448 (MXFP8); e4m3 factors; zero points.
static uint8_t random_factor(enum mb_packed_format format, enum inputs kind)
{
    const bool exponents = format <= MB_PACKED_MXFP8;
    const uint8_t byte = exponents ? 0 : (uint8_t)(next_random() >> 24);
    if (format == MB_PACKED_INT4) return byte & 15;
    if (format == MB_PACKED_INT8) return byte;
    if (format == MB_PACKED_NVFP4) return (byte & 0x7f) != 0x7f || kind == SPECIAL ? byte : 1;
    if (kind == UNIFORM) return (uint8_t)(120 + next_random() % 15);
    if (!products_in_range(kind)) return (uint8_t)(next_random() >> 24);
    return kind == SPECIAL && next_random() % 40 == 0 ? 255 : (uint8_t)(70 + next_random() % 100);
}

static void put_code(enum mb_packed_format format, enum inputs kind, uint8_t *to)
{
    const float value = random_value(kind);
    const uint16_t f16 = mb_to_f16(value), bf16 = mb_to_bf16(value);
    const uint8_t byte = (uint8_t)(next_random() >> 24);
    if (format == MB_PACKED_F32) memcpy(to, &value, 4);
    if (format == MB_PACKED_F16) memcpy(to, &f16, 2);
    if (format == MB_PACKED_BF16) memcpy(to, &bf16, 2);
    const bool e4m3 = format == MB_PACKED_FP8 || format == MB_PACKED_MXFP8;
    if (e4m3) *to = kind == SPECIAL || (byte & 0x7f) != 0x7f ? byte : 1;
    if (has_nibbles(format) || format == MB_PACKED_INT8) *to = byte;
}

static struct source make_source(enum mb_packed_format format, enum inputs kind, int parts, int64_t n, int64_t k)
{
    const int64_t group = group_of(format, n, k);
    struct source s = {
        .packing = {.format = format, .parts = parts, .n = n, .k = k, .group = group, .even_odd = wanted_even_odd}};
    s.groups = group ? mb_ceil_div(k, group) : 0;
    s.row_stride = has_nibbles(format) ? mb_ceil_div(k, 2) : k;
    for (int part = 0; part < parts; part++) {
        const size_t size = element_bytes(format);
        s.codes[part] = memory_of((size_t)(n * s.row_stride) * size);
        s.scales[part] = memory_of((size_t)(n * s.groups) * sizeof(float));
        s.factors[part] = memory_of((size_t)(n * s.groups));
        if (format == MB_PACKED_NVFP4)
            s.total[part] = kind == UNIFORM ? 1.0f + 0.5f * unit_random() : random_value(kind);
        for (int64_t i = 0; i < n * s.row_stride; i++) put_code(format, kind, s.codes[part] + (size_t)i * size);
        for (int64_t i = 0; i < n * s.groups; i++) {
            s.scales[part][i] = kind == UNIFORM ? 1.0f + 0.5f * unit_random() : random_value(kind);
            // Levels may keep scales that are all bfloat16 in less room.
            if (n % 2) s.scales[part][i] = mb_from_bf16(mb_to_bf16(s.scales[part][i]));
            s.factors[part][i] = random_factor(format, kind);
        }
    }
    return s;
}

static void free_source(struct source *s)
{
    for (int part = 0; part < s->packing.parts; part++) {
        free(s->codes[part]);
        free(s->scales[part]);
        free(s->factors[part]);
    }
}

// The rectangle [n0, n1) x [k0, k1) of a source as a piece.
static struct mb_piece piece_of(const struct source *s, int part, int64_t n0, int64_t n1, int64_t k0, int64_t k1)
{
    const bool nibbles = has_nibbles(s->packing.format), integers = has_integers(s->packing.format);
    const int64_t at = n0 * s->row_stride + (nibbles ? k0 / 2 : k0);
    const int64_t scale_at = s->groups ? n0 * s->groups + k0 / s->packing.group : 0;
    return (struct mb_piece){.part = part,
                             .n0 = n0,
                             .n1 = n1,
                             .k0 = k0,
                             .k1 = k1,
                             .codes = s->codes[part] + (size_t)at * element_bytes(s->packing.format),
                             .row_stride = s->row_stride,
                             .column_stride = 1,
                             .scales = s->scales[part] + scale_at,
                             .exponents = integers ? NULL : s->factors[part] + scale_at,
                             .zeros = integers ? s->factors[part] + scale_at : NULL,
                             .scale_stride = s->groups,
                             .total = s->total[part]};
}

static void *pack_whole(const struct mb_kernels *kernels, const struct source *s)
{
    void *packed = memory_of(kernels->packed_bytes(&s->packing));
    for (int part = 0; part < s->packing.parts; part++) {
        const struct mb_piece piece = piece_of(s, part, 0, s->packing.n, 0, s->packing.k);
        kernels->pack(&s->packing, packed, &piece);
    }
    return packed;
}

// Rows at odd element offsets, so that nothing is aligned to more than an element.
struct inputs_of_rows {
    void *memory;
    const void **row;
    struct mb_rows rows;
};

static struct inputs_of_rows make_rows(enum inputs kind, bool bf16, int64_t m, int64_t k)
{
    const size_t size = bf16 ? 2 : 4;
    const int64_t stride = k + 3;
    struct inputs_of_rows r = {.memory = memory_of((size_t)(m * stride + 1) * size),
                               .row = memory_of((size_t)m * sizeof(void *))};
    for (int64_t i = 0; i < m; i++) {
        uint8_t *row = (uint8_t *)r.memory + (size_t)(i * stride + 1) * size;
        for (int64_t j = 0; j < k; j++) {
            const float value = random_value(kind);
            const uint16_t half = mb_to_bf16(value);
            memcpy(row + (size_t)j * size, bf16 ? (const void *)&half : (const void *)&value, size);
        }
        r.row[i] = row;
    }
    r.rows = (struct mb_rows){.row = r.row, .m = m, .bf16 = bf16};
    return r;
}

static void free_rows(struct inputs_of_rows *r)
{
    free(r->memory);
    free(r->row);
}

enum { GUARD = 5 }; // columns between the outputs of two rows

// Whether this machine runs the level.
static bool runs(const struct mb_kernels *kernels)
{
    const char *reason;
    return kernels->usable(&reason);
}

// Runs gate_up (activation given) or project on columns [n0, n1) into fresh memory of [m][n1 - n0 + GUARD] elements.
static void *run_form(const struct mb_kernels *kernels, const struct source *s, const struct mb_rows *rows,
                      const struct mb_activation *activation, const float *biases, bool separate, int64_t n0,
                      int64_t n1)
{
    void *packed = pack_whole(kernels, s), *scratch = memory_of(kernels->scratch_bytes(&s->packing, rows->m));
    const int64_t stride = n1 - n0 + GUARD;
    void *out = memory_of((size_t)(rows->m * stride) * 4);
    const uint64_t saved = mb_flush_begin();
    if (activation) {
        const struct mb_gate_up_call call = {.packing = &s->packing,
                                             .packed = packed,
                                             .rows = *rows,
                                             .n0 = n0,
                                             .n1 = n1,
                                             .gate_bias = biases,
                                             .up_bias = biases,
                                             .activation = activation,
                                             .out = out,
                                             .out_stride = stride,
                                             .scratch = scratch};
        kernels->gate_up(&call);
    } else {
        const struct mb_project_call call = {.packing = &s->packing,
                                             .packed = packed,
                                             .rows = *rows,
                                             .n0 = n0,
                                             .n1 = n1,
                                             .bias = biases,
                                             // Unrounded, sums show all of their bits.
                                             .round = rows->bf16 && !s->packing.even_odd,
                                             .separate = separate,
                                             .out = out,
                                             .out_stride = stride,
                                             .scratch = scratch};
        kernels->project(&call);
    }
    mb_flush_end(saved);
    free(packed);
    free(scratch);
    return out;
}

static void *run_level(const struct mb_kernels *kernels, const struct source *s, const struct mb_rows *rows,
                       const struct mb_activation *activation, const float *biases, int64_t n0, int64_t n1)
{
    return run_form(kernels, s, rows, activation, biases, false, n0, n1);
}

// Bytes of an output element, and that the guards between rows are as they were.
static size_t check_guards(const struct mb_rows *rows, bool activated, const uint8_t *out, int64_t columns)
{
    const size_t size = activated && rows->bf16 ? 2 : 4;
    for (int64_t r = 0; r < rows->m; r++) {
        for (size_t i = (size_t)columns * size; i < (size_t)(columns + GUARD) * size; i++) {
            assert_int_equal(out[(size_t)(r * (columns + GUARD)) * size + i], 0x5a);
        }
    }
    return size;
}

// A case of compare_levels: project with and without bias, plain and gated gate_up, project with separate roundings.
enum form { PROJECT, PROJECT_BIAS, PLAIN_GATE_UP, GATED_GATE_UP, SEPARATE, FORMS };

// Which level's bytes a level must give: ref's, or in F32 compute those of the first level with fused multiply-add.
// NULL where nothing is promised.
static const struct mb_kernels *model_of(const struct mb_kernels *kernels, const struct source *source, bool bf16,
                                         enum inputs kind, enum form form)
{
    if (!kernels->fused || form == SEPARATE) return &mb_kernels_ref;
    const bool exact = bf16 && source->packing.format != MB_PACKED_F32;
    if (exact) return products_in_range(kind) ? &mb_kernels_ref : NULL;
    for (int level = 0; mb_kernel_levels[level]; level++) {
        if (mb_kernel_levels[level]->fused && runs(mb_kernel_levels[level])) return mb_kernel_levels[level];
    }
    return NULL;
}

static void compare_levels(enum mb_packed_format format, bool bf16, enum inputs kind, int64_t m, int64_t n, int64_t k)
{
    const struct mb_activation silu = {.kind = mb_activation_find("silu")};
    float *biases = memory_of((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) biases[i] = random_value(kind);
    struct inputs_of_rows rows = make_rows(kind, bf16, m, k);
    const int step = wanted_even_odd ? GATED_GATE_UP : 1; // a plain product and both parts show all of that
    for (int form = 0; form < (wanted_even_odd ? SEPARATE : FORMS); form += step) {
        struct source source = make_source(format, kind, form == GATED_GATE_UP ? 2 : 1, n, k);
        const struct mb_activation *activation = form == PLAIN_GATE_UP || form == GATED_GATE_UP ? &silu : NULL;
        const float *bias = form % 2 ? biases : NULL;
        const struct mb_kernels *computed = NULL; // whose bytes are in `expected`
        uint8_t *expected = NULL;
        for (int level = 1; mb_kernel_levels[level]; level++) {
            const struct mb_kernels *kernels = mb_kernel_levels[level];
            const struct mb_kernels *model = model_of(kernels, &source, bf16, kind, (enum form)form);
            if (!model || model == kernels || !runs(kernels)) continue;
            if (model != computed) {
                free(expected);
                expected = run_form(model, &source, &rows.rows, activation, bias, form == SEPARATE, 0, n);
                computed = model;
            }
            uint8_t *found = run_form(kernels, &source, &rows.rows, activation, bias, form == SEPARATE, 0, n);
            const size_t size = check_guards(&rows.rows, activation != NULL, found, n);
            if (memcmp(found, expected, (size_t)(m * (n + GUARD)) * size) != 0) {
                fail_msg("%s differs from %s: format %d bf16 %d inputs %d m %d n %d k %d form %d", kernels->name,
                         model->name, (int)format, bf16, (int)kind, (int)m, (int)n, (int)k, form);
            }
            free(found);
        }
        free(expected);
        free_source(&source);
    }
    free_rows(&rows);
    free(biases);
}

static void test_levels_agree(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1},   {2, 7, 31},    {3, 31, 33},   {4, 33, 100},  {5, 100, 129},
                                        {7, 129, 7}, {33, 17, 257}, {1, 257, 129}, {49, 31, 160}, {6, 16, 513}};
    random_state = 1;
    for (int format = 0; format < MB_PACKED_FORMATS; format++) {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            for (int kind = 0; kind < INPUTS; kind++) {
                for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
                    compare_levels((enum mb_packed_format)format, bf16, (enum inputs)kind, shapes[i][0], shapes[i][1],
                                   shapes[i][2]);
                }
            }
        }
    }
}

static void test_every_row_count(void **state)
{
    (void)state;
    random_state = 2;
    for (int format = 0; format < MB_PACKED_FORMATS; format++) {
        for (int64_t m = 1; m <= 33; m++) compare_levels((enum mb_packed_format)format, m % 2, UNIFORM, m, 33, 129);
    }
}

// One scale an output, groups longer than any level's chunk, and groups that no line of codes fits.
static void test_groups(void **state)
{
    (void)state;
    static const enum mb_packed_format formats[] = {MB_PACKED_FP8, MB_PACKED_INT4, MB_PACKED_INT8};
    static const int64_t long_groups[] = {1 << 20, 512, 1000, 1040},
                         short_groups[] = {1, 2, 3, 4, 7, 8, 12, 20, 24, 40};
    random_state = 12;
    for (int i = 0; i < 3; i++) {
        for (int kind = 0; kind < INPUTS; kind++) {
            for (int g = 0; g < 4; g++) {
                const bool bf16 = (kind + g) % 4 != 0;
                wanted_group = long_groups[g];
                compare_levels(formats[i], bf16, (enum inputs)kind, 3, 40, 1300 + g);
                compare_levels(formats[i], bf16, (enum inputs)kind, 50, 40, 1100 - g);
            }
            for (int g = 0; g < 10; g++) {
                wanted_group = short_groups[g];
                compare_levels(formats[i], (kind + g) % 4 != 0, (enum inputs)kind, 1 + 7 * g, 33, 75 + g);
            }
        }
        for (int64_t m = 1; m <= 33; m++) {
            wanted_group = 8 * (m % 5 + 1);
            compare_levels(formats[i], true, UNIFORM, m, 33, 129);
            wanted_group = 1 << 20;
            compare_levels(formats[i], true, UNIFORM, m, 65, 129);
        }
    }
    wanted_group = 0;
}

// BF16X2 compute: rows in one tile and in several, chunks and blocks that end anywhere, groups that tiles know and not.
static void test_even_odd(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1},   {3, 31, 33},   {16, 9, 100}, {17, 33, 129},
                                        {49, 7, 65}, {241, 3, 289}, {5, 40, 1100}};
    static const int64_t groups[] = {0, 32, 64, 24, 7, 256, 512, 1000, 1 << 20};
    random_state = 14;
    wanted_even_odd = true;
    for (int format = MB_PACKED_BF16; format < MB_PACKED_FORMATS; format++) {
        const bool grouped = format == MB_PACKED_FP8 || has_integers((enum mb_packed_format)format);
        for (int kind = 0; kind < INPUTS; kind++) {
            for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
                wanted_group = grouped ? groups[(i + (size_t)kind) % 9] : 0;
                compare_levels((enum mb_packed_format)format, true, (enum inputs)kind, shapes[i][0], shapes[i][1],
                               shapes[i][2]);
            }
        }
        wanted_group = 0;
        for (int64_t m = 1; m <= 33; m++) compare_levels((enum mb_packed_format)format, true, UNIFORM, m, 17, 73);
    }
    wanted_even_odd = false;
}

// Every code of the small formats, with every factor, at every place of a line comes out as itself.
static void test_every_code(void **state)
{
    (void)state;
    const int64_t k = 8;
    random_state = 9;
    for (int format = MB_PACKED_F16; format < MB_PACKED_FORMATS; format++) {
        const bool nibbles = has_nibbles((enum mb_packed_format)format),
                   zeros = has_integers((enum mb_packed_format)format);
        const int64_t codes = nibbles ? 16 : element_bytes((enum mb_packed_format)format) == 1 ? 256 : 65536;
        const bool factors = mb_packed_info_of((enum mb_packed_format)format).factors;
        const int64_t n = factors ? codes * (zeros ? codes : 256) : codes;
        for (int64_t place = 0; place < k; place++) {
            struct source source = make_source((enum mb_packed_format)format, ZEROS, 1, n, k);
            struct inputs_of_rows rows = make_rows(ZEROS, true, 1, k);
            const uint16_t one = 0x3f80;
            memcpy((char *)rows.memory + (1 + place) * 2, &one, sizeof one);
            memset(source.codes[0], 0, (size_t)(n * source.row_stride) * element_bytes(source.packing.format));
            for (int64_t c = 0; c < n; c++) {
                const uint16_t code = (uint16_t)(nibbles ? (c % codes) << (place % 2 * 4) : c % codes);
                const size_t size = element_bytes(source.packing.format);
                const int64_t at = c * source.row_stride + (nibbles ? place / 2 : place);
                memcpy(source.codes[0] + (size_t)at * size, &code, size);
                if (source.groups) source.factors[0][c] = (uint8_t)(c / codes), source.scales[0][c] = 1;
            }
            uint8_t *expected = run_level(&mb_kernels_ref, &source, &rows.rows, NULL, NULL, 0, n);
            for (int level = 1; mb_kernel_levels[level]; level++) {
                if (!runs(mb_kernel_levels[level])) continue;
                uint8_t *found = run_level(mb_kernel_levels[level], &source, &rows.rows, NULL, NULL, 0, n);
                assert_memory_equal(found, expected, (size_t)n * sizeof(float));
                free(found);
            }
            free(expected);
            free_rows(&rows);
            free_source(&source);
        }
    }
}

// Several chunks of inputs and blocks of rows, wherever a level cuts them.
static void test_long_chains(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 13, 29, 200};
    random_state = 9;
    for (int format = 0; format < MB_PACKED_FORMATS; format++) {
        for (int i = 0; i < 4; i++) {
            compare_levels((enum mb_packed_format)format, true, UNIFORM, rows[i], i < 3 ? 70 : 34, 2081 + i);
            compare_levels((enum mb_packed_format)format, false, UNIFORM, rows[i], 34, 1057 + i);
        }
    }
}

// Exact value of weight (n, k), and the bound that a chain of k roundings in float32 keeps.
static double exact_weight(const struct source *s, int64_t n, int64_t k)
{
    const uint8_t *code =
        s->codes[0] +
        (has_nibbles(s->packing.format) ? 0 : (size_t)(n * s->row_stride + k) * element_bytes(s->packing.format));
    uint16_t half;
    float single;
    memcpy(&half, code, s->packing.format == MB_PACKED_F16 || s->packing.format == MB_PACKED_BF16 ? 2 : 0);
    switch (s->packing.format) {
    case MB_PACKED_F32:
        memcpy(&single, code, 4);
        return (double)single;
    case MB_PACKED_F16:
        return (double)mb_from_f16(half);
    case MB_PACKED_BF16:
        return (double)mb_from_bf16(half);
    default:
        break;
    }
    const int64_t at = n * s->groups + k / s->packing.group;
    const uint8_t byte = *code, factor = s->factors[0][at];
    const uint8_t nibble = s->codes[0][n * s->row_stride + k / 2] >> (k % 2 * 4) & 15;
    const double scale = (double)s->scales[0][at];
    switch (s->packing.format) {
    case MB_PACKED_FP8:
        return (double)mb_from_e4m3(byte) * scale;
    case MB_PACKED_MXFP8:
        return (double)mb_from_e4m3(byte) * ldexp(1.0, factor - 127);
    case MB_PACKED_FP4:
        return (double)mb_from_e2m1(nibble) * ldexp(1.0, factor - 127);
    case MB_PACKED_NVFP4:
        return (double)mb_from_e2m1(nibble) * (double)mb_from_e4m3(factor) * (double)s->total[0];
    case MB_PACKED_INT4:
        return (nibble - factor) * scale;
    default:
        return (byte - factor) * scale;
    }
}

static void check_against_double(const struct mb_kernels *kernels, const struct source *source,
                                 const struct inputs_of_rows *rows)
{
    const int64_t n = source->packing.n, k = source->packing.k;
    float *out = run_level(kernels, source, &rows->rows, NULL, NULL, 0, n);
    for (int64_t r = 0; r < rows->rows.m; r++) {
        for (int64_t c = 0; c < n; c++) {
            double sum = 0, magnitudes = 0;
            for (int64_t i = 0; i < k; i++) {
                const double product = exact_weight(source, c, i) * (double)((const float *)rows->row[r])[i];
                sum += product;
                magnitudes += fabs(product);
            }
            const double error = fabs((double)out[r * (n + GUARD) + c] - sum);
            assert_true(error <= (double)(k + 4) * 0x1p-24 * magnitudes);
        }
    }
    free(out);
}

static void test_against_double(void **state)
{
    (void)state;
    const int64_t m = 3, n = 37, k = 300;
    random_state = 3;
    for (int format = 0; format < MB_PACKED_FORMATS; format++) {
        struct source source = make_source((enum mb_packed_format)format, UNIFORM, 1, n, k);
        struct inputs_of_rows rows = make_rows(UNIFORM, false, m, k);
        for (int level = 0; mb_kernel_levels[level]; level++) {
            if (runs(mb_kernel_levels[level])) check_against_double(mb_kernel_levels[level], &source, &rows);
        }
        free_rows(&rows);
        free_source(&source);
    }
}

// Column ranges give the columns of the whole.
static void test_column_ranges(void **state)
{
    (void)state;
    const int64_t m = 5, n = 70, k = 129;
    const struct mb_activation silu = {.kind = mb_activation_find("silu")};
    random_state = 4;
    for (int level = 0; mb_kernel_levels[level]; level++) {
        const struct mb_kernels *kernels = mb_kernel_levels[level];
        if (!runs(kernels)) continue;
        for (int format = 0; format < MB_PACKED_FORMATS; format++) {
            struct source source = make_source((enum mb_packed_format)format, UNIFORM, 2, n, k);
            struct inputs_of_rows rows = make_rows(UNIFORM, true, m, k);
            uint16_t *whole = run_level(kernels, &source, &rows.rows, &silu, NULL, 0, n);
            for (int64_t n0 = 0; n0 < n; n0 += mb_max(kernels->granule, 16)) {
                const int64_t n1 = mb_min(n, n0 + 21);
                uint16_t *part = run_level(kernels, &source, &rows.rows, &silu, NULL, n0, n1);
                check_guards(&rows.rows, true, (const uint8_t *)part, n1 - n0);
                for (int64_t r = 0; r < m; r++) {
                    assert_memory_equal(part + r * (n1 - n0 + GUARD), whole + r * (n + GUARD) + n0,
                                        (size_t)(n1 - n0) * sizeof *part);
                }
                free(part);
            }
            free(whole);
            free_rows(&rows);
            free_source(&source);
        }
    }
}

// A NaN row changes no other row.
static void test_rows_are_independent(void **state)
{
    (void)state;
    const int64_t m = 9, n = 35, k = 129;
    random_state = 5;
    for (int level = 0; mb_kernel_levels[level]; level++) {
        if (!runs(mb_kernel_levels[level])) continue;
        struct source source = make_source(MB_PACKED_BF16, UNIFORM, 1, n, k);
        struct inputs_of_rows rows = make_rows(UNIFORM, true, m, k);
        float *before = run_level(mb_kernel_levels[level], &source, &rows.rows, NULL, NULL, 0, n);
        const uint16_t nan = 0x7fc1;
        memcpy((char *)rows.memory + ((4 * (k + 3) + 1) + 77) * 2, &nan, sizeof nan);
        float *after = run_level(mb_kernel_levels[level], &source, &rows.rows, NULL, NULL, 0, n);
        for (int64_t r = 0; r < m; r++) {
            for (int64_t c = 0; c < n; c++) {
                const int64_t at = r * (n + GUARD) + c;
                if (r == 4) {
                    assert_int_equal(mb_bits(after[at]), 0x7fc00000u);
                } else {
                    assert_int_equal(mb_bits(after[at]), mb_bits(before[at]));
                }
            }
        }
        free(before);
        free(after);
        free_rows(&rows);
        free_source(&source);
    }
}

// Pieces in any order, and sources that are input-major or interleaved, give the bytes of the whole.
static void test_pieces(void **state)
{
    (void)state;
    const int64_t n = 53, k = 300;
    random_state = 6;
    for (int level = 0; mb_kernel_levels[level]; level++) {
        const struct mb_kernels *kernels = mb_kernel_levels[level];
        const int64_t step = mb_max(kernels->granule, 16);
        if (!runs(kernels)) continue;
        for (int format = 0; format < MB_PACKED_FORMATS; format++) {
            struct source source = make_source((enum mb_packed_format)format, UNIFORM, 2, n, k);
            void *whole = pack_whole(kernels, &source);
            const size_t bytes = kernels->packed_bytes(&source.packing);
            void *packed = memory_of(bytes);
            for (int part = 1; part >= 0; part--) {
                for (int64_t n0 = (n - 1) / step * step; n0 >= 0; n0 -= step) {
                    for (int64_t k0 = 256; k0 >= 0; k0 -= 128) {
                        const struct mb_piece piece =
                            piece_of(&source, part, n0, mb_min(n, n0 + step), k0, mb_min(k, k0 + 128));
                        kernels->pack(&source.packing, packed, &piece);
                    }
                }
            }
            assert_memory_equal(packed, whole, bytes);
            free(packed);
            free(whole);
            free_source(&source);
        }
    }
}

static void test_other_orientations(void **state)
{
    (void)state;
    const int64_t n = 53, k = 100;
    random_state = 7;
    for (int level = 0; mb_kernel_levels[level]; level++) {
        const struct mb_kernels *kernels = mb_kernel_levels[level];
        if (!runs(kernels)) continue;
        for (int format = 0; format < MB_PACKED_FORMATS; format++) {
            if (has_nibbles((enum mb_packed_format)format)) continue;
            struct source source = make_source((enum mb_packed_format)format, UNIFORM, 1, n, k);
            void *expected = pack_whole(kernels, &source);
            const size_t size = element_bytes(source.packing.format), bytes = kernels->packed_bytes(&source.packing);
            for (int64_t step = 1; step <= 2; step++) { // alone, and every second column of a fused tensor
                uint8_t *turned = memory_of((size_t)(n * k * step) * size);
                for (int64_t i = 0; i < n * k; i++) {
                    memcpy(turned + (size_t)(i % k * n * step + i / k * step) * size,
                           source.codes[0] + (size_t)i * size, size);
                }
                struct mb_piece piece = piece_of(&source, 0, 0, n, 0, k);
                piece.codes = turned;
                piece.row_stride = step;
                piece.column_stride = n * step;
                void *packed = memory_of(bytes);
                kernels->pack(&source.packing, packed, &piece);
                assert_memory_equal(packed, expected, bytes);
                free(packed);
                free(turned);
            }
            free(expected);
            free_source(&source);
        }
    }
}

static void test_small_calls(void **state)
{
    (void)state;
    enum { N = 77 };
    random_state = 8;
    for (int level = 1; mb_kernel_levels[level]; level++) {
        const struct mb_kernels *kernels = mb_kernel_levels[level];
        if (!runs(kernels)) continue;
        for (int kind = 0; kind < INPUTS; kind++) {
            float y[N], expected[N], out[N];
            uint16_t half[N], expected_half[N];
            for (int i = 0; i < N; i++) y[i] = expected[i] = random_value((enum inputs)kind);
            for (int i = 0; i < N; i++) out[i] = random_value((enum inputs)kind);
            const float weight = random_value((enum inputs)kind);
            const uint64_t saved = mb_flush_begin();
            kernels->accumulate(y, out, weight, N);
            mb_kernels_ref.accumulate(expected, out, weight, N);
            kernels->to_bf16(half, out, N);
            mb_kernels_ref.to_bf16(expected_half, out, N);
            mb_flush_end(saved);
            assert_memory_equal(y, expected, sizeof y);
            assert_memory_equal(half, expected_half, sizeof half);
        }
    }
}

static void test_select(void **state)
{
    (void)state;
    moeblock_error error = {MOEBLOCK_OK, ""};
    for (int level = 0; mb_kernel_levels[level]; level++) {
        const char *reason = NULL;
        const bool usable = mb_kernel_levels[level]->usable(&reason);
        const struct mb_kernels *found = mb_kernels_select(mb_kernel_levels[level]->name, &error);
        assert_ptr_equal(found, usable ? mb_kernel_levels[level] : NULL);
        if (!usable) assert_non_null(strstr(error.message, reason));
    }
    const char *why = NULL;
    assert_true(runs(mb_kernels_best(&why)));
    assert_non_null(why);
    assert_string_equal(mb_kernels_select("ref", &error)->name, "ref");
    assert_ptr_equal(mb_kernels_select("generic", &error), &mb_kernels_generic);
    assert_non_null(mb_kernels_select(NULL, &error));
    assert_null(mb_kernels_select("avx9000", &error));
    assert_int_equal(error.code, MOEBLOCK_UNSUPPORTED);
    assert_non_null(strstr(error.message, "avx9000"));
    assert_non_null(strstr(error.message, "ref, generic"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels_agree),
        cmocka_unit_test(test_every_row_count),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_even_odd),
        cmocka_unit_test(test_long_chains),
        cmocka_unit_test(test_every_code),
        cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_column_ranges),
        cmocka_unit_test(test_rows_are_independent),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_other_orientations),
        cmocka_unit_test(test_small_calls),
        cmocka_unit_test(test_select),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
