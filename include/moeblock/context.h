// SPDX-License-Identifier: Apache-2.0
// The context: thread team, allocator, log, kernel level, registry of names. Every other object is made from one
// and must be destroyed before it.
#ifndef MOEBLOCK_CONTEXT_H
#define MOEBLOCK_CONTEXT_H

#include <stddef.h>
#include <stdint.h>

#include "moeblock/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moeblock_context moeblock_context;

// Memory functions of the host. `allocate` returns memory aligned to `alignment` (a power of two, at most
// 4096) or NULL; `release` gets the size that was allocated. Both may be called from any thread.
typedef struct moeblock_allocator {
    void *user;
    void *(*allocate)(void *user, size_t bytes, size_t alignment);
    void (*release)(void *user, void *memory, size_t bytes);
} moeblock_allocator;

// One task of a parallel-for: called once for every index in [0, count). `worker` is in [0, workers) and no
// two calls with the same worker run at the same time.
typedef void (*moeblock_task)(void *argument, int64_t index, int worker);

// A host's own parallel-for. It returns when every index has been done.
typedef struct moeblock_parallel {
    void *user;
    int workers;
    void (*run)(void *user, int64_t count, moeblock_task task, void *argument);
} moeblock_parallel;

// Zero-fill, set struct_size, then set what differs from the default.
typedef struct moeblock_context_options {
    uint32_t struct_size;
    int threads;                         // 0: the CPUs in this thread's affinity mask
    const char *cpu_level;               // NULL: the environment's MOEBLOCK_CPU, else the best
    const moeblock_allocator *allocator; // NULL: the C library; copied
    const moeblock_parallel *parallel;   // NULL: moeblock's own team; copied
    void (*log)(void *user, const char *line);
    void *log_user;
} moeblock_context_options;

// Makes a context. `options` may be NULL. On failure *out is NULL.
// Errors: INVALID_ARGUMENT, UNSUPPORTED (a level this machine or build lacks), OUT_OF_MEMORY. When threads cannot
// be created the context works with fewer and logs it. A context survives fork: the child starts its own team.
MOEBLOCK_API moeblock_status moeblock_context_create(const moeblock_context_options *options, moeblock_context **out,
                                                     moeblock_error *error);

// Destroys *context and sets it to NULL. NULL and pointers to NULL are allowed.
MOEBLOCK_API void moeblock_context_destroy(moeblock_context **context);

// Threads that forward uses (the caller's included), and the chosen kernel level.
MOEBLOCK_API int moeblock_context_threads(const moeblock_context *context);
MOEBLOCK_API const char *moeblock_context_level(const moeblock_context *context);

// The i-th kernel level of this build (i from 0, slowest first), NULL past the end; *usable says whether this
// machine can run it and *reason why or why not (static text).
MOEBLOCK_API const char *moeblock_level(int i, int *usable, const char **reason);

#ifdef __cplusplus
}
#endif
#endif
