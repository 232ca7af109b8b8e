// SPDX-License-Identifier: Apache-2.0
// An npy file: what is accepted has as many elements as its shape says, all of them readable.
#include "fuzz/fuzz.h"
#include "weights/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char path[32];
    const int descriptor = fuzz_file(data, bytes, bytes, path);
    struct mb_npy array;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const moeblock_status status = mb_npy_read(&mb_default_allocator, path, &array, &error);
    FUZZ_CHECK((status == MOEBLOCK_OK) == (error.message[0] == '\0'));
    if (status == MOEBLOCK_OK) {
        int64_t count = 1;
        for (int i = 0; i < array.rank; i++) FUZZ_CHECK(!__builtin_mul_overflow(count, array.dims[i], &count));
        FUZZ_CHECK(count == array.count);
        volatile double sum = 0;
        for (int64_t i = 0; i < count; i++) sum += mb_npy_value(&array, i);
        (void)sum;
        mb_npy_free(&mb_default_allocator, &array);
    }
    close(descriptor);
    return 0;
}
