// SPDX-License-Identifier: Apache-2.0
// Tokens of any number and any value, at every kernel level: counts around tiles and chunks, widths of one and odd,
// NaN, infinities, denormals, ties, all rows on one expert. The router's contract: k distinct ids in range whatever
// comes, a NaN row is NaN in y, and no row ever changes another.
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "support/tiny_block.h"

enum { LEVELS_MOST = 16 };

// Levels that this machine runs, slowest first.
static int usable_levels(const char *names[LEVELS_MOST])
{
    int count = 0, usable = 0;
    const char *name;
    for (int i = 0; (name = moeblock_level(i, &usable, NULL)) != NULL; i++) {
        if (!usable) continue;
        assert_true(count < LEVELS_MOST);
        names[count++] = name;
    }
    assert_true(count >= 2);
    return count;
}

// What is computed: a stored format and a compute type.
static const struct arithmetic {
    enum mb_format format;
    moeblock_compute compute;
} arithmetics[] = {{MB_FORMAT_F32, MOEBLOCK_COMPUTE_F32},
                   {MB_FORMAT_BF16, MOEBLOCK_COMPUTE_BF16},
                   {MB_FORMAT_FP8, MOEBLOCK_COMPUTE_BF16},
                   {MB_FORMAT_MXFP4, MOEBLOCK_COMPUTE_BF16},
                   {MB_FORMAT_MXFP4, MOEBLOCK_COMPUTE_INT16}};
enum { ARITHMETICS = sizeof arithmetics / sizeof *arithmetics };

// Whether results of a level must have the bytes of the level "ref": always in bf16 and int16 compute; in f32 compute
// the levels with fused multiply-add agree among themselves only.
static bool equals_ref(const char *level, moeblock_compute compute)
{
    return compute != MOEBLOCK_COMPUTE_F32 || !strcmp(level, "ref") || !strcmp(level, "generic");
}

static void start(struct tiny_block *tiny, const char *json, const char *level, const struct arithmetic *arithmetic,
                  int64_t tokens)
{
    const struct tiny_settings settings = {.level = level, .threads = 2, .format = arithmetic->format, .seed = 11};
    tiny_make(tiny, json, &settings);
    tiny_load(tiny, arithmetic->compute, tokens);
}

static void check_ids(const struct tiny_block *tiny, const int32_t *ids, int64_t tokens, int64_t classes)
{
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t j = 0; j < tiny->k; j++) {
            const int32_t id = ids[t * tiny->k + j];
            if (id < 0 || id >= classes) fail_msg("token %" PRId64 ": id %d of %" PRId64, t, id, classes);
            for (int64_t i = 0; i < j; i++)
                if (ids[t * tiny->k + i] == id) fail_msg("token %" PRId64 ": id %d twice", t, id);
        }
    }
}

// --- how many --------------------------------------------------------------------------------------------------------

static const char plain[] =
    "{\"model\": {\"hidden_size\": 32, \"num_experts\": 6, \"num_experts_per_tok\": 2},"
    " \"router\": {\"type\": \"topk\"}, \"experts\": {\"distributed\": {\"intermediate_size\": 32},"
    " \"shared\": {\"intermediate_size\": 32}}}";

// Any number of tokens gives the first rows of the largest, and a row alone is the row.
static void counts_around_tiles_and_chunks(void **state)
{
    (void)state;
    const char *levels[LEVELS_MOST];
    const int level_count = usable_levels(levels);
    for (int i = 0; i < level_count * ARITHMETICS; i++) {
        const struct arithmetic *arithmetic = &arithmetics[i % ARITHMETICS];
        struct tiny_block tiny;
        uint64_t random = 5;
        start(&tiny, plain, levels[i / ARITHMETICS], arithmetic, 1 << 20);
        moeblock_block_info info = {.struct_size = sizeof info};
        moeblock_block_get_info(tiny.block, &info);
        const int64_t chunk = info.chunk_tokens, most = chunk + 1;
        assert_true(chunk >= 16 && chunk <= 4096);
        const int64_t counts[] = {0, 1, 15, 16, 17, 63, 64, 65, chunk - 1, chunk};
        float *x = tiny_values(&random, most * tiny.hidden);
        struct tiny_result all = tiny_result_make(&tiny, most), part = tiny_result_make(&tiny, most);
        moeblock_forward_stats stats = {.struct_size = sizeof stats};
        tiny_forward(&tiny, x, most, &all, &stats);
        assert_int_equal(stats.chunks, 2);
        check_ids(&tiny, all.ids, most, tiny.experts);
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            const size_t row_bytes = (size_t)tiny.hidden * sizeof *x, slots = (size_t)(counts[c] * tiny.k);
            memset(part.y, 0xff, (size_t)most * row_bytes);
            tiny_forward(&tiny, x, counts[c], &part, &stats);
            assert_int_equal(stats.tokens, counts[c]);
            assert_memory_equal(part.y, all.y, (size_t)counts[c] * row_bytes);
            assert_memory_equal(part.ids, all.ids, slots * sizeof *part.ids);
            assert_memory_equal(part.weights, all.weights, slots * sizeof *part.weights);
            const unsigned char *behind = (unsigned char *)(part.y + counts[c] * tiny.hidden);
            for (size_t b = 0; b < row_bytes; b++) assert_int_equal(behind[b], 0xff);
        }
        for (int64_t t = 0; t < most; t += t < 20 ? 1 : 509) {
            tiny_forward(&tiny, x + t * tiny.hidden, 1, &part, NULL);
            assert_memory_equal(part.y, all.y + t * tiny.hidden, (size_t)tiny.hidden * sizeof *x);
        }
        tiny_result_free(&all);
        tiny_result_free(&part);
        free(x);
        tiny_free(&tiny);
    }
}

// The same around chunk sizes that the configuration asks for.
static void counts_around_configured_chunks(void **state)
{
    (void)state;
    static const char chunked[] =
        "{\"model\": {\"hidden_size\": 20, \"num_experts\": 5, \"num_experts_per_tok\": 2},"
        " \"router\": {\"type\": \"topk\"}, \"experts\": {\"distributed\": {\"intermediate_size\": 9}},"
        " \"chunking\": {\"%s\": %d}}";
    static const char *const keys[] = {"moe_chunk_size", "prefill_chunk_size"};
    static const int sizes[] = {1, 4, 16};
    enum { MOST = 49 };
    for (int i = 0; i < 6; i++) {
        const int64_t size = sizes[i % 3], counts[] = {0, 1, size - 1, size, size + 1, 3 * size + 1};
        char json[512];
        struct tiny_block whole, cut;
        uint64_t random = 6;
        snprintf(json, sizeof json, chunked, keys[i / 3], sizes[i % 3]);
        start(&cut, json, NULL, &arithmetics[1], MOST);
        snprintf(json, sizeof json, chunked, keys[i / 3], 0);
        start(&whole, json, NULL, &arithmetics[1], MOST);
        float *x = tiny_values(&random, MOST * whole.hidden);
        struct tiny_result expected = tiny_result_make(&whole, MOST), found = tiny_result_make(&whole, MOST);
        tiny_forward(&whole, x, MOST, &expected, NULL);
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            moeblock_forward_stats stats = {.struct_size = sizeof stats};
            tiny_forward(&cut, x, counts[c], &found, &stats);
            assert_int_equal(stats.chunks, (counts[c] + size - 1) / size);
            assert_memory_equal(found.y, expected.y, (size_t)(counts[c] * whole.hidden) * sizeof *x);
        }
        tiny_result_free(&expected);
        tiny_result_free(&found);
        free(x);
        tiny_free(&whole);
        tiny_free(&cut);
    }
}

// 65,536 tokens need no more workspace than one chunk, and have the bits of pieces of any size.
static void many_tokens_in_a_bounded_workspace(void **state)
{
    (void)state;
    static const char json[] =
        "{\"model\": {\"hidden_size\": 8, \"num_experts\": 4, \"num_experts_per_tok\": 2},"
        " \"router\": {\"type\": \"topk\"}, \"experts\": {\"distributed\": {\"intermediate_size\": 5}}}";
    enum { TOKENS = 65536, PIECE = 9999 };
    const char *levels[LEVELS_MOST];
    const int level_count = usable_levels(levels);
    for (int l = 0; l < level_count; l++) {
        struct tiny_block tiny;
        uint64_t random = 7;
        start(&tiny, json, levels[l], &arithmetics[1], TOKENS);
        moeblock_block_info info = {.struct_size = sizeof info};
        moeblock_block_get_info(tiny.block, &info);
        const size_t bytes = moeblock_workspace_bytes(tiny.block, TOKENS);
        assert_true(bytes <= (size_t)256 << 20);
        assert_int_equal(bytes, moeblock_workspace_bytes(tiny.block, info.chunk_tokens));
        assert_int_equal(bytes, moeblock_workspace_bytes(tiny.block, INT64_MAX));
        float *x = tiny_values(&random, TOKENS * tiny.hidden);
        struct tiny_result whole = tiny_result_make(&tiny, TOKENS), piece = tiny_result_make(&tiny, PIECE);
        moeblock_forward_stats stats = {.struct_size = sizeof stats};
        tiny_forward(&tiny, x, TOKENS, &whole, &stats);
        assert_int_equal(stats.chunks, (TOKENS + info.chunk_tokens - 1) / info.chunk_tokens);
        check_ids(&tiny, whole.ids, TOKENS, tiny.experts);
        for (int64_t t = 0; t < TOKENS; t += PIECE) {
            const int64_t rows = t + PIECE < TOKENS ? PIECE : TOKENS - t;
            tiny_forward(&tiny, x + t * tiny.hidden, rows, &piece, NULL);
            assert_memory_equal(piece.y, whole.y + t * tiny.hidden, (size_t)(rows * tiny.hidden) * sizeof *x);
        }
        tiny_result_free(&whole);
        tiny_result_free(&piece);
        free(x);
        tiny_free(&tiny);
    }
}

// Widths of one and odd ones: every level has the bytes of ref where that is promised, and rows do not depend on
// others.
static void odd_widths(void **state)
{
    (void)state;
    static const int widths[] = {1, 3, 17, 31, 33, 65, 129};
    enum { WIDTHS = sizeof widths / sizeof *widths, TOKENS = 19 };
    const char *levels[LEVELS_MOST];
    const int level_count = usable_levels(levels);
    for (int i = 0; i < WIDTHS * WIDTHS * 3; i++) {
        const struct arithmetic *arithmetic = &arithmetics[i % 3];
        char json[512];
        float *expected = NULL;
        snprintf(json, sizeof json,
                 "{\"model\": {\"hidden_size\": %d, \"num_experts\": 3, \"num_experts_per_tok\": 2}, \"router\": "
                 "{\"type\": \"topk\"}, \"experts\": {\"distributed\": {\"intermediate_size\": %d}}}",
                 widths[i / 3 % WIDTHS], widths[i / 3 / WIDTHS]);
        for (int l = 0; l < level_count; l++) {
            struct tiny_block tiny;
            uint64_t random = 8;
            start(&tiny, json, levels[l], arithmetic, TOKENS);
            const size_t row_bytes = (size_t)tiny.hidden * sizeof(float);
            float *x = tiny_values(&random, TOKENS * tiny.hidden);
            struct tiny_result result = tiny_result_make(&tiny, TOKENS), one = tiny_result_make(&tiny, 1);
            tiny_forward(&tiny, x, TOKENS, &result, NULL);
            check_ids(&tiny, result.ids, TOKENS, tiny.experts);
            if (!expected) expected = memcpy(malloc(TOKENS * row_bytes), result.y, TOKENS * row_bytes);
            if (equals_ref(levels[l], arithmetic->compute) && memcmp(expected, result.y, TOKENS * row_bytes))
                fail_msg("level %s differs from %s: %s", levels[l], levels[0], json);
            tiny_forward(&tiny, x + (TOKENS - 1) * tiny.hidden, 1, &one, NULL);
            assert_memory_equal(one.y, result.y + (TOKENS - 1) * tiny.hidden, row_bytes);
            tiny_result_free(&result);
            tiny_result_free(&one);
            free(x);
            tiny_free(&tiny);
        }
        free(expected);
    }
}

// --- which values ----------------------------------------------------------------------------------------------------

// Router kinds, with the ids that a row gets where nothing tells its experts apart.
static const struct model {
    const char *router;
    int32_t lowest[4]; // ascending; k is 4 everywhere, of 12 experts
} models[] = {
    {"\"type\": \"moe_gate\", \"config\": {\"n_group\": 4, \"topk_group\": 2, \"score_correction_bias\": false}",
     {0, 1, 2, 3}},
    {"\"type\": \"topk\"", {0, 1, 2, 3}},
    {"\"type\": \"linear\", \"config\": {\"score\": \"softmax\", \"norm\": \"sum\"}", {0, 1, 2, 3}},
    {"\"type\": \"linear\", \"config\": {\"score\": \"sqrt_softplus\", \"norm\": \"sum_clamped\", \"norm_eps\": 0.1}",
     {0, 1, 2, 3}},
    {"\"type\": \"linear\", \"config\": {\"score\": \"softmax\", \"softcap\": 3, \"groups\": \"per_group\", "
     "\"n_group\": 2}",
     {0, 1, 6, 7}},
    {"\"type\": \"linear\", \"config\": {\"score\": \"identity\", \"post\": \"sigmoid_k\", \"routed_scaling_factor\": "
     "2.5, \"scale_on\": \"output\"}",
     {0, 1, 2, 3}},
};
enum { MODELS = sizeof models / sizeof *models };

static void model_json(const struct model *model, char json[1024])
{
    snprintf(json, 1024,
             "{\"model\": {\"hidden_size\": 32, \"num_experts\": 12, \"num_experts_per_tok\": 4}, \"router\": {%s}, "
             "\"experts\": {\"distributed\": {\"intermediate_size\": 32}, \"shared\": {\"intermediate_size\": 32}}}",
             model->router);
}

enum value {
    ALL_NAN,
    ONE_NAN,
    ALL_INFINITE,
    ALL_MINUS_INFINITE,
    ONE_INFINITE,
    ONE_MINUS_INFINITE,
    DENORMAL,
    ZERO,
    MINUS_ZERO,
    SIGNED_ZEROS,
    MAX_FINITE,
    MINUS_MAX_FINITE,
    ALTERNATING,
    VALUES
};

static float value_at(enum value value, int64_t i, float usual)
{
    switch (value) {
    case ALL_NAN:
        return NAN;
    case ONE_NAN:
        return i == 13 ? NAN : usual;
    case ALL_INFINITE:
        return INFINITY;
    case ALL_MINUS_INFINITE:
        return -INFINITY;
    case ONE_INFINITE:
        return i == 0 ? INFINITY : usual;
    case ONE_MINUS_INFINITE:
        return i == 31 ? -INFINITY : usual;
    case DENORMAL:
        return i % 2 ? -1e-40f : 1e-39f;
    case ZERO:
        return 0.0f;
    case MINUS_ZERO:
        return -0.0f;
    case SIGNED_ZEROS:
        return i % 3 ? 0.0f : -0.0f;
    case MAX_FINITE:
        return FLT_MAX;
    case MINUS_MAX_FINITE:
        return -FLT_MAX;
    case ALTERNATING:
        return i % 2 ? -1e30f : 1e30f;
    default:
        return usual;
    }
}

// What must be seen of the row with the special value.
static void check_special(const struct tiny_block *tiny, const struct model *model, enum value value, const float *y,
                          const int32_t *ids, const float *weights)
{
    const bool is_nan = value == ALL_NAN || value == ONE_NAN;
    const bool infinite = value >= ALL_INFINITE && value <= ONE_MINUS_INFINITE;
    const bool nothing = value >= DENORMAL && value <= SIGNED_ZEROS;
    int64_t finite = 0;
    for (int64_t i = 0; i < tiny->hidden; i++) {
        finite += isfinite(y[i]) != 0;
        if (is_nan) assert_true(isnan(y[i]));
        if (nothing) assert_true(y[i] == 0.0f); // denormals count as zero, whoever calls
    }
    if (infinite) assert_true(finite < tiny->hidden);
    for (int j = 0; j < 4; j++) {
        int lowest = 0;
        for (int i = 0; i < 4; i++) lowest += ids[i] == model->lowest[j];
        if (is_nan || nothing) assert_int_equal(lowest, 1);
        if (is_nan) assert_true(isnan(weights[j]));
        if (nothing) assert_true(isfinite(weights[j]));
    }
}

// One special row among usual ones: it alone differs.
static void special_row(const struct model *model, const struct arithmetic *arithmetic, const char *level,
                        float *ref_rows)
{
    enum { TOKENS = 5, ROW = 2 };
    char json[1024];
    struct tiny_block tiny;
    uint64_t random = 9;
    model_json(model, json);
    start(&tiny, json, level, arithmetic, TOKENS);
    const int64_t hidden = tiny.hidden, k = tiny.k;
    float *x = tiny_values(&random, TOKENS * hidden), usual[64];
    memcpy(usual, x + ROW * hidden, (size_t)hidden * sizeof *x);
    struct tiny_result before = tiny_result_make(&tiny, TOKENS), after = tiny_result_make(&tiny, TOKENS);
    tiny_forward(&tiny, x, TOKENS, &before, NULL);
    for (int v = 0; v < VALUES; v++) {
        for (int64_t i = 0; i < hidden; i++) x[ROW * hidden + i] = value_at((enum value)v, i, usual[i]);
        tiny_forward(&tiny, x, TOKENS, &after, NULL);
        check_ids(&tiny, after.ids, TOKENS, tiny.experts);
        for (int64_t t = 0; t < TOKENS; t++) {
            if (t == ROW) continue;
            assert_memory_equal(after.y + t * hidden, before.y + t * hidden, (size_t)hidden * sizeof *x);
            assert_memory_equal(after.ids + t * k, before.ids + t * k, (size_t)k * sizeof *after.ids);
            assert_memory_equal(after.weights + t * k, before.weights + t * k, (size_t)k * sizeof *after.weights);
        }
        const float *row = after.y + ROW * hidden;
        check_special(&tiny, model, (enum value)v, row, after.ids + ROW * k, after.weights + ROW * k);
        float *ref_row = ref_rows + v * hidden;
        if (!strcmp(level, "ref")) memcpy(ref_row, row, (size_t)hidden * sizeof *x);
        if (equals_ref(level, arithmetic->compute) && memcmp(ref_row, row, (size_t)hidden * sizeof *x))
            fail_msg("level %s differs from ref for value %d in %s", level, v, json);
    }
    tiny_result_free(&before);
    tiny_result_free(&after);
    free(x);
    tiny_free(&tiny);
}

static void special_values_change_their_row_alone(void **state)
{
    (void)state;
    const char *levels[LEVELS_MOST];
    const int level_count = usable_levels(levels);
    assert_string_equal(levels[0], "ref");
    for (int i = 0; i < MODELS * ARITHMETICS; i++) {
        float ref_rows[VALUES * 32];
        for (int l = 0; l < level_count; l++)
            special_row(&models[i / ARITHMETICS], &arithmetics[i % ARITHMETICS], levels[l], ref_rows);
    }
}

// A batch of nothing but NaN: every row has the lowest ids and is NaN.
static void a_batch_of_nan(void **state)
{
    (void)state;
    enum { TOKENS = 33 };
    const char *levels[LEVELS_MOST];
    const int level_count = usable_levels(levels);
    for (int i = 0; i < MODELS * level_count; i++) {
        char json[1024];
        struct tiny_block tiny;
        model_json(&models[i / level_count], json);
        start(&tiny, json, levels[i % level_count], &arithmetics[1], TOKENS);
        float x[TOKENS * 32];
        for (int j = 0; j < TOKENS * 32; j++) x[j] = j % 2 ? NAN : -NAN;
        struct tiny_result result = tiny_result_make(&tiny, TOKENS);
        tiny_forward(&tiny, x, TOKENS, &result, NULL);
        check_ids(&tiny, result.ids, TOKENS, tiny.experts);
        for (int64_t t = 0; t < TOKENS; t++)
            check_special(&tiny, &models[i / level_count], ALL_NAN, result.y + t * 32, result.ids + t * 4,
                          result.weights + t * 4);
        tiny_result_free(&result);
        tiny_free(&tiny);
    }
}

// --- where they go ---------------------------------------------------------------------------------------------------

static const char biased[] = "{\"model\": {\"hidden_size\": 32, \"num_experts\": 7, \"num_experts_per_tok\": 2},"
                             " \"router\": {\"type\": \"topk\", \"config\": {\"linear_bias\": true}},"
                             " \"experts\": {\"distributed\": {\"intermediate_size\": 32}}}";

static void set_bias(struct tiny_block *tiny, int expert, float value)
{
    const moeblock_tensor *tensor = tiny_tensor(tiny, "model.layers.0.mlp.gate.bias");
    assert_int_equal(tensor->dtype, MOEBLOCK_F32);
    ((float *)(uintptr_t)tensor->data)[expert] = value;
}

// Equal logits everywhere: the lowest ids, with equal weights.
static void ties_go_to_the_lowest_ids(void **state)
{
    (void)state;
    enum { TOKENS = 21 };
    const char *levels[LEVELS_MOST];
    const int level_count = usable_levels(levels);
    for (int i = 0; i < MODELS * level_count; i++) {
        const struct model *model = &models[i / level_count];
        char json[1024];
        struct tiny_block tiny;
        uint64_t random = 10;
        model_json(model, json);
        tiny_make(&tiny, json, &(struct tiny_settings){.level = levels[i % level_count], .format = MB_FORMAT_F32});
        float *router = tiny_data(&tiny, "model.layers.0.mlp.gate.weight");
        for (int e = 1; e < 12; e++) memcpy(router + e * 32, router, 32 * sizeof *router);
        tiny_load(&tiny, MOEBLOCK_COMPUTE_F32, TOKENS);
        float *x = tiny_values(&random, TOKENS * 32);
        struct tiny_result result = tiny_result_make(&tiny, TOKENS);
        tiny_forward(&tiny, x, TOKENS, &result, NULL);
        for (int j = 0; j < TOKENS * 4; j++) {
            assert_int_equal(result.ids[j], model->lowest[j % 4]);
            assert_true(result.weights[j] == result.weights[j - j % 4]);
        }
        tiny_result_free(&result);
        free(x);
        tiny_free(&tiny);
    }
}

// A bias sends every token to experts 5 and 2; rows stay what they are alone. NaN weights in the five experts that
// nobody chooses are never seen.
static void all_tokens_to_two_experts(void **state)
{
    (void)state;
    enum { TOKENS = 131 };
    const char *levels[LEVELS_MOST];
    const int level_count = usable_levels(levels);
    for (int l = 0; l < level_count; l++) {
        struct tiny_block tiny;
        uint64_t random = 12;
        tiny_make(&tiny, biased, &(struct tiny_settings){.level = levels[l], .format = MB_FORMAT_F32, .seed = 3});
        set_bias(&tiny, 5, 4e4f);
        set_bias(&tiny, 2, 3.9e4f);
        tiny_load(&tiny, MOEBLOCK_COMPUTE_F32, TOKENS);
        float *x = tiny_values(&random, TOKENS * tiny.hidden);
        struct tiny_result clean = tiny_result_make(&tiny, TOKENS), one = tiny_result_make(&tiny, TOKENS);
        int64_t load[7] = {0};
        moeblock_forward_stats stats = {.struct_size = sizeof stats, .expert_load = load};
        tiny_forward(&tiny, x, TOKENS, &clean, &stats);
        for (int e = 0; e < 7; e++) assert_int_equal(load[e], e == 5 || e == 2 ? TOKENS : 0);
        for (int64_t t = 0; t < TOKENS; t += 13) {
            tiny_forward(&tiny, x + t * tiny.hidden, 1, &one, NULL);
            assert_memory_equal(one.y, clean.y + t * tiny.hidden, (size_t)tiny.hidden * sizeof *x);
        }
        for (size_t i = 0; i < tiny.count; i++) {
            const char *expert = strstr(tiny.tensors[i].name, "experts.");
            if (!expert || expert[8] == '5' || expert[8] == '2') continue;
            float *data = (float *)(uintptr_t)tiny.tensors[i].data;
            for (size_t v = 0; v < tiny.tensors[i].bytes / sizeof *data; v++) data[v] = NAN;
        }
        assert_int_equal(moeblock_block_load_weights(tiny.block, tiny.tensors, tiny.count, NULL), MOEBLOCK_OK);
        moeblock_workspace_destroy(&tiny.workspace);
        assert_int_equal(moeblock_workspace_create(tiny.block, TOKENS, NULL, 0, &tiny.workspace, NULL), MOEBLOCK_OK);
        tiny_forward(&tiny, x, TOKENS, &one, NULL);
        assert_memory_equal(one.y, clean.y, (size_t)(TOKENS * tiny.hidden) * sizeof *x);
        tiny_result_free(&clean);
        tiny_result_free(&one);
        free(x);
        tiny_free(&tiny);
    }
}

// An expert that no token reaches: its load is 0, and it is not among the active ones.
static void an_expert_that_is_never_used(void **state)
{
    (void)state;
    enum { TOKENS = 400 };
    const char *levels[LEVELS_MOST];
    const int level_count = usable_levels(levels);
    for (int l = 0; l < level_count; l++) {
        struct tiny_block tiny;
        uint64_t random = 13;
        tiny_make(&tiny, biased, &(struct tiny_settings){.level = levels[l], .format = MB_FORMAT_F32, .seed = 4});
        for (int e = 0; e < 7; e++) set_bias(&tiny, e, e == 3 ? -INFINITY : 0.0f);
        tiny_load(&tiny, MOEBLOCK_COMPUTE_F32, TOKENS);
        float *x = tiny_values(&random, TOKENS * tiny.hidden);
        struct tiny_result result = tiny_result_make(&tiny, TOKENS);
        int64_t load[7] = {0}, sum = 0;
        moeblock_forward_stats stats = {.struct_size = sizeof stats, .expert_load = load};
        tiny_forward(&tiny, x, TOKENS, &result, &stats);
        for (int e = 0; e < 7; e++) sum += load[e];
        assert_int_equal(load[3], 0);
        assert_int_equal(sum, TOKENS * tiny.k);
        assert_int_equal(stats.active_experts, 6);
        for (int64_t i = 0; i < TOKENS * tiny.hidden; i++) assert_true(isfinite(result.y[i]));
        tiny_result_free(&result);
        free(x);
        tiny_free(&tiny);
    }
}

// Experts whose logits are NaN stand below all others, -infinity included: they are chosen only when k asks for them.
static void nan_logits_rank_last(void **state)
{
    (void)state;
    enum { TOKENS = 9, EXPERTS = 7 };
    const char *levels[LEVELS_MOST];
    const int level_count = usable_levels(levels);
    for (int i = 0; i < level_count * EXPERTS; i++) {
        const int nans = i % EXPERTS;
        struct tiny_block tiny;
        uint64_t random = 14;
        tiny_make(&tiny, biased, &(struct tiny_settings){.level = levels[i / EXPERTS], .format = MB_FORMAT_F32});
        for (int e = 0; e < EXPERTS; e++) set_bias(&tiny, e, e < nans ? NAN : e % 2 ? -INFINITY : 0.0f);
        tiny_load(&tiny, MOEBLOCK_COMPUTE_F32, TOKENS);
        float *x = tiny_values(&random, TOKENS * tiny.hidden);
        struct tiny_result result = tiny_result_make(&tiny, TOKENS);
        tiny_forward(&tiny, x, TOKENS, &result, NULL);
        check_ids(&tiny, result.ids, TOKENS, EXPERTS);
        for (int64_t t = 0; t < TOKENS; t++) {
            int chosen = 0;
            for (int j = 0; j < 2; j++) chosen += result.ids[2 * t + j] < nans;
            assert_int_equal(chosen, EXPERTS - nans >= 2 ? 0 : 2 - (EXPERTS - nans));
        }
        tiny_result_free(&result);
        free(x);
        tiny_free(&tiny);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_around_tiles_and_chunks),
        cmocka_unit_test(counts_around_configured_chunks),
        cmocka_unit_test(many_tokens_in_a_bounded_workspace),
        cmocka_unit_test(odd_widths),
        cmocka_unit_test(special_values_change_their_row_alone),
        cmocka_unit_test(a_batch_of_nan),
        cmocka_unit_test(ties_go_to_the_lowest_ids),
        cmocka_unit_test(all_tokens_to_two_experts),
        cmocka_unit_test(an_expert_that_is_never_used),
        cmocka_unit_test(nan_logits_rank_last),
    };
    return cmocka_run_group_tests_name("tokens", tests, NULL, NULL);
}
