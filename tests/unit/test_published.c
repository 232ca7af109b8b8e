// SPDX-License-Identifier: Apache-2.0
// Every published number format over all its codes: a checkpoint in memory whose down projection holds them, found and
// packed as loading does it, multiplied at every level with rows of one 1 and zeros, so that each output is one weight.
// It must be, to the bit, what docs/formats.md says of the stored bytes, which a reader of this file's own computes.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/float.h"
#include "base/fpmode.h"
#include "base/memory.h"
#include "cmocka.h"
#include "config/tensors.h"
#include "experts/expert.h"
#include "moeblock/moeblock.h"

enum { N = 256, K = 256, TENSORS_MAX = 32, LAYER = 7 };

static moeblock_context *context;
static uint32_t random_state;

static uint32_t next_random(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

// --- this file's own reading

static double e4m3(uint32_t code)
{
    const int exponent = (int)(code >> 3 & 15), fraction = (int)(code & 7);
    const double magnitude = exponent ? ldexp(8 + fraction, exponent - 10) : ldexp(fraction, -9);
    if ((code & 127) == 127) return (double)NAN;
    return code & 128 ? -magnitude : magnitude;
}

static double e2m1(uint32_t code)
{
    static const double values[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};
    return code & 8 ? -values[code & 7] : values[code & 7];
}

// Bits [8 byte + shift, + bits) of some bytes.
static uint32_t bits_at(const uint8_t *bytes, int64_t byte, int shift, int bits)
{
    const uint32_t word = (uint32_t)bytes[byte] | (uint32_t)(shift + bits > 8 ? bytes[byte + 1] : 0) << 8;
    return word >> shift & ((1u << bits) - 1);
}

// How codes lie: bytes [N, K]; nibbles [N, K / 2]; words of inputs [N, K / c], [K / c, N]; words of outputs [K, N / 8];
// bytes [K, N]; bytes of two inputs [K / 2, N].
enum order { BYTES, NIBBLES, DOWN, ACROSS, BYTES_DOWN, PAIRS_DOWN };
// What a code is worth before scales.
enum element { FLOAT, E4M3, E2M1, INTEGER };

// A format as docs/formats.md describes it. `group`: inputs a scale. Scales lie [rows, groups] or, with `turned`,
// [groups, N]; of `scale_rows` outputs each.
struct form {
    const char *name, *codes, *scales, *zeros, *total;
    enum order order;
    enum element element;
    int bits, group, scale_rows, offset; // offset: added to a stored zero point
    moeblock_dtype scale_type;           // NONE: what synth writes
    bool turned, divides, indexed;       // indexed: with a group index
};

#define ALL K
static const struct form forms[] = {
    {.name = "f32", .codes = ".weight", .bits = 32},
    {.name = "f16", .codes = ".weight", .bits = 16},
    {.name = "bf16", .codes = ".weight", .bits = 16},
    {"fp8", ".weight", ".weight_scale_inv", NULL, NULL, BYTES, E4M3, 8, 128, 128, 0, MOEBLOCK_F32, 0, 0, 0},
    {"fp8", ".weight", ".weight_scale_inv", NULL, NULL, BYTES, E4M3, 8, 128, 128, 0, MOEBLOCK_F8_E8M0, 0, 0, 0},
    {"fp8", ".weight", ".weight_scale_inv", NULL, NULL, BYTES, E4M3, 8, 128, 128, 0, MOEBLOCK_U8, 0, 0, 0},
    {"fp8", ".weight", ".weight_scale_inv", NULL, NULL, BYTES, E4M3, 8, 128, 128, 0, MOEBLOCK_BF16, 0, 0, 0},
    {"fp8_tensor", ".weight", ".weight_scale_inv", NULL, NULL, BYTES, E4M3, 8, ALL, N, 0, 0, 0, 0, 0},
    {"v4_fp8", ".weight", ".scale", NULL, NULL, BYTES, E4M3, 8, 128, 128, 0, 0, 0, 0, 0},
    {"fbgemm_fp8", ".weight", ".weight_scale", NULL, NULL, BYTES, E4M3, 8, ALL, 1, 0, 0, 0, 0, 0},
    {"fbgemm_fp8", "", "_scale", NULL, NULL, BYTES_DOWN, E4M3, 8, ALL, 1, 0, 0, 0, 0, 0},
    {"fbgemm_fp8", "", "_scale", NULL, NULL, BYTES_DOWN, E4M3, 8, ALL, 1, 0, MOEBLOCK_BF16, 1, 0, 0},
    {"ct_fp8", ".weight", ".weight_scale", NULL, NULL, BYTES, E4M3, 8, ALL, 1, 0, 0, 0, 0, 0},
    {"ct_fp8_tensor", ".weight", ".weight_scale", NULL, NULL, BYTES, E4M3, 8, ALL, N, 0, 0, 0, 0, 0},
    {"ct_fp8_block", ".weight", ".weight_scale", NULL, NULL, BYTES, E4M3, 8, 128, 128, 0, 0, 0, 0, 0},
    {"modelopt_fp8", ".weight", ".weight_scale", NULL, NULL, BYTES, E4M3, 8, ALL, N, 0, 0, 0, 0, 0},
    {"modelopt_fp8", "", "_weight_scale", NULL, NULL, BYTES_DOWN, E4M3, 8, ALL, N, 0, 0, 0, 0, 0},
    {"mxfp8", ".weight", ".weight_scale_inv", NULL, NULL, BYTES, E4M3, 8, 32, 1, 0, 0, 0, 0, 0},
    {"ct_mxfp8", ".weight", ".weight_scale", NULL, NULL, BYTES, E4M3, 8, 32, 1, 0, 0, 0, 0, 0},
    {"mxfp4", ".weight_blocks", ".weight_scales", NULL, NULL, NIBBLES, E2M1, 4, 32, 1, 0, 0, 0, 0, 0},
    {"ct_mxfp4", ".weight_packed", ".weight_scale", NULL, NULL, NIBBLES, E2M1, 4, 32, 1, 0, 0, 0, 0, 0},
    {"v4_fp4", ".weight", ".scale", NULL, NULL, NIBBLES, E2M1, 4, 32, 1, 0, 0, 0, 0, 0},
    {"nvfp4", ".weight", ".weight_scale", NULL, ".weight_scale_2", NIBBLES, E2M1, 4, 16, 1, 0, 0, 0, 0, 0},
    {"modelopt_nvfp4", ".weight", ".weight_scale", NULL, ".weight_scale_2", NIBBLES, E2M1, 4, 16, 1, 0, 0, 0, 0, 0},
    {"modelopt_nvfp4", "", "_weight_scale", NULL, "_weight_scale_2", PAIRS_DOWN, E2M1, 4, 16, 1, 0, 0, 1, 0, 0},
    {"ct_nvfp4", ".weight_packed", ".weight_scale", NULL, ".weight_global_scale", NIBBLES, E2M1, 4, 16, 1, 0, 0, 0, 1,
     0},
    {"ct_int4", ".weight_packed", ".weight_scale", NULL, NULL, NIBBLES, INTEGER, 4, 32, 1, 0, 0, 0, 0, 0},
    {"ct_int4", ".weight_packed", ".weight_scale", NULL, NULL, NIBBLES, INTEGER, 4, 64, 1, 0, MOEBLOCK_F32, 0, 0, 1},
    {"ct_int4_asym", ".weight_packed", ".weight_scale", ".weight_zero_point", NULL, NIBBLES, INTEGER, 4, 128, 1, 0, 0,
     0, 0, 0},
    {"ct_int8", ".weight_packed", ".weight_scale", NULL, NULL, BYTES, INTEGER, 8, ALL, 1, 0, 0, 0, 0, 0},
    {"ct_int8", ".weight_packed", ".weight_scale", NULL, NULL, BYTES, INTEGER, 8, 32, 1, 0, MOEBLOCK_F16, 0, 0, 1},
    {"ct_int8_asym", ".weight_packed", ".weight_scale", ".weight_zero_point", NULL, BYTES, INTEGER, 8, 128, 1, 0, 0, 0,
     0, 0},
    {"awq", ".qweight", ".scales", ".qzeros", NULL, ACROSS, INTEGER, 4, 128, 1, 0, 0, 1, 0, 0},
    {"awq", ".qweight", ".scales", ".qzeros", NULL, ACROSS, INTEGER, 4, 32, 1, 0, 0, 1, 0, 0},
    {"gptq", ".qweight", ".scales", ".qzeros", NULL, DOWN, INTEGER, 4, 128, 1, 1, 0, 1, 0, 0},
    {"gptq", ".qweight", ".scales", ".qzeros", NULL, DOWN, INTEGER, 4, 32, 1, 1, 0, 1, 0, 1},
    {"gptq_v2", ".qweight", ".scales", ".qzeros", NULL, DOWN, INTEGER, 4, 64, 1, 0, 0, 1, 0, 1},
    {"gptq_int8", ".qweight", ".scales", ".qzeros", NULL, DOWN, INTEGER, 8, 128, 1, 1, 0, 1, 0, 1},
    {"gptq_v2_int8", ".qweight", ".scales", ".qzeros", NULL, DOWN, INTEGER, 8, 32, 1, 0, 0, 1, 0, 0},
};

// --- a checkpoint in memory

struct checkpoint {
    const struct form *form;
    moeblock_config *config;
    moeblock_tensor tensors[TENSORS_MAX];
    char names[TENSORS_MAX][288];
    size_t count;
    moeblock_weights *weights;
    const moeblock_tensor *codes, *scales, *zeros, *total; // of the down projection; NULL where there is none
    float wanted[N][K];
};

static moeblock_tensor *part(struct checkpoint *c, const char *suffix)
{
    char name[300];
    snprintf(name, sizeof name, "model.layers.%d.mlp.experts.0.down_proj%s", LAYER, suffix);
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->names[i], name) == 0) return &c->tensors[i];
    fail_msg("%s: synth lists no tensor %s", c->form->name, name);
    return NULL;
}

// Bytes whose every pattern occurs.
static void fill_codes(const struct form *form, moeblock_tensor *tensor)
{
    uint8_t *bytes = (uint8_t *)(uintptr_t)tensor->data;
    for (size_t i = 0; i < tensor->bytes; i++) bytes[i] = (uint8_t)(i + i / 256 * 37);
    for (size_t i = 0; form->element == FLOAT && i + 1 < tensor->bytes; i += 2) { // all 16-bit patterns
        const uint16_t code = (uint16_t)(i / 2);
        memcpy(bytes + i, &code, sizeof code);
    }
    // An output with an infinity or a NaN is NaN for all rows: those of e4m3 stay in the first output.
    for (size_t i = 0; form->element == E4M3 && i < tensor->bytes; i++) {
        const bool first = form->order == BYTES_DOWN ? i % N == 0 : i < K;
        if ((bytes[i] & 127) == 127 && !first) bytes[i] = 0x7e;
    }
    const uint32_t top = tensor->dtype == MOEBLOCK_F16 ? 0x7c : 0x7f;
    for (size_t i = 1; form->element == FLOAT && i < tensor->bytes; i += 2)
        if ((bytes[i] & top) == top) bytes[i] ^= 0x40;
}

// Exponents of all sizes for which no weight is an infinity, e4m3 factors other than NaN, floats.
static void fill_scales(const struct form *form, moeblock_tensor *tensor)
{
    uint8_t *bytes = (uint8_t *)(uintptr_t)tensor->data;
    const size_t size = moeblock_dtype_bytes(tensor->dtype);
    const uint32_t exponents = form->element == E2M1 ? 253 : 247;
    for (size_t i = 0; i < tensor->bytes / size; i++) {
        const float value = (float)((int)(next_random() % 2001) - 1000) * 0x1p-12f;
        const uint16_t half = tensor->dtype == MOEBLOCK_F16 ? mb_to_f16(value) : mb_to_bf16(value);
        if (size == 4) memcpy(bytes + 4 * i, &value, 4);
        if (size == 2) memcpy(bytes + 2 * i, &half, 2);
        if (size == 1) bytes[i] = (uint8_t)(form->group == 128 ? 90 + 23 * i : i % exponents);
        if (tensor->dtype == MOEBLOCK_F8_E4M3) bytes[i] = (i & 127) == 127 ? 1 : (uint8_t)i;
    }
}

static void fill(struct checkpoint *c)
{
    const struct form *form = c->form;
    c->codes = part(c, form->codes);
    fill_codes(form, part(c, form->codes));
    if (form->scales) c->scales = part(c, form->scales), fill_scales(form, part(c, form->scales));
    if (form->zeros) c->zeros = part(c, form->zeros);
    for (size_t i = 0; c->zeros && i < c->zeros->bytes; i++)
        ((uint8_t *)(uintptr_t)c->zeros->data)[i] = (uint8_t)next_random();
    const float total = 1.7f;
    if (form->total) c->total = part(c, form->total), memcpy((void *)(uintptr_t)c->total->data, &total, sizeof total);
}

// The group of an input. With an index groups take turns in a fixed disorder.
static int group_of(const struct form *form, int k)
{
    return form->indexed ? k * 5 % (K / form->group) : k / form->group;
}

static void add(struct checkpoint *c, const moeblock_tensor_need *need)
{
    moeblock_tensor *tensor = &c->tensors[c->count];
    assert_true(c->count < TENSORS_MAX);
    snprintf(c->names[c->count], sizeof c->names[0], "%s", need->name);
    *tensor = (moeblock_tensor){.name = c->names[c->count], .dtype = need->dtype, .rank = need->rank};
    memcpy(tensor->dims, need->dims, sizeof tensor->dims);
    const bool scales = c->form->scales && strstr(need->name, "down_proj") &&
                        strcmp(need->name + strlen(need->name) - strlen(c->form->scales), c->form->scales) == 0;
    if (scales && c->form->scale_type) tensor->dtype = c->form->scale_type;
    tensor->bytes = moeblock_dtype_bytes(tensor->dtype);
    for (int i = 0; i < need->rank; i++) tensor->bytes *= (size_t)need->dims[i];
    tensor->data = calloc(1, tensor->bytes);
    c->count++;
}

static void add_index(struct checkpoint *c)
{
    moeblock_tensor_need need = {.dtype = MOEBLOCK_I32, .rank = 1, .dims = {K}};
    const bool gptq = c->form->order == DOWN;
    snprintf(need.name, sizeof need.name, "model.layers.%d.mlp.experts.0.down_proj%s", LAYER,
             gptq ? ".g_idx" : ".weight_g_idx");
    if (!gptq) add(c, &need);
    int32_t *index = (int32_t *)(uintptr_t)part(c, gptq ? ".g_idx" : ".weight_g_idx")->data;
    for (int k = 0; k < K; k++) index[k] = group_of(c->form, k);
}

// The storage of a form that is read [in, out].
static const char input_major[] = ",\"layout\":\"stacked\",\"orientation\":\"input_major\",\"names\":{"
                                  "\"gate\":\"mlp.experts.0.gate_proj\",\"up\":\"mlp.experts.0.up_proj\","
                                  "\"down\":\"mlp.experts.0.down_proj\"}";

static struct checkpoint *make_checkpoint(const struct form *form, enum mb_format format)
{
    struct checkpoint *c = calloc(1, sizeof *c);
    char text[768];
    moeblock_tensor_need need;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const bool any_group = form->element == INTEGER;
    const char *const stored = form->order >= BYTES_DOWN ? input_major : "";
    const int length = snprintf(text, sizeof text,
                                "{\"model\":{\"hidden_size\":%d,\"num_experts\":1,\"num_experts_per_tok\":1},"
                                "\"router\":{},\"experts\":{\"distributed\":{\"intermediate_size\":%d}},"
                                "\"weights\":{\"format\":\"%s\",\"group_size\":%d%s}}",
                                N, K, form->name, any_group ? form->group : 0, stored);
    c->form = form;
    if (moeblock_config_parse(context, text, (size_t)length, "t", NULL, &c->config, &error))
        fail_msg("%s", error.message);
    for (int64_t i = 0; mb_tensor_needed(c->config, format, LAYER, i, &need); i++) add(c, &need);
    if (form->indexed || form->order == DOWN) add_index(c);
    fill(c);
    if (moeblock_weights_from_tensors(context, c->tensors, c->count, &c->weights, &error))
        fail_msg("%s", error.message);
    return c;
}

static void drop_checkpoint(struct checkpoint *c)
{
    moeblock_weights_destroy(&c->weights);
    moeblock_config_destroy(&c->config);
    for (size_t i = 0; i < c->count; i++) free((void *)(uintptr_t)c->tensors[i].data);
    free(c);
}

// --- what it means

static double number(const moeblock_tensor *tensor, int64_t i)
{
    const uint8_t *bytes = tensor->data;
    uint32_t wide;
    uint16_t half;
    memcpy(&wide, bytes + 4 * (tensor->dtype == MOEBLOCK_F32 ? i : 0), sizeof wide);
    memcpy(&half, bytes + 2 * (tensor->dtype == MOEBLOCK_F32 || moeblock_dtype_bytes(tensor->dtype) < 2 ? 0 : i), 2);
    if (tensor->dtype == MOEBLOCK_F32) return (double)mb_float(wide);
    if (tensor->dtype == MOEBLOCK_F16) return (double)mb_from_f16(half);
    if (tensor->dtype == MOEBLOCK_BF16) return (double)mb_float((uint32_t)half << 16);
    if (tensor->dtype == MOEBLOCK_F8_E4M3) return e4m3(bytes[i]);
    return ldexp(1, bytes[i] - 127); // F8_E8M0, U8
}

static uint32_t code_of(const struct checkpoint *c, int n, int k)
{
    static const int across[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    const struct form *form = c->form;
    const uint8_t *bytes = c->codes->data;
    const int per_word = 32 / form->bits;
    switch (form->order) {
    case BYTES:
        return bytes[n * K + k];
    case BYTES_DOWN:
        return bytes[k * N + n];
    case PAIRS_DOWN:
        return bits_at(bytes, k / 2 * N + n, k % 2 * 4, 4);
    case NIBBLES:
        return bits_at(bytes, (n * K + k) / 2, k % 2 * 4, 4);
    case DOWN:
        return bits_at(bytes, (k / per_word * N + n) * 4 + k % per_word * form->bits / 8, k % per_word * form->bits % 8,
                       form->bits);
    default:
        return bits_at(bytes, (k * N / 8 + n / 8) * 4 + across[n % 8] / 2, across[n % 8] % 2 * 4, 4);
    }
}

static int zero_of(const struct checkpoint *c, int n, int g)
{
    static const int across[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    const struct form *form = c->form;
    const int per_word = 32 / form->bits, groups = K / form->group, values = 1 << form->bits;
    if (!form->zeros) return values / 2;
    const uint8_t *bytes = c->zeros->data;
    const int place = (form->order == ACROSS ? across[n % 8] : n % per_word) * form->bits;
    const int word = form->turned ? g * N / per_word + n / per_word : n / per_word * groups + g;
    return ((int)bits_at(bytes, word * 4 + place / 8, place % 8, form->bits) + form->offset) % values;
}

// Weight (n, k) as a float32 and the one or two scales behind it, each product rounded once.
static float expected(const struct checkpoint *c, int n, int k)
{
    const struct form *form = c->form;
    if (form->element == FLOAT) return (float)number(c->codes, n * K + k);
    const int g = group_of(form, k), groups = K / form->group;
    const uint32_t code = code_of(c, n, k);
    const double scale = number(c->scales, form->turned ? g * N + n : n / form->scale_rows * groups + g);
    const bool exact = form->element == E2M1 || form->group == 32;
    if (form->element == INTEGER) return (float)((double)((int)code - zero_of(c, n, g)) * scale);
    const double value = form->element == E4M3 ? e4m3(code) : e2m1(code);
    if (!exact || !form->total) return (float)(value * scale);
    const float total = (float)number(c->total, 0), factor = form->divides ? 1.0f / total : total;
    return (float)(value * scale * (double)factor);
}

// A denormal is zero wherever kernels run; sums that begin at +0 have no -0 here.
static uint32_t as_summed(float value)
{
    const uint32_t bits = mb_bits(value), magnitude = bits & 0x7fffffffu;
    return magnitude > 0x7f800000u ? 0x7fc00000u : magnitude < 0x00800000u ? 0 : bits;
}

// --- the kernels

static float *multiply(struct checkpoint *c, const struct mb_kernels *kernels, const struct mb_matrix *matrix)
{
    struct mb_packing packing = {.parts = 1, .n = N, .k = K};
    moeblock_error error = {MOEBLOCK_OK, ""};
    const bool bf16 = !mb_format_table[matrix->format].f32_compute;
    const size_t size = bf16 ? 2 : 4;
    mb_compute_packing(bf16 ? MOEBLOCK_COMPUTE_BF16 : MOEBLOCK_COMPUTE_F32, matrix->format, mb_matrix_group(matrix),
                       &packing);
    void *packed = aligned_alloc(64, (kernels->packed_bytes(&packing) + 63) / 64 * 64);
    void *staging = aligned_alloc(64, (mb_stage_bytes(matrix, 0, N, 0, K) + 64) / 64 * 64 + 64);
    void *scratch = aligned_alloc(64, (kernels->scratch_bytes(&packing, K) + 63) / 64 * 64);
    const struct mb_target target = {.kernels = kernels, .packing = &packing, .packed = packed};
    if (mb_matrix_pack(c->weights, matrix, &target, 0, N, 0, K, staging, &error)) fail_msg("%s", error.message);
    uint8_t *x = calloc(K, K * size);
    const void *rows[K];
    for (int r = 0; r < K; r++) { // row r asks for stored input r, wherever it is
        const uint32_t one = bf16 ? 0x3f80 : 0x3f800000u;
        rows[r] = x + (size_t)(r * K) * size;
        for (int j = 0; j < K; j++)
            if ((matrix->permutation ? matrix->permutation[j] : j) == r)
                memcpy(x + (size_t)(r * K + j) * size, &one, size);
    }
    float *out = malloc((size_t)K * N * sizeof *out);
    const struct mb_project_call call = {.packing = &packing,
                                         .packed = packed,
                                         .rows = {.row = rows, .m = K, .bf16 = bf16},
                                         .n1 = N,
                                         .out = out,
                                         .out_stride = N,
                                         .scratch = scratch};
    const uint64_t saved = mb_flush_begin();
    kernels->project(&call);
    for (int r = 0; r < 2; r++) { // and what one row alone gives
        float alone[N];
        struct mb_project_call one = call;
        one.rows.row = rows + r;
        one.rows.m = 1;
        one.out = alone;
        kernels->project(&one);
        assert_memory_equal(alone, out + r * N, sizeof alone);
    }
    mb_flush_end(saved);
    free(packed), free(staging), free(scratch), free(x);
    return out;
}

static void check_form(const struct form *form)
{
    const int format = mb_format_find(form->name);
    assert_true(format >= 0);
    random_state = (uint32_t)(form - forms) + 1;
    struct checkpoint *c = make_checkpoint(form, (enum mb_format)format);
    struct mb_matrix matrix;
    moeblock_error error = {MOEBLOCK_OK, ""};
    int32_t order[K];
    bool sorted = true;
    if (mb_projection_find(c->config, c->weights, MB_PROJ_DOWN, LAYER, 0, &matrix, &error))
        fail_msg("%s", error.message);
    assert_int_equal(matrix.format, format);
    if (matrix.order.name && mb_matrix_order(c->weights, &mb_default_allocator, &matrix, order, &sorted, &error))
        fail_msg("%s", error.message);
    assert_int_equal(sorted, !form->indexed);
    if (!sorted) matrix.permutation = order;
    for (int i = 0; i < N * K; i++) c->wanted[i / K][i % K] = expected(c, i / K, i % K);
    for (int level = 0; mb_kernel_levels[level]; level++) {
        const char *reason;
        if (!mb_kernel_levels[level]->usable(&reason)) continue;
        float *found = multiply(c, mb_kernel_levels[level], &matrix);
        for (int n = 0; n < N; n++) {
            bool nan = false;
            for (int k = 0; k < K; k++) nan = nan || isnan(c->wanted[n][k]);
            for (int k = 0; k < K; k++) {
                const uint32_t wanted = nan ? 0x7fc00000u : as_summed(c->wanted[n][k]);
                if (mb_bits(found[k * N + n]) != wanted)
                    fail_msg("%s (case %d), %s: weight (%d, %d) is %a, expected %a", form->name, (int)(form - forms),
                             mb_kernel_levels[level]->name, n, k, (double)found[k * N + n], (double)mb_float(wanted));
            }
        }
        free(found);
    }
    drop_checkpoint(c);
}

static void test_all_codes(void **state)
{
    (void)state;
    bool seen[MB_FORMATS] = {false};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        check_form(&forms[i]);
        seen[mb_format_find(forms[i].name)] = true;
    }
    for (int format = 0; format < MB_FORMATS; format++)
        if (!seen[format]) fail_msg("format %s is not tested", mb_format_table[format].name);
}

static int make_context(void **state)
{
    (void)state;
    return moeblock_context_create(NULL, &context, NULL) == MOEBLOCK_OK ? 0 : -1;
}

static int drop_context(void **state)
{
    (void)state;
    moeblock_context_destroy(&context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all_codes)};
    return cmocka_run_group_tests(tests, make_context, drop_context);
}
