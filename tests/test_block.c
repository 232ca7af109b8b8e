// SPDX-License-Identifier: Apache-2.0
// The public block: same bits whatever the batch, threads, chunks, strides and mode; states and arguments; nothing
// allocated in forward; several callers at once.
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/float.h"
#include "block.h"
#include "cmocka.h"
#include "support/golden.h"

static void open_run(struct golden_case *golden, struct golden_run *run, const char *name,
                     const struct golden_settings *settings)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    golden_open(name, golden);
    if (golden_run(golden, settings, run, &error) != MOEBLOCK_OK) fail_msg("%s: %s", name, error.message);
}

static void close_run(struct golden_case *golden, struct golden_run *run)
{
    golden_run_free(golden, run);
    golden_close(golden);
}

static moeblock_array dense(float *data, int64_t tokens, int64_t hidden)
{
    return (moeblock_array){.dtype = MOEBLOCK_F32, .rank = 2, .dims = {tokens, hidden}, .data = data};
}

static const char *const cases[] = {"deepseek_v3-bf16", "deepseek_v3-f32", "deepseek_v3_fp8", "gpt_oss_mxfp4",
                                    "llama4-bf16",      "mixtral-f16",     "qwen2_moe-bf16"};
enum { CASES = sizeof cases / sizeof *cases };

static void thread_counts_give_the_same_bits(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        struct golden_case golden;
        struct golden_run one, many;
        open_run(&golden, &one, cases[i], &(struct golden_settings){.threads = 1});
        const size_t bytes = (size_t)(golden.tokens * golden.hidden) * sizeof(float);
        for (int threads = 2; threads <= 7; threads += threads == 3 ? 4 : 1) {
            moeblock_error error;
            assert_int_equal(golden_run(&golden, &(struct golden_settings){.threads = threads}, &many, &error),
                             MOEBLOCK_OK);
            assert_memory_equal(one.y, many.y, bytes);
            golden_run_free(&golden, &many);
        }
        close_run(&golden, &one);
    }
}

static void a_row_alone_is_the_row_in_the_batch(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        struct golden_case golden;
        struct golden_run run;
        open_run(&golden, &run, cases[i], &(struct golden_settings){.level = NULL});
        float *row = calloc((size_t)golden.hidden, sizeof *row);
        for (int64_t t = 0; t < golden.tokens; t++) {
            const float *x = (const float *)golden.x.data + t * golden.hidden;
            assert_int_equal(moeblock_forward(run.block, run.workspace, x, 1, MOEBLOCK_DECODE, row, NULL), MOEBLOCK_OK);
            assert_memory_equal(row, run.y + t * golden.hidden, (size_t)golden.hidden * sizeof *row);
        }
        free(row);
        close_run(&golden, &run);
    }
}

static void chunks_do_not_change_bits(void **state)
{
    (void)state;
    static const struct {
        const char *set[2];
        size_t n;
        moeblock_mode mode;
        int64_t chunks;
    } tries[] = {
        {{"prefill_chunking.chunk_size=4"}, 1, MOEBLOCK_PREFILL, 3},
        {{"prefill_chunking.chunk_size=4"}, 1, MOEBLOCK_DECODE, 1},
        {{"moe_chunking.chunk_size=1"}, 1, MOEBLOCK_PREFILL, 11},
        {{"moe_chunking.chunk_size=5", "prefill_chunking.chunk_size=3"}, 2, MOEBLOCK_PREFILL, 4},
    };
    struct golden_case golden;
    struct golden_run whole, cut;
    open_run(&golden, &whole, "deepseek_v3-bf16", &(struct golden_settings){.level = NULL});
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        moeblock_error error;
        const struct golden_settings settings = {.set = tries[i].set, .n_set = tries[i].n};
        assert_int_equal(golden_run(&golden, &settings, &cut, &error), MOEBLOCK_OK);
        moeblock_forward_stats stats = {.struct_size = sizeof stats};
        moeblock_forward_input in = {.struct_size = sizeof in, .mode = tries[i].mode};
        in.x = dense(golden.x.data, golden.tokens, golden.hidden);
        moeblock_forward_output out = {.struct_size = sizeof out, .y = in.x, .stats = &stats};
        out.y.data = cut.y;
        memset(cut.y, 0xff, (size_t)(golden.tokens * golden.hidden) * sizeof *cut.y);
        assert_int_equal(moeblock_block_forward(cut.block, cut.workspace, &in, &out, &error), MOEBLOCK_OK);
        assert_int_equal(stats.chunks, tries[i].chunks);
        assert_int_equal(stats.tokens, golden.tokens);
        assert_memory_equal(whole.y, cut.y, (size_t)(golden.tokens * golden.hidden) * sizeof *cut.y);
        golden_run_free(&golden, &cut);
    }
    // A workspace for fewer tokens cuts by itself, in decode too.
    moeblock_workspace *small;
    assert_int_equal(moeblock_workspace_create(whole.block, 2, NULL, 0, &small, NULL), MOEBLOCK_OK);
    float *y = calloc((size_t)(golden.tokens * golden.hidden), sizeof *y);
    assert_int_equal(moeblock_forward(whole.block, small, golden.x.data, golden.tokens, MOEBLOCK_DECODE, y, NULL),
                     MOEBLOCK_OK);
    assert_memory_equal(whole.y, y, (size_t)(golden.tokens * golden.hidden) * sizeof *y);
    free(y);
    moeblock_workspace_destroy(&small);
    close_run(&golden, &whole);
}

static void sequences_that_stay_whole(void **state)
{
    (void)state;
    static const char *const queues[] = {"router.type=capacity_by_choice", "router.config.capacity_fraction=0.3",
                                         "moe_chunking.chunk_size=1"};
    struct golden_case golden;
    struct golden_run run;
    open_run(&golden, &run, "switch_transformers_capacity-bf16", &(struct golden_settings){.set = queues, .n_set = 3});
    const size_t bytes = (size_t)(golden.tokens * golden.hidden) * sizeof(float);
    const int64_t lengths[] = {2, 0, 1, 2, golden.tokens - 5}, most = golden.tokens - 5;
    float *whole = calloc(1, bytes), *cut = calloc(1, bytes);
    moeblock_forward_stats stats = {.struct_size = sizeof stats};
    moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_PREFILL, .seq_lens = lengths, .n_seq = 5};
    moeblock_error error = {MOEBLOCK_OK, ""};
    in.x = dense(golden.x.data, golden.tokens, golden.hidden);
    moeblock_forward_output out = {.struct_size = sizeof out, .y = in.x, .stats = &stats};
    out.y.data = whole;
    assert_int_equal(moeblock_block_forward(run.block, run.workspace, &in, &out, &error), MOEBLOCK_OK);
    assert_int_equal(stats.chunks, 1);
    moeblock_workspace *small;
    assert_int_equal(moeblock_workspace_create(run.block, most, NULL, 0, &small, NULL), MOEBLOCK_OK);
    out.y.data = cut;
    assert_int_equal(moeblock_block_forward(run.block, small, &in, &out, &error), MOEBLOCK_OK);
    assert_int_equal(stats.chunks, 2); // the first four sequences fit one pass
    assert_memory_equal(whole, cut, bytes);
    in.seq_lens = NULL, in.n_seq = 0;
    assert_int_equal(moeblock_block_forward(run.block, small, &in, &out, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "this router must see it whole"));
    moeblock_workspace_destroy(&small);
    free(whole), free(cut);
    close_run(&golden, &run);
}

static void strides_dimensions_and_in_place(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run run;
    open_run(&golden, &run, "mixtral-f32", &(struct golden_settings){.level = NULL});
    const int64_t hidden = golden.hidden, pitch = hidden + 9;
    float *wide = calloc((size_t)(golden.tokens * pitch), sizeof *wide);
    for (int64_t t = 0; t < golden.tokens; t++)
        memcpy(wide + t * pitch, (float *)golden.x.data + t * hidden, (size_t)hidden * sizeof *wide);
    moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_PREFILL};
    in.x = (moeblock_array){.dtype = MOEBLOCK_F32,
                            .rank = 4,
                            .dims = {1, 1, golden.tokens, hidden},
                            .strides = {0, 0, pitch, 1},
                            .data = wide};
    moeblock_forward_output out = {.struct_size = sizeof out, .y = in.x}; // y is x
    assert_int_equal(moeblock_block_forward(run.block, run.workspace, &in, &out, NULL), MOEBLOCK_OK);
    for (int64_t t = 0; t < golden.tokens; t++) {
        assert_memory_equal(wide + t * pitch, run.y + t * hidden, (size_t)hidden * sizeof *wide);
        for (int64_t i = hidden; i < pitch; i++) assert_true(wide[t * pitch + i] == 0);
    }
    free(wide);
    close_run(&golden, &run);
}

// x given in bfloat16 holds the same values; y in bfloat16 and float16 is one rounding of the float32 y.
static void input_and_output_types(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run run;
    open_run(&golden, &run, "deepseek_v3-bf16", &(struct golden_settings){.level = NULL});
    const int64_t n = golden.tokens * golden.hidden;
    uint16_t *x = calloc((size_t)n, sizeof *x), *y = calloc((size_t)n, sizeof *y);
    for (int64_t i = 0; i < n; i++) x[i] = mb_to_bf16(((float *)golden.x.data)[i]);
    moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_PREFILL};
    in.x = (moeblock_array){.dtype = MOEBLOCK_BF16, .rank = 2, .dims = {golden.tokens, golden.hidden}, .data = x};
    moeblock_forward_output out = {.struct_size = sizeof out, .y = in.x};
    out.y.data = y;
    assert_int_equal(moeblock_block_forward(run.block, run.workspace, &in, &out, NULL), MOEBLOCK_OK);
    for (int64_t i = 0; i < n; i++) assert_int_equal(y[i], mb_to_bf16(run.y[i]));
    out.y.dtype = MOEBLOCK_F16;
    assert_int_equal(moeblock_block_forward(run.block, run.workspace, &in, &out, NULL), MOEBLOCK_OK);
    for (int64_t i = 0; i < n; i++) assert_int_equal(y[i], mb_to_f16(run.y[i]));
    free(x);
    free(y);
    close_run(&golden, &run);
}

static void no_tokens_is_fine(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run run;
    open_run(&golden, &run, "qwen2_moe-bf16", &(struct golden_settings){.level = NULL});
    float nothing = 7;
    assert_int_equal(moeblock_forward(run.block, run.workspace, NULL, 0, MOEBLOCK_PREFILL, NULL, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_forward(run.block, run.workspace, &nothing, 0, MOEBLOCK_DECODE, &nothing, NULL),
                     MOEBLOCK_OK);
    assert_true(nothing == 7);
    close_run(&golden, &run);
}

static void expect(moeblock_status status, moeblock_status wanted, const moeblock_error *error, const char *part)
{
    assert_int_equal(status, wanted);
    assert_int_equal(error->code, wanted);
    if (!strstr(error->message, part)) fail_msg("\"%s\" does not mention \"%s\"", error->message, part);
}

static void wrong_arguments_are_named(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run run;
    moeblock_error error;
    open_run(&golden, &run, "deepseek_v3-bf16", &(struct golden_settings){.level = NULL});
    float *x = golden.x.data;
    moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_PREFILL};
    in.x = dense(x, golden.tokens, golden.hidden);
    moeblock_forward_output out = {.struct_size = sizeof out, .y = in.x};
    out.y.data = run.y;
    const moeblock_forward_input good = in;
#define TRY_FORWARD() moeblock_block_forward(run.block, run.workspace, &in, &out, &error)
    in.mode = (moeblock_mode)0;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "mode is 0");
    in = good, in.mode = (moeblock_mode)3;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "mode is 3");
    in = good, in.x.dims[1] = 39;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "shape");
    in.x.dims[1] = out.y.dims[1] = 20;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "20");
    in = good, out.y.dims[1] = 40, in.x.dtype = MOEBLOCK_I32;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "I32");
    in = good, in.x.rank = 0;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "rank 0");
    in = good, in.x.rank = 9;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "rank 9");
    in = good, in.x.dims[0] = -1;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "-1");
    in = good, in.x.dims[0] = out.y.dims[0] = INT64_MAX;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "2^56");
    in = good, out.y.dims[0] = golden.tokens, in.x.data = NULL;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "NULL");
    in = good, in.x.strides[0] = 80, in.x.strides[1] = 2;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "stride 2");
    in = good, in.struct_size = 0;
    expect(TRY_FORWARD(), MOEBLOCK_INVALID_ARGUMENT, &error, "struct_size");
#undef TRY_FORWARD
    expect(moeblock_block_forward(NULL, run.workspace, &good, &out, &error), MOEBLOCK_INVALID_ARGUMENT, &error,
           "block is NULL");
    expect(moeblock_block_forward(run.block, NULL, &good, &out, &error), MOEBLOCK_INVALID_ARGUMENT, &error,
           "workspace is NULL");
    expect(moeblock_block_forward(run.block, run.workspace, NULL, &out, &error), MOEBLOCK_INVALID_ARGUMENT, &error,
           "input is NULL");
    close_run(&golden, &run);
}

static void states_of_a_block(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run run;
    moeblock_error error;
    open_run(&golden, &run, "deepseek_v3-bf16", &(struct golden_settings){.level = NULL});
    const size_t bytes = (size_t)(golden.tokens * golden.hidden) * sizeof(float);
    float *y = malloc(bytes);

    moeblock_block *empty;
    moeblock_workspace *none;
    assert_int_equal(moeblock_block_create(run.context, run.config, NULL, NULL, &empty, &error), MOEBLOCK_OK);
    expect(moeblock_workspace_create(empty, 1, NULL, 0, &none, &error), MOEBLOCK_WRONG_STATE, &error, "weights");
    expect(moeblock_forward(empty, run.workspace, golden.x.data, 1, MOEBLOCK_PREFILL, y, &error), MOEBLOCK_WRONG_STATE,
           &error, "weights");
    assert_int_equal(moeblock_block_load_files(empty, golden.folder, NULL, &error), MOEBLOCK_OK);
    expect(moeblock_forward(empty, run.workspace, golden.x.data, 1, MOEBLOCK_PREFILL, y, &error),
           MOEBLOCK_INVALID_ARGUMENT, &error, "another block");
    moeblock_block_destroy(&empty);
    moeblock_block_destroy(&empty);
    moeblock_block_destroy(NULL);

    // A second load that fails leaves the first in force.
    expect(moeblock_block_load_files(run.block, MOEBLOCK_SOURCE_DIR "/tests/golden/mixtral-bf16", NULL, &error),
           MOEBLOCK_NOT_FOUND, &error, "mlp.");
    expect(moeblock_block_load_weights(run.block, NULL, 0, &error), error.code, &error, "");
    assert_int_equal(
        moeblock_forward(run.block, run.workspace, golden.x.data, golden.tokens, MOEBLOCK_PREFILL, y, &error),
        MOEBLOCK_OK);
    assert_memory_equal(y, run.y, bytes);
    // A second load that succeeds makes the old workspace stale.
    assert_int_equal(moeblock_block_load_files(run.block, golden.folder, NULL, &error), MOEBLOCK_OK);
    expect(moeblock_forward(run.block, run.workspace, golden.x.data, golden.tokens, MOEBLOCK_PREFILL, y, &error),
           MOEBLOCK_INVALID_ARGUMENT, &error, "earlier weights");
    free(y);
    close_run(&golden, &run);
}

// A block of another compute type, which may well lie where the first one lay.
static void a_workspace_serves_no_later_block(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run run;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const moeblock_block_options other = {.struct_size = sizeof other, .compute = MOEBLOCK_COMPUTE_F32};
    open_run(&golden, &run, "mixtral-bf16", &(struct golden_settings){.level = NULL});
    moeblock_block_destroy(&run.block);
    assert_int_equal(moeblock_block_create(run.context, run.config, NULL, &other, &run.block, &error), MOEBLOCK_OK);
    assert_int_equal(moeblock_block_load_files(run.block, golden.folder, NULL, &error), MOEBLOCK_OK);
    expect(moeblock_forward(run.block, run.workspace, golden.x.data, golden.tokens, MOEBLOCK_PREFILL, run.y, &error),
           MOEBLOCK_INVALID_ARGUMENT, &error, "another block");
    close_run(&golden, &run);
}

static int cancel_at_once(void *user, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    ++*(int *)user;
    return 1;
}

static int count_calls(void *user, uint64_t done, uint64_t total)
{
    assert_true(done <= total);
    ++*(int *)user;
    return 0;
}

static void loading_reports_progress_and_can_be_cancelled(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run run;
    moeblock_error error;
    int calls = 0;
    open_run(&golden, &run, "deepseek_v3-bf16", &(struct golden_settings){.level = NULL});
    moeblock_load_options options = {.struct_size = sizeof options, .progress = cancel_at_once, .user = &calls};
    expect(moeblock_block_load_files(run.block, golden.folder, &options, &error), MOEBLOCK_CANCELLED, &error,
           "cancelled");
    assert_int_equal(calls, 1);
    assert_int_equal(
        moeblock_forward(run.block, run.workspace, golden.x.data, golden.tokens, MOEBLOCK_PREFILL, run.y, &error),
        MOEBLOCK_OK);
    calls = 0;
    options.progress = count_calls;
    assert_int_equal(moeblock_block_load_files(run.block, golden.folder, &options, &error), MOEBLOCK_OK);
    assert_true(calls >= 1);
    close_run(&golden, &run);
}

struct counter {
    _Atomic int live, calls;
};

static void *counted_allocate(void *user, size_t bytes, size_t alignment)
{
    struct counter *counter = user;
    counter->live++;
    counter->calls++;
    return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

static void counted_release(void *user, void *memory, size_t bytes)
{
    (void)bytes;
    ((struct counter *)user)->live--;
    free(memory);
}

static void forward_allocates_nothing(void **state)
{
    (void)state;
    struct golden_case golden;
    struct counter counter = {0, 0};
    const moeblock_allocator allocator = {&counter, counted_allocate, counted_release};
    const moeblock_context_options options = {.struct_size = sizeof options, .threads = 2, .allocator = &allocator};
    for (int i = 0; i < CASES; i++) {
        moeblock_error error;
        moeblock_context *context;
        moeblock_adapter *adapter;
        golden_open(cases[i], &golden);
        assert_int_equal(moeblock_context_create(&options, &context, &error), MOEBLOCK_OK);
        if (moeblock_adapter_open(context, golden.folder, golden.layer, NULL, NULL, &adapter, &error) != MOEBLOCK_OK)
            fail_msg("%s", error.message);
        const moeblock_block *block = moeblock_adapter_block(adapter);
        moeblock_workspace *workspace;
        assert_int_equal(moeblock_workspace_create(block, golden.tokens, NULL, 0, &workspace, &error), MOEBLOCK_OK);
        float *y = calloc((size_t)(golden.tokens * golden.hidden), sizeof *y);
        assert_int_equal(moeblock_forward(block, workspace, golden.x.data, golden.tokens, MOEBLOCK_PREFILL, y, &error),
                         MOEBLOCK_OK);
        const int before = counter.calls;
        const size_t heap = mallinfo2().uordblks;
        for (int repeat = 0; repeat < 3; repeat++)
            assert_int_equal(
                moeblock_forward(block, workspace, golden.x.data, golden.tokens, MOEBLOCK_DECODE, y, &error),
                MOEBLOCK_OK);
        assert_int_equal(counter.calls, before);
        assert_true(mallinfo2().uordblks == heap);
        free(y);
        moeblock_workspace_destroy(&workspace);
        moeblock_adapter_destroy(&adapter);
        moeblock_context_destroy(&context);
        assert_int_equal(counter.live, 0);
        golden_close(&golden);
    }
}

static void caller_memory_for_the_workspace(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run run;
    moeblock_error error;
    open_run(&golden, &run, "gpt_oss_mxfp4", &(struct golden_settings){.level = NULL});
    const size_t need = moeblock_workspace_bytes(run.block, golden.tokens);
    char *memory = aligned_alloc(64, need + 64);
    memset(memory + need, 0x5a, 64);
    moeblock_workspace *workspace;
    expect(moeblock_workspace_create(run.block, golden.tokens, memory, need - 1, &workspace, &error),
           MOEBLOCK_INVALID_ARGUMENT, &error, "bytes");
    expect(moeblock_workspace_create(run.block, golden.tokens, memory + 8, need, &workspace, &error),
           MOEBLOCK_INVALID_ARGUMENT, &error, "aligned");
    assert_int_equal(moeblock_workspace_create(run.block, golden.tokens, memory, need, &workspace, &error),
                     MOEBLOCK_OK);
    float *y = calloc((size_t)(golden.tokens * golden.hidden), sizeof *y);
    assert_int_equal(moeblock_forward(run.block, workspace, golden.x.data, golden.tokens, MOEBLOCK_PREFILL, y, &error),
                     MOEBLOCK_OK);
    assert_memory_equal(y, run.y, (size_t)(golden.tokens * golden.hidden) * sizeof *y);
    for (int i = 0; i < 64; i++) assert_int_equal(memory[need + (size_t)i], 0x5a);
    moeblock_workspace_destroy(&workspace);
    free(y);
    free(memory);
    // Bounded: far more tokens than a chunk need no more memory.
    moeblock_block_info info = {.struct_size = sizeof info};
    moeblock_block_get_info(run.block, &info);
    assert_true(moeblock_workspace_bytes(run.block, 65536) == moeblock_workspace_bytes(run.block, info.chunk_tokens));
    assert_true(moeblock_workspace_bytes(run.block, 65536) < (size_t)600 << 20);
    close_run(&golden, &run);
}

struct caller {
    const struct golden_case *golden;
    const struct golden_run *run;
    int wrong;
};

static void *call_many_times(void *argument)
{
    struct caller *caller = argument;
    const struct golden_case *golden = caller->golden;
    const size_t bytes = (size_t)(golden->tokens * golden->hidden) * sizeof(float);
    float *y = malloc(bytes);
    moeblock_workspace *workspace;
    caller->wrong += moeblock_workspace_create(caller->run->block, golden->tokens, NULL, 0, &workspace, NULL) != 0;
    for (int i = 0; i < 20; i++) {
        caller->wrong += moeblock_forward(caller->run->block, workspace, golden->x.data, golden->tokens,
                                          MOEBLOCK_PREFILL, y, NULL) != MOEBLOCK_OK;
        caller->wrong += memcmp(y, caller->run->y, bytes) != 0;
    }
    moeblock_workspace_destroy(&workspace);
    free(y);
    return NULL;
}

static void several_callers_at_once(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run run;
    open_run(&golden, &run, "deepseek_v3-bf16", &(struct golden_settings){.threads = 3});
    pthread_t threads[4];
    struct caller callers[4];
    for (int i = 0; i < 4; i++) {
        callers[i] = (struct caller){&golden, &run, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, call_many_times, &callers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(callers[i].wrong, 0);
    }
    close_run(&golden, &run);
}

// The experts alone on the router's own ids and weights, shared expert off, are the block.
static void experts_alone(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run run;
    moeblock_error error;
    static const char *const set[] = {"experts.shared.enabled=false"};
    open_run(&golden, &run, "deepseek_v3-bf16", &(struct golden_settings){.set = set, .n_set = 1});
    const int64_t n = golden.tokens * golden.hidden;
    float *y = calloc((size_t)n, sizeof *y);
    moeblock_array x = dense(golden.x.data, golden.tokens, golden.hidden), out = x;
    out.data = y;
    assert_int_equal(
        moeblock_block_forward_experts(run.block, run.workspace, &x, run.ids, run.weights, golden.k, &out, &error),
        MOEBLOCK_OK);
    assert_memory_equal(y, run.y, (size_t)n * sizeof *y);
    // Empty slots add nothing; a second mention and a foreign id are errors that name the token.
    int32_t *ids = malloc((size_t)(golden.tokens * golden.k) * sizeof *ids);
    for (int64_t i = 0; i < golden.tokens * golden.k; i++) ids[i] = -1;
    assert_int_equal(
        moeblock_block_forward_experts(run.block, run.workspace, &x, ids, run.weights, golden.k, &out, &error),
        MOEBLOCK_OK);
    for (int64_t i = 0; i < n; i++) assert_true(y[i] == 0);
    ids[5] = ids[4] = 3;
    expect(moeblock_block_forward_experts(run.block, run.workspace, &x, ids, run.weights, golden.k, &out, &error),
           MOEBLOCK_INVALID_ARGUMENT, &error, "token 1");
    ids[5] = 16;
    expect(moeblock_block_forward_experts(run.block, run.workspace, &x, ids, run.weights, golden.k, &out, &error),
           MOEBLOCK_INVALID_ARGUMENT, &error, "id 16");
    free(ids);
    free(y);
    close_run(&golden, &run);
}

struct seen {
    int64_t routed[8], shared[8];
    int n;
};

static void see(void *user, const char *what, int64_t a, int64_t b)
{
    struct seen *seen = user;
    if (strcmp(what, "inner") || seen->n == 8) return;
    seen->routed[seen->n] = a;
    seen->shared[seen->n++] = b;
}

// parallel_with_moe decides whether the shared expert stands in the routed experts' work list; bits stay.
static void shared_expert_beside_or_after(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run beside, after;
    struct seen seen = {.n = 0};
    static const char *const set[] = {"experts.shared.parallel_with_moe=false"};
    open_run(&golden, &beside, "deepseek_v3-bf16", &(struct golden_settings){.level = NULL});
    mb_block_set_trace(beside.block, see, &seen);
    assert_int_equal(moeblock_forward(beside.block, beside.workspace, golden.x.data, golden.tokens, MOEBLOCK_PREFILL,
                                      beside.y, NULL),
                     MOEBLOCK_OK);
    assert_int_equal(seen.n, 1);
    assert_true(seen.routed[0] > 0 && seen.shared[0] > 0);

    moeblock_error error;
    assert_int_equal(golden_run(&golden, &(struct golden_settings){.set = set, .n_set = 1}, &after, &error),
                     MOEBLOCK_OK);
    seen.n = 0;
    mb_block_set_trace(after.block, see, &seen);
    assert_int_equal(
        moeblock_forward(after.block, after.workspace, golden.x.data, golden.tokens, MOEBLOCK_PREFILL, after.y, NULL),
        MOEBLOCK_OK);
    assert_int_equal(seen.n, 2);
    assert_true(seen.routed[0] > 0 && seen.shared[0] == 0);
    assert_true(seen.routed[1] == 0 && seen.shared[1] > 0);
    assert_memory_equal(beside.y, after.y, (size_t)(golden.tokens * golden.hidden) * sizeof(float));
    golden_run_free(&golden, &after);
    close_run(&golden, &beside);
}

// The caller's rounding mode and flags are as before after forward.
static void floating_point_mode_is_restored(void **state)
{
    (void)state;
    struct golden_case golden;
    struct golden_run run;
    open_run(&golden, &run, "deepseek_v3-bf16", &(struct golden_settings){.threads = 2});
    volatile float tiny = 1e-38f;
    tiny *= 0.01f;
    assert_true(tiny > 0);
    assert_int_equal(moeblock_forward(run.block, run.workspace, golden.x.data, 3, MOEBLOCK_PREFILL, run.y, NULL),
                     MOEBLOCK_OK);
    volatile float again = 1e-38f;
    again *= 0.01f;
    assert_true(again == tiny && again > 0);
    close_run(&golden, &run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thread_counts_give_the_same_bits),
        cmocka_unit_test(a_row_alone_is_the_row_in_the_batch),
        cmocka_unit_test(chunks_do_not_change_bits),
        cmocka_unit_test(sequences_that_stay_whole),
        cmocka_unit_test(strides_dimensions_and_in_place),
        cmocka_unit_test(input_and_output_types),
        cmocka_unit_test(no_tokens_is_fine),
        cmocka_unit_test(wrong_arguments_are_named),
        cmocka_unit_test(states_of_a_block),
        cmocka_unit_test(a_workspace_serves_no_later_block),
        cmocka_unit_test(loading_reports_progress_and_can_be_cancelled),
        cmocka_unit_test(forward_allocates_nothing),
        cmocka_unit_test(caller_memory_for_the_workspace),
        cmocka_unit_test(several_callers_at_once),
        cmocka_unit_test(experts_alone),
        cmocka_unit_test(shared_expert_beside_or_after),
        cmocka_unit_test(floating_point_mode_is_restored),
    };
    return cmocka_run_group_tests_name("block", tests, NULL, NULL);
}
