// SPDX-License-Identifier: Apache-2.0
// npy files: what NumPy writes is read, everything else is refused by name; what is written reads back.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/float.h"
#include "cmocka.h"
#include "unit/files.h"
#include "weights/npy.h"

// A file of the given version with `header` as its text and `data_bytes` bytes 1, 2, 3, ...
static const char *put_npy(int version, const char *header, size_t data_bytes)
{
    unsigned char all[4096] = "\x93NUMPY";
    const size_t length = strlen(header);
    size_t at = 8;
    all[6] = (unsigned char)version;
    for (int i = 0; i < (version == 1 ? 2 : 4); i++) all[at++] = (unsigned char)(length >> (8 * i));
    memcpy(all + at, header, length);
    at += length;
    for (size_t i = 0; i < data_bytes; i++) all[at++] = (unsigned char)(i + 1);
    return files_put("x.npy", all, at);
}

#define HEADER(descr, order, shape) "{'descr': '" descr "', 'fortran_order': " order ", 'shape': " shape ", }  \n"

static void assert_says(const moeblock_error *error, const char *text)
{
    if (!strstr(error->message, text)) fail_msg("'%s' does not say '%s'", error->message, text);
}

static void reads_every_version_and_type(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        moeblock_dtype dtype;
        size_t bytes;
    } cases[] = {
        {HEADER("<f4", "False", "(2, 3)"), MOEBLOCK_F32, 4},  {HEADER("<f2", "False", "(2, 3)"), MOEBLOCK_F16, 2},
        {HEADER("<f8", "False", "(2, 3)"), MOEBLOCK_F64, 8},  {HEADER("|i1", "False", "(2, 3)"), MOEBLOCK_I8, 1},
        {HEADER("<i2", "False", "(2, 3)"), MOEBLOCK_I16, 2},  {HEADER("<i4", "False", "(2, 3)"), MOEBLOCK_I32, 4},
        {HEADER("<i8", "False", "(2, 3)"), MOEBLOCK_I64, 8},  {HEADER("|u1", "False", "(2, 3)"), MOEBLOCK_U8, 1},
        {HEADER("<u2", "False", "(2, 3)"), MOEBLOCK_U16, 2},  {HEADER("<u4", "False", "(2, 3)"), MOEBLOCK_U32, 4},
        {HEADER("<u8", "False", "(2, 3)"), MOEBLOCK_U64, 8},  {HEADER("|b1", "False", "(2, 3)"), MOEBLOCK_BOOL, 1},
        {HEADER("<V2", "False", "(2, 3)"), MOEBLOCK_BF16, 2}, {HEADER("|V2", "False", "(2, 3)"), MOEBLOCK_BF16, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int version = 1; version <= 3; version++) {
            struct mb_npy array;
            moeblock_error error = {0};
            const char *path = put_npy(version, cases[i].header, 6 * cases[i].bytes);
            const moeblock_status status = mb_npy_read(&mb_default_allocator, path, &array, &error);
            assert_string_equal(error.message, "");
            assert_int_equal(status, MOEBLOCK_OK);
            assert_int_equal(array.dtype, cases[i].dtype);
            assert_int_equal(array.rank, 2);
            assert_int_equal(array.dims[0], 2);
            assert_int_equal(array.dims[1], 3);
            assert_int_equal(array.count, 6);
            assert_int_equal(((unsigned char *)array.data)[6 * cases[i].bytes - 1], 6 * cases[i].bytes);
            mb_npy_free(&mb_default_allocator, &array);
            assert_null(array.data);
        }
}

static void reads_every_rank(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        int rank;
        int64_t count;
    } cases[] = {
        {HEADER("|u1", "False", "()"), 0, 1},
        {HEADER("|u1", "False", "(5,)"), 1, 5},
        {HEADER("|u1", "False", "(0,)"), 1, 0},
        {HEADER("|u1", "False", "(3, 0)"), 2, 0},
        {HEADER("|u1", "False", "(1, 2, 1, 2, 1, 2, 1, 2)"), 8, 16},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (5,)}\n", 1, 5},
        {"{'shape': (5,), 'descr': '|u1', 'fortran_order': False, }\n", 1, 5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mb_npy array;
        moeblock_error error = {0};
        const char *path = put_npy(1, cases[i].header, (size_t)cases[i].count);
        const moeblock_status status = mb_npy_read(&mb_default_allocator, path, &array, &error);
        assert_string_equal(error.message, "");
        assert_int_equal(status, MOEBLOCK_OK);
        assert_int_equal(array.rank, cases[i].rank);
        assert_int_equal(array.count, cases[i].count);
        mb_npy_free(&mb_default_allocator, &array);
    }
}

static void assert_refused(const char *path, moeblock_status expected, const char *says)
{
    struct mb_npy array;
    moeblock_error error = {0};
    const moeblock_status status = mb_npy_read(&mb_default_allocator, path, &array, &error);
    if (status != expected)
        fail_msg("%s: %s, expected %s", moeblock_status_name(status), error.message, moeblock_status_name(expected));
    assert_null(array.data);
    assert_says(&error, says);
    assert_says(&error, ".npy");
}

static void refuses_what_it_does_not_compute(void **state)
{
    (void)state;
    static const struct {
        const char *header, *says;
    } cases[] = {
        {HEADER("<f4", "True", "(2, 3)"), "Fortran"},
        {HEADER(">f4", "False", "(2, 3)"), "big-endian"},
        {HEADER(">i8", "False", "(2, 3)"), "big-endian"},
        {HEADER("|O", "False", "(2, 3)"), "Python objects"},
        {HEADER("<c8", "False", "(2, 3)"), "<c8"},
        {HEADER("<U4", "False", "(2, 3)"), "<U4"},
        {HEADER("|S8", "False", "(2, 3)"), "|S8"},
        {HEADER("<M8[ns]", "False", "(2, 3)"), "<M8[ns]"},
        {HEADER("|V4", "False", "(2, 3)"), "|V4"},
        {HEADER("=f4", "False", "(2, 3)"), "=f4"},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }\n", "records"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(put_npy(1, cases[i].header, 24), MOEBLOCK_UNSUPPORTED, cases[i].says);
    assert_refused(put_npy(4, HEADER("<f4", "False", "(2, 3)"), 24), MOEBLOCK_UNSUPPORTED, "4.0");
    assert_refused(put_npy(0, HEADER("<f4", "False", "(2, 3)"), 24), MOEBLOCK_UNSUPPORTED, "0.0");
}

static void refuses_headers_that_do_not_read(void **state)
{
    (void)state;
    static const char *const headers[] = {
        "",
        "\n",
        "{}\n",
        "{'descr': '<f4', 'fortran_order': False}\n",
        "{'descr': '<f4', 'shape': (6,)}\n",
        "{'fortran_order': False, 'shape': (6,)}\n",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,)}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'more': 1}\n",
        "{\"descr\": \"<f4\", \"fortran_order\": False, \"shape\": (6,)}\n",
        "{'descr': <f4, 'fortran_order': False, 'shape': (6,)}\n",
        "{'descr': '<f4, 'fortran_order': False, 'shape': (6,)}\n",
        "{'descr': '', 'fortran_order': False, 'shape': (6,)}\n",
        "{'descr': '<f4', 'fortran_order': false, 'shape': (6,)}\n",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (6,)}\n",
        HEADER("<f4", "False", "6"),
        HEADER("<f4", "False", "(6)"),
        HEADER("<f4", "False", "[6]"),
        HEADER("<f4", "False", "(6,"),
        HEADER("<f4", "False", "(,)"),
        HEADER("<f4", "False", "(2 3)"),
        HEADER("<f4", "False", "(2,,3)"),
        HEADER("<f4", "False", "(-6,)"),
        HEADER("<f4", "False", "(6.0,)"),
        HEADER("<f4", "False", "(06,)"),
        HEADER("<f4", "False", "(6L,)"),
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), } x\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n\n",
        "{'descr': '<f4' 'fortran_order': False, 'shape': (6,), }\n",
        "'descr': '<f4', 'fortran_order': False, 'shape': (6,)\n",
    };
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++)
        assert_refused(put_npy(1, headers[i], 24), MOEBLOCK_INVALID_FILE, "x.npy");
}

static void refuses_sizes_that_lie(void **state)
{
    (void)state;
    static const struct {
        const char *shape;
        size_t data_bytes;
        moeblock_status status;
        const char *says;
    } cases[] = {
        {"(6,)", 23, MOEBLOCK_INVALID_FILE, "23"},
        {"(6,)", 25, MOEBLOCK_INVALID_FILE, "24"},
        {"(6,)", 0, MOEBLOCK_INVALID_FILE, "24"},
        {"()", 0, MOEBLOCK_INVALID_FILE, "4"},
        {"(4611686018427387904, 4)", 0, MOEBLOCK_LIMIT, "2^48"},
        {"(281474976710656, 281474976710656)", 24, MOEBLOCK_INVALID_FILE, "2^56"},
        {"(4294967296, 4294967302)", 24, MOEBLOCK_INVALID_FILE, "2^56"},
        {"(281474976710657,)", 24, MOEBLOCK_LIMIT, "2^48"},
        {"(99999999999999999999999999,)", 24, MOEBLOCK_LIMIT, "2^48"},
        {"(1, 1, 1, 1, 1, 1, 1, 1, 6)", 24, MOEBLOCK_LIMIT, "8 dimensions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char header[256];
        snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }\n", cases[i].shape);
        assert_refused(put_npy(1, header, cases[i].data_bytes), cases[i].status, cases[i].says);
    }
}

static void refuses_files_that_are_not_npy(void **state)
{
    (void)state;
    assert_refused(files_path("none.npy"), MOEBLOCK_NOT_FOUND, "none.npy");
    assert_refused(files_put("e.npy", "", 0), MOEBLOCK_INVALID_FILE, "0 bytes");
    assert_refused(files_put("e.npy", "\x93NUMPZ\x01\x00\x00\x00", 10), MOEBLOCK_INVALID_FILE, "magic");
    assert_refused(files_put("e.npy", "PK\x03\x04 and so on", 14), MOEBLOCK_INVALID_FILE, "magic");
    assert_refused(files_put("e.npy", "\x93NUMPY\x01\x01\x00\x00", 10), MOEBLOCK_UNSUPPORTED, "1.1");
    assert_refused(files_put("e.npy", "\x93NUMPY\x01\x00\xff\xff{}", 12), MOEBLOCK_INVALID_FILE, "65535");
    assert_refused(files_put("e.npy", "\x93NUMPY\x02\x00\xff\xff\xff\xff", 12), MOEBLOCK_INVALID_FILE, "4294967295");
    assert_refused(files_put("e.npy", "\x93NUMPY\x02\x00\x00\x00", 10), MOEBLOCK_INVALID_FILE, "10");
    char *large = calloc(1, 200000);
    memcpy(large, "\x93NUMPY\x02\x00\x01\x00\x01\x00", 12);
    assert_refused(files_put("large.npy", large, 200000), MOEBLOCK_LIMIT, "65537");
    free(large);
}

// Cut anywhere, or with any byte changed, a file is refused or its size agrees with what it says.
static void every_truncation_and_changed_byte(void **state)
{
    (void)state;
    const float values[6] = {1, 2, 3, 4, 5, 6};
    unsigned char good[256];
    struct mb_npy array;
    const char *path = files_path("good.npy");
    assert_int_equal(mb_npy_write(path, MOEBLOCK_F32, 2, (const int64_t[]){2, 3}, values, NULL), MOEBLOCK_OK);
    FILE *file = fopen(path, "rb");
    const size_t bytes = fread(good, 1, sizeof good, file);
    fclose(file);
    for (size_t cut = 0; cut < bytes; cut++)
        assert_int_not_equal(mb_npy_read(&mb_default_allocator, files_put("cut.npy", good, cut), &array, NULL),
                             MOEBLOCK_OK);
    for (size_t i = 0; i < bytes - sizeof values; i++)
        for (int bit = 0; bit < 8; bit++) {
            unsigned char changed[256];
            memcpy(changed, good, bytes);
            changed[i] ^= (unsigned char)(1 << bit);
            path = files_put("changed.npy", changed, bytes);
            if (mb_npy_read(&mb_default_allocator, path, &array, NULL) != MOEBLOCK_OK) continue;
            assert_int_equal((size_t)array.count * moeblock_dtype_bytes(array.dtype), sizeof values);
            mb_npy_free(&mb_default_allocator, &array);
        }
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    static const moeblock_dtype types[] = {MOEBLOCK_F32, MOEBLOCK_F16, MOEBLOCK_BF16, MOEBLOCK_F64, MOEBLOCK_I8,
                                           MOEBLOCK_I16, MOEBLOCK_I32, MOEBLOCK_I64,  MOEBLOCK_U8,  MOEBLOCK_U16,
                                           MOEBLOCK_U32, MOEBLOCK_U64, MOEBLOCK_BOOL};
    const int64_t dims[8] = {2, 1, 3, 1, 1, 2, 1, 1};
    const char *path = files_path("written.npy");
    unsigned char data[12 * 8];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)(i * 7);
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++)
        for (int rank = 0; rank <= 8; rank++) {
            struct mb_npy array;
            assert_int_equal(mb_npy_write(path, types[t], rank, dims, data, NULL), MOEBLOCK_OK);
            assert_int_equal(mb_npy_read(&mb_default_allocator, path, &array, NULL), MOEBLOCK_OK);
            assert_int_equal(array.dtype, types[t]);
            assert_int_equal(array.rank, rank);
            assert_memory_equal(array.dims, dims, (size_t)rank * sizeof dims[0]);
            assert_memory_equal(array.data, data, (size_t)array.count * moeblock_dtype_bytes(types[t]));
            mb_npy_free(&mb_default_allocator, &array);
        }
}

static void writes_what_numpy_writes(void **state)
{
    (void)state;
    char expected[128 + 16];
    memset(expected, ' ', sizeof expected);
    memcpy(expected, "\x93NUMPY\x01\x00\x76\x00", 10);
    memcpy(expected + 10, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", 59);
    expected[127] = '\n';
    const float values[4] = {1, 2, 3, 4};
    memcpy(expected + 128, values, sizeof values);
    char found[256];
    const char *path = files_path("numpy.npy");
    assert_int_equal(mb_npy_write(path, MOEBLOCK_F32, 2, (const int64_t[]){2, 2}, values, NULL), MOEBLOCK_OK);
    FILE *file = fopen(path, "rb");
    assert_int_equal(fread(found, 1, sizeof found, file), sizeof expected);
    fclose(file);
    assert_memory_equal(found, expected, sizeof expected);
}

static void a_failed_write_keeps_the_file(void **state)
{
    (void)state;
    moeblock_error error = {0};
    const float one = 1;
    const char *path = files_put("kept.npy", "old", 3);
    assert_int_equal(mb_npy_write(path, MOEBLOCK_F8_E4M3, 0, NULL, &one, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_says(&error, "kept.npy");
    assert_int_equal(mb_npy_write(path, MOEBLOCK_F32, 9, NULL, &one, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_int_equal(mb_npy_write(path, MOEBLOCK_F32, 1, (const int64_t[]){-1}, &one, &error),
                     MOEBLOCK_INVALID_ARGUMENT);
    char found[8];
    FILE *file = fopen(path, "rb");
    assert_int_equal(fread(found, 1, sizeof found, file), 3);
    fclose(file);
    assert_memory_equal(found, "old", 3);
    assert_int_equal(mb_npy_write(files_path("no/where.npy"), MOEBLOCK_F32, 0, NULL, &one, &error), MOEBLOCK_NOT_FOUND);
}

static void values_as_doubles(void **state)
{
    (void)state;
    static const float f32 = -1.5f;
    static const double f64 = 1e300;
    static const uint16_t f16 = 0x3e00, bf16 = 0xc000, u16 = 65535;
    static const int8_t i8 = -128;
    static const int16_t i16 = -32768;
    static const int32_t i32 = INT32_MIN;
    static const int64_t i64 = -(INT64_C(1) << 53);
    static const uint8_t u8 = 255, yes = 1;
    static const uint32_t u32 = UINT32_MAX;
    static const uint64_t u64 = UINT64_C(1) << 63;
    static const struct {
        moeblock_dtype dtype;
        const void *data;
        double value;
    } cases[] = {
        {MOEBLOCK_F32, &f32, -1.5},    {MOEBLOCK_F64, &f64, 1e300},      {MOEBLOCK_F16, &f16, 1.5},
        {MOEBLOCK_BF16, &bf16, -2},    {MOEBLOCK_I8, &i8, -128},         {MOEBLOCK_I16, &i16, -32768},
        {MOEBLOCK_I32, &i32, -0x1p31}, {MOEBLOCK_I64, &i64, -0x1p53},    {MOEBLOCK_U8, &u8, 255},
        {MOEBLOCK_U16, &u16, 65535},   {MOEBLOCK_U32, &u32, 0x1p32 - 1}, {MOEBLOCK_U64, &u64, 0x1p63},
        {MOEBLOCK_BOOL, &yes, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char copy[8] = {0};
        memcpy(copy, cases[i].data, moeblock_dtype_bytes(cases[i].dtype));
        uint64_t aligned;
        memcpy(&aligned, copy, sizeof copy);
        const struct mb_npy array = {.dtype = cases[i].dtype, .count = 1, .data = &aligned};
        assert_true(mb_npy_value(&array, 0) == cases[i].value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_version_and_type),
        cmocka_unit_test(reads_every_rank),
        cmocka_unit_test(refuses_what_it_does_not_compute),
        cmocka_unit_test(refuses_headers_that_do_not_read),
        cmocka_unit_test(refuses_sizes_that_lie),
        cmocka_unit_test(refuses_files_that_are_not_npy),
        cmocka_unit_test(every_truncation_and_changed_byte),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(writes_what_numpy_writes),
        cmocka_unit_test(a_failed_write_keeps_the_file),
        cmocka_unit_test(values_as_doubles),
    };
    return cmocka_run_group_tests(tests, files_begin, files_end);
}
