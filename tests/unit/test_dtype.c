// SPDX-License-Identifier: Apache-2.0
// Names, sizes and the size arithmetic of tensors.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "cmocka.h"
#include "weights/dtype.h"

static void names_and_sizes_agree(void **state)
{
    (void)state;
    static const struct {
        moeblock_dtype dtype;
        const char *name;
        size_t bytes;
    } all[] = {{MOEBLOCK_F32, "F32", 4},         {MOEBLOCK_F16, "F16", 2},         {MOEBLOCK_BF16, "BF16", 2},
               {MOEBLOCK_F64, "F64", 8},         {MOEBLOCK_F8_E4M3, "F8_E4M3", 1}, {MOEBLOCK_F8_E5M2, "F8_E5M2", 1},
               {MOEBLOCK_F8_E8M0, "F8_E8M0", 1}, {MOEBLOCK_U8, "U8", 1},           {MOEBLOCK_I8, "I8", 1},
               {MOEBLOCK_U16, "U16", 2},         {MOEBLOCK_I16, "I16", 2},         {MOEBLOCK_U32, "U32", 4},
               {MOEBLOCK_I32, "I32", 4},         {MOEBLOCK_U64, "U64", 8},         {MOEBLOCK_I64, "I64", 8},
               {MOEBLOCK_BOOL, "BOOL", 1}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        assert_string_equal(moeblock_dtype_name(all[i].dtype), all[i].name);
        assert_int_equal(moeblock_dtype_bytes(all[i].dtype), all[i].bytes);
        const struct mb_dtype_info *info = mb_dtype_find(all[i].name);
        assert_non_null(info);
        assert_int_equal(info->dtype, all[i].dtype);
        assert_int_equal(info->bits, all[i].bytes * 8);
    }
}

static void values_that_are_no_type(void **state)
{
    (void)state;
    const int none[] = {MOEBLOCK_DTYPE_NONE, MOEBLOCK_DTYPE_OTHER, 18, -1, 1000};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        assert_string_equal(moeblock_dtype_name((moeblock_dtype)none[i]), "?");
        assert_int_equal(moeblock_dtype_bytes((moeblock_dtype)none[i]), 0);
    }
    assert_null(mb_dtype_find("bf16"));
    assert_null(mb_dtype_find(""));
    assert_null(mb_dtype_find("F128"));
}

static void types_known_by_name_only(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t bits;
    } all[] = {{"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"C64", 64}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        assert_int_equal(mb_dtype_find(all[i].name)->dtype, MOEBLOCK_DTYPE_OTHER);
        assert_int_equal(mb_dtype_find(all[i].name)->bits, all[i].bits);
    }
}

static void sizes_are_checked(void **state)
{
    (void)state;
    uint64_t bytes = 77;
    const int64_t big = INT64_C(1) << 48;
    assert_null(mb_tensor_bytes(32, 0, NULL, &bytes));
    assert_int_equal(bytes, 4);
    assert_null(mb_tensor_bytes(16, 2, (const int64_t[]){3, 5}, &bytes));
    assert_int_equal(bytes, 30);
    assert_null(mb_tensor_bytes(64, 2, (const int64_t[]){big, 256}, &bytes)); // 2^56 elements, 2^59 bytes
    assert_true(bytes == UINT64_C(1) << 59);
    assert_null(mb_tensor_bytes(4, 1, (const int64_t[]){6}, &bytes));
    assert_int_equal(bytes, 3);
    assert_null(mb_tensor_bytes(6, 1, (const int64_t[]){4}, &bytes));
    assert_int_equal(bytes, 3);
    assert_null(mb_tensor_bytes(8, 2, (const int64_t[]){0, big}, &bytes));
    assert_int_equal(bytes, 0);
    assert_non_null(mb_tensor_bytes(4, 1, (const int64_t[]){5}, &bytes));
    assert_non_null(mb_tensor_bytes(6, 1, (const int64_t[]){3}, &bytes));
    assert_non_null(mb_tensor_bytes(8, 1, (const int64_t[]){-1}, &bytes));
    assert_non_null(mb_tensor_bytes(8, 1, (const int64_t[]){big + 1}, &bytes));
    assert_non_null(mb_tensor_bytes(8, 2, (const int64_t[]){big, 257}, &bytes));
    assert_non_null(mb_tensor_bytes(8, 3, (const int64_t[]){big, big, 0}, &bytes));
    assert_non_null(mb_tensor_bytes(8, 4, (const int64_t[]){1 << 16, big, 1 << 16, 1 << 16}, &bytes));
    assert_non_null(mb_tensor_bytes(8, 9, (const int64_t[9]){1, 1, 1, 1, 1, 1, 1, 1, 1}, &bytes));
    assert_non_null(mb_tensor_bytes(8, -1, NULL, &bytes));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_sizes_agree),
        cmocka_unit_test(values_that_are_no_type),
        cmocka_unit_test(types_known_by_name_only),
        cmocka_unit_test(sizes_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
