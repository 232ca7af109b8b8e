// SPDX-License-Identifier: Apache-2.0
// The parallel-for of a process whose threads belong to OpenMP already, as torch's do. Two teams would spin beside each
// other on the same cores; this one hands moeblock's tasks to the threads that are there. OpenMP is not linked: the
// package finds the runtime that torch has loaded and gives its functions.
#include <stdatomic.h>

#include "moeblock/context.h"

struct openmp {
    void (*parallel)(void (*body)(void *), void *argument, unsigned threads, unsigned flags); // GOMP_parallel
    int (*thread)(void);                                                                      // omp_get_thread_num
    int workers;
};

struct job {
    const struct openmp *openmp;
    moeblock_task task;
    void *argument;
    int64_t count;
    _Atomic int64_t next;
};

static void work(void *user)
{
    struct job *job = user;
    const int worker = job->openmp->thread();
    for (int64_t i; (i = atomic_fetch_add(&job->next, 1)) < job->count;) job->task(job->argument, i, worker);
}

// `user` is a struct openmp that outlives the context.
MOEBLOCK_API void moeblock_openmp_run(void *user, int64_t count, moeblock_task task, void *argument);

void moeblock_openmp_run(void *user, int64_t count, moeblock_task task, void *argument)
{
    const struct openmp *openmp = user;
    struct job job = {openmp, task, argument, count, 0};
    const int64_t threads = count < openmp->workers ? count : openmp->workers;
    if (threads > 1) {
        openmp->parallel(work, &job, (unsigned)threads, 0);
        return;
    }
    // Not even a team of one: a process that was forked may have lost the runtime's threads, and would wait for them.
    for (int64_t i = 0; i < count; ++i) task(argument, i, 0);
}
