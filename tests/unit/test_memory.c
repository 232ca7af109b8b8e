// SPDX-License-Identifier: Apache-2.0
// Alignment, sizes remembered for the release, sizes that cannot be had, zeroing, huge pages.
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cmocka.h"

static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 100000, (4u << 20) - 65, (4u << 20) - 64, 4u << 20, 9000001};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void test_every_size_is_aligned_and_writable(void **state)
{
    (void)state;
    for (size_t i = 0; i < SIZES; i++) {
        unsigned char *memory = mb_alloc(&mb_default_allocator, sizes[i]);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 64, 0);
        memset(memory, 0xa5, sizes[i]);
        mb_free(&mb_default_allocator, memory);
        memory = mb_alloc_zero(&mb_default_allocator, sizes[i]);
        assert_non_null(memory);
        for (size_t at = 0; at < sizes[i]; at++) assert_int_equal(memory[at], 0);
        mb_free(&mb_default_allocator, memory);
    }
    mb_free(&mb_default_allocator, NULL);
}

static void test_sizes_that_cannot_be_had(void **state)
{
    (void)state;
    static const size_t impossible[] = {SIZE_MAX,     SIZE_MAX - 63,     SIZE_MAX - 64,
                                        SIZE_MAX / 2, SIZE_MAX / 2 - 64, (size_t)1 << 60};
    for (size_t i = 0; i < sizeof impossible / sizeof *impossible; i++) {
        assert_null(mb_alloc(&mb_default_allocator, impossible[i]));
        assert_null(mb_alloc_zero(&mb_default_allocator, impossible[i]));
    }
}

// What /proc/self/smaps says of huge pages in the mapping that holds `address`.
static size_t huge_bytes_around(const void *address)
{
    char line[512];
    size_t huge = 0;
    bool inside = false;
    FILE *file = fopen("/proc/self/smaps", "re");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        unsigned long long begin, end, kilobytes;
        if (sscanf(line, "%llx-%llx ", &begin, &end) == 2)
            inside = (uintptr_t)address >= begin && (uintptr_t)address < end;
        else if (inside && sscanf(line, "AnonHugePages: %llu kB", &kilobytes) == 1)
            huge = (size_t)kilobytes * 1024;
    }
    fclose(file);
    return huge;
}

// Large blocks lie in huge pages where the system gives them to those who ask.
static void test_large_blocks_lie_in_huge_pages(void **state)
{
    (void)state;
    char line[128] = "";
    const size_t bytes = (size_t)64 << 20;
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (file && !fgets(line, sizeof line, file)) *line = 0;
    if (file) fclose(file);
    if (!strstr(line, "[madvise]") && !strstr(line, "[always]")) {
        print_message("skipped: this system gives no huge pages (%s)\n", line);
        skip();
    }
    unsigned char *memory = mb_alloc(&mb_default_allocator, bytes);
    assert_non_null(memory);
    memset(memory, 1, bytes);
    const size_t huge = huge_bytes_around(memory + bytes / 2);
    print_message("%zu of %zu bytes lie in huge pages\n", huge, bytes);
    assert_true(huge >= bytes / 2); // the system may be short of some
    mb_free(&mb_default_allocator, memory);
}

// A host's allocator that checks what it is given back.
struct ledger {
    size_t bytes;
    int blocks;
};

static void *counted_allocate(void *user, size_t bytes, size_t alignment)
{
    struct ledger *ledger = user;
    void *memory = NULL;
    if (bytes > 1u << 20 || posix_memalign(&memory, alignment, bytes) != 0) return NULL;
    memset(memory, 0xee, bytes);
    ledger->bytes += bytes;
    ledger->blocks++;
    return memory;
}

static void counted_release(void *user, void *memory, size_t bytes)
{
    struct ledger *ledger = user;
    ledger->bytes -= bytes;
    ledger->blocks--;
    free(memory);
}

static void test_a_hosts_allocator(void **state)
{
    (void)state;
    struct ledger ledger = {0, 0};
    const moeblock_allocator allocator = {&ledger, counted_allocate, counted_release};
    void *first = mb_alloc(&allocator, 1000);
    unsigned char *second = mb_alloc_zero(&allocator, 77);
    assert_int_equal(ledger.blocks, 2);
    assert_true(ledger.bytes >= 1077);
    for (int i = 0; i < 77; i++) assert_int_equal(second[i], 0);
    assert_null(mb_alloc(&allocator, 2u << 20));
    assert_null(mb_alloc_zero(&allocator, 2u << 20));
    mb_free(&allocator, first);
    mb_free(&allocator, second);
    assert_int_equal(ledger.blocks, 0);
    assert_int_equal(ledger.bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_size_is_aligned_and_writable),
        cmocka_unit_test(test_sizes_that_cannot_be_had),
        cmocka_unit_test(test_large_blocks_lie_in_huge_pages),
        cmocka_unit_test(test_a_hosts_allocator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
