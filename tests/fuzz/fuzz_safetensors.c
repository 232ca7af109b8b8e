// SPDX-License-Identifier: Apache-2.0
// A safetensors file: 8 bytes of the file's size, then the file's first bytes; the rest of it is zeros. What is
// accepted keeps the rules of the format, checked here once more and independently: tensors follow each other from the
// header's end to the file's, each as large as its shape and dtype say, and no name comes twice.
#include "fuzz/fuzz.h"
#include "moeblock/tensor.h"
#include "weights/safetensors.h"

static const uint64_t largest = UINT64_C(1) << 40; // of the sparse file

static int by_name(const void *a, const void *b)
{
    return strcmp(((const moeblock_tensor_info *)a)->name, ((const moeblock_tensor_info *)b)->name);
}

static int by_offset(const void *a, const void *b)
{
    const moeblock_tensor_info *x = a, *y = b;
    if (x->file_offset != y->file_offset) return x->file_offset < y->file_offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); // empty ones first
}

static void check(const struct mb_safetensors *header, uint64_t size)
{
    moeblock_tensor_info *sorted = malloc((header->count + 1) * sizeof *sorted);
    FUZZ_CHECK(sorted && header->data_start <= size);
    if (header->count) memcpy(sorted, header->tensors, header->count * sizeof *sorted);
    qsort(sorted, header->count, sizeof *sorted, by_offset);
    uint64_t expected = header->data_start;
    for (size_t i = 0; i < header->count; i++) {
        const moeblock_tensor_info *tensor = &sorted[i];
        FUZZ_CHECK(tensor->file_offset == expected);
        expected += tensor->bytes;
        FUZZ_CHECK(tensor->rank >= 0 && tensor->rank <= MOEBLOCK_MAX_RANK);
        uint64_t elements = 1;
        for (int d = 0; d < tensor->rank; d++) {
            FUZZ_CHECK(tensor->dims[d] >= 0 && !__builtin_mul_overflow(elements, (uint64_t)tensor->dims[d], &elements));
        }
        const size_t element = moeblock_dtype_bytes(tensor->dtype);
        if (element) FUZZ_CHECK(elements * element == tensor->bytes);
    }
    FUZZ_CHECK(expected == size);
    qsort(sorted, header->count, sizeof *sorted, by_name);
    for (size_t i = 1; i < header->count; i++) FUZZ_CHECK(strcmp(sorted[i - 1].name, sorted[i].name) != 0);
    free(sorted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint64_t size;
    if (bytes < sizeof size) return 0;
    memcpy(&size, data, sizeof size);
    size %= largest;
    char path[32];
    const int descriptor = fuzz_file(data + sizeof size, bytes - sizeof size, size, path);
    struct mb_file file;
    struct mb_safetensors header;
    moeblock_error error = {MOEBLOCK_OK, ""};
    FUZZ_CHECK(mb_file_open(path, &file, &error) == MOEBLOCK_OK);
    const moeblock_status status = mb_safetensors_read(&mb_default_allocator, &file, path, &header, &error);
    FUZZ_CHECK((status == MOEBLOCK_OK) == (error.message[0] == '\0'));
    if (status == MOEBLOCK_OK) {
        check(&header, size);
        mb_safetensors_free(&mb_default_allocator, &header);
    }
    mb_file_close(&file);
    close(descriptor);
    return 0;
}
