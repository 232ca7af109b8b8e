// SPDX-License-Identifier: Apache-2.0
// The context object and what the library's own code asks of it.
#ifndef MB_BASE_CONTEXT_H
#define MB_BASE_CONTEXT_H

#include <stdbool.h>

#include "base/memory.h"
#include "moeblock/context.h"

struct mb_kernels;
struct mb_team;

enum mb_registry_kind { MB_ROUTER_KIND, MB_EXPERT_KIND, MB_REGISTRY_KINDS };

// One registered name. `class_copy` is a moeblock_router_class or moeblock_expert_class.
struct mb_registered {
    char name[64];
    const void *class_copy;
    void *user;
    struct mb_registered *next;
};

struct moeblock_context {
    moeblock_allocator allocator;
    struct mb_team *team;       // NULL when the host brings its own parallel-for
    moeblock_parallel parallel; // run NULL: the team
    const struct mb_kernels *kernels;
    bool prefers_int16, prefers_bf16x2; // what AUTO may stand for on this machine
    void (*log)(void *user, const char *line);
    void *log_user;
    struct mb_registered *registry[MB_REGISTRY_KINDS];
    _Atomic(uint64_t) loads; // of weights into blocks so far
};

// Calls task(argument, i, worker) for every i in [0, count) on the context's team (or the host's parallel-for) and
// returns when all are done. A caller that finds the team busy runs everything itself as worker 0. Worker numbers are
// below mb_workers(context).
void mb_parallel(const moeblock_context *context, int64_t count, moeblock_task task, void *argument);
int mb_workers(const moeblock_context *context);

// Sends one line to the context's log, if it has one.
void mb_log_line(const moeblock_context *context, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Adds a class under a name (copied, class_bytes long), and finds one; NULL when there is none.
moeblock_status mb_register(moeblock_context *context, enum mb_registry_kind kind, const char *name,
                            const void *class_memory, size_t class_bytes, void *user, moeblock_error *error);
const struct mb_registered *mb_registered_find(const moeblock_context *context, enum mb_registry_kind kind,
                                               const char *name);
void mb_registry_clear(moeblock_context *context);

#endif
