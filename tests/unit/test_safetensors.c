// SPDX-License-Identifier: Apache-2.0
// The strict header parser: bad headers by class, every truncation and every flipped byte of a small one, and writing.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "cmocka.h"
#include "unit/files.h"
#include "weights/dtype.h"
#include "weights/safetensors.h"

// As much as the base of a tensor of 2 x 3 bf16 (12 bytes) and one of 4 u8 needs.
#define GOOD                                                                                                           \
    "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[12,16]},"           \
    "\"a\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]}}   "
enum { GOOD_DATA = 16 };

static moeblock_status parse(const char *text, size_t bytes, uint64_t data_bytes, struct mb_safetensors *out,
                             moeblock_error *error)
{
    return mb_safetensors_parse(&mb_default_allocator, text, bytes, 8 + bytes + data_bytes, "x.safetensors", out,
                                error);
}

// The rules again, in other arithmetic: an accepted header must satisfy them.
static void assert_invariants(const struct mb_safetensors *header, uint64_t file_bytes)
{
    long double position = header->data_start;
    for (size_t i = 0; i < header->count; i++) {
        const moeblock_tensor_info *t = &header->tensors[i];
        long double bits = mb_dtype_find(t->dtype_name)->bits;
        assert_in_range(t->rank, 0, 8);
        for (int d = 0; d < t->rank; d++) {
            assert_true(t->dims[d] >= 0 && t->dims[d] <= INT64_C(1) << 48);
            bits *= (long double)t->dims[d];
        }
        assert_true(bits == (long double)t->bytes * 8);
        assert_true(t->file_offset == position);
        assert_true(strlen(t->name) <= 1024);
        for (size_t j = 0; j < i; j++) assert_string_not_equal(t->name, header->tensors[j].name);
        position += t->bytes;
    }
    assert_true(position == file_bytes);
}

static void a_good_header(void **state)
{
    (void)state;
    struct mb_safetensors header;
    moeblock_error error = {0};
    assert_int_equal(parse(GOOD, strlen(GOOD), GOOD_DATA, &header, &error), MOEBLOCK_OK);
    assert_int_equal(header.count, 2);
    assert_int_equal(header.data_start, 8 + strlen(GOOD));
    assert_string_equal(header.tensors[0].name, "a");
    assert_int_equal(header.tensors[0].dtype, MOEBLOCK_BF16);
    assert_string_equal(header.tensors[0].dtype_name, "BF16");
    assert_int_equal(header.tensors[0].rank, 2);
    assert_int_equal(header.tensors[0].dims[1], 3);
    assert_int_equal(header.tensors[0].bytes, 12);
    assert_string_equal(header.tensors[1].name, "b");
    assert_int_equal(header.tensors[1].file_offset, header.data_start + 12);
    assert_invariants(&header, 8 + strlen(GOOD) + GOOD_DATA);
    mb_safetensors_free(&mb_default_allocator, &header);
    assert_null(header.tensors);
}

// Accepted texts with their data bytes and tensor count.
static void unusual_but_valid(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t data_bytes;
        size_t count;
    } cases[] = {
        {"{}", 0, 0},
        {"{}      ", 0, 0},
        {"{\"__metadata__\":{}}", 0, 0},
        {"{\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, 1},
        {"{\"\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, 1},
        {"{ \"s\" : {\"shape\":[2],\"data_offsets\":[0,2],\t\"dtype\":\"BOOL\"} }", 2, 1},
        {"{\"z\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"U8\",\"shape\":[2],"
         "\"data_offsets\":[0,2]},\"e\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[2,2]}}",
         2, 3},
        {"{\"f\":{\"dtype\":\"F4\",\"shape\":[6],\"data_offsets\":[0,3]},\"g\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],"
         "\"data_offsets\":[3,6]},\"h\":{\"dtype\":\"C64\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[6,14]}}",
         14, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mb_safetensors header;
        moeblock_error error = {0};
        const moeblock_status status =
            parse(cases[i].text, strlen(cases[i].text), cases[i].data_bytes, &header, &error);
        assert_string_equal(error.message, "");
        assert_int_equal(status, MOEBLOCK_OK);
        assert_int_equal(header.count, cases[i].count);
        assert_invariants(&header, 8 + strlen(cases[i].text) + cases[i].data_bytes);
        mb_safetensors_free(&mb_default_allocator, &header);
    }
}

// Refused texts: status and what the message must hold besides the file's name.
struct refused {
    const char *text;
    uint64_t data_bytes;
    moeblock_status status;
    const char *says[3];
};

static void assert_refused(const struct refused *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct mb_safetensors header;
        moeblock_error error = {0};
        const moeblock_status status =
            parse(cases[i].text, strlen(cases[i].text), cases[i].data_bytes, &header, &error);
        if (status != cases[i].status || error.code != status)
            fail_msg("status %s (%s), expected %s for %.200s", moeblock_status_name(status), error.message,
                     moeblock_status_name(cases[i].status), cases[i].text);
        assert_null(header.tensors);
        assert_non_null(strstr(error.message, "x.safetensors"));
        for (int s = 0; s < 3 && cases[i].says[s]; s++)
            if (!strstr(error.message, cases[i].says[s]))
                fail_msg("'%s' does not say '%s'", error.message, cases[i].says[s]);
    }
}

#define T(name, dtype, shape, offsets)                                                                                 \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"
#define BAD MOEBLOCK_INVALID_FILE
#define REFUSED(cases) assert_refused(cases, sizeof cases / sizeof cases[0])

static void bad_frames(void **state)
{
    (void)state;
    const struct refused cases[] = {
        {"", 0, BAD, {"0 bytes", "at least 2"}},
        {"{", 0, BAD, {"1 bytes"}},
        {"[]", 0, BAD, {"0x5b", "'{'"}},
        {" {}", 0, BAD, {"0x20", "'{'"}},
        {"\xef\xbb\xbf{}", 0, BAD, {"0xef"}},
        {"{}\n", 0, BAD, {"0x0a", "'}'"}},
        {"{}\t ", 0, BAD, {"0x09"}},
        {"{} x", 0, BAD, {"0x78"}},
        {"{}{}", 0, BAD, {"JSON"}},
        {"{} {}", 0, BAD, {"JSON"}},
        {"{\"a\":}", 0, BAD, {"JSON"}},
        {"{\"\xff\":{}}", 0, BAD, {"decode byte"}},
        {"{\"\xc0\x80\":{}}", 0, BAD, {"decode byte"}},
        {"{\"\\ud800\":{}}", 0, BAD, {"JSON"}},
        {"{\"\\u0000\":{}}", 0, BAD, {"JSON"}},
        {"{/**/}", 0, BAD, {"JSON"}},
        {"{'a':1}", 0, BAD, {"JSON"}},
        {"{}", 1, BAD, {"offset 0", "1"}},
        {"{" T("a", "U8", "4", "0,4") "}", 3, BAD, {"'a'", "4", "3"}},
        {"{" T("a", "U8", "4", "0,4") "}", 0, BAD, {"'a'", "4", "0"}},
        {"{" T("a", "U8", "4", "0,4") "}", 5, BAD, {"4", "5"}},
    };
    REFUSED(cases);
}

static void bad_offsets(void **state)
{
    (void)state;
    const struct refused cases[] = {
        {"{" T("a", "U8", "4", "0,4") "," T("b", "U8", "4", "3,7") "}", 7, BAD, {"'b'", "3", "4 where"}},
        {"{" T("a", "U8", "4", "0,4") "," T("b", "U8", "4", "0,4") "}", 4, BAD, {"overlap", "0", "4"}},
        {"{" T("a", "U8", "4", "1,5") "}", 5, BAD, {"'a'", "hole", "1"}},
        {"{" T("a", "U8", "4", "0,4") "," T("b", "U8", "4", "5,9") "}", 9, BAD, {"'b'", "hole", "5"}},
        {"{" T("a", "U8", "4", "4,0") "}", 4, BAD, {"'a'", "[4, 0]"}},
        {"{" T("a", "U8", "4", "-4,0") "}", 4, BAD, {"'a'", "[-4, 0]"}},
        {"{" T("a", "U8", "4", "-1,-1") "}", 4, BAD, {"'a'", "-1"}},
        {"{" T("a", "U8", "4", "0.0,4") "}", 4, BAD, {"'a'", "two integers"}},
        {"{" T("a", "U8", "4", "0,4.0") "}", 4, BAD, {"'a'", "two integers"}},
        {"{" T("a", "U8", "4", "0,4e0") "}", 4, BAD, {"'a'", "two integers"}},
        {"{" T("a", "U8", "4", "\"0\",\"4\"") "}", 4, BAD, {"'a'", "two integers"}},
        {"{" T("a", "U8", "4", "null,4") "}", 4, BAD, {"'a'", "two integers"}},
        {"{" T("a", "U8", "4", "0") "}", 4, BAD, {"'a'", "two integers"}},
        {"{" T("a", "U8", "4", "0,4,8") "}", 4, BAD, {"'a'", "two integers"}},
        {"{" T("a", "U8", "4", "") "}", 4, BAD, {"'a'", "two integers"}},
        {"{" T("a", "U8", "4", "0,9223372036854775807") "}", 4, BAD, {"'a'", "9223372036854775807", "4"}},
        {"{" T("a", "U8", "4", "0,9223372036854775808") "}", 4, BAD, {"JSON"}},
        {"{" T("a", "U8", "4", "0,18446744073709551620") "}", 4, BAD, {"JSON"}},
        {"{" T("a", "U8", "4", "9223372036854775803,9223372036854775807") "}", 4, BAD, {"'a'", "hole"}},
        {"{" T("a", "U8", "4", "0,4") "," T("z", "U8", "0", "2,2") "}", 4, BAD, {"'z'", "overlap"}},
        {"{" T("a", "U8", "4", "0,4") "," T("z", "U8", "0", "5,5") "}", 4, BAD, {"'z'", "hole"}},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":{\"0\":0,\"1\":4}}}", 4, BAD, {"'a'", "integers"}},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":4}}", 4, BAD, {"'a'", "integers"}},
    };
    REFUSED(cases);
}

static void bad_shapes(void **state)
{
    (void)state;
    const struct refused cases[] = {
        {"{" T("a", "U8", "5", "0,4") "}", 4, BAD, {"'a'", "4", "5"}},
        {"{" T("a", "F32", "4", "0,4") "}", 4, BAD, {"'a'", "F32", "16"}},
        {"{" T("a", "U8", "0", "0,4") "}", 4, BAD, {"'a'", "4", "0"}},
        {"{" T("a", "U8", "4", "0,0") "}", 0, BAD, {"'a'", "0", "4"}},
        {"{" T("a", "U8", "1,1,1,1,1,1,1,1,1", "0,1") "}", 1, BAD, {"'a'", "9", "8"}},
        {"{" T("a", "U8", "-1", "0,1") "}", 1, BAD, {"'a'", "-1", "2^48"}},
        {"{" T("a", "U8", "281474976710657", "0,1") "}", 1, BAD, {"'a'", "281474976710657", "2^48"}},
        {"{" T("a", "U8", "4294967296,4294967297", "0,4294967296") "}", 1, BAD, {"'a'", "2^56"}},
        {"{" T("a", "U8", "281474976710656,65536,1,1", "0,0") "}", 0, BAD, {"'a'", "2^56"}},
        {"{" T("a", "U8", "281474976710656,281474976710656,0", "0,0") "}", 0, BAD, {"'a'", "2^56"}},
        {"{" T("a", "F4", "5", "0,3") "}", 3, BAD, {"'a'", "whole bytes"}},
        {"{" T("a", "F6_E3M2", "3", "0,3") "}", 3, BAD, {"'a'", "whole bytes"}},
        {"{" T("a", "U8", "2.0", "0,2") "}", 2, BAD, {"'a'", "not an integer"}},
        {"{" T("a", "U8", "\"2\"", "0,2") "}", 2, BAD, {"'a'", "not an integer"}},
        {"{" T("a", "U8", "[2]", "0,2") "}", 2, BAD, {"'a'", "not an integer"}},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":2,\"data_offsets\":[0,2]}}", 2, BAD, {"'a'", "list of integers"}},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":null,\"data_offsets\":[0,1]}}", 1, BAD, {"'a'", "list of integers"}},
    };
    REFUSED(cases);
}

static void bad_names_and_keys(void **state)
{
    (void)state;
    const struct refused cases[] = {
        {"{" T("a", "U8", "1", "0,1") "," T("a", "U8", "1", "1,2") "}", 2, BAD, {"duplicate", "a"}},
        {"{" T("a", "U8", "1", "0,1") "," T("\\u0061", "U8", "1", "1,2") "}", 2, BAD, {"duplicate"}},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, BAD, {"duplicate"}},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, BAD, {"duplicate"}},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, BAD, {"'a'", "2 keys", "dtype"}},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, BAD, {"'a'", "2 keys"}},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, BAD, {"'a'", "2 keys"}},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}}", 1, BAD, {"'a'", "4 keys"}},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"offsets\":[0,1]}}", 1, BAD, {"'a'", "data_offsets"}},
        {"{\"a\":{\"Dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, BAD, {"'a'", "dtype"}},
        {"{\"a\":{}}", 0, BAD, {"'a'", "0 keys"}},
        {"{\"a\":[]}", 0, BAD, {"'a'"}},
        {"{\"a\":1}", 0, BAD, {"'a'"}},
        {"{\"a\":null}", 0, BAD, {"'a'"}},
        {"{" T("a", "U7", "1", "0,1") "}", 1, BAD, {"'a'", "U7"}},
        {"{" T("a", "bf16", "1", "0,2") "}", 2, BAD, {"'a'", "bf16"}},
        {"{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, BAD, {"'a'", "dtype", "not a string"}},
        {"{\"__metadata__\":[]}", 0, BAD, {"__metadata__"}},
        {"{\"__metadata__\":{\"k\":1}}", 0, BAD, {"__metadata__", "'k'"}},
        {"{\"__metadata__\":{\"k\":{\"x\":\"y\"}}}", 0, BAD, {"__metadata__", "'k'"}},
        {"{\"__metadata__\":null}", 0, BAD, {"__metadata__"}},
        {"{\"\\u001b[31m\":1}", 0, BAD, {"\\x1b[31m"}}, // escaped for terminals
    };
    REFUSED(cases);
}

static char *long_text(const char *before, char fill, size_t count, const char *after)
{
    char *text = malloc(strlen(before) + count + strlen(after) + 1);
    assert_non_null(text);
    strcpy(text, before);
    memset(text + strlen(before), fill, count);
    strcpy(text + strlen(before) + count, after);
    return text;
}

static void limits(void **state)
{
    (void)state;
    static const char rest[] = "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    struct mb_safetensors header;
    moeblock_error error = {0};
    char *text = long_text("{\"", 'n', 1024, rest);
    assert_int_equal(parse(text, strlen(text), 1, &header, &error), MOEBLOCK_OK);
    mb_safetensors_free(&mb_default_allocator, &header);
    free(text);

    text = long_text("{\"", 'n', 1025, rest);
    assert_int_equal(parse(text, strlen(text), 1, &header, &error), MOEBLOCK_LIMIT);
    assert_non_null(strstr(error.message, "1025"));
    free(text);

    text = long_text("{\"", 'n', 1 << 20, rest);
    assert_int_equal(parse(text, strlen(text), 1, &header, &error), MOEBLOCK_LIMIT);
    free(text);

    text = long_text("{\"a\":", '[', 200000, "}");
    assert_int_equal(parse(text, strlen(text), 0, &header, &error), MOEBLOCK_LIMIT);
    free(text);

    text = long_text("{}", ' ', 32 << 20, "");
    assert_int_equal(parse(text, strlen(text), 0, &header, &error), MOEBLOCK_LIMIT);
    assert_non_null(strstr(error.message, "33554432"));
    assert_int_equal(parse(text, 32 << 20, 0, &header, &error), MOEBLOCK_OK);
    mb_safetensors_free(&mb_default_allocator, &header);
    free(text);
}

static void metadata_has_a_ceiling(void **state)
{
    (void)state;
    enum { VALUE = 60000, VALUES = 18 };
    char *text = malloc((VALUE + 16) * VALUES + 64);
    assert_non_null(text);
    size_t at = (size_t)sprintf(text, "{\"__metadata__\":{");
    for (int i = 0; i < VALUES; i++) {
        at += (size_t)sprintf(text + at, "%s\"k%d\":\"", i ? "," : "", i);
        memset(text + at, 'v', VALUE);
        at += VALUE;
        text[at++] = '"';
    }
    strcpy(text + at, "}}");
    struct mb_safetensors header;
    moeblock_error error = {0};
    assert_int_equal(parse(text, strlen(text), 0, &header, &error), MOEBLOCK_LIMIT);
    assert_non_null(strstr(error.message, "__metadata__"));
    free(text);
}

// Class 1, mechanical: cut or changed anywhere, a header is refused or satisfies every rule.
static void every_truncation(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < strlen(GOOD); bytes++) {
        struct mb_safetensors header;
        moeblock_error error = {0};
        char *cut = malloc(bytes ? bytes : 1); // exact size, so that sanitizers see a read behind it
        memcpy(cut, GOOD, bytes);
        const moeblock_status status = parse(cut, bytes, GOOD_DATA, &header, &error);
        free(cut);
        if (status == MOEBLOCK_OK) {
            assert_true(bytes >= strlen(GOOD) - 3); // only padding was cut
            assert_invariants(&header, 8 + bytes + GOOD_DATA);
            mb_safetensors_free(&mb_default_allocator, &header);
        } else {
            assert_int_equal(status, MOEBLOCK_INVALID_FILE);
            assert_true(error.message[0] != 0);
        }
    }
}

static void every_changed_byte(void **state)
{
    (void)state;
    int accepted = 0;
    for (size_t i = 0; i < strlen(GOOD); i++)
        for (int value = 0; value < 256; value++) {
            char text[] = GOOD;
            text[i] = (char)value;
            struct mb_safetensors header;
            if (parse(text, sizeof text - 1, GOOD_DATA, &header, NULL) != MOEBLOCK_OK) continue;
            assert_invariants(&header, 8 + sizeof text - 1 + GOOD_DATA);
            mb_safetensors_free(&mb_default_allocator, &header);
            accepted++;
        }
    assert_true(accepted > 200); // other letters in names and metadata
}

static moeblock_status read_path(const char *path, struct mb_safetensors *out, moeblock_error *error)
{
    struct mb_file file;
    assert_int_equal(mb_file_open(path, &file, error), MOEBLOCK_OK);
    const moeblock_status status = mb_safetensors_read(&mb_default_allocator, &file, path, out, error);
    mb_file_close(&file);
    return status;
}

static void lengths_that_lie(void **state)
{
    (void)state;
    static const struct {
        size_t file_bytes;
        uint64_t length;
        moeblock_status status;
    } cases[] = {
        {0, 0, BAD},
        {1, 0, BAD},
        {7, 0, BAD},
        {8, 0, BAD},
        {8, 2, BAD},
        {10, 2, MOEBLOCK_OK},
        {10, 1, BAD},
        {10, 3, BAD},
        {100, 0, BAD},
        {100, 91, BAD},
        {100, 92, MOEBLOCK_OK},
        {100, 93, BAD},
        {100, 100, BAD},
        {100, UINT64_C(1) << 31, BAD},
        {100, UINT64_C(1) << 32, BAD},
        {100, (UINT64_C(1) << 32) + 92, BAD},
        {100, UINT64_C(1) << 63, BAD},
        {100, UINT64_MAX - 7, BAD},
        {100, UINT64_MAX, BAD},
        {8 + (32 << 20) + 1, (32 << 20) + 1, MOEBLOCK_LIMIT},
        {8 + (32 << 20), 32 << 20, MOEBLOCK_OK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char *bytes = malloc(cases[i].file_bytes + 16);
        assert_non_null(bytes);
        memset(bytes, ' ', cases[i].file_bytes + 16);
        for (int b = 0; b < 8; b++) bytes[b] = (unsigned char)(cases[i].length >> (8 * b));
        memcpy(bytes + 8, "{}", 2);
        const char *path = files_put("length.safetensors", bytes, cases[i].file_bytes);
        free(bytes);
        struct mb_safetensors header;
        moeblock_error error = {0};
        const moeblock_status status = read_path(path, &header, &error);
        if (status != cases[i].status)
            fail_msg("length %llu in %zu bytes: %s", (unsigned long long)cases[i].length, cases[i].file_bytes,
                     error.message);
        if (status != MOEBLOCK_OK) assert_non_null(strstr(error.message, "length.safetensors"));
        mb_safetensors_free(&mb_default_allocator, &header);
    }
}

// The allocator that is asked for more than the file warrants fails the test.
static size_t largest_request;

static void *measure_allocate(void *user, size_t bytes, size_t alignment)
{
    if (bytes > largest_request) largest_request = bytes;
    return mb_default_allocator.allocate(user, bytes, alignment);
}

static void nothing_is_allocated_for_a_lie(void **state)
{
    (void)state;
    const moeblock_allocator allocator = {.allocate = measure_allocate, .release = mb_default_allocator.release};
    const unsigned char bytes[64] = {0, 0, 0, 0, 1, 0, 0, 0, '{', '}'};
    const char *path = files_put("huge.safetensors", bytes, sizeof bytes);
    struct mb_file file;
    struct mb_safetensors header;
    assert_int_equal(mb_file_open(path, &file, NULL), MOEBLOCK_OK);
    assert_int_equal(mb_safetensors_read(&allocator, &file, path, &header, NULL), MOEBLOCK_INVALID_FILE);
    assert_int_equal(largest_request, 0);
    mb_file_close(&file);
}

static void written_headers_read_back(void **state)
{
    (void)state;
    const moeblock_tensor_info tensors[] = {
        {.name = "model.a", .dtype = MOEBLOCK_BF16, .rank = 2, .dims = {2, 3}},
        {.name = "quote\"back\\slash\n\xc3\xa9", .dtype = MOEBLOCK_F8_E4M3, .rank = 1, .dims = {7}},
        {.name = "empty", .dtype = MOEBLOCK_F32, .rank = 2, .dims = {0, 5}},
        {.name = "scalar", .dtype = MOEBLOCK_F64, .rank = 0},
    };
    for (size_t count = 0; count <= 4; count++) {
        const char *path = files_path("written.safetensors");
        struct mb_output output;
        assert_int_equal(mb_output_open(path, &output, NULL), MOEBLOCK_OK);
        assert_int_equal(mb_safetensors_write_header(&output, tensors, count, NULL), MOEBLOCK_OK);
        const size_t data[] = {0, 12, 19, 19, 27};
        char zeros[32] = {0};
        assert_int_equal(mb_output_write(&output, zeros, data[count], NULL), MOEBLOCK_OK);
        assert_int_equal(mb_output_commit(&output, NULL), MOEBLOCK_OK);
        struct mb_safetensors header;
        moeblock_error error = {0};
        const moeblock_status status = read_path(path, &header, &error);
        assert_string_equal(error.message, "");
        assert_int_equal(status, MOEBLOCK_OK);
        assert_int_equal(header.count, count);
        assert_int_equal(header.data_start % 8, 0);
        for (size_t i = 0; i < count; i++) {
            assert_string_equal(header.tensors[i].name, tensors[i].name);
            assert_int_equal(header.tensors[i].dtype, tensors[i].dtype);
            assert_int_equal(header.tensors[i].rank, tensors[i].rank);
            assert_memory_equal(header.tensors[i].dims, tensors[i].dims, sizeof tensors[i].dims);
        }
        mb_safetensors_free(&mb_default_allocator, &header);
    }
}

static void what_cannot_be_written(void **state)
{
    (void)state;
    const moeblock_tensor_info tensors[] = {
        {.name = "bad", .dtype = MOEBLOCK_DTYPE_OTHER, .rank = 1, .dims = {2}},
        {.name = "bad", .dtype = MOEBLOCK_U8, .rank = 9},
        {.name = "bad", .dtype = MOEBLOCK_U8, .rank = 1, .dims = {-2}},
    };
    for (size_t i = 0; i < 3; i++) {
        struct mb_output output;
        moeblock_error error = {0};
        assert_int_equal(mb_output_open(files_path("never.safetensors"), &output, NULL), MOEBLOCK_OK);
        assert_int_equal(mb_safetensors_write_header(&output, &tensors[i], 1, &error), MOEBLOCK_INVALID_ARGUMENT);
        assert_non_null(strstr(error.message, "'bad'"));
        mb_output_abort(&output);
        assert_false(mb_exists(files_path("never.safetensors")));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_header),
        cmocka_unit_test(unusual_but_valid),
        cmocka_unit_test(bad_frames),
        cmocka_unit_test(bad_offsets),
        cmocka_unit_test(bad_shapes),
        cmocka_unit_test(bad_names_and_keys),
        cmocka_unit_test(limits),
        cmocka_unit_test(metadata_has_a_ceiling),
        cmocka_unit_test(every_truncation),
        cmocka_unit_test(every_changed_byte),
        cmocka_unit_test(lengths_that_lie),
        cmocka_unit_test(nothing_is_allocated_for_a_lie),
        cmocka_unit_test(written_headers_read_back),
        cmocka_unit_test(what_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, files_begin, files_end);
}
