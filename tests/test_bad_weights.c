// SPDX-License-Identifier: Apache-2.0
// A checkpoint that does not fit its configuration: every tensor of four published layouts in turn missing, misshaped,
// mistyped, with bad scales. Each load fails with the exact status and a message that names the tensor in full, what
// was found and what was expected; nothing is leaked, and the block goes on with the weights that it had.
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cmocka.h"
#include "moeblock/moeblock.h"
#include "support/golden.h"
#include "unit/files.h"
#include "weights/safetensors.h"

// Per expert with a selection bias and a shared expert, in bf16 and in both FP8 forms; stacked MXFP4 with biases;
// stacked bf16 with a shared expert; per expert with a gated shared expert.
static const char *const cases[] = {
    "deepseek_v3-bf16", "deepseek_v3_fp8", "deepseek_v3_fp8_ue8m0", "gpt_oss_mxfp4", "granitemoeshared_shared-bf16",
    "qwen2_moe-bf16"};
enum { CASES = sizeof cases / sizeof *cases, TENSORS_MOST = 128, SCRATCH_BYTES = 1 << 20 };

// --- a block with good weights in force ------------------------------------------------------------------------------

struct bench {
    struct golden_case golden;
    atomic_int live; // allocations of the context's allocator
    moeblock_allocator allocator;
    moeblock_context *context;
    moeblock_config *config;
    moeblock_block *block;
    moeblock_workspace *workspace;
    moeblock_weights *file;
    moeblock_tensor tensors[TENSORS_MOST]; // a copy of the checkpoint in memory
    size_t count;
    float *first, *again; // y before all failures, and after one
    char *scratch;        // zeros, for tensors that are larger than the real ones
    int tried;
};

static void *counted_allocate(void *user, size_t bytes, size_t alignment)
{
    atomic_fetch_add((atomic_int *)user, 1);
    return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

static void counted_release(void *user, void *memory, size_t bytes)
{
    (void)bytes;
    atomic_fetch_sub((atomic_int *)user, 1);
    free(memory);
}

static void run_into(struct bench *bench, float *y)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (moeblock_forward(bench->block, bench->workspace, bench->golden.x.data, bench->golden.tokens, MOEBLOCK_PREFILL,
                         y, &error) != MOEBLOCK_OK)
        fail_msg("%s", error.message);
}

static void copy_tensors(struct bench *bench)
{
    assert_int_equal(moeblock_weights_count(bench->file, &bench->count, NULL), MOEBLOCK_OK);
    assert_true(bench->count < TENSORS_MOST);
    for (size_t i = 0; i < bench->count; i++) {
        moeblock_tensor_info info;
        assert_int_equal(moeblock_weights_at(bench->file, i, &info, NULL), MOEBLOCK_OK);
        void *data = malloc(info.bytes);
        assert_non_null(data);
        assert_int_equal(moeblock_weights_read(bench->file, &info, 0, info.bytes, data, NULL), MOEBLOCK_OK);
        bench->tensors[i] = (moeblock_tensor){
            .name = info.name, .dtype = info.dtype, .rank = info.rank, .data = data, .bytes = info.bytes};
        memcpy(bench->tensors[i].dims, info.dims, sizeof info.dims);
    }
}

static void bench_open(struct bench *bench, const char *name)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    memset(bench, 0, sizeof *bench);
    golden_open(name, &bench->golden);
    const char *folder = bench->golden.folder;
    bench->allocator = (moeblock_allocator){&bench->live, counted_allocate, counted_release};
    const moeblock_context_options options = {
        .struct_size = sizeof options, .threads = 2, .allocator = &bench->allocator};
    const moeblock_config_options config = {.struct_size = sizeof config, .layer = bench->golden.layer};
    moeblock_status status = moeblock_context_create(&options, &bench->context, &error);
    if (status == MOEBLOCK_OK) status = moeblock_config_open(bench->context, folder, &config, &bench->config, &error);
    if (status == MOEBLOCK_OK)
        status = moeblock_block_create(bench->context, bench->config, NULL, NULL, &bench->block, &error);
    if (status == MOEBLOCK_OK) status = moeblock_weights_open(bench->context, folder, &bench->file, &error);
    if (status != MOEBLOCK_OK) fail_msg("%s: %s", name, error.message);
    copy_tensors(bench);
    status = moeblock_block_load_weights(bench->block, bench->tensors, bench->count, &error);
    if (status == MOEBLOCK_OK)
        status = moeblock_workspace_create(bench->block, bench->golden.tokens, NULL, 0, &bench->workspace, &error);
    if (status != MOEBLOCK_OK) fail_msg("%s: %s", name, error.message);
    const size_t values = (size_t)(bench->golden.tokens * bench->golden.hidden);
    bench->first = calloc(values, sizeof *bench->first);
    bench->again = calloc(values, sizeof *bench->again);
    bench->scratch = calloc(SCRATCH_BYTES, 1);
    assert_true(bench->first && bench->again && bench->scratch);
    run_into(bench, bench->first);
}

static void bench_close(struct bench *bench)
{
    for (size_t i = 0; i < bench->count; i++) free((void *)(uintptr_t)bench->tensors[i].data);
    free(bench->first);
    free(bench->again);
    free(bench->scratch);
    moeblock_workspace_destroy(&bench->workspace);
    moeblock_block_destroy(&bench->block);
    moeblock_weights_destroy(&bench->file);
    moeblock_config_destroy(&bench->config);
    moeblock_context_destroy(&bench->context);
    assert_int_equal(bench->live, 0);
    golden_close(&bench->golden);
}

// Whether the tensor belongs to the layer's block; everything else in the files is there to be ignored.
static bool is_of_block(const struct bench *bench, const moeblock_tensor *tensor)
{
    static const char *const modules[] = {"mlp", "block_sparse_moe", "shared_mlp"};
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
        char start[64];
        snprintf(start, sizeof start, "model.layers.%" PRId64 ".%s.", bench->golden.layer, modules[i]);
        if (!strncmp(tensor->name, start, strlen(start))) return true;
    }
    return false;
}

static bool ends_with(const char *text, const char *end)
{
    const size_t length = strlen(text), tail = strlen(end);
    return length >= tail && !strcmp(text + length - tail, end);
}

static bool is_scale(const moeblock_tensor *tensor)
{
    return ends_with(tensor->name, "_scale_inv") || ends_with(tensor->name, "_scales");
}

static moeblock_tensor *find(struct bench *bench, const char *end)
{
    for (size_t i = 0; i < bench->count; i++)
        if (is_of_block(bench, &bench->tensors[i]) && ends_with(bench->tensors[i].name, end)) return &bench->tensors[i];
    fail_msg("no tensor ends with %s", end);
    return NULL;
}

// A load of the tensors as they are must fail so. `parts` are texts that the message must hold, up to a NULL.
static void refused(struct bench *bench, moeblock_status wanted, const char *const *parts)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    const int live = bench->live;
    const moeblock_status status = moeblock_block_load_weights(bench->block, bench->tensors, bench->count, &error);
    if (status != wanted || error.code != wanted)
        fail_msg("%s instead of %s for %s: %s", moeblock_status_name(status), moeblock_status_name(wanted), parts[0],
                 error.message);
    for (int i = 0; parts[i]; i++)
        if (!strstr(error.message, parts[i])) fail_msg("\"%s\" does not say \"%s\"", error.message, parts[i]);
    assert_int_equal(bench->live, live);
    run_into(bench, bench->again);
    assert_memory_equal(bench->first, bench->again,
                        (size_t)(bench->golden.tokens * bench->golden.hidden) * sizeof *bench->first);
    bench->tried++;
}

static void accepted(struct bench *bench)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (moeblock_block_load_weights(bench->block, bench->tensors, bench->count, &error) != MOEBLOCK_OK)
        fail_msg("%s", error.message);
    moeblock_workspace_destroy(&bench->workspace);
    assert_int_equal(moeblock_workspace_create(bench->block, bench->golden.tokens, NULL, 0, &bench->workspace, &error),
                     MOEBLOCK_OK);
    run_into(bench, bench->again);
    assert_memory_equal(bench->first, bench->again,
                        (size_t)(bench->golden.tokens * bench->golden.hidden) * sizeof *bench->first);
}

typedef void (*tensor_body)(struct bench *bench, moeblock_tensor *tensor);

// Calls body for every tensor of the block in every case, and puts the tensor back.
static void for_every_tensor(const char *what, tensor_body body)
{
    int tried = 0;
    for (int c = 0; c < CASES; c++) {
        static struct bench bench;
        bench_open(&bench, cases[c]);
        for (size_t i = 0; i < bench.count; i++) {
            const moeblock_tensor kept = bench.tensors[i];
            if (!is_of_block(&bench, &kept)) continue;
            body(&bench, &bench.tensors[i]);
            bench.tensors[i] = kept;
        }
        accepted(&bench);
        tried += bench.tried;
        bench_close(&bench);
    }
    print_message("%s: %d loads refused\n", what, tried);
    assert_true(tried >= 50);
}

// --- missing ---------------------------------------------------------------------------------------------------------

static void try_missing(struct bench *bench, moeblock_tensor *tensor)
{
    char name[256];
    snprintf(name, sizeof name, "'%s'", tensor->name);
    tensor->name = "model.layers.99.mlp.elsewhere";
    refused(bench, MOEBLOCK_NOT_FOUND, (const char *const[]){name, "the checkpoint has no tensor", NULL});
}

static void every_tensor_missing(void **state)
{
    (void)state;
    for_every_tensor("missing", try_missing);
}

// --- shapes ----------------------------------------------------------------------------------------------------------

static void shape_text(const moeblock_tensor *tensor, char text[160])
{
    int used = snprintf(text, 160, "[");
    for (int i = 0; i < tensor->rank; i++)
        used += snprintf(text + used, 160 - (size_t)used, "%s%" PRId64, i ? ", " : "", tensor->dims[i]);
    snprintf(text + used, 160 - (size_t)used, "]");
}

static size_t bytes_of(const moeblock_tensor *tensor)
{
    size_t bytes = moeblock_dtype_bytes(tensor->dtype);
    for (int i = 0; i < tensor->rank; i++) bytes *= (size_t)tensor->dims[i];
    return bytes;
}

// The tensor with its present dims, over zeros when they need more than there is.
static void refuse_shape(struct bench *bench, moeblock_tensor *tensor, const moeblock_tensor *good)
{
    char name[256], found[168] = "shape ", expected[168] = "expects ";
    snprintf(name, sizeof name, "'%s'", tensor->name);
    shape_text(tensor, found + strlen(found));
    shape_text(good, expected + strlen(expected));
    tensor->bytes = bytes_of(tensor);
    if (tensor->bytes > good->bytes) tensor->data = bench->scratch;
    assert_true(tensor->bytes <= SCRATCH_BYTES);
    refused(bench, MOEBLOCK_INVALID_FILE, (const char *const[]){name, found, expected, NULL});
    *tensor = *good;
}

static void try_shapes(struct bench *bench, moeblock_tensor *tensor)
{
    const moeblock_tensor good = *tensor;
    const int last = tensor->rank - 1;
    if (last > 0 && tensor->dims[last - 1] != tensor->dims[last]) { // transposed
        tensor->dims[last - 1] = good.dims[last];
        tensor->dims[last] = good.dims[last - 1];
        refuse_shape(bench, tensor, &good);
    }
    for (int axis = 0; axis <= last; axis++) {
        for (int more = -1; more <= 1; more += 2) {
            tensor->dims[axis] += more;
            refuse_shape(bench, tensor, &good);
        }
    }
    tensor->dims[tensor->rank++] = 1; // an extra dimension
    refuse_shape(bench, tensor, &good);
    tensor->dims[0] = good.dims[0] * good.dims[last]; // flattened
    tensor->rank = last;
    if (last == 1) refuse_shape(bench, tensor, &good);
    *tensor = good;
}

static void every_tensor_misshaped(void **state)
{
    (void)state;
    for_every_tensor("misshaped", try_shapes);
}

// --- types -----------------------------------------------------------------------------------------------------------

static void refuse_dtype(struct bench *bench, moeblock_tensor *tensor, moeblock_dtype dtype)
{
    const moeblock_tensor good = *tensor;
    char name[256], found[32];
    snprintf(name, sizeof name, "'%s'", tensor->name);
    snprintf(found, sizeof found, "dtype %s", moeblock_dtype_name(dtype));
    tensor->dtype = dtype;
    tensor->bytes = bytes_of(tensor);
    tensor->data = bench->scratch;
    assert_true(tensor->bytes <= SCRATCH_BYTES);
    const char *expected = is_scale(tensor) ? "F8_E8M0 or U8"
                           : tensor->rank > 1 && !strstr(tensor->name, "bias")
                               ? "in which no known number format stores weights"
                               : "expected F32, F16 or BF16";
    refused(bench, MOEBLOCK_UNSUPPORTED, (const char *const[]){name, found, expected, NULL});
    *tensor = good;
}

// Types that are nobody's, and floats where codes are expected.
static void try_dtypes(struct bench *bench, moeblock_tensor *tensor)
{
    static const moeblock_dtype never[] = {MOEBLOCK_I32, MOEBLOCK_F8_E5M2, MOEBLOCK_BOOL, MOEBLOCK_F64, MOEBLOCK_I16};
    static const moeblock_dtype floats[] = {MOEBLOCK_F16, MOEBLOCK_BF16};
    const bool codes = is_scale(tensor) || ends_with(tensor->name, "_blocks");
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) refuse_dtype(bench, tensor, never[i]);
    // Powers of two are no floats; tiles of FP8 may have either.
    const bool powers = codes && !ends_with(tensor->name, "_scale_inv");
    for (size_t i = 0; powers && i < sizeof floats / sizeof *floats; i++) refuse_dtype(bench, tensor, floats[i]);
    if (!codes) refuse_dtype(bench, tensor, MOEBLOCK_U16);
}

static void every_tensor_mistyped(void **state)
{
    (void)state;
    for_every_tensor("mistyped", try_dtypes);
}

// Codes of another format than the configuration names, or without their scales.
static void formats_that_do_not_fit(void **state)
{
    (void)state;
    static struct bench bench;
    bench_open(&bench, "deepseek_v3_fp8");
    moeblock_tensor *down = find(&bench, "experts.0.down_proj.weight"), kept = *down;
    down->dtype = MOEBLOCK_BF16; // floats where codes are expected
    down->bytes = bytes_of(down);
    down->data = bench.scratch;
    refused(&bench, MOEBLOCK_INVALID_FILE,
            (const char *const[]){kept.name, "stored as bf16", "weights.format expects fp8", NULL});
    *down = kept;
    bench_close(&bench);

    bench_open(&bench, "deepseek_v3-bf16");
    moeblock_tensor *gate = find(&bench, "shared_experts.gate_proj.weight");
    char scale[256];
    snprintf(scale, sizeof scale, "'%s_scale_inv'", gate->name);
    kept = *gate;
    gate->dtype = MOEBLOCK_F8_E4M3; // codes without scales
    gate->bytes = bytes_of(gate);
    refused(&bench, MOEBLOCK_NOT_FOUND, (const char *const[]){scale, NULL});
    *gate = kept;
    bench_close(&bench);
}

// One expert stored otherwise than the rest.
static void mixed_formats_among_experts(void **state)
{
    (void)state;
    static struct bench bench;
    static const char *const ends[] = {"experts.3.down_proj.weight", "experts.3.gate_proj.weight",
                                       "experts.15.up_proj.weight"};
    bench_open(&bench, "deepseek_v3-bf16");
    for (int i = 0; i < 6; i++) {
        moeblock_tensor *odd = find(&bench, ends[i % 3]), kept = *odd;
        odd->dtype = i < 3 ? MOEBLOCK_F16 : MOEBLOCK_F32;
        odd->bytes = bytes_of(odd);
        odd->data = bench.scratch;
        refused(&bench, MOEBLOCK_UNSUPPORTED,
                (const char *const[]){kept.name, i < 3 ? "stored as f16" : "stored as f32", "as bf16",
                                      "all experts of a layer must have one format", NULL});
        *odd = kept;
    }
    bench_close(&bench);
}

// --- scales ----------------------------------------------------------------------------------------------------------

static void refuse_scale(struct bench *bench, moeblock_tensor *tensor, size_t at, float value)
{
    const moeblock_tensor good = *tensor;
    char name[256], found[32];
    snprintf(name, sizeof name, "'%s'", tensor->name);
    snprintf(found, sizeof found, "is %g", (double)value);
    char *changed = memcpy(bench->scratch, good.data, good.bytes);
    const size_t element = moeblock_dtype_bytes(tensor->dtype);
    if (element == sizeof value)
        memcpy(changed + at * element, &value, element);
    else
        changed[at] = (char)255; // NaN in E8M0
    tensor->data = changed;
    refused(bench, MOEBLOCK_INVALID_FILE,
            (const char *const[]){name, isnan(value) ? "nan" : found, "expected a finite number", NULL});
    *tensor = good;
    memset(bench->scratch, 0, good.bytes);
}

static void try_scales(struct bench *bench, moeblock_tensor *tensor)
{
    const float infinite[] = {INFINITY, -INFINITY};
    if (!is_scale(tensor)) return;
    const size_t count = tensor->bytes / moeblock_dtype_bytes(tensor->dtype), step = count / 3 + 1;
    for (size_t at = 0; at < count; at += step) refuse_scale(bench, tensor, at, NAN);
    refuse_scale(bench, tensor, count - 1, NAN);
    for (int i = 0; tensor->dtype == MOEBLOCK_F32 && i < 2; i++) refuse_scale(bench, tensor, count - 1, infinite[i]);
}

static void every_scale_not_a_number(void **state)
{
    (void)state;
    for_every_tensor("bad scales", try_scales);
}

// --- the rest --------------------------------------------------------------------------------------------------------

// Tensors that the layer does not need are ignored, whatever they hold: an expert too many, other layers, other types.
static void unrelated_tensors_are_ignored(void **state)
{
    (void)state;
    for (int c = 0; c < CASES; c++) {
        static struct bench bench;
        static const char odd[] = "\x7f\xff\x00\x01";
        char names[4][96];
        bench_open(&bench, cases[c]);
        snprintf(names[0], sizeof names[0], "model.layers.%" PRId64 ".mlp.experts.16.gate_proj.weight",
                 bench.golden.layer);
        snprintf(names[1], sizeof names[1], "model.layers.%" PRId64 ".mlp.gate.weight", bench.golden.layer + 1);
        snprintf(names[2], sizeof names[2], "model.layers.%" PRId64 ".mlp.experts.0.extra", bench.golden.layer);
        snprintf(names[3], sizeof names[3], "lm_head\x1b[2J");
        for (int i = 0; i < 4; i++)
            bench.tensors[bench.count + (size_t)i] = (moeblock_tensor){.name = names[i],
                                                                       .dtype = i % 2 ? MOEBLOCK_I32 : MOEBLOCK_BF16,
                                                                       .rank = 1,
                                                                       .dims = {i % 2 ? 1 : 2},
                                                                       .data = odd,
                                                                       .bytes = 4};
        bench.count += 4;
        accepted(&bench);
        bench.count -= 4;
        bench_close(&bench);
    }
}

// A name given twice is the caller's mistake; data at any address is not.
static void names_twice_and_unaligned_data(void **state)
{
    (void)state;
    for (int c = 0; c < CASES; c++) {
        static struct bench bench;
        bench_open(&bench, cases[c]);
        bench.tensors[bench.count] = bench.tensors[0];
        bench.count++;
        refused(&bench, MOEBLOCK_INVALID_ARGUMENT, (const char *const[]){bench.tensors[0].name, NULL});
        bench.count--;
        char *shifted[TENSORS_MOST];
        for (size_t i = 0; i < bench.count; i++) {
            shifted[i] = malloc(bench.tensors[i].bytes + 1);
            assert_non_null(shifted[i]);
            memcpy(shifted[i] + 1, bench.tensors[i].data, bench.tensors[i].bytes);
            free((void *)(uintptr_t)bench.tensors[i].data);
            bench.tensors[i].data = shifted[i] + 1;
        }
        accepted(&bench);
        for (size_t i = 0; i < bench.count; i++) {
            free(shifted[i]);
            bench.tensors[i].data = NULL;
        }
        bench_close(&bench);
    }
}

// A selection bias is needed where the configuration says so, and is left alone where it does not.
static void selection_bias_follows_the_configuration(void **state)
{
    (void)state;
    static const char *const settings[] = {"router.config.score_correction_bias=true",
                                           "router.config.score_correction_bias=false"};
    struct golden_case golden;
    struct golden_run run;
    moeblock_error error = {MOEBLOCK_OK, ""};
    golden_open("mixtral-f32", &golden); // has no such tensor
    assert_int_equal(golden_run(&golden, &(struct golden_settings){.set = &settings[0], .n_set = 1}, &run, &error),
                     MOEBLOCK_NOT_FOUND);
    assert_non_null(strstr(error.message, "e_score_correction_bias'"));
    assert_non_null(strstr(error.message, "weights.names.selection_bias"));
    assert_int_equal(golden_run(&golden, &(struct golden_settings){.set = &settings[1], .n_set = 1}, &run, &error),
                     MOEBLOCK_OK);
    golden_run_free(&golden, &run);
    golden_close(&golden);
}

// Configurations that do not fit a good checkpoint.
static void other_sizes_than_the_checkpoint(void **state)
{
    (void)state;
    static const struct {
        const char *name, *set;
        moeblock_status status;
        const char *parts[3];
    } tries[] = {
        {"mixtral-f32", "model.hidden_size=41", MOEBLOCK_INVALID_FILE, {"shape [", "expects [", ".weight'"}},
        {"mixtral-f32", "experts.distributed.intermediate_size=17", MOEBLOCK_INVALID_FILE, {"w2.weight'", "17]", ""}},
        {"mixtral-f32", "model.num_experts=17", MOEBLOCK_INVALID_FILE, {"gate.weight'", "expects [17", ""}},
        {"deepseek_v3-bf16", "model.num_experts=12", MOEBLOCK_INVALID_FILE, {"gate.weight'", "[16, 40]", "[12, 40]"}},
        {"deepseek_v3-bf16",
         "experts.shared.intermediate_size=32",
         MOEBLOCK_INVALID_FILE,
         {"shared_experts.", "[16, 40]", "[32, 40]"}},
        {"deepseek_v3-bf16",
         "weights.format=mxfp4",
         MOEBLOCK_INVALID_FILE,
         {"experts.0.down_proj.weight'", "stored as bf16", "expects mxfp4"}},
        {"gpt_oss_mxfp4",
         "model.num_experts=13",
         MOEBLOCK_INVALID_FILE,
         {"_blocks'", "[12, 96, 2, 16]", "[13, 96, 2, 16]"}},
        {"granitemoeshared_shared-bf16",
         "weights.orientation=input_major",
         MOEBLOCK_INVALID_FILE,
         {"output_linear.weight'", "[16, 40, 32]", "[16, 32, 40]"}},
        {"deepseek_v3-bf16", "layer_index=1", MOEBLOCK_NOT_FOUND, {"model.layers.1.", "no tensor", ""}},
        {"deepseek_v3-bf16",
         "weights.module_prefix=transformer.h.{layer}",
         MOEBLOCK_NOT_FOUND,
         {"'transformer.h.2.mlp.experts.0.down_proj.weight'", "", ""}},
    };
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        struct golden_case golden;
        struct golden_run run;
        moeblock_error error = {MOEBLOCK_OK, ""};
        golden_open(tries[i].name, &golden);
        if (strstr(tries[i].set, "layer_index")) golden.layer = 1;
        const struct golden_settings settings = {.set = &tries[i].set, .n_set = 1};
        const moeblock_status status = golden_run(&golden, &settings, &run, &error);
        if (status != tries[i].status)
            fail_msg("%s: %s instead of %s: %s", tries[i].set, moeblock_status_name(status),
                     moeblock_status_name(tries[i].status), error.message);
        for (int p = 0; p < 3; p++)
            if (!strstr(error.message, tries[i].parts[p]))
                fail_msg("%s: \"%s\" does not say \"%s\"", tries[i].set, error.message, tries[i].parts[p]);
        golden_close(&golden);
    }
}

// --- the same from files ---------------------------------------------------------------------------------------------

static const char *write_tensors(const struct bench *bench, const char *name)
{
    moeblock_tensor_info infos[TENSORS_MOST] = {{0}};
    struct mb_output output;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const char *path = files_path(name);
    for (size_t i = 0; i < bench->count; i++) {
        const moeblock_tensor *tensor = &bench->tensors[i];
        infos[i] = (moeblock_tensor_info){.name = tensor->name, .dtype = tensor->dtype, .rank = tensor->rank};
        memcpy(infos[i].dims, tensor->dims, sizeof tensor->dims);
    }
    moeblock_status status = mb_output_open(path, &output, &error);
    if (status == MOEBLOCK_OK) status = mb_safetensors_write_header(&output, infos, bench->count, &error);
    for (size_t i = 0; status == MOEBLOCK_OK && i < bench->count; i++)
        status = mb_output_write(&output, bench->tensors[i].data, bench->tensors[i].bytes, &error);
    if (status == MOEBLOCK_OK) status = mb_output_commit(&output, &error);
    if (status != MOEBLOCK_OK) fail_msg("%s", error.message);
    return path;
}

static void files_refused(struct bench *bench, moeblock_status wanted, const char *name, const char *part)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    const char *path = write_tensors(bench, "bad.safetensors");
    const int live = bench->live;
    assert_int_equal(moeblock_block_load_files(bench->block, path, NULL, &error), wanted);
    if (!strstr(error.message, name) || !strstr(error.message, part))
        fail_msg("\"%s\" lacks \"%s\" or \"%s\"", error.message, name, part);
    assert_int_equal(bench->live, live);
    run_into(bench, bench->again);
    assert_memory_equal(bench->first, bench->again,
                        (size_t)(bench->golden.tokens * bench->golden.hidden) * sizeof *bench->first);
}

static void rewritten_files(void **state)
{
    (void)state;
    static struct bench bench;
    bench_open(&bench, "deepseek_v3_fp8");
    moeblock_tensor *tensor = find(&bench, "experts.7.up_proj.weight_scale_inv"), kept = *tensor;
    const float bad = NAN;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const char *good = write_tensors(&bench, "good.safetensors");
    if (moeblock_block_load_files(bench.block, good, NULL, &error) != MOEBLOCK_OK) fail_msg("%s", error.message);
    accepted(&bench);
    memcpy(bench.scratch, kept.data, kept.bytes);
    memcpy(bench.scratch + kept.bytes - sizeof bad, &bad, sizeof bad);
    tensor->data = bench.scratch;
    files_refused(&bench, MOEBLOCK_INVALID_FILE, kept.name, "bad.safetensors");
    *tensor = kept;
    tensor->name = "elsewhere";
    files_refused(&bench, MOEBLOCK_NOT_FOUND, kept.name, "no tensor");
    *tensor = kept;
    tensor = find(&bench, "experts.7.up_proj.weight"), kept = *tensor;
    tensor->dims[0]--;
    tensor->bytes = bytes_of(tensor);
    files_refused(&bench, MOEBLOCK_INVALID_FILE, kept.name, "[135, 144]");
    *tensor = kept;
    tensor->dtype = MOEBLOCK_F8_E5M2;
    files_refused(&bench, MOEBLOCK_UNSUPPORTED, kept.name, "F8_E5M2");
    *tensor = kept;
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tensor_missing),
        cmocka_unit_test(every_tensor_misshaped),
        cmocka_unit_test(every_tensor_mistyped),
        cmocka_unit_test(formats_that_do_not_fit),
        cmocka_unit_test(mixed_formats_among_experts),
        cmocka_unit_test(every_scale_not_a_number),
        cmocka_unit_test(unrelated_tensors_are_ignored),
        cmocka_unit_test(names_twice_and_unaligned_data),
        cmocka_unit_test(selection_bias_follows_the_configuration),
        cmocka_unit_test(other_sizes_than_the_checkpoint),
        cmocka_unit_test(rewritten_files),
    };
    return cmocka_run_group_tests_name("bad weights", tests, files_begin, files_end);
}
