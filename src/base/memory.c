// SPDX-License-Identifier: Apache-2.0
// Where memory comes from: a header in front of each block remembers its size, so that mb_free needs none, and the
// default allocator asks for huge pages where a block is large enough to gain from them.
#include "base/memory.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arith.h"

// A block is a header of one alignment unit, then the caller's bytes.
enum { ALIGNMENT = 64 };
struct header {
    size_t bytes; // header included
};
_Static_assert(sizeof(struct header) <= ALIGNMENT, "the header must fit in one alignment unit");

static const size_t huge_page = (size_t)2 << 20;
static const size_t map_from = (size_t)4 << 20; // smaller blocks gain little and would waste part of a huge page

static size_t mapped_bytes(size_t bytes)
{
    const long page = sysconf(_SC_PAGESIZE);
    return mb_round_up(bytes, page > 0 ? (size_t)page : 4096);
}

// Maps one huge page too much and gives back both ends, because mmap aligns to small pages only.
static void *map_pages(size_t bytes)
{
    const size_t wanted = mapped_bytes(bytes), span = wanted + huge_page;
    char *start = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return NULL;
    const size_t before = (huge_page - (uintptr_t)start % huge_page) % huge_page;
    const size_t after = span - before - wanted;
    if (before) munmap(start, before);
    if (after) munmap(start + before + wanted, after);
    madvise(start + before, wanted, MADV_HUGEPAGE); // advice: small pages work as well
    return start + before;
}

static void *default_allocate(void *user, size_t bytes, size_t alignment)
{
    (void)user;
    if (bytes > SIZE_MAX / 2) return NULL; // so that rounding up cannot overflow
    if (bytes >= map_from) return map_pages(bytes);
    void *memory = NULL;
    const size_t smallest = sizeof(void *); // posix_memalign's own lower limit
    return posix_memalign(&memory, alignment < smallest ? smallest : alignment, bytes) == 0 ? memory : NULL;
}

static void default_release(void *user, void *memory, size_t bytes)
{
    (void)user;
    if (bytes >= map_from)
        munmap(memory, mapped_bytes(bytes));
    else
        free(memory);
}

const moeblock_allocator mb_default_allocator = {NULL, default_allocate, default_release};

void *mb_alloc(const moeblock_allocator *allocator, size_t bytes)
{
    if (bytes > SIZE_MAX - ALIGNMENT) return NULL;
    const size_t total = bytes + ALIGNMENT;
    char *block = allocator->allocate(allocator->user, total, ALIGNMENT);
    if (!block) return NULL;
    const struct header header = {total};
    memcpy(block, &header, sizeof header);
    return block + ALIGNMENT;
}

void *mb_alloc_zero(const moeblock_allocator *allocator, size_t bytes)
{
    char *memory = mb_alloc(allocator, bytes);
    if (!memory) return NULL;
    // Fresh pages are zero already; touching them here would cost time and place them all on this thread's node.
    const bool fresh = allocator->allocate == default_allocate && bytes + ALIGNMENT >= map_from;
    if (!fresh) memset(memory, 0, bytes);
    return memory;
}

void mb_free(const moeblock_allocator *allocator, void *memory)
{
    if (!memory) return;
    char *block = (char *)memory - ALIGNMENT;
    struct header header;
    memcpy(&header, block, sizeof header);
    allocator->release(allocator->user, block, header.bytes);
}
