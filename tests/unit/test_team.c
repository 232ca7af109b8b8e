// SPDX-License-Identifier: Apache-2.0
// The thread team: every index once, one thread a worker number, concurrent and nested callers, fork, a shortage of
// threads, and the floating-point mode that threads start with.
#include <fenv.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/team.h"
#include "cmocka.h"

#if defined(__has_feature)
#define HAS_FEATURE(feature) __has_feature(feature)
#else
#define HAS_FEATURE(feature) 0
#endif
#if defined(__SANITIZE_THREAD__) || HAS_FEATURE(thread_sanitizer)
enum { THREAD_SANITIZER = 1 }; // which ends a process that makes threads after a fork
#else
enum { THREAD_SANITIZER = 0 };
#endif

enum { MOST_INDICES = 1000, MOST_WORKERS = 64 };

struct tally {
    int times[MOST_INDICES]; // not atomic: each index belongs to one call
    _Atomic(int) inside[MOST_WORKERS];
    _Atomic(int) overlaps, workers_out_of_range;
    int workers;
    struct mb_team *team; // for nested runs
    long pause_ns;
};

static void count_index(void *argument, int64_t index, int worker)
{
    struct tally *tally = argument;
    if (worker < 0 || worker >= tally->workers) {
        atomic_fetch_add(&tally->workers_out_of_range, 1);
        return;
    }
    if (atomic_fetch_add(&tally->inside[worker], 1) != 0) atomic_fetch_add(&tally->overlaps, 1);
    tally->times[index]++;
    if (tally->pause_ns) nanosleep(&(struct timespec){0, tally->pause_ns}, NULL);
    atomic_fetch_sub(&tally->inside[worker], 1);
}

static bool complete(const struct tally *tally, int64_t count, int times)
{
    for (int64_t i = 0; i < MOST_INDICES; i++) {
        if (tally->times[i] != (i < count ? times : 0)) return false;
    }
    return tally->overlaps == 0 && tally->workers_out_of_range == 0;
}

static void test_every_index_once(void **state)
{
    (void)state;
    static const int threads[] = {0, 1, 2, 3, 7};
    static const int64_t counts[] = {0, 1, 2, 3, 8, 64, MOST_INDICES};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        struct mb_team *team = mb_team_create(&mb_default_allocator, threads[t]);
        assert_non_null(team);
        assert_int_equal(mb_team_threads(team), threads[t] ? threads[t] : 1);
        for (int round = 0; round < 50; round++) {
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
                struct tally tally = {.workers = mb_team_threads(team)};
                mb_team_run(team, counts[c], count_index, &tally);
                assert_true(complete(&tally, counts[c], 1));
            }
        }
        mb_team_destroy(team);
    }
    mb_team_destroy(NULL);
}

// Runs so far apart that the threads have gone to sleep in between.
static void test_wakes_from_sleep(void **state)
{
    (void)state;
    struct mb_team *team = mb_team_create(&mb_default_allocator, 3);
    for (int round = 0; round < 30; round++) {
        struct tally tally = {.workers = 3, .pause_ns = 100000};
        mb_team_run(team, 9, count_index, &tally);
        assert_true(complete(&tally, 9, 1));
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    mb_team_destroy(team);
}

struct rendezvous {
    _Atomic(int) arrived, together;
};

static void meet(void *argument, int64_t index, int worker)
{
    (void)index, (void)worker;
    struct rendezvous *rendezvous = argument;
    atomic_fetch_add(&rendezvous->arrived, 1);
    for (int tries = 0; tries < 5000; tries++) {
        if (atomic_load(&rendezvous->arrived) == 3) {
            atomic_fetch_add(&rendezvous->together, 1);
            return;
        }
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}

static void test_threads_do_run_at_the_same_time(void **state)
{
    (void)state;
    struct mb_team *team = mb_team_create(&mb_default_allocator, 3);
    struct rendezvous rendezvous = {0, 0};
    mb_team_run(team, 3, meet, &rendezvous);
    assert_int_equal(rendezvous.together, 3);
    mb_team_destroy(team);
}

static void *run_many(void *argument)
{
    struct mb_team *team = argument;
    for (int round = 0; round < 200; round++) {
        struct tally tally = {.workers = mb_team_threads(team)};
        mb_team_run(team, 40, count_index, &tally);
        if (!complete(&tally, 40, 1)) return team;
    }
    return NULL;
}

static void test_concurrent_callers(void **state)
{
    (void)state;
    struct mb_team *team = mb_team_create(&mb_default_allocator, 3);
    pthread_t callers[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&callers[i], NULL, run_many, team), 0);
    for (int i = 0; i < 4; i++) {
        void *failed = NULL;
        assert_int_equal(pthread_join(callers[i], &failed), 0);
        assert_null(failed);
    }
    mb_team_destroy(team);
}

static void nested(void *argument, int64_t index, int worker)
{
    struct tally *outer = argument;
    struct tally inner = {.workers = 1}; // inline: worker 0 alone
    mb_team_run(outer->team, 20, count_index, &inner);
    if (complete(&inner, 20, 1)) count_index(outer, index, worker);
}

static void test_nested_runs_inline(void **state)
{
    (void)state;
    struct mb_team *team = mb_team_create(&mb_default_allocator, 3);
    struct tally outer = {.workers = 3, .team = team};
    mb_team_run(team, 50, nested, &outer);
    assert_true(complete(&outer, 50, 1));
    mb_team_destroy(team);
}

static void look_at_rounding(void *argument, int64_t index, int worker)
{
    (void)index;
    _Atomic(int) *wrong = argument;
    if (worker != 0 && fegetround() != FE_TONEAREST) atomic_fetch_add(wrong, 1);
    nanosleep(&(struct timespec){0, 1000000}, NULL);
}

static void test_threads_start_in_the_default_mode(void **state)
{
    (void)state;
    struct mb_team *team = mb_team_create(&mb_default_allocator, 3);
    _Atomic(int) wrong = 0;
    fesetround(FE_UPWARD); // what a new thread would inherit
    mb_team_run(team, 30, look_at_rounding, &wrong);
    fesetround(FE_TONEAREST);
    assert_int_equal(wrong, 0);
    mb_team_destroy(team);
}

// Ends a child by its exit code; a hang is ended by the alarm.
static void assert_child_succeeds(pid_t child)
{
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int child_work(struct mb_team *team)
{
    alarm(20);
    struct tally tally = {.workers = mb_team_threads(team), .pause_ns = 1000};
    mb_team_run(team, 60, count_index, &tally);
    const bool ok = complete(&tally, 60, 1) && mb_team_threads(team) == 3;
    mb_team_destroy(team);
    return ok ? 0 : 1;
}

static void test_a_forked_child_starts_its_own_threads(void **state)
{
    (void)state;
    if (THREAD_SANITIZER) skip();
    struct mb_team *team = mb_team_create(&mb_default_allocator, 3);
    struct tally tally = {.workers = 3};
    mb_team_run(team, 60, count_index, &tally);
    const pid_t child = fork();
    if (child == 0) _exit(child_work(team));
    assert_child_succeeds(child);
    const pid_t idle = fork();
    if (idle == 0) {
        mb_team_destroy(team); // never used here: no threads to wait for
        _exit(0);
    }
    assert_child_succeeds(idle);
    mb_team_run(team, 60, count_index, &tally);
    assert_true(complete(&tally, 60, 2));
    mb_team_destroy(team);
}

static void *keep_busy(void *argument)
{
    struct tally *tally = argument;
    for (int round = 0; round < 50; round++) mb_team_run(tally->team, 20, count_index, tally);
    return NULL;
}

static void test_fork_while_another_thread_runs_a_job(void **state)
{
    (void)state;
    if (THREAD_SANITIZER) skip();
    struct mb_team *team = mb_team_create(&mb_default_allocator, 3);
    struct tally tally = {.workers = 3, .team = team, .pause_ns = 20000};
    pthread_t caller;
    assert_int_equal(pthread_create(&caller, NULL, keep_busy, &tally), 0);
    for (int i = 0; i < 5; i++) {
        nanosleep(&(struct timespec){0, 2000000}, NULL);
        const pid_t child = fork();
        if (child == 0) _exit(child_work(team));
        assert_child_succeeds(child);
    }
    pthread_join(caller, NULL);
    assert_true(complete(&tally, 20, 50));
    mb_team_destroy(team);
}

// In a child, because the default attributes belong to the whole process. No stack of this size can be mapped.
static int work_without_threads(void)
{
    alarm(20);
    pthread_attr_t impossible;
    if (pthread_attr_init(&impossible) != 0 || pthread_attr_setstacksize(&impossible, (size_t)1 << 48) != 0 ||
        pthread_setattr_default_np(&impossible) != 0) {
        return 2;
    }
    struct mb_team *team = mb_team_create(&mb_default_allocator, 7);
    if (!team) return 2;
    struct tally tally = {.workers = 7};
    mb_team_run(team, 60, count_index, &tally);
    if (!complete(&tally, 60, 1) || mb_team_threads(team) != 1) return 1;
    mb_team_run(team, 60, count_index, &tally);
    if (!complete(&tally, 60, 2)) return 1;
    mb_team_destroy(team);
    return 0;
}

static void test_a_shortage_of_threads(void **state)
{
    (void)state;
    if (THREAD_SANITIZER) skip();
    const pid_t child = fork();
    if (child == 0) _exit(work_without_threads());
    assert_child_succeeds(child);
}

static void test_many_teams_come_and_go(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct mb_team *team = mb_team_create(&mb_default_allocator, 4);
        struct tally tally = {.workers = 4};
        mb_team_run(team, 2 + i % 5, count_index, &tally);
        assert_true(complete(&tally, 2 + i % 5, 1));
        mb_team_destroy(team);
    }
}

static void test_cpus_allowed(void **state)
{
    (void)state;
    assert_in_range(mb_cpus_allowed(), 1, 16384);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_index_once),
        cmocka_unit_test(test_wakes_from_sleep),
        cmocka_unit_test(test_threads_do_run_at_the_same_time),
        cmocka_unit_test(test_concurrent_callers),
        cmocka_unit_test(test_nested_runs_inline),
        cmocka_unit_test(test_threads_start_in_the_default_mode),
        cmocka_unit_test(test_a_forked_child_starts_its_own_threads),
        cmocka_unit_test(test_fork_while_another_thread_runs_a_job),
        cmocka_unit_test(test_a_shortage_of_threads),
        cmocka_unit_test(test_many_teams_come_and_go),
        cmocka_unit_test(test_cpus_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
