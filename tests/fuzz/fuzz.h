// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets share: a check that ends the program, and bytes as a file.
#ifndef MB_TESTS_FUZZ_H
#define MB_TESTS_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

// Unlike assert it is there in every build.
#define FUZZ_CHECK(holds)                                                                                              \
    do {                                                                                                               \
        if (!(holds)) {                                                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #holds);                                 \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

// A file in memory that reads `bytes` bytes of data and then zeros up to `size`; its descriptor, and a path to open it.
static inline int fuzz_file(const void *data, size_t bytes, uint64_t size, char path[32])
{
    const int descriptor = memfd_create("fuzz", MFD_CLOEXEC);
    FUZZ_CHECK(descriptor >= 0 && write(descriptor, data, bytes) == (ssize_t)bytes);
    FUZZ_CHECK(ftruncate(descriptor, (off_t)size) == 0);
    snprintf(path, 32, "/proc/self/fd/%d", descriptor);
    return descriptor;
}

#endif
