// SPDX-License-Identifier: Apache-2.0
// Runs the loops of peaks.c on pinned threads. A limit is the median over the samples taken beside a case of the
// pattern that does best there: the highest single sample would be a lucky moment that the case did not have.
#include "cli/limits.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/machine.h"
#include "kernels/cpu.h"

enum { ATTEMPTS = 3, THREADS_MOST = 1024, CHUNK_BYTES = 2 << 20, PEAK_STEPS = 1000, PEAK_TURNS = 7 };
static const size_t least_bytes = (size_t)256 << 20;
static const double read_seconds = 0.008, peak_seconds = 0.004, own_share = 0.95;

// --- threads that load the machine ----------------------------------------------------------------------------------

struct crew {
    int threads;
    cli_work work;
    void *argument;
    double duration;
    cpu_set_t cpus; // that this process may use
    _Atomic(int) ready;
    _Atomic(bool) cancelled;
};

struct hand {
    struct crew *crew;
    pthread_t thread;
    int index;
    double begin, end, busy, done;
};

static double busy_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// The index-th CPU that the process may use is this thread's.
static void pin(const struct crew *crew, int index)
{
    const int count = CPU_COUNT(&crew->cpus);
    cpu_set_t own;
    CPU_ZERO(&own);
    int seen = 0;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &crew->cpus) && seen++ == index % count) CPU_SET(cpu, &own);
    pthread_setaffinity_np(pthread_self(), sizeof own, &own); // unpinned where that is refused
}

static void *serve(void *argument)
{
    struct hand *const hand = argument;
    struct crew *const crew = hand->crew;
    if (CPU_COUNT(&crew->cpus) > 0) pin(crew, hand->index);
    atomic_fetch_add(&crew->ready, 1);
    while (atomic_load(&crew->ready) < crew->threads && !atomic_load(&crew->cancelled)) sched_yield();
    if (atomic_load(&crew->cancelled)) return NULL;
    const double busy = busy_seconds();
    hand->begin = hand->end = mb_seconds();
    while (hand->end - hand->begin < crew->duration) {
        hand->done += crew->work(crew->argument, hand->index);
        hand->end = mb_seconds();
    }
    hand->busy = busy_seconds() - busy;
    return NULL;
}

// One run of the crew; *clean: every thread had its CPU.
static double run_crew(struct crew *crew, struct hand *hands, bool *clean)
{
    int started = 0;
    crew->ready = 0;
    for (; started < crew->threads; started++) {
        hands[started] = (struct hand){.crew = crew, .index = started};
        if (pthread_create(&hands[started].thread, NULL, serve, &hands[started])) break;
    }
    if (started < crew->threads) atomic_store(&crew->cancelled, true);
    double begin = 0, end = 0, done = 0;
    *clean = true;
    for (int i = 0; i < started; i++) {
        pthread_join(hands[i].thread, NULL);
        if (i == 0 || hands[i].begin < begin) begin = hands[i].begin;
        if (hands[i].end > end) end = hands[i].end;
        done += hands[i].done;
        *clean = *clean && hands[i].busy >= own_share * (hands[i].end - hands[i].begin);
    }
    return started == crew->threads && end > begin ? done / (end - begin) : 0;
}

double cli_rate(int threads, double duration, cli_work work, void *argument)
{
    struct crew crew = {.threads = threads, .work = work, .argument = argument, .duration = duration};
    struct hand *const hands = mb_alloc(&mb_default_allocator, sizeof *hands * (size_t)threads);
    if (!hands || threads > THREADS_MOST || sched_getaffinity(0, sizeof crew.cpus, &crew.cpus)) CPU_ZERO(&crew.cpus);
    double best = 0;
    bool clean = !hands;
    for (int i = 0; i < ATTEMPTS && !clean; i++) {
        const double rate = run_crew(&crew, hands, &clean);
        if (rate > best) best = rate;
        if (rate <= 0) break;
    }
    mb_free(&mb_default_allocator, hands);
    return best;
}

// --- the loads ------------------------------------------------------------------------------------------------------

static double multiply(void *argument, int worker)
{
    (void)worker;
    const struct cli_peak *const peak = argument;
    volatile float kept = 0;
    peak->run(PEAK_STEPS, &kept);
    return peak->flops_per_step * PEAK_STEPS;
}

double cli_peak_rate(const struct cli_peak *peak, int threads)
{
    const char *reason;
    struct cli_peak copy = *peak;
    if (!mb_cpu_offers(peak->features, &reason)) return 0;
    return cli_rate(threads, peak_seconds, multiply, &copy);
}

// Instructions take turns and the best turn of each counts: a single one may meet a moment without a CPU.
const struct cli_peak *cli_peak_best(unsigned serves, int threads)
{
    const struct cli_peak *best = &cli_peaks[0];
    double highest = 0;
    for (int turn = 0; turn < PEAK_TURNS; turn++) {
        for (int i = 0; i < cli_peak_count; i++) {
            const double rate = cli_peaks[i].serves & serves ? cli_peak_rate(&cli_peaks[i], threads) : 0;
            if (rate <= highest) continue;
            best = &cli_peaks[i];
            highest = rate;
        }
    }
    return best;
}

struct reading {
    const struct cli_reader *reader;
    const char *memory;
    size_t chunks;
    _Atomic(size_t) next; // chunk to claim
    _Atomic(uint64_t) sum;
};

static double read_chunk(void *argument, int worker)
{
    (void)worker;
    struct reading *const reading = argument;
    const size_t chunk = atomic_fetch_add(&reading->next, 1) % reading->chunks;
    reading->sum += reading->reader->read(reading->memory + chunk * CHUNK_BYTES, CHUNK_BYTES);
    return CHUNK_BYTES;
}

// --- sampling -------------------------------------------------------------------------------------------------------

void cli_ruler_open(struct cli_ruler *ruler)
{
    struct cli_machine machine;
    cli_machine_read(&machine);
    size_t bytes = 4 * (size_t)machine.cache_bytes > least_bytes ? 4 * (size_t)machine.cache_bytes : least_bytes;
    if (machine.available_bytes && bytes > machine.available_bytes / 8) bytes = (size_t)machine.available_bytes / 8;
    bytes = bytes / CHUNK_BYTES * CHUNK_BYTES;
    *ruler = (struct cli_ruler){.memory = bytes ? mb_alloc(&mb_default_allocator, bytes) : NULL, .bytes = bytes};
    if (ruler->memory) memset(ruler->memory, 1, bytes); // untouched pages would all be one page of zeros
}

void cli_ruler_close(struct cli_ruler *ruler)
{
    mb_free(&mb_default_allocator, ruler->memory);
    *ruler = (struct cli_ruler){0};
}

void cli_samples_take(struct cli_ruler *ruler, const struct cli_peak *peak, int threads, struct cli_samples *samples)
{
    if (samples->count == CLI_SAMPLES_MAX) return;
    const int at = samples->count++;
    const struct cli_reader *const readers = cli_readers();
    for (int i = 0; i < CLI_READERS && ruler->memory; i++) {
        // Starts where the last pass ended, so that no cache holds what is read.
        struct reading reading = {&readers[i], ruler->memory, ruler->bytes / CHUNK_BYTES, ruler->next, 0};
        samples->read[i][at] = cli_rate(threads, read_seconds, read_chunk, &reading);
        ruler->next = reading.next;
    }
    samples->peak[at] = cli_peak_rate(peak, threads);
}

void cli_samples_share(const struct cli_samples *from, struct cli_samples *to)
{
    if (from->count == 0 || to->count == CLI_SAMPLES_MAX) return;
    const int at = to->count++, last = from->count - 1;
    for (int i = 0; i < CLI_READERS; i++) to->read[i][at] = from->read[i][last];
    to->peak[at] = from->peak[last];
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct cli_limit limit_of(const double *samples, int count, const char *how)
{
    double sorted[CLI_SAMPLES_MAX];
    memcpy(sorted, samples, sizeof *sorted * (size_t)count);
    qsort(sorted, (size_t)count, sizeof *sorted, by_value);
    const double median = count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
    return (struct cli_limit){median, sorted[0], sorted[count - 1], how};
}

struct cli_limits cli_limits_of(const struct cli_samples *samples, const struct cli_peak *peak)
{
    struct cli_limits limits = {.read.how = "not measured", .peak.how = "not measured"};
    if (samples->count == 0) return limits;
    for (int i = 0; i < CLI_READERS; i++) {
        const struct cli_limit limit = limit_of(samples->read[i], samples->count, cli_readers()[i].name);
        if (limit.rate > limits.read.rate) limits.read = limit;
    }
    limits.peak = limit_of(samples->peak, samples->count, peak->name);
    return limits;
}
