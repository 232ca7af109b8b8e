// SPDX-License-Identifier: Apache-2.0
// Opened checkpoints: one file, sharded folders that are wrong in every way of an index, caller memory, files that
// change while they are open, searches and reads from several threads.
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "cmocka.h"
#include "unit/files.h"
#include "weights/checkpoint.h"

#define T(name, dtype, shape, offsets)                                                                                 \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"
#define ONE "{" T("a", "U8", "4", "0,4") "," T("b", "U8", "2,3", "4,10") "}"
#define TWO "{" T("c", "U8", "8", "0,8") "," T("d", "BF16", "2", "8,12") "}"
#define THREE "{" T("e", "U8", "1", "0,1") "}"
#define MAP "\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"c\":\"two.safetensors\",\"d\":\"two.safetensors\","
#define INDEX "{\"metadata\":{\"total_size\":23},\"weight_map\":{" MAP "\"e\":\"three.safetensors\"}}"

static struct moeblock_context context;

// A fresh sharded checkpoint named `name`; returns its folder.
static const char *put_set(const char *name, const char *index)
{
    char file[256];
    assert_int_equal(mkdir(files_path(name), 0700), 0);
    snprintf(file, sizeof file, "%s/one.safetensors", name);
    files_put_safetensors(file, ONE, 10);
    snprintf(file, sizeof file, "%s/two.safetensors", name);
    files_put_safetensors(file, TWO, 12);
    snprintf(file, sizeof file, "%s/three.safetensors", name);
    files_put_safetensors(file, THREE, 1);
    snprintf(file, sizeof file, "%s/model.safetensors.index.json", name);
    files_put(file, index, strlen(index));
    return files_path(name);
}

static void assert_says(const moeblock_error *error, const char *text)
{
    if (!strstr(error->message, text)) fail_msg("'%s' does not say '%s'", error->message, text);
}

static moeblock_weights *open_good(const char *path)
{
    moeblock_weights *weights = NULL;
    moeblock_error error = {0};
    const moeblock_status status = moeblock_weights_open(&context, path, &weights, &error);
    assert_string_equal(error.message, "");
    assert_int_equal(status, MOEBLOCK_OK);
    return weights;
}

static void one_file(void **state)
{
    (void)state;
    moeblock_weights *weights = open_good(files_put_safetensors("single.safetensors", ONE, 10));
    moeblock_tensor_info info;
    size_t count = 0;
    assert_int_equal(moeblock_weights_count(weights, &count, NULL), MOEBLOCK_OK);
    assert_int_equal(count, 2);
    assert_int_equal(moeblock_weights_shards_opened(weights), 1);
    assert_int_equal(moeblock_weights_bytes_read(weights), 8 + strlen(ONE));
    assert_int_equal(moeblock_weights_at(weights, 1, &info, NULL), MOEBLOCK_OK);
    assert_string_equal(info.name, "b");
    assert_int_equal(moeblock_weights_find(weights, "b", &info, NULL), MOEBLOCK_OK);
    assert_int_equal(info.dims[1], 3);
    assert_string_equal(info.file, files_path("single.safetensors"));
    unsigned char bytes[6] = {0};
    assert_int_equal(moeblock_weights_read(weights, &info, 1, 4, bytes, NULL), MOEBLOCK_OK);
    assert_memory_equal(bytes, ((unsigned char[]){5, 6, 7, 8, 0, 0}), 6);
    assert_int_equal(moeblock_weights_bytes_read(weights), 8 + strlen(ONE) + 4);
    assert_int_equal(moeblock_weights_validate(weights, NULL), MOEBLOCK_OK);

    moeblock_error error = {0};
    assert_int_equal(moeblock_weights_at(weights, 2, &info, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_says(&error, "number 2");
    assert_says(&error, "holds 2");
    assert_int_equal(moeblock_weights_find(weights, "bb", &info, &error), MOEBLOCK_NOT_FOUND);
    assert_says(&error, "'bb'");
    assert_says(&error, "nearest name is 'b'");
    assert_null(info.name);
    moeblock_weights_destroy(&weights);
    assert_null(weights);
    moeblock_weights_destroy(&weights);
}

static void reads_outside_a_tensor(void **state)
{
    (void)state;
    moeblock_weights *weights = open_good(files_put_safetensors("range.safetensors", ONE, 10));
    moeblock_tensor_info info;
    unsigned char byte[1] = {77};
    assert_int_equal(moeblock_weights_find(weights, "a", &info, NULL), MOEBLOCK_OK);
    info.bytes = 1000; // a caller's copy cannot widen the range
    const struct {
        uint64_t offset;
        size_t bytes;
    } cases[] = {{4, 1}, {5, 0}, {0, 5}, {UINT64_MAX, 1}, {UINT64_MAX - 3, 8}, {1, SIZE_MAX}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        moeblock_error error = {0};
        assert_int_equal(moeblock_weights_read(weights, &info, cases[i].offset, cases[i].bytes, byte, &error),
                         MOEBLOCK_INVALID_ARGUMENT);
        assert_says(&error, "'a'");
        assert_says(&error, "it has 4");
        assert_int_equal(byte[0], 77);
    }
    assert_int_equal(moeblock_weights_read(weights, &info, 4, 0, byte, NULL), MOEBLOCK_OK);
    moeblock_weights_destroy(&weights);
}

static void only_needed_shards_are_opened(void **state)
{
    (void)state;
    moeblock_weights *weights = open_good(put_set("lazy", INDEX));
    assert_int_equal(moeblock_weights_shards_opened(weights), 0);
    assert_int_equal(moeblock_weights_bytes_read(weights), 0);
    moeblock_tensor_info info;
    assert_int_equal(moeblock_weights_find(weights, "c", &info, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_weights_find(weights, "d", &info, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_weights_find(weights, "nowhere", &info, NULL), MOEBLOCK_NOT_FOUND);
    assert_int_equal(moeblock_weights_shards_opened(weights), 1);
    assert_int_equal(moeblock_weights_validate(weights, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_weights_shards_opened(weights), 3);
    size_t count = 0;
    assert_int_equal(moeblock_weights_count(weights, &count, NULL), MOEBLOCK_OK);
    assert_int_equal(count, 5);
    assert_int_equal(moeblock_weights_at(weights, 2, &info, NULL), MOEBLOCK_OK);
    assert_string_equal(info.name, "e"); // files in the order of their names: one, three, two
    moeblock_weights_destroy(&weights);
    weights = open_good(files_path("lazy/model.safetensors.index.json")); // the index itself
    assert_int_equal(moeblock_weights_find(weights, "e", &info, NULL), MOEBLOCK_OK);
    moeblock_weights_destroy(&weights);
}

// Indexes that do not open.
static void bad_indexes(void **state)
{
    (void)state;
    static const struct {
        const char *index;
        moeblock_status status;
        const char *says;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", MOEBLOCK_INVALID_FILE, "../one.safetensors"},
        {"{\"weight_map\":{\"a\":\"..\"}}", MOEBLOCK_INVALID_FILE, "'..'"},
        {"{\"weight_map\":{\"a\":\".\"}}", MOEBLOCK_INVALID_FILE, "expected the plain name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", MOEBLOCK_INVALID_FILE, "/etc/passwd"},
        {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", MOEBLOCK_INVALID_FILE, "sub/one.safetensors"},
        {"{\"weight_map\":{\"a\":\"\"}}", MOEBLOCK_INVALID_FILE, "'a'"},
        {"{\"weight_map\":{\"a\":1}}", MOEBLOCK_INVALID_FILE, "'a'"},
        {"{\"weight_map\":{\"a\":null}}", MOEBLOCK_INVALID_FILE, "'a'"},
        {"{\"weight_map\":{\"a\":\"x.bin\"}}", MOEBLOCK_UNSUPPORTED, "x.bin"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}", MOEBLOCK_INVALID_FILE, "duplicate"},
        {"{\"weight_map\":[]}", MOEBLOCK_INVALID_FILE, "weight_map"},
        {"{\"metadata\":{}}", MOEBLOCK_INVALID_FILE, "weight_map"},
        {"{\"metadata\":3,\"weight_map\":{}}", MOEBLOCK_INVALID_FILE, "metadata"},
        {"[]", MOEBLOCK_INVALID_FILE, "object"},
        {"", MOEBLOCK_INVALID_FILE, "empty"},
        {"{\"weight_map\":{}} x", MOEBLOCK_INVALID_FILE, "JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "index%zu", i);
        const char *folder = put_set(name, cases[i].index);
        moeblock_weights *weights = (moeblock_weights *)&context;
        moeblock_error error = {0};
        assert_int_equal(moeblock_weights_open(&context, folder, &weights, &error), cases[i].status);
        assert_null(weights);
        assert_says(&error, cases[i].says);
    }
}

// Sets that open, since headers are read when needed, but do not validate.
static void bad_sets(void **state)
{
    (void)state;
#define PLACES(a, b, c, d, e)                                                                                          \
    "{\"metadata\":{\"total_size\":23},\"weight_map\":{\"a\":\"" a ".safetensors\",\"b\":\"" b                         \
    ".safetensors\",\"c\":\"" c ".safetensors\",\"d\":\"" d ".safetensors\",\"e\":\"" e ".safetensors\"}}"
    static const struct {
        const char *index, *says, *also;
    } cases[] = {
        {"{\"metadata\":{\"total_size\":22},\"weight_map\":{" MAP "\"e\":\"three.safetensors\"}}", "22", "23"},
        {"{\"metadata\":{\"total_size\":-1},\"weight_map\":{" MAP "\"e\":\"three.safetensors\"}}", "total_size", "23"},
        {"{\"metadata\":{\"total_size\":23.0},\"weight_map\":{" MAP "\"e\":\"three.safetensors\"}}", "total_size",
         "23"},
        {PLACES("one", "one", "two", "two", "four"), "four.safetensors", "does not exist"},
        {PLACES("one", "one", "two", "two", "two"), "'e'", "does not hold it"},
        {PLACES("two", "one", "two", "two", "three"), "'a'", "places in"},
        {PLACES("one", "one", "three", "two", "three"), "'c'", "places in"},
        {"{\"weight_map\":{" MAP "\"e\":\"three.safetensors\",\"f\":\"three.safetensors\"}}", "'f'",
         "does not hold it"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\"}}", "'b'", "does not list"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "set%zu", i);
        moeblock_weights *weights = open_good(put_set(name, cases[i].index));
        moeblock_error error = {0};
        assert_int_equal(moeblock_weights_validate(weights, &error), MOEBLOCK_INVALID_FILE);
        assert_says(&error, cases[i].says);
        assert_says(&error, cases[i].also);
        moeblock_tensor_info info; // what is right stays readable
        assert_int_equal(moeblock_weights_find(weights, i == 5 ? "b" : "a", &info, NULL), MOEBLOCK_OK);
        moeblock_weights_destroy(&weights);
    }
}

static void a_tensor_in_two_shards(void **state)
{
    (void)state;
    put_set("twice", INDEX);
    files_put_safetensors("twice/three.safetensors", "{" T("a", "U8", "1", "0,1") "," T("e", "U8", "1", "1,2") "}", 2);
    moeblock_weights *weights = open_good(files_path("twice"));
    moeblock_error error = {0};
    assert_int_equal(moeblock_weights_validate(weights, &error), MOEBLOCK_INVALID_FILE);
    assert_says(&error, "'a'");
    assert_says(&error, "three.safetensors");
    assert_says(&error, "one.safetensors");
    moeblock_tensor_info info;
    assert_int_equal(moeblock_weights_find(weights, "a", &info, NULL), MOEBLOCK_OK);
    assert_int_equal(info.bytes, 4); // the one that the index names
    moeblock_weights_destroy(&weights);
}

static void shards_that_are_not_whole(void **state)
{
    (void)state;
    put_set("cut", INDEX);
    const off_t whole = 8 + (off_t)strlen(TWO) + 12;
    const off_t lengths[] = {0, 7, 8, 9, whole / 2, whole - 1, whole + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        const char *path = files_put_safetensors("cut/two.safetensors", TWO, 12);
        assert_int_equal(truncate(path, lengths[i]), 0);
        moeblock_weights *weights = open_good(files_path("cut"));
        moeblock_tensor_info info;
        moeblock_error error = {0};
        assert_int_equal(moeblock_weights_find(weights, "c", &info, &error), MOEBLOCK_INVALID_FILE);
        assert_says(&error, "two.safetensors");
        assert_int_equal(moeblock_weights_shards_opened(weights), 0);
        assert_int_equal(moeblock_weights_find(weights, "a", &info, &error), MOEBLOCK_OK); // others still open
        // Once it is repaired the same object finds it.
        files_put_safetensors("cut/two.safetensors", TWO, 12);
        assert_int_equal(moeblock_weights_find(weights, "c", &info, &error), MOEBLOCK_OK);
        moeblock_weights_destroy(&weights);
    }
}

static void odd_files_as_shards(void **state)
{
    (void)state;
    put_set("odd", INDEX);
    const char *path = files_path("odd/three.safetensors");
    moeblock_weights *weights = open_good(files_path("odd"));
    moeblock_tensor_info info;
    moeblock_error error = {0};
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("three.safetensors", path), 0); // a loop
    assert_int_equal(moeblock_weights_find(weights, "e", &info, &error), MOEBLOCK_IO);
    assert_says(&error, "three.safetensors");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(moeblock_weights_find(weights, "e", &info, &error), MOEBLOCK_IO);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(moeblock_weights_find(weights, "e", &info, &error), MOEBLOCK_IO);
    assert_says(&error, "a directory");
    moeblock_weights_destroy(&weights);
}

static void paths_that_do_not_open(void **state)
{
    (void)state;
    assert_int_equal(mkdir(files_path("empty"), 0700), 0);
    assert_int_equal(mkdir(files_path("pickle"), 0700), 0);
    files_put("pickle/pytorch_model.bin", "x", 1);
    static const struct {
        const char *name;
        moeblock_status status;
        const char *says;
    } cases[] = {
        {"none.safetensors", MOEBLOCK_NOT_FOUND, "none.safetensors"},
        {"no/where", MOEBLOCK_NOT_FOUND, "no/where"},
        {"empty", MOEBLOCK_NOT_FOUND, "model.safetensors"},
        {"pickle", MOEBLOCK_UNSUPPORTED, "pytorch_model.bin"},
        {"model.bin", MOEBLOCK_UNSUPPORTED, "pickle"},
        {"model.pt", MOEBLOCK_UNSUPPORTED, "pickle"},
        {"model.pth", MOEBLOCK_UNSUPPORTED, "pickle"},
        {"model.gguf", MOEBLOCK_UNSUPPORTED, "GGUF"},
        {"model.onnx", MOEBLOCK_UNSUPPORTED, "ONNX"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        moeblock_weights *weights = NULL;
        moeblock_error error = {0};
        assert_int_equal(moeblock_weights_open(&context, files_path(cases[i].name), &weights, &error), cases[i].status);
        assert_null(weights);
        assert_says(&error, cases[i].says);
    }
}

// Replaced, grown, cut or rewritten while open: never a silent mix of two files.
static void files_that_change_while_open(void **state)
{
    (void)state;
    for (int change = 0; change < 4; change++) {
        const char *path = files_put_safetensors("changing.safetensors", ONE, 10);
        moeblock_weights *weights = open_good(path);
        moeblock_tensor_info info;
        moeblock_error error = {0};
        unsigned char bytes[6];
        assert_int_equal(moeblock_weights_find(weights, "b", &info, NULL), MOEBLOCK_OK);
        if (change == 0) assert_int_equal(truncate(path, 8 + (off_t)strlen(ONE) + 7), 0);
        if (change == 1) assert_int_equal(truncate(path, 4096), 0);
        if (change == 2) {
            files_put_safetensors("other.safetensors", ONE, 10);
            assert_int_equal(rename(files_path("other.safetensors"), path), 0);
        }
        if (change == 3) {
            usleep(20000); // further than the clock of file times ticks
            files_put_safetensors("changing.safetensors", ONE, 10);
        }
        assert_int_equal(moeblock_weights_read(weights, &info, 0, 6, bytes, &error), MOEBLOCK_INVALID_FILE);
        assert_says(&error, "changing.safetensors");
        assert_says(&error, "changed while loading");
        assert_int_equal(moeblock_weights_validate(weights, &error), MOEBLOCK_INVALID_FILE);
        moeblock_weights_destroy(&weights);
    }
}

static void caller_memory(void **state)
{
    (void)state;
    const float values[6] = {1, 2, 3, 4, 5, 6};
    const moeblock_tensor tensors[] = {
        {.name = "w", .dtype = MOEBLOCK_F32, .rank = 2, .dims = {2, 3}, .data = values, .bytes = sizeof values},
        {.name = "none", .dtype = MOEBLOCK_BF16, .rank = 1, .dims = {0}},
    };
    moeblock_weights *weights = NULL;
    assert_int_equal(moeblock_weights_from_tensors(&context, tensors, 2, &weights, NULL), MOEBLOCK_OK);
    moeblock_tensor_info info;
    assert_int_equal(moeblock_weights_at(weights, 0, &info, NULL), MOEBLOCK_OK);
    assert_ptr_equal(info.name, tensors[0].name);
    assert_null(info.file);
    float two[2];
    assert_int_equal(moeblock_weights_read(weights, &info, 12, 8, two, NULL), MOEBLOCK_OK);
    assert_true(two[0] == 4 && two[1] == 5);
    assert_int_equal(moeblock_weights_read(weights, &info, 20, 8, two, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_weights_find(weights, "none", &info, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_weights_read(weights, &info, 0, 0, NULL, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_weights_validate(weights, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_weights_bytes_read(weights), 0);
    assert_int_equal(moeblock_weights_shards_opened(weights), 0);
    moeblock_weights_destroy(&weights);
    assert_int_equal(moeblock_weights_from_tensors(&context, NULL, 0, &weights, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_weights_find(weights, "w", &info, NULL), MOEBLOCK_NOT_FOUND);
    moeblock_weights_destroy(&weights);
}

static void bad_tensors_in_memory(void **state)
{
    (void)state;
    static const float v[6];
    static const struct {
        moeblock_tensor tensor;
        const char *says;
    } cases[] = {
        {{.name = NULL, .dtype = MOEBLOCK_F32, .rank = 1, .dims = {6}, .data = v, .bytes = 24}, "no name"},
        {{.name = "w", .dtype = MOEBLOCK_F32, .rank = 1, .dims = {6}, .data = v, .bytes = 20}, "24"},
        {{.name = "w", .dtype = MOEBLOCK_F32, .rank = 1, .dims = {6}, .data = NULL, .bytes = 24}, "no data"},
        {{.name = "w", .dtype = MOEBLOCK_F32, .rank = 9, .dims = {6}, .data = v, .bytes = 24}, "rank"},
        {{.name = "w", .dtype = MOEBLOCK_F32, .rank = -1, .dims = {6}, .data = v, .bytes = 24}, "rank"},
        {{.name = "w", .dtype = MOEBLOCK_F32, .rank = 1, .dims = {-6}, .data = v, .bytes = 24}, "dimension"},
        {{.name = "w", .dtype = MOEBLOCK_DTYPE_OTHER, .rank = 1, .dims = {6}, .data = v, .bytes = 24}, "dtype 17"},
        {{.name = "w", .dtype = (moeblock_dtype)99, .rank = 1, .dims = {6}, .data = v, .bytes = 24}, "dtype 99"},
        {{.name = "good", .dtype = MOEBLOCK_F32, .rank = 1, .dims = {6}, .data = v, .bytes = 24}, "'good' is given"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const moeblock_tensor tensors[] = {
            {.name = "good", .dtype = MOEBLOCK_F32, .rank = 1, .dims = {6}, .data = v, .bytes = 24}, cases[i].tensor};
        moeblock_weights *weights = (moeblock_weights *)&context;
        moeblock_error error = {0};
        assert_int_equal(moeblock_weights_from_tensors(&context, tensors, 2, &weights, &error),
                         MOEBLOCK_INVALID_ARGUMENT);
        assert_null(weights);
        assert_says(&error, cases[i].says);
    }
}

static void null_arguments(void **state)
{
    (void)state;
    moeblock_weights *weights = NULL;
    moeblock_tensor_info info = {0};
    size_t count;
    char byte;
    assert_int_equal(moeblock_weights_open(NULL, "x", &weights, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_weights_open(&context, NULL, &weights, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_weights_open(&context, "x", NULL, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_weights_from_tensors(&context, NULL, 1, &weights, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_weights_from_tensors(NULL, NULL, 0, &weights, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_weights_count(NULL, &count, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_weights_at(NULL, 0, &info, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_weights_find(NULL, "x", &info, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_weights_read(NULL, &info, 0, 1, &byte, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_weights_validate(NULL, NULL), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(moeblock_weights_bytes_read(NULL), 0);
    moeblock_weights_destroy(NULL);
}

// Every thread finds and reads all tensors while the others open the shards; NULL when all is well.
static void *search(void *argument)
{
    moeblock_weights *weights = argument;
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    static const unsigned char first[] = {0, 4, 0, 8, 0};
    for (int round = 0; round < 200; round++)
        for (int i = 0; i < 5; i++) {
            moeblock_tensor_info info;
            unsigned char byte = 99;
            if (moeblock_weights_find(weights, names[i], &info, NULL) != MOEBLOCK_OK) return argument;
            if (moeblock_weights_read(weights, &info, 0, 1, &byte, NULL) != MOEBLOCK_OK) return argument;
            if (byte != first[i]) return argument;
        }
    return NULL;
}

static void concurrent_searches(void **state)
{
    (void)state;
    moeblock_weights *weights = open_good(put_set("threads", INDEX));
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, search, weights), 0);
    for (int i = 0; i < 4; i++) {
        void *failed = NULL;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    assert_int_equal(moeblock_weights_shards_opened(weights), 3);
    moeblock_weights_destroy(&weights);
}

// As many names as DeepSeek-V3 has in all its layers.
static void many_names(void **state)
{
    (void)state;
    enum { COUNT = 89088 };
    moeblock_tensor *tensors = calloc(COUNT, sizeof *tensors);
    char(*names)[48] = calloc(COUNT, sizeof *names);
    assert_true(tensors && names);
    for (int i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof names[i], "model.layers.%d.mlp.experts.%d.w", i / 1536, i % 1536);
        tensors[i] = (moeblock_tensor){.name = names[i], .dtype = MOEBLOCK_U8, .rank = 1, .dims = {0}};
    }
    moeblock_weights *weights = NULL;
    assert_int_equal(moeblock_weights_from_tensors(&context, tensors, COUNT, &weights, NULL), MOEBLOCK_OK);
    moeblock_tensor_info info;
    for (int i = 0; i < COUNT; i += 7) {
        assert_int_equal(moeblock_weights_find(weights, names[i], &info, NULL), MOEBLOCK_OK);
        assert_ptr_equal(info.name, names[i]);
    }
    moeblock_error error = {0};
    assert_int_equal(moeblock_weights_find(weights, "model.layers.57.mlp.experts.1535.v", &info, &error),
                     MOEBLOCK_NOT_FOUND);
    assert_says(&error, "'model.layers.57.mlp.experts.1535.w'");
    moeblock_weights_destroy(&weights);
    free(names);
    free(tensors);
}

static int begin(void **state)
{
    context = files_context();
    return files_begin(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_file),
        cmocka_unit_test(reads_outside_a_tensor),
        cmocka_unit_test(only_needed_shards_are_opened),
        cmocka_unit_test(bad_indexes),
        cmocka_unit_test(bad_sets),
        cmocka_unit_test(a_tensor_in_two_shards),
        cmocka_unit_test(shards_that_are_not_whole),
        cmocka_unit_test(odd_files_as_shards),
        cmocka_unit_test(paths_that_do_not_open),
        cmocka_unit_test(files_that_change_while_open),
        cmocka_unit_test(caller_memory),
        cmocka_unit_test(bad_tensors_in_memory),
        cmocka_unit_test(null_arguments),
        cmocka_unit_test(concurrent_searches),
        cmocka_unit_test(many_names),
    };
    return cmocka_run_group_tests(tests, begin, files_end);
}
