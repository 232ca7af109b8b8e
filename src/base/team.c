// SPDX-License-Identifier: Apache-2.0
// The thread team. One word, the gate, says whether a job is open and how many threads are inside it: a thread enters
// only through an open gate, so the caller never waits for one that woke too late. Waiting is a short spin, then a
// futex: there is no lock that a fork could leave locked in the child.
#include "base/team.h"

#include <fenv.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const uint32_t gate_open = 1u << 31, gate_caller_sleeps = 1u << 30; // the other bits count the threads inside

enum { SPIN_NS = 50000, PAUSES_PER_CLOCK_READ = 32 };

struct member {
    struct mb_team *team;
    pthread_t thread;
    int worker;
};

struct mb_team {
    moeblock_allocator allocator;
    _Atomic(int) threads; // the caller included; falls when a thread cannot be created, never rises
    int started;          // members whose thread runs; changed only while busy
    long spin_ns;         // 0 where the threads outnumber the CPUs: spinning would keep others from working
    _Atomic(int) owner;   // process that the threads live in; negative while they are being started there
    _Atomic(bool) busy, stop;
    // The job; written before the gate opens, read by threads inside.
    moeblock_task task;
    void *argument;
    uint64_t count;
    // Each of these is written by all threads, so each has a cache line of its own.
    _Alignas(64) _Atomic(uint64_t) next; // index to claim; runs past count by up to one a thread
    _Alignas(64) _Atomic(uint32_t) gate;
    _Alignas(64) _Atomic(uint32_t) signal; // changes with each job; threads outside wait for that
    _Atomic(int) sleepers;
    struct member members[]; // of worker 1 and up
};

static void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void futex_wait(_Atomic(uint32_t) *word, uint32_t while_value)
{
    syscall(SYS_futex, (void *)word, FUTEX_WAIT_PRIVATE, while_value, NULL, NULL, 0);
}

static void futex_wake(_Atomic(uint32_t) *word, int threads)
{
    syscall(SYS_futex, (void *)word, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0);
}

// Spins until the word differs from (`until_equal` false) or equals `value`; false when the time is over.
static bool spin(const struct mb_team *team, _Atomic(uint32_t) *word, uint32_t value, bool until_equal)
{
    if ((atomic_load(word) == value) == until_equal) return true;
    if (team->spin_ns == 0) return false;
    const int64_t end = now_ns() + team->spin_ns;
    do {
        for (int i = 0; i < PAUSES_PER_CLOCK_READ; i++) {
            pause_briefly();
            if ((atomic_load_explicit(word, memory_order_acquire) == value) == until_equal) return true;
        }
    } while (now_ns() < end);
    return false;
}

static void claim(struct mb_team *team, int worker)
{
    for (;;) {
        const uint64_t index = atomic_fetch_add_explicit(&team->next, 1, memory_order_relaxed);
        if (index >= team->count) return;
        team->task(team->argument, (int64_t)index, worker);
    }
}

static bool enter(struct mb_team *team)
{
    uint32_t gate = atomic_load(&team->gate);
    while (gate & gate_open) {
        if (atomic_compare_exchange_weak(&team->gate, &gate, gate + 1)) return true;
    }
    return false;
}

static void leave(struct mb_team *team)
{
    // The last one out, with the gate shut and the caller asleep.
    if (atomic_fetch_sub(&team->gate, 1) == (gate_caller_sleeps | 1)) futex_wake(&team->gate, 1);
}

static void *serve(void *argument)
{
    const struct member *member = argument;
    struct mb_team *team = member->team;
    // A new thread inherits the rounding and flushing modes of the one that made it; tasks set what they need.
    fesetenv(FE_DFL_ENV);
    // Zero is before the first job of any process: a thread that starts late finds the gate as it is and joins.
    for (uint32_t seen = 0;;) {
        if (!spin(team, &team->signal, seen, false)) {
            atomic_fetch_add(&team->sleepers, 1);
            futex_wait(&team->signal, seen);
            atomic_fetch_sub(&team->sleepers, 1);
        }
        const uint32_t signal = atomic_load(&team->signal);
        if (atomic_load(&team->stop)) return NULL;
        if (signal == seen) continue;
        seen = signal;
        if (!enter(team)) continue;
        claim(team, member->worker);
        leave(team);
    }
}

struct mb_team *mb_team_create(const moeblock_allocator *allocator, int threads)
{
    const size_t members = threads > 1 ? (size_t)threads - 1 : 0;
    struct mb_team *team = mb_alloc_zero(allocator, sizeof *team + members * sizeof *team->members);
    if (!team) return NULL;
    team->allocator = *allocator;
    team->spin_ns = threads <= mb_cpus_allowed() ? SPIN_NS : 0;
    atomic_init(&team->threads, threads > 1 ? threads : 1);
    return team;
}

// Starts the threads of this process. The host's signals stay with the host's threads.
static void start(struct mb_team *team)
{
    sigset_t all, saved;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    const int wanted = atomic_load(&team->threads) - 1;
    for (team->started = 0; team->started < wanted; team->started++) {
        struct member *member = &team->members[team->started];
        member->team = team;
        member->worker = team->started + 1;
        if (pthread_create(&member->thread, NULL, serve, member) != 0) break;
    }
    atomic_store(&team->threads, team->started + 1);
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

// Takes the team for a job. On first use, and in a child after fork (where the threads do not exist and the words hold
// what the parent was doing), the first caller starts them; others that come meanwhile find the team busy.
static bool take(struct mb_team *team)
{
    const int self = (int)getpid();
    int owner = atomic_load(&team->owner);
    if (owner == self) return !atomic_exchange(&team->busy, true);
    if (owner == -self || !atomic_compare_exchange_strong(&team->owner, &owner, -self)) return false;
    atomic_store(&team->busy, true);
    atomic_store(&team->gate, 0);
    atomic_store(&team->signal, 0);
    atomic_store(&team->sleepers, 0);
    start(team);
    atomic_store(&team->owner, self);
    return true;
}

static void open_gate(struct mb_team *team)
{
    atomic_store(&team->gate, gate_open);
    atomic_fetch_add(&team->signal, 1);
    const uint64_t useful = team->count - 1;
    if (atomic_load(&team->sleepers) > 0) futex_wake(&team->signal, useful < INT_MAX ? (int)useful : INT_MAX);
}

static void shut_gate(struct mb_team *team)
{
    const uint32_t inside = atomic_fetch_and(&team->gate, ~gate_open) & ~gate_open;
    if (inside == 0 || spin(team, &team->gate, 0, true)) return;
    uint32_t gate = atomic_fetch_or(&team->gate, gate_caller_sleeps) | gate_caller_sleeps;
    while (gate != gate_caller_sleeps) {
        futex_wait(&team->gate, gate);
        gate = atomic_load(&team->gate);
    }
    atomic_store(&team->gate, 0);
}

void mb_team_run(struct mb_team *team, int64_t count, moeblock_task task, void *argument)
{
    if (count <= 1 || atomic_load(&team->threads) == 1 || !take(team)) {
        for (int64_t i = 0; i < count; i++) task(argument, i, 0);
        return;
    }
    team->task = task;
    team->argument = argument;
    team->count = (uint64_t)count;
    atomic_store(&team->next, 0);
    open_gate(team);
    claim(team, 0);
    shut_gate(team);
    atomic_store(&team->busy, false);
}

int mb_team_threads(const struct mb_team *team) { return atomic_load(&team->threads); }

void mb_team_destroy(struct mb_team *team)
{
    if (!team) return;
    if (atomic_load(&team->owner) == (int)getpid()) { // in a forked child that never ran a job there is nothing to end
        atomic_store(&team->stop, true);
        atomic_fetch_add(&team->signal, 1);
        futex_wake(&team->signal, INT_MAX);
        for (int i = 0; i < team->started; i++) pthread_join(team->members[i].thread, NULL);
    }
    const moeblock_allocator allocator = team->allocator;
    mb_free(&allocator, team);
}

int mb_cpus_allowed(void)
{
    cpu_set_t set[16]; // one holds 1,024 CPUs
    memset(set, 0, sizeof set);
    if (sched_getaffinity(0, sizeof set, set) == 0) {
        const int cpus = CPU_COUNT_S(sizeof set, set);
        if (cpus > 0) return cpus;
    }
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 && online < INT_MAX ? (int)online : 1;
}
