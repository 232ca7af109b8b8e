// SPDX-License-Identifier: Apache-2.0
// Packing and decoding of stored matrices: every format in every layout, from files and from memory, whole and a rank's
// part, in pieces of several sizes, against index arithmetic on the stored bytes. The kernel table is a fake whose
// packed form is plain floats.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arith.h"
#include "base/float.h"
#include "cmocka.h"
#include "unit/files.h"
#include "weights/format.h"
#include "weights/safetensors.h"

// Odd sizes on purpose: 200 rows are 1.6 tiles and 12.5 granules, 672 columns are 5.25 tiles.
enum { ROWS = 200, COLUMNS = 672, EXPERTS = 2, GRANULE = 16 };

enum layout { PLAIN, STACKED, CONCATENATED, INTERLEAVED, INPUT_PLAIN, INPUT_CONCATENATED, INPUT_INTERLEAVED, LAYOUTS };

// How a layout is stored: [EXPERTS][outer][inner] of codes, and which of them belong to the matrix under test, always
// the second expert and the second half.
struct stored {
    int64_t outer, inner;
    bool input_major;
    int64_t first, step; // stored output of output n: first + n * step
};

static const struct stored layouts[LAYOUTS] = {
    [PLAIN] = {ROWS, COLUMNS, false, 0, 1},
    [STACKED] = {ROWS, COLUMNS, false, 0, 1},
    [CONCATENATED] = {2 * ROWS, COLUMNS, false, ROWS, 1},
    [INTERLEAVED] = {2 * ROWS, COLUMNS, false, 1, 2},
    [INPUT_PLAIN] = {COLUMNS, ROWS, true, 0, 1},
    [INPUT_CONCATENATED] = {COLUMNS, 2 * ROWS, true, ROWS, 1},
    [INPUT_INTERLEAVED] = {COLUMNS, 2 * ROWS, true, 1, 2},
};

static struct moeblock_context context;
static uint32_t random_state;

static uint32_t next_random(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

// One matrix under test with the bytes behind it.
struct subject {
    enum mb_format format;
    enum layout layout;
    int64_t experts;
    moeblock_dtype scale_dtype;
    unsigned char *codes, *scales;
    uint64_t code_bytes, scale_bytes;
    moeblock_tensor tensors[2];
    int tensor_count;
    moeblock_weights *weights;
    struct mb_matrix matrix;
};

static int64_t tile_columns(const struct subject *s)
{
    return mb_ceil_div(COLUMNS, mb_format_table[s->format].column_tile);
}

static int64_t tile_rows(const struct subject *s) // of one expert
{
    return mb_ceil_div(layouts[s->layout].outer, mb_format_table[s->format].row_tile);
}

static void fill_codes(struct subject *s)
{
    for (uint64_t i = 0; i < s->code_bytes; i++) s->codes[i] = (unsigned char)next_random();
    const size_t element = moeblock_dtype_bytes(mb_format_table[s->format].dtype);
    if (s->format == MB_FORMAT_MXFP4) return;
    // No NaN and no infinity: clear the top exponent bit. Little-endian, so the last byte of an element has it.
    for (uint64_t i = element - 1; i < s->code_bytes; i += element) s->codes[i] &= 0xbf;
}

static void fill_scales(struct subject *s)
{
    const size_t element = moeblock_dtype_bytes(s->scale_dtype);
    for (uint64_t i = 0; i < s->scale_bytes / element; i++) {
        const float value = 0.25f + (float)(next_random() % 1000) / 512;
        const uint16_t half = s->scale_dtype == MOEBLOCK_F16 ? mb_to_f16(value) : mb_to_bf16(value);
        if (s->scale_dtype == MOEBLOCK_F32) memcpy(s->scales + 4 * i, &value, 4);
        if (element == 2) memcpy(s->scales + 2 * i, &half, 2);
        if (element == 1) s->scales[i] = (unsigned char)(100 + next_random() % 50);
    }
}

static void describe(struct subject *s)
{
    const struct mb_format_info *format = &mb_format_table[s->format];
    const struct stored *stored = &layouts[s->layout];
    s->tensors[0] = (moeblock_tensor){.name = "w", .dtype = format->dtype, .rank = 3, .data = s->codes};
    s->tensors[0].dims[0] = s->experts;
    s->tensors[0].dims[1] = stored->outer;
    s->tensors[0].dims[2] = s->format == MB_FORMAT_MXFP4 ? stored->inner / 2 : stored->inner;
    s->tensors[0].bytes = s->code_bytes;
    s->tensor_count = 1;
    if (!format->scale_suffix) return;
    s->tensors[1] = (moeblock_tensor){.name = "w_scale", .dtype = s->scale_dtype, .rank = 3, .data = s->scales};
    s->tensors[1].dims[0] = s->experts;
    s->tensors[1].dims[1] = tile_rows(s);
    s->tensors[1].dims[2] = tile_columns(s);
    s->tensors[1].bytes = s->scale_bytes;
    s->tensor_count = 2;
}

static void make(struct subject *s, enum mb_format format, enum layout layout, moeblock_dtype scale_dtype)
{
    const struct stored *stored = &layouts[layout];
    *s = (struct subject){.format = format, .layout = layout, .scale_dtype = scale_dtype};
    s->experts = layout == PLAIN ? 1 : EXPERTS;
    const size_t element = moeblock_dtype_bytes(mb_format_table[format].dtype);
    s->code_bytes = (uint64_t)(s->experts * stored->outer * stored->inner) * element;
    if (format == MB_FORMAT_MXFP4) s->code_bytes /= 2;
    s->codes = malloc(s->code_bytes + 1);
    fill_codes(s);
    if (mb_format_table[format].scale_suffix) {
        s->scale_bytes = (uint64_t)(s->experts * tile_rows(s) * tile_columns(s)) * moeblock_dtype_bytes(scale_dtype);
        s->scales = malloc(s->scale_bytes);
        fill_scales(s);
    }
    describe(s);
}

static void locate_matrix(struct subject *s)
{
    const struct stored *stored = &layouts[s->layout];
    const int64_t expert = s->experts - 1;
    struct mb_matrix *m = &s->matrix;
    *m = (struct mb_matrix){.format = s->format, .rows = ROWS, .columns = COLUMNS};
    m->code_offset =
        (uint64_t)(expert * stored->outer * stored->inner + stored->first * (stored->input_major ? 1 : stored->inner));
    m->row_stride = stored->step * (stored->input_major ? 1 : stored->inner);
    m->column_stride = stored->input_major ? stored->inner : 1;
    assert_int_equal(moeblock_weights_find(s->weights, "w", &m->codes, NULL), MOEBLOCK_OK);
    if (!s->scales) return;
    assert_int_equal(moeblock_weights_find(s->weights, "w_scale", &m->scales, NULL), MOEBLOCK_OK);
    m->scale_offset = (uint64_t)(expert * tile_rows(s) * tile_columns(s));
    m->scale_row_stride = tile_columns(s);
    m->scale_row_step = stored->step;
    m->scale_row_first = stored->first;
}

static void open_memory(struct subject *s)
{
    assert_int_equal(moeblock_weights_from_tensors(&context, s->tensors, (size_t)s->tensor_count, &s->weights, NULL),
                     MOEBLOCK_OK);
    locate_matrix(s);
}

// The same bytes `shift` further, so that no element is aligned.
static void open_misaligned(struct subject *s)
{
    memmove(s->codes + 1, s->codes, s->code_bytes);
    s->tensors[0].data = s->codes + 1;
    open_memory(s);
}

static void open_file(struct subject *s)
{
    moeblock_tensor_info infos[2] = {{0}};
    struct mb_output output;
    const char *path = files_path("matrix.safetensors");
    for (int i = 0; i < s->tensor_count; i++) {
        infos[i] = (moeblock_tensor_info){.name = s->tensors[i].name, .dtype = s->tensors[i].dtype, .rank = 3};
        memcpy(infos[i].dims, s->tensors[i].dims, sizeof infos[i].dims);
    }
    assert_int_equal(mb_output_open(path, &output, NULL), MOEBLOCK_OK);
    assert_int_equal(mb_safetensors_write_header(&output, infos, (size_t)s->tensor_count, NULL), MOEBLOCK_OK);
    for (int i = 0; i < s->tensor_count; i++)
        assert_int_equal(mb_output_write(&output, s->tensors[i].data, s->tensors[i].bytes, NULL), MOEBLOCK_OK);
    assert_int_equal(mb_output_commit(&output, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_weights_open(&context, path, &s->weights, NULL), MOEBLOCK_OK);
    locate_matrix(s);
}

static void end(struct subject *s)
{
    moeblock_weights_destroy(&s->weights);
    free(s->codes);
    free(s->scales);
}

static float scale_at(const struct subject *s, int64_t n, int64_t k)
{
    const struct stored *stored = &layouts[s->layout];
    const int64_t row = (stored->first + n * stored->step) / mb_format_table[s->format].row_tile;
    const int64_t column = k / mb_format_table[s->format].column_tile;
    const int64_t i = ((s->experts - 1) * tile_rows(s) + row) * tile_columns(s) + column;
    float value;
    uint16_t half;
    if (s->scale_dtype == MOEBLOCK_F32) return memcpy(&value, s->scales + 4 * i, 4), value;
    if (moeblock_dtype_bytes(s->scale_dtype) == 1) return mb_from_e8m0(s->scales[i]);
    memcpy(&half, s->scales + 2 * i, 2);
    return s->scale_dtype == MOEBLOCK_F16 ? mb_from_f16(half) : mb_from_bf16(half);
}

// Weight (n, k) straight from the stored bytes.
static float expected(const struct subject *s, int64_t n, int64_t k)
{
    const struct stored *stored = &layouts[s->layout];
    const int64_t out = stored->first + n * stored->step;
    const int64_t i = ((s->experts - 1) * stored->outer + (stored->input_major ? k : out)) * stored->inner +
                      (stored->input_major ? out : k);
    const unsigned char *codes = s->tensors[0].data;
    float value;
    uint16_t half;
    switch (s->format) {
    case MB_FORMAT_F32:
        return memcpy(&value, codes + 4 * i, 4), value;
    case MB_FORMAT_F16:
        return memcpy(&half, codes + 2 * i, 2), mb_from_f16(half);
    case MB_FORMAT_BF16:
        return memcpy(&half, codes + 2 * i, 2), mb_from_bf16(half);
    case MB_FORMAT_FP8:
    case MB_FORMAT_FBGEMM_FP8:
        return mb_from_e4m3(codes[i]) * scale_at(s, n, k);
    default: {
        const int64_t j = ((s->experts - 1) * tile_rows(s) + out) * tile_columns(s) + k / 32;
        return mb_from_fp4((uint8_t)(i & 1 ? codes[i / 2] >> 4 : codes[i / 2] & 15), s->scales[j]);
    }
    }
}

// The fake level: packed weights are float32 [parts][n][k].
static size_t fake_bytes(const struct mb_packing *packing)
{
    return (size_t)(packing->parts * packing->n * packing->k) * sizeof(float);
}

static float piece_value(const struct mb_packing *packing, const struct mb_piece *piece, int64_t n, int64_t k)
{
    const ptrdiff_t at = (n - piece->n0) * piece->row_stride + (k - piece->k0) * piece->column_stride;
    const uint8_t *bytes = piece->codes;
    switch (packing->format) {
    case MB_PACKED_F32:
        return ((const float *)piece->codes)[at];
    case MB_PACKED_F16:
        return mb_from_f16(((const uint16_t *)piece->codes)[at]);
    case MB_PACKED_BF16:
        return mb_from_bf16(((const uint16_t *)piece->codes)[at]);
    case MB_PACKED_FP8:
        return mb_from_e4m3(bytes[at]) *
               piece->scales[(n - piece->n0) * piece->scale_stride + (k - piece->k0) / packing->group];
    default: {
        const uint8_t pair = bytes[(n - piece->n0) * piece->row_stride + (k - piece->k0) / 2];
        return mb_from_fp4((uint8_t)(k & 1 ? pair >> 4 : pair & 15),
                           piece->exponents[(n - piece->n0) * piece->scale_stride + (k - piece->k0) / 32]);
    }
    }
}

static void fake_pack(const struct mb_packing *packing, void *packed, const struct mb_piece *piece)
{
    assert_int_equal(piece->n0 % GRANULE, 0);
    assert_true(piece->n1 % GRANULE == 0 || piece->n1 == packing->n);
    const int64_t step = packing->group > 16 ? packing->group : 16;
    assert_int_equal(piece->k0 % step, 0);
    assert_true(piece->k1 % step == 0 || piece->k1 == packing->k);
    for (int64_t n = piece->n0; n < piece->n1; n++)
        for (int64_t k = piece->k0; k < piece->k1; k++)
            ((float *)packed)[(piece->part * packing->n + n) * packing->k + k] = piece_value(packing, piece, n, k);
}

static const struct mb_kernels fake = {
    .name = "fake", .granule = GRANULE, .packed_bytes = fake_bytes, .pack = fake_pack};

// Packs outputs [row0, row0 + n) in pieces of about `bytes` as part 1 and compares every weight.
static void assert_packs(const struct subject *s, enum mb_packed_format to, int64_t row0, int64_t n, size_t bytes)
{
    const struct mb_packing packing = {to, 2, n, COLUMNS, mb_format_table[s->format].column_tile, false, false};
    float *packed = malloc(fake_bytes(&packing));
    for (int64_t i = 0; i < 2 * n * COLUMNS; i++) packed[i] = -12345;
    const int64_t pieces = mb_matrix_pieces(&s->matrix, &packing, GRANULE, bytes);
    int64_t n0, n1, k0, k1;
    mb_matrix_piece(&s->matrix, &packing, GRANULE, bytes, 0, &n0, &n1, &k0, &k1);
    const size_t staging_bytes = mb_stage_bytes(&s->matrix, row0 + n0, row0 + n1, k0, k1);
    void *staging = aligned_alloc(64, mb_round_up(staging_bytes, 64)); // the first piece is the largest
    for (int64_t i = pieces - 1; i >= 0; i--) {
        moeblock_error error = {0};
        mb_matrix_piece(&s->matrix, &packing, GRANULE, bytes, i, &n0, &n1, &k0, &k1);
        assert_true(mb_stage_bytes(&s->matrix, row0 + n0, row0 + n1, k0, k1) <= staging_bytes);
        const struct mb_target target = {&fake, &packing, packed, .part = 1, .row0 = row0, .turn = i};
        const moeblock_status status =
            mb_matrix_pack(s->weights, &s->matrix, &target, row0 + n0, row0 + n1, k0, k1, staging, &error);
        assert_string_equal(error.message, "");
        assert_int_equal(status, MOEBLOCK_OK);
    }
    for (int64_t i = 0; i < n * COLUMNS; i++) assert_true(packed[i] == -12345); // part 0 is not ours
    for (int64_t row = 0; row < n; row++)
        for (int64_t k = 0; k < COLUMNS; k++) {
            float value = expected(s, row0 + row, k);
            if (to == MB_PACKED_BF16) value = mb_round_bf16(value);
            const float found = packed[(n + row) * COLUMNS + k];
            if (mb_bits(found) != mb_bits(value))
                fail_msg("format %s layout %d: (%d, %d) is %a, expected %a", mb_format_table[s->format].name,
                         (int)s->layout, (int)row, (int)k, (double)found, (double)value);
        }
    free(staging);
    free(packed);
}

static void assert_packs_all_ways(const struct subject *s, enum mb_packed_format to)
{
    assert_packs(s, to, 0, ROWS, 1);       // the smallest pieces
    assert_packs(s, to, 0, ROWS, 100000);  // several
    assert_packs(s, to, 0, ROWS, 1 << 30); // one
    assert_packs(s, to, 96, 104, 30000);   // a rank's part, up to the last row
    assert_packs(s, to, 48, 37, 20000);    // and one from the middle that fills no granule
}

static void (*const openers[])(struct subject *) = {open_memory, open_misaligned, open_file};

static void assert_layouts(enum mb_format format, enum mb_packed_format to, moeblock_dtype scales)
{
    const int last = mb_format_table[format].oriented ? LAYOUTS : INPUT_PLAIN;
    for (int layout = 0; layout < last; layout++)
        for (size_t o = 0; o < 3; o++) {
            struct subject s;
            make(&s, format, (enum layout)layout, scales);
            openers[o](&s);
            assert_packs_all_ways(&s, to);
            end(&s);
        }
}

static void f32_packs(void **state) { (void)state, assert_layouts(MB_FORMAT_F32, MB_PACKED_F32, 0); }
static void f16_packs(void **state) { (void)state, assert_layouts(MB_FORMAT_F16, MB_PACKED_F16, 0); }
static void bf16_packs(void **state) { (void)state, assert_layouts(MB_FORMAT_BF16, MB_PACKED_BF16, 0); }
static void mxfp4_packs(void **state) { (void)state, assert_layouts(MB_FORMAT_MXFP4, MB_PACKED_FP4, MOEBLOCK_U8); }
static void f32_becomes_bf16(void **state) { (void)state, assert_layouts(MB_FORMAT_F32, MB_PACKED_BF16, 0); }
static void f16_becomes_bf16(void **state) { (void)state, assert_layouts(MB_FORMAT_F16, MB_PACKED_BF16, 0); }
static void f16_becomes_f32(void **state) { (void)state, assert_layouts(MB_FORMAT_F16, MB_PACKED_F32, 0); }
static void bf16_becomes_f32(void **state) { (void)state, assert_layouts(MB_FORMAT_BF16, MB_PACKED_F32, 0); }

static void fp8_packs(void **state)
{
    (void)state;
    const moeblock_dtype scales[] = {MOEBLOCK_F32, MOEBLOCK_F8_E8M0, MOEBLOCK_U8, MOEBLOCK_BF16, MOEBLOCK_F16};
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++)
        assert_layouts(MB_FORMAT_FP8, MB_PACKED_FP8, scales[i]);
    assert_layouts(MB_FORMAT_FBGEMM_FP8, MB_PACKED_FP8, MOEBLOCK_F32);
    assert_layouts(MB_FORMAT_FBGEMM_FP8, MB_PACKED_FP8, MOEBLOCK_BF16);
}

// One scale an output and codes that lie [in, out], too many to be read at once: packed part after part the bytes are
// those of output-major storage, wherever a NaN is, and staging stays small.
static void parts_of_one_group(void **state)
{
    (void)state;
    enum { N = 1300, K = 1100, NANS = 3, GROUP = K };
    static const int64_t nans[NANS][2] = {{7, 3}, {1299, 640}, {70, 1099}};
    struct subject s = {.code_bytes = (uint64_t)N * K, .scale_dtype = MOEBLOCK_F32, .scale_bytes = 4 * N};
    uint8_t *rows = malloc(s.code_bytes), *columns = malloc(s.code_bytes);
    s.scales = malloc(s.scale_bytes);
    fill_scales(&s);
    for (int64_t i = 0; i < (int64_t)N * K; i++) rows[i] = (uint8_t)(next_random() & 0xbf);
    for (int i = 0; i < NANS; i++) rows[nans[i][0] * K + nans[i][1]] = i % 2 ? 0xff : 0x7f;
    for (int64_t i = 0; i < (int64_t)N * K; i++) columns[i % K * N + i / K] = rows[i];
    const moeblock_tensor tensors[] = {
        {.name = "rows", .dtype = MOEBLOCK_F8_E4M3, .rank = 2, .dims = {N, K}, .data = rows, .bytes = s.code_bytes},
        {.name = "columns",
         .dtype = MOEBLOCK_F8_E4M3,
         .rank = 2,
         .dims = {K, N},
         .data = columns,
         .bytes = s.code_bytes},
        {.name = "scale", .dtype = MOEBLOCK_F32, .rank = 2, .dims = {N, 1}, .data = s.scales, .bytes = s.scale_bytes}};
    assert_int_equal(moeblock_weights_from_tensors(&context, tensors, 3, &s.weights, NULL), MOEBLOCK_OK);
    struct mb_matrix m[2];
    for (int turned = 0; turned < 2; turned++) {
        m[turned] = (struct mb_matrix){.format = MB_FORMAT_FBGEMM_FP8, .rows = N, .columns = K, .group = GROUP};
        m[turned].row_stride = turned ? 1 : K;
        m[turned].column_stride = turned ? N : 1;
        m[turned].scale_row_stride = m[turned].scale_row_step = 1;
        assert_int_equal(moeblock_weights_find(s.weights, turned ? "columns" : "rows", &m[turned].codes, NULL), 0);
        assert_int_equal(moeblock_weights_find(s.weights, "scale", &m[turned].scales, NULL), 0);
    }
    const size_t staging_bytes = mb_stage_bytes(&m[1], 0, N, 0, K);
    assert_true(staging_bytes < (512 << 10) + 4 * 4 * N);
    for (int level = 0; mb_kernel_levels[level]; level++) {
        const struct mb_kernels *kernels = mb_kernel_levels[level];
        const struct mb_packing packing = {MB_PACKED_FP8, 1, N, K, GROUP, false, false};
        const char *reason;
        if (!kernels->usable(&reason)) continue;
        const size_t bytes = mb_round_up(kernels->packed_bytes(&packing), 64);
        char *packed[2];
        for (int turned = 0; turned < 2; turned++) {
            void *staging = aligned_alloc(64, mb_round_up(mb_stage_bytes(&m[turned], 0, N, 0, K), 64));
            packed[turned] = aligned_alloc(64, bytes);
            memset(packed[turned], 0, bytes);
            const struct mb_target target = {.kernels = kernels, .packing = &packing, .packed = packed[turned]};
            assert_int_equal(mb_matrix_pack(s.weights, &m[turned], &target, 0, N, 0, K, staging, NULL), MOEBLOCK_OK);
            free(staging);
        }
        if (memcmp(packed[0], packed[1], bytes) != 0) fail_msg("level %s", kernels->name);
        free(packed[0]);
        free(packed[1]);
    }
    moeblock_weights_destroy(&s.weights);
    free(rows), free(columns), free(s.scales);
}

static void only_what_is_needed_is_read(void **state)
{
    (void)state;
    struct subject s;
    make(&s, MB_FORMAT_BF16, CONCATENATED, 0);
    open_file(&s);
    const uint64_t before = moeblock_weights_bytes_read(s.weights);
    assert_packs(&s, MB_PACKED_BF16, 0, ROWS, 50000);
    assert_int_equal(moeblock_weights_bytes_read(s.weights) - before, ROWS * COLUMNS * 2);
    end(&s);
    make(&s, MB_FORMAT_F32, INPUT_CONCATENATED, 0); // a small part of each line: line by line
    open_file(&s);
    uint64_t header = moeblock_weights_bytes_read(s.weights);
    assert_packs(&s, MB_PACKED_F32, 32, 64, 50000);
    assert_int_equal(moeblock_weights_bytes_read(s.weights) - header, 64 * COLUMNS * 4);
    end(&s);
    make(&s, MB_FORMAT_F32, INTERLEAVED, 0); // every other short row: never more than the neighbours with it
    open_file(&s);
    header = moeblock_weights_bytes_read(s.weights);
    assert_packs(&s, MB_PACKED_F32, 32, 64, 50000);
    assert_true(moeblock_weights_bytes_read(s.weights) - header <= 2 * 64 * COLUMNS * 4);
    end(&s);
}

static void decodes(void **state)
{
    (void)state;
    static const enum mb_format formats[] = {MB_FORMAT_F32, MB_FORMAT_F16,   MB_FORMAT_BF16,
                                             MB_FORMAT_FP8, MB_FORMAT_MXFP4, MB_FORMAT_FBGEMM_FP8};
    static const moeblock_dtype scales[] = {0, 0, 0, MOEBLOCK_F32, MOEBLOCK_U8, MOEBLOCK_F32};
    float *out = malloc(ROWS * COLUMNS * sizeof *out);
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (int layout = 0; layout < (mb_format_table[formats[f]].oriented ? LAYOUTS : INPUT_PLAIN); layout++)
            for (size_t o = 0; o < 3; o++) {
                struct subject s;
                make(&s, formats[f], (enum layout)layout, scales[f]);
                openers[o](&s);
                const int64_t n0 = o == 1 ? 17 : 0, n1 = o == 1 ? 140 : ROWS;
                assert_int_equal(mb_matrix_decode(s.weights, &mb_default_allocator, &s.matrix, n0, n1, out, NULL),
                                 MOEBLOCK_OK);
                for (int64_t n = n0; n < n1; n++)
                    for (int64_t k = 0; k < COLUMNS; k++)
                        assert_int_equal(mb_bits(out[(n - n0) * COLUMNS + k]), mb_bits(expected(&s, n, k)));
                end(&s);
            }
    free(out);
}

// A scale that is not a number names the tensor and the tile; other tiles still load.
static void scales_that_are_not_finite(void **state)
{
    (void)state;
    static const struct {
        enum mb_format format;
        moeblock_dtype dtype;
        float value;
        const char *tile, *says;
    } cases[] = {
        {MB_FORMAT_FP8, MOEBLOCK_F32, NAN, "(1, 3)", "nan"},
        {MB_FORMAT_FP8, MOEBLOCK_F32, INFINITY, "(1, 3)", "inf"},
        {MB_FORMAT_FP8, MOEBLOCK_F32, -INFINITY, "(1, 3)", "-inf"},
        {MB_FORMAT_FP8, MOEBLOCK_BF16, NAN, "(1, 3)", "nan"},
        {MB_FORMAT_FP8, MOEBLOCK_F8_E8M0, NAN, "(1, 3)", "nan"},
        {MB_FORMAT_MXFP4, MOEBLOCK_U8, NAN, "(1, 3)", "nan"},
    };
    float *out = malloc(ROWS * COLUMNS * sizeof *out);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct subject s;
        make(&s, cases[i].format, PLAIN, cases[i].dtype);
        const size_t element = moeblock_dtype_bytes(cases[i].dtype);
        unsigned char *scale = s.scales + (size_t)(tile_columns(&s) + 3) * element;
        const uint16_t half = mb_to_bf16(cases[i].value);
        if (element == 4) memcpy(scale, &cases[i].value, 4);
        if (element == 2) memcpy(scale, &half, 2);
        if (element == 1) *scale = 255;
        open_file(&s);
        moeblock_error error = {0};
        assert_int_equal(mb_matrix_decode(s.weights, &mb_default_allocator, &s.matrix, 0, ROWS, out, &error),
                         MOEBLOCK_INVALID_FILE);
        assert_non_null(strstr(error.message, "'w_scale'"));
        assert_non_null(strstr(error.message, cases[i].tile));
        assert_non_null(strstr(error.message, cases[i].says));
        assert_non_null(strstr(error.message, "matrix.safetensors"));
        assert_int_equal(mb_matrix_decode(s.weights, &mb_default_allocator, &s.matrix, 0, 1, out, NULL), MOEBLOCK_OK);
        end(&s);
    }
    free(out);
}

// Gate rows [0, 6) and up rows of one tensor of 12 rows of 8, as each layout places them.
static void gate_and_up_in_one_tensor(void **state)
{
    (void)state;
    static const struct {
        int64_t row_stride, column_stride;
        uint64_t up_offset;
        bool paired;
        int64_t row_step, part_step;
        uint64_t scale_offset, total_offset;
    } cases[] = {
        {16, 1, 8, true, 2, 1, 0, 0},   // output-major, rows in turn
        {8, 1, 48, false, 0, 0, 0, 0},  // output-major, up below gate: two ranges of whole rows
        {2, 12, 1, true, 2, 1, 0, 0},   // input-major, rows in turn
        {1, 12, 6, true, 1, 6, 0, 0},   // input-major, up beside gate
        {1, 12, 66, false, 0, 0, 0, 0}, // another expert's
        {1, 12, 6, false, 0, 0, 1, 0},  // with a scale of its own
        {16, 1, 8, false, 0, 0, 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mb_matrix gate = {.format = MB_FORMAT_BF16, .rows = 6, .columns = 8, .codes.name = "gate_up"};
        gate.row_stride = cases[i].row_stride;
        gate.column_stride = cases[i].column_stride;
        struct mb_matrix up = gate;
        up.code_offset = cases[i].up_offset;
        up.scale_offset = cases[i].scale_offset;
        up.total_offset = cases[i].total_offset;
        struct mb_pair pair;
        assert_int_equal(mb_matrix_pair(&gate, &up, &pair), cases[i].paired);
        if (!cases[i].paired) continue;
        assert_int_equal(pair.row_step, cases[i].row_step);
        assert_int_equal(pair.part_step, cases[i].part_step);
        int64_t first, end;
        mb_pair_rows(&pair, 0, 6, &first, &end);
        assert_int_equal(first, 0);
        assert_int_equal(end, 12);
        for (int64_t row = 0; row < 6; row++) { // where the pair says that the up rows are, they are
            const int64_t joint = row * pair.row_step + pair.part_step;
            assert_int_equal(joint * pair.joint.row_stride, (int64_t)up.code_offset + row * up.row_stride);
        }
        up.codes.name = "up";
        assert_false(mb_matrix_pair(&gate, &up, &pair));
    }
}

static void what_cannot_be_packed(void **state)
{
    (void)state;
    struct subject s;
    char staging[64];
    make(&s, MB_FORMAT_FP8, PLAIN, MOEBLOCK_F32);
    open_memory(&s);
    const struct mb_packing packing = {MB_PACKED_BF16, 1, ROWS, COLUMNS, 0, false, false};
    moeblock_error error = {0};
    const struct mb_target target = {.kernels = &fake, .packing = &packing};
    assert_int_equal(mb_matrix_pack(s.weights, &s.matrix, &target, 0, ROWS, 0, COLUMNS, staging, &error),
                     MOEBLOCK_INTERNAL);
    assert_non_null(strstr(error.message, "fp8"));
    assert_int_equal(mb_matrix_pack(s.weights, &s.matrix, &target, 5, 5, 0, COLUMNS, staging, NULL),
                     MOEBLOCK_OK);       // nothing to do
    s.matrix.code_offset = s.code_bytes; // outside the tensor: refused, not read
    assert_int_equal(
        mb_matrix_decode(s.weights, &mb_default_allocator, &s.matrix, 0, 1, (float *)(void *)staging, &error),
        MOEBLOCK_INVALID_ARGUMENT);
    end(&s);
}

static void reads_floats(void **state)
{
    (void)state;
    const float f32[3] = {1.5f, -2, 3};
    const uint16_t bf16[3] = {0x3fc0, 0xc000, 0x4040}, f16[3] = {0x3e00, 0xc000, 0x4200};
    const moeblock_tensor tensors[] = {
        {.name = "f32", .dtype = MOEBLOCK_F32, .rank = 1, .dims = {3}, .data = f32, .bytes = 12},
        {.name = "bf16", .dtype = MOEBLOCK_BF16, .rank = 1, .dims = {3}, .data = bf16, .bytes = 6},
        {.name = "f16", .dtype = MOEBLOCK_F16, .rank = 1, .dims = {3}, .data = f16, .bytes = 6},
        {.name = "u8", .dtype = MOEBLOCK_U8, .rank = 1, .dims = {3}, .data = f16, .bytes = 3},
    };
    moeblock_weights *weights = NULL;
    moeblock_tensor_info info;
    moeblock_error error = {0};
    float out[3];
    assert_int_equal(moeblock_weights_from_tensors(&context, tensors, 4, &weights, NULL), MOEBLOCK_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(moeblock_weights_find(weights, tensors[i].name, &info, NULL), MOEBLOCK_OK);
        assert_int_equal(mb_read_floats(weights, &mb_default_allocator, &info, 0, 3, out, NULL), MOEBLOCK_OK);
        assert_memory_equal(out, f32, sizeof f32);
        assert_int_equal(mb_read_floats(weights, &mb_default_allocator, &info, 2, 1, out, NULL), MOEBLOCK_OK);
        assert_true(out[0] == 3);
        assert_int_equal(mb_read_floats(weights, &mb_default_allocator, &info, 2, 2, out, NULL),
                         MOEBLOCK_INVALID_ARGUMENT);
        assert_int_equal(mb_read_floats(weights, &mb_default_allocator, &info, 0, -1, out, NULL),
                         MOEBLOCK_INVALID_ARGUMENT);
    }
    assert_int_equal(moeblock_weights_find(weights, "u8", &info, NULL), MOEBLOCK_OK);
    assert_int_equal(mb_read_floats(weights, &mb_default_allocator, &info, 0, 3, out, &error), MOEBLOCK_UNSUPPORTED);
    assert_non_null(strstr(error.message, "'u8' has dtype U8"));
    moeblock_weights_destroy(&weights);
}

static int begin(void **state)
{
    context = files_context();
    random_state = 7;
    return files_begin(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_packs),
        cmocka_unit_test(f16_packs),
        cmocka_unit_test(bf16_packs),
        cmocka_unit_test(fp8_packs),
        cmocka_unit_test(parts_of_one_group),
        cmocka_unit_test(mxfp4_packs),
        cmocka_unit_test(f32_becomes_bf16),
        cmocka_unit_test(f16_becomes_bf16),
        cmocka_unit_test(f16_becomes_f32),
        cmocka_unit_test(bf16_becomes_f32),
        cmocka_unit_test(only_what_is_needed_is_read),
        cmocka_unit_test(decodes),
        cmocka_unit_test(scales_that_are_not_finite),
        cmocka_unit_test(gate_and_up_in_one_tensor),
        cmocka_unit_test(what_cannot_be_packed),
        cmocka_unit_test(reads_floats),
    };
    return cmocka_run_group_tests(tests, begin, files_end);
}
