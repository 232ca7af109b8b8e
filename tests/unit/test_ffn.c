// SPDX-License-Identifier: Apache-2.0
// The built-in experts on tensors in memory: against double, every level with the same bytes, ranges of experts and
// columns equal to the whole, the tensors they name, and what they say about missing or unequal ones. The latent
// projections likewise.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "base/float.h"
#include "base/fpmode.h"
#include "cmocka.h"
#include "config/tensors.h"
#include "experts/expert.h"
#include "kernels/kernels.h"

enum { HIDDEN = 160, INNER = 96, EXPERTS = 3, SHARED_INNER = 64, LATENT = 64, ROWS = 5, MOST_TENSORS = 64 };

static uint64_t random_state;

static uint32_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float unit_random(void) { return (float)(int32_t)next_random() * 0x1p-31f; }

// A layer as tensors in memory, described by JSON.
struct layer {
    moeblock_context *context;
    moeblock_config *config;
    moeblock_weights *weights;
    moeblock_tensor tensors[MOST_TENSORS];
    char names[MOST_TENSORS][256];
    size_t count;
    moeblock_error error;
};

static void fill_tensor(moeblock_tensor *tensor, uint8_t *data)
{
    const size_t size = moeblock_dtype_bytes(tensor->dtype);
    for (size_t i = 0; i < tensor->bytes / size; i++) {
        const float value = unit_random() * 0.25f;
        const uint16_t f16 = mb_to_f16(value), bf16 = mb_to_bf16(value);
        uint8_t *to = data + i * size;
        if (tensor->dtype == MOEBLOCK_F32) memcpy(to, &value, 4);
        if (tensor->dtype == MOEBLOCK_F16) memcpy(to, &f16, 2);
        if (tensor->dtype == MOEBLOCK_BF16) memcpy(to, &bf16, 2);
        if (tensor->dtype == MOEBLOCK_F8_E4M3) *to = mb_to_e4m3(value);
        if (tensor->dtype == MOEBLOCK_U8) *to = (uint8_t)(strstr(tensor->name, "scale") ? 120 + i % 4 : next_random());
    }
}

static void add_tensor(struct layer *layer, const moeblock_tensor_need *need)
{
    assert_true(layer->count < MOST_TENSORS);
    moeblock_tensor *tensor = &layer->tensors[layer->count];
    memcpy(layer->names[layer->count], need->name, sizeof need->name);
    *tensor = (moeblock_tensor){.name = layer->names[layer->count++], .dtype = need->dtype, .rank = need->rank};
    tensor->bytes = moeblock_dtype_bytes(need->dtype);
    for (int i = 0; i < need->rank; i++) {
        tensor->dims[i] = need->dims[i];
        tensor->bytes *= (size_t)need->dims[i];
    }
    uint8_t *data = malloc(tensor->bytes);
    assert_non_null(data);
    fill_tensor(tensor, data);
    tensor->data = data;
}

static void open_weights(struct layer *layer)
{
    assert_int_equal(
        moeblock_weights_from_tensors(layer->context, layer->tensors, layer->count, &layer->weights, &layer->error),
        MOEBLOCK_OK);
}

static void make_layer(struct layer *layer, const char *level, const char *format, const char *routed)
{
    char json[2048];
    snprintf(json, sizeof json,
             "{\"model\": {\"hidden_size\": %d, \"num_experts\": %d, \"num_experts_per_tok\": 2},"
             " \"router\": {\"type\": \"topk\"},"
             " \"experts\": {%s, \"shared\": {\"enabled\": true, \"intermediate_size\": %d, \"gated\": true}}}",
             HIDDEN, EXPERTS, routed, SHARED_INNER);
    memset(layer, 0, sizeof *layer);
    random_state = 42;
    const moeblock_context_options options = {.struct_size = sizeof options, .threads = 1, .cpu_level = level};
    assert_int_equal(moeblock_context_create(&options, &layer->context, &layer->error), MOEBLOCK_OK);
    if (moeblock_config_parse(layer->context, json, strlen(json), "test", NULL, &layer->config, &layer->error)) {
        fail_msg("%s", layer->error.message);
    }
    moeblock_tensor_need need;
    for (int64_t i = 0; mb_tensor_needed(layer->config, (enum mb_format)mb_format_find(format), 0, i, &need); i++)
        add_tensor(layer, &need);
    open_weights(layer);
}

static void free_layer(struct layer *layer)
{
    moeblock_weights_destroy(&layer->weights);
    moeblock_config_destroy(&layer->config);
    moeblock_context_destroy(&layer->context);
    for (size_t i = 0; i < layer->count; i++) free((void *)(uintptr_t)layer->tensors[i].data);
}

#define ROUTED(more) "\"distributed\": {\"intermediate_size\": 96, \"activation\": \"swiglu\"" more "}"

#define PLAIN_JSON "\"distributed\": {\"intermediate_size\": 96, \"activation\": \"relu2\", \"gated\": false}"

struct range {
    int64_t e0, e1, i0, i1, h0, h1;
};

static const struct range whole_range = {0, EXPERTS, 0, INNER, 0, HIDDEN};

static void *make_experts(struct layer *layer, moeblock_compute compute, const struct range *r)
{
    const moeblock_expert_build build = {.struct_size = sizeof build,
                                         .context = layer->context,
                                         .config = layer->config,
                                         .config_json = "{}",
                                         .compute = compute,
                                         .experts = EXPERTS,
                                         .hidden = HIDDEN,
                                         .intermediate = INNER,
                                         .e0 = r->e0,
                                         .e1 = r->e1,
                                         .i0 = r->i0,
                                         .i1 = r->i1,
                                         .h0 = r->h0,
                                         .h1 = r->h1};
    void *self = NULL;
    assert_int_equal(mb_expert_ffn.create(NULL, &build, &self, &layer->error), MOEBLOCK_OK);
    int64_t items = 0;
    if (mb_expert_ffn.open(self, layer->weights, 0, &items, &layer->error)) fail_msg("%s", layer->error.message);
    for (int64_t i = items - 1; i >= 0; i--) { // in any order
        if (mb_expert_ffn.pack(self, i, &layer->error)) fail_msg("%s", layer->error.message);
    }
    return self;
}

// Rows [ROWS][width] of the compute's element type.
static void make_rows(moeblock_compute compute, int64_t width, uint8_t *memory, const void **rows)
{
    const size_t size = compute == MOEBLOCK_COMPUTE_BF16 ? 2 : 4;
    random_state = 7;
    for (int64_t i = 0; i < ROWS * width; i++) {
        const float value = unit_random();
        const uint16_t half = mb_to_bf16(value);
        memcpy(memory + (size_t)i * size, size == 2 ? (const void *)&half : (const void *)&value, size);
    }
    for (int r = 0; r < ROWS; r++) rows[r] = memory + (size_t)(r * width) * size;
}

static double element(moeblock_compute compute, const void *row, int64_t i)
{
    if (compute == MOEBLOCK_COMPUTE_BF16) return (double)mb_from_bf16(((const uint16_t *)row)[i]);
    return (double)((const float *)row)[i];
}

// Calls inner or outer on columns [c0, c1) of one expert.
static void call_expert(const void *self, bool outer, int64_t expert, const void *const *rows, int64_t c0, int64_t c1,
                        void *out, int64_t stride)
{
    const size_t bytes = mb_expert_ffn.scratch_bytes(self, ROWS);
    void *scratch = NULL;
    assert_int_equal(posix_memalign(&scratch, 64, bytes ? bytes : 1), 0);
    const moeblock_expert_call call = {.struct_size = sizeof call,
                                       .expert = expert,
                                       .m = ROWS,
                                       .rows = rows,
                                       .c0 = c0,
                                       .c1 = c1,
                                       .out = out,
                                       .out_stride = stride,
                                       .scratch = scratch};
    const uint64_t saved = mb_flush_begin();
    assert_int_equal((outer ? mb_expert_ffn.outer : mb_expert_ffn.inner)(self, &call, NULL), MOEBLOCK_OK);
    mb_flush_end(saved);
    free(scratch);
}

struct results {
    uint8_t inner[ROWS * INNER * 4];
    float outer[ROWS * HIDDEN];
};

// Both halves of expert 1; what outer reads are the activations of inner.
static void run_whole(const void *self, moeblock_compute compute, struct results *out)
{
    static uint8_t memory[ROWS * HIDDEN * 4];
    const void *rows[ROWS];
    memset(out, 0, sizeof *out);
    make_rows(compute, HIDDEN, memory, rows);
    call_expert(self, false, 1, rows, 0, INNER, out->inner, INNER);
    const size_t size = compute == MOEBLOCK_COMPUTE_BF16 ? 2 : 4;
    for (int r = 0; r < ROWS; r++) rows[r] = out->inner + (size_t)(r * INNER) * size;
    call_expert(self, true, 1, rows, 0, HIDDEN, out->outer, HIDDEN);
}

// One stored matrix and its bias, decoded.
struct decoded {
    float *weights, *bias;
};

static struct decoded decode(struct layer *layer, enum mb_projection projection, int64_t rows, bool bias)
{
    struct mb_matrix matrix;
    assert_int_equal(mb_projection_find(layer->config, layer->weights, projection, 0, 1, &matrix, &layer->error),
                     MOEBLOCK_OK);
    struct decoded d = {.weights = malloc((size_t)(rows * matrix.columns) * sizeof(float)),
                        .bias = calloc((size_t)rows, sizeof(float))};
    assert_int_equal(
        mb_matrix_decode(layer->weights, &layer->context->allocator, &matrix, 0, rows, d.weights, &layer->error),
        MOEBLOCK_OK);
    if (bias) {
        assert_int_equal(
            mb_projection_bias(layer->config, layer->weights, projection, 0, 1, rows, d.bias, &layer->error),
            MOEBLOCK_OK);
    }
    return d;
}

static double dot(const struct decoded *d, int64_t n, moeblock_compute compute, const void *row, int64_t k)
{
    double sum = (double)d->bias[n];
    for (int64_t i = 0; i < k; i++) sum += (double)d->weights[n * k + i] * element(compute, row, i);
    return sum;
}

static void check_against_double(struct layer *layer, moeblock_compute compute, bool gated, bool bias,
                                 const struct results *found)
{
    static uint8_t memory[ROWS * HIDDEN * 4];
    const void *rows[ROWS];
    make_rows(compute, HIDDEN, memory, rows);
    struct decoded gate = {NULL, NULL}, up = decode(layer, MB_PROJ_UP, INNER, bias);
    struct decoded down = decode(layer, MB_PROJ_DOWN, HIDDEN, bias);
    if (gated) gate = decode(layer, MB_PROJ_GATE, INNER, bias);
    const bool bf16 = compute == MOEBLOCK_COMPUTE_BF16;
    double inner_error = 0, inner_size = 0, outer_error = 0, outer_size = 0;
    for (int r = 0; r < ROWS; r++) {
        const void *inner = found->inner + (size_t)(r * INNER) * (bf16 ? 2 : 4);
        for (int64_t i = 0; i < INNER; i++) {
            const double u = dot(&up, i, compute, rows[r], HIDDEN);
            const double g = gated ? dot(&gate, i, compute, rows[r], HIDDEN) : u;
            const double h = gated ? g / (1 + exp(-g)) * u : (u > 0 ? u * u : 0);
            inner_error += pow(element(compute, inner, i) - h, 2);
            inner_size += h * h;
        }
        for (int64_t i = 0; i < HIDDEN; i++) {
            const double y = dot(&down, i, compute, inner, INNER);
            outer_error += pow((double)found->outer[r * HIDDEN + i] - y, 2);
            outer_size += y * y;
        }
    }
    const double bound = bf16 ? 6e-3 : 1e-6;
    assert_true(sqrt(inner_error / inner_size) <= bound);
    assert_true(sqrt(outer_error / outer_size) <= bound);
    struct decoded *all[] = {&gate, &up, &down};
    for (int i = 0; i < 3; i++) {
        free(all[i]->weights);
        free(all[i]->bias);
    }
}

static void test_formats(void **state)
{
    (void)state;
    static const char *const formats[] = {"f32", "f16", "bf16", "fp8", "mxfp4"};
    static const char *const kinds[] = {ROUTED(""), ROUTED(", \"bias\": true"), PLAIN_JSON};
    for (int f = 0; f < 5; f++) {
        for (int kind = 0; kind < 3; kind++) {
            for (int compute = MOEBLOCK_COMPUTE_F32; compute <= MOEBLOCK_COMPUTE_BF16; compute++) {
                struct results expected, found;
                struct layer layer;
                make_layer(&layer, "ref", formats[f], kinds[kind]);
                void *self = make_experts(&layer, (moeblock_compute)compute, &whole_range);
                assert_true(mb_expert_ffn.packed_bytes(self) > 0);
                run_whole(self, (moeblock_compute)compute, &expected);
                check_against_double(&layer, (moeblock_compute)compute, kind != 2, kind == 1, &expected);
                mb_expert_ffn.destroy(self);
                free_layer(&layer);
                make_layer(&layer, "generic", formats[f], kinds[kind]);
                self = make_experts(&layer, (moeblock_compute)compute, &whole_range);
                run_whole(self, (moeblock_compute)compute, &found);
                assert_memory_equal(&found, &expected, sizeof found);
                mb_expert_ffn.destroy(self);
                free_layer(&layer);
            }
        }
    }
}

// Ranks that own parts, also parts that begin inside a granule, compute the columns of the whole.
static void test_ranges(void **state)
{
    (void)state;
    static const char *const formats[] = {"f32", "bf16", "fp8", "mxfp4"};
    static const struct range parts[] = {{0, 2, 0, 40, 0, 50}, {1, 3, 40, 96, 50, 160}};
    for (int f = 0; f < 4; f++) {
        struct layer layer;
        struct results whole, split;
        const moeblock_compute compute = f ? MOEBLOCK_COMPUTE_BF16 : MOEBLOCK_COMPUTE_F32;
        const size_t size = f ? 2 : 4;
        make_layer(&layer, "generic", formats[f], ROUTED(", \"bias\": true"));
        void *self = make_experts(&layer, compute, &whole_range);
        run_whole(self, compute, &whole);
        mb_expert_ffn.destroy(self);
        memset(&split, 0, sizeof split);
        for (int p = 0; p < 2; p++) {
            static uint8_t memory[ROWS * HIDDEN * 4];
            const void *rows[ROWS];
            const struct range *part = &parts[p];
            self = make_experts(&layer, compute, part);
            make_rows(compute, HIDDEN, memory, rows);
            for (int64_t c = part->i0; c < part->i1; c += 2 * mb_expert_ffn.granule(self)) {
                const int64_t end = c + 2 * mb_expert_ffn.granule(self);
                call_expert(self, false, 1, rows, c, end < part->i1 ? end : part->i1, split.inner + (size_t)c * size,
                            INNER);
            }
            for (int r = 0; r < ROWS; r++) rows[r] = whole.inner + (size_t)(r * INNER) * size;
            call_expert(self, true, 1, rows, part->h0, part->h1, split.outer + part->h0, HIDDEN);
            mb_expert_ffn.destroy(self);
        }
        assert_memory_equal(&split, &whole, sizeof whole);
        free_layer(&layer);
    }
}

// A rank without experts holds and reads nothing.
static void test_no_experts(void **state)
{
    (void)state;
    struct layer layer;
    make_layer(&layer, "generic", "bf16", ROUTED(""));
    const struct range none = {EXPERTS, EXPERTS, 0, INNER, 0, HIDDEN};
    void *self = make_experts(&layer, MOEBLOCK_COMPUTE_BF16, &none);
    assert_int_equal(mb_expert_ffn.packed_bytes(self), 0);
    mb_expert_ffn.destroy(self);
    free_layer(&layer);
}

static void test_needs(void **state)
{
    (void)state;
    struct layer layer;
    make_layer(&layer, "generic", "fp8", ROUTED(", \"bias\": true"));
    for (int shared = 0; shared < 2; shared++) {
        const moeblock_expert_build build = {.struct_size = sizeof build,
                                             .context = layer.context,
                                             .config = layer.config,
                                             .shared = shared,
                                             .compute = MOEBLOCK_COMPUTE_BF16};
        void *self = NULL;
        assert_int_equal(mb_expert_ffn.create(NULL, &build, &self, NULL), MOEBLOCK_OK);
        moeblock_tensor_need need;
        int64_t count = 0;
        for (; mb_expert_ffn.need(self, 0, "fp8", count, &need); count++) {
            assert_int_equal(strstr(need.name, "shared") != NULL, shared);
            assert_non_null(strstr(need.name, "expert"));
        }
        // Codes, scale and bias of three projections; shared experts follow the routed ones' bias only when told.
        assert_int_equal(count, shared ? 6 : 9 * EXPERTS);
        assert_int_equal(mb_expert_ffn.need(self, 0, "int3", 0, &need), 0);
        mb_expert_ffn.destroy(self);
    }
    free_layer(&layer);
}

static moeblock_status try_open(struct layer *layer)
{
    const moeblock_expert_build build = {.struct_size = sizeof build,
                                         .context = layer->context,
                                         .config = layer->config,
                                         .compute = MOEBLOCK_COMPUTE_F32,
                                         .experts = EXPERTS,
                                         .hidden = HIDDEN,
                                         .intermediate = INNER,
                                         .e1 = EXPERTS,
                                         .i1 = INNER,
                                         .h1 = HIDDEN};
    void *self = NULL;
    int64_t items;
    assert_int_equal(mb_expert_ffn.create(NULL, &build, &self, NULL), MOEBLOCK_OK);
    const moeblock_status status = mb_expert_ffn.open(self, layer->weights, 0, &items, &layer->error);
    mb_expert_ffn.destroy(self);
    return status;
}

static moeblock_tensor *tensor_named(struct layer *layer, const char *part)
{
    for (size_t i = 0; i < layer->count; i++) {
        if (strstr(layer->names[i], part)) return &layer->tensors[i];
    }
    fail_msg("no tensor named like %s", part);
    return NULL;
}

static void test_missing_and_unequal(void **state)
{
    (void)state;
    static const char name[] = "experts.2.down_proj.weight";
    for (int wrong = 0; wrong < 3; wrong++) {
        struct layer layer;
        make_layer(&layer, "generic", "f32", ROUTED(""));
        moeblock_weights_destroy(&layer.weights);
        moeblock_tensor *tensor = tensor_named(&layer, name);
        if (wrong == 0) tensor->name = "elsewhere";
        if (wrong == 1) tensor->dims[0]--, tensor->bytes -= INNER * sizeof(float);
        if (wrong == 2) tensor->dtype = MOEBLOCK_BF16, tensor->bytes /= 2;
        open_weights(&layer);
        static const moeblock_status expected[] = {MOEBLOCK_NOT_FOUND, MOEBLOCK_INVALID_FILE, MOEBLOCK_UNSUPPORTED};
        assert_int_equal(try_open(&layer), expected[wrong]);
        assert_non_null(strstr(layer.error.message, name));
        free_layer(&layer);
    }
}

static void run_latent(struct layer *layer, moeblock_compute compute, int64_t h0, int64_t h1, uint8_t *down, float *up)
{
    static uint8_t memory[ROWS * HIDDEN * 4];
    static float sums[ROWS * LATENT];
    const void *rows[ROWS];
    struct mb_latent *latent = NULL;
    assert_int_equal(
        mb_latent_create(layer->context, layer->config, compute, layer->context->kernels, &latent, &layer->error),
        MOEBLOCK_OK);
    if (mb_latent_load(latent, layer->weights, 0, &layer->error)) fail_msg("%s", layer->error.message);
    assert_true(mb_latent_packed_bytes(latent) > 0);
    void *scratch = NULL;
    assert_int_equal(posix_memalign(&scratch, 64, mb_latent_scratch_bytes(latent, ROWS)), 0);
    make_rows(compute, HIDDEN, memory, rows);
    for (int i = 0; i < ROWS * LATENT; i++) sums[i] = unit_random();
    const uint64_t saved = mb_flush_begin();
    mb_latent_down(latent, rows, ROWS, down, scratch);
    mb_latent_up(latent, sums, ROWS, h0, h1, up + h0, HIDDEN, scratch);
    mb_flush_end(saved);
    free(scratch);
    mb_latent_destroy(latent);
}

#define LATENT_JSON(norms) ROUTED("") ", \"latent\": {\"size\": 64, \"bias\": true" norms "}"

static void test_latent(void **state)
{
    (void)state;
    static const char *const kinds[] = {LATENT_JSON(""), LATENT_JSON(", \"in_norm\": true, \"out_norm\": true")};
    for (int kind = 0; kind < 2; kind++) {
        for (int compute = MOEBLOCK_COMPUTE_F32; compute <= MOEBLOCK_COMPUTE_BF16; compute++) {
            static uint8_t down[3][ROWS * LATENT * 4];
            static float up[3][ROWS * HIDDEN];
            struct layer layer;
            make_layer(&layer, "ref", "bf16", kinds[kind]);
            run_latent(&layer, (moeblock_compute)compute, 0, HIDDEN, down[0], up[0]);
            free_layer(&layer);
            make_layer(&layer, "generic", "bf16", kinds[kind]);
            run_latent(&layer, (moeblock_compute)compute, 0, HIDDEN, down[1], up[1]);
            const int64_t cuts[] = {0, 5, 21, 32, 41, HIDDEN}; // inside granules, at them, across
            for (int i = 0; i < 5; i++)
                run_latent(&layer, (moeblock_compute)compute, cuts[i], cuts[i + 1], down[2], up[2]);
            free_layer(&layer);
            for (int i = 1; i < 3; i++) {
                assert_memory_equal(down[i], down[0], sizeof down[0]);
                assert_memory_equal(up[i], up[0], sizeof up[0]);
            }
        }
    }
}

// RMS of a normed row, with the stored factor taken out again, is one.
static void test_latent_norm(void **state)
{
    (void)state;
    static uint8_t down[ROWS * LATENT * 4];
    static float up[ROWS * HIDDEN];
    struct layer layer;
    make_layer(&layer, "generic", "f32", LATENT_JSON(", \"in_norm\": true, \"norm_plus_one\": true"));
    run_latent(&layer, MOEBLOCK_COMPUTE_F32, 0, HIDDEN, down, up);
    const float *factors = tensor_named(&layer, "latent_in_norm")->data;
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        for (int i = 0; i < LATENT; i++) {
            const double value = element(MOEBLOCK_COMPUTE_F32, down + (size_t)(r * LATENT) * 4, i);
            sum += pow(value / (1 + (double)factors[i]), 2);
        }
        assert_true(fabs(sum / LATENT - 1) < 1e-3);
    }
    free_layer(&layer);
}

static void test_registered_names(void **state)
{
    (void)state;
    moeblock_context *context = NULL;
    assert_int_equal(moeblock_context_create(NULL, &context, NULL), MOEBLOCK_OK);
    static const char *const names[] = {"distributed", "throughput"};
    for (int i = 0; i < 2; i++) {
        const struct mb_registered *found = mb_registered_find(context, MB_EXPERT_KIND, names[i]);
        assert_non_null(found);
        assert_ptr_equal(((const moeblock_expert_class *)found->class_copy)->inner, mb_expert_ffn.inner);
    }
    assert_null(mb_registered_find(context, MB_EXPERT_KIND, "shared")); // it cannot be selected
    moeblock_context_destroy(&context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_no_experts),
        cmocka_unit_test(test_needs),
        cmocka_unit_test(test_missing_and_unequal),
        cmocka_unit_test(test_latent),
        cmocka_unit_test(test_latent_norm),
        cmocka_unit_test(test_registered_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
