// SPDX-License-Identifier: Apache-2.0
// The limit that loading is measured against: the same cached file read with pread into fresh huge pages by as many
// threads, and nothing else done with the bytes.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_BYTES = 2 << 20, THREADS_MAX = 1024 }; // one huge page at a time
static const uint64_t most_bytes = UINT64_C(4) << 30;

struct work {
    int descriptor;
    uint64_t bytes;
    char *memory; // NULL: warm the cache only
    atomic_uint_fast64_t next;
    atomic_int failed; // errno, or -1 for a file that ends early
};

static void *read_blocks(void *argument)
{
    struct work *work = argument;
    char *own = work->memory ? NULL : malloc(BLOCK_BYTES);
    for (;;) {
        const uint64_t first = atomic_fetch_add(&work->next, BLOCK_BYTES);
        if (first >= work->bytes || atomic_load(&work->failed)) break;
        const uint64_t rest = work->bytes - first;
        const size_t bytes = rest < BLOCK_BYTES ? (size_t)rest : BLOCK_BYTES;
        char *to = own ? own : work->memory + first;
        for (size_t done = 0; done < bytes;) {
            const ssize_t got = pread(work->descriptor, to + done, bytes - done, (off_t)(first + done));
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) {
                atomic_store(&work->failed, got < 0 ? errno : -1);
                break;
            }
            done += (size_t)got;
        }
    }
    free(own);
    return NULL;
}

// Runs with `threads` threads, the caller's included. Seconds, or a negative number.
static double run(struct work *work, int threads)
{
    static pthread_t ids[THREADS_MAX];
    struct timespec begin, end;
    int started = 0;
    atomic_store(&work->next, 0);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    while (started < threads - 1 && pthread_create(&ids[started], NULL, read_blocks, work) == 0) started++;
    read_blocks(work);
    for (int i = 0; i < started; i++) pthread_join(ids[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    const int failed = atomic_load(&work->failed);
    if (failed) fprintf(stderr, "load_limit: %s\n", failed < 0 ? "the file ends early" : strerror(failed));
    if (failed) return -1;
    return (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) * 1e-9;
}

// One timed pass into fresh memory; GB/s, negative on failure.
static double pass(struct work *work, int threads)
{
    const size_t mapped = (size_t)work->bytes + BLOCK_BYTES;
    char *memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "load_limit: no memory for %llu bytes: %s\n", (unsigned long long)work->bytes, strerror(errno));
        return -1;
    }
    madvise(memory, mapped, MADV_HUGEPAGE);
    const uintptr_t misplaced = (uintptr_t)memory % BLOCK_BYTES;
    work->memory = memory + (misplaced ? BLOCK_BYTES - misplaced : 0);
    const double seconds = run(work, threads);
    munmap(memory, mapped);
    work->memory = NULL;
    return seconds > 0 ? (double)work->bytes / seconds * 1e-9 : -1;
}

static uint64_t parse_bytes(const char *text)
{
    char *end = NULL;
    const double value = strtod(text, &end);
    const double unit = *end == 'G' ? 0x1p30 : *end == 'M' ? 0x1p20 : *end == 'K' ? 0x1p10 : 1;
    if (end == text || (*end && unit > 1 && end[1]) || (*end && unit <= 1) || !(value * unit >= 1)) return 0;
    return value * unit > (double)most_bytes ? most_bytes : (uint64_t)(value * unit);
}

static int usage(FILE *to, int code)
{
    fputs("usage: load_limit FILE [--threads N] [--max-bytes 4G] [--passes 3] [--json]\n"
          "Reads the cached file (at most 4 GiB of it) into fresh huge pages; prints the fastest pass in GB/s.\n",
          to);
    return code;
}

static int measure(const char *path, int threads, uint64_t limit, int passes, bool json)
{
    struct stat facts;
    struct work work = {.descriptor = open(path, O_RDONLY | O_CLOEXEC)};
    if (work.descriptor < 0 || fstat(work.descriptor, &facts) != 0 || !S_ISREG(facts.st_mode) || facts.st_size == 0) {
        fprintf(stderr, "load_limit: %s cannot be read as a file\n", path);
        return 66;
    }
    work.bytes = (uint64_t)facts.st_size < limit ? (uint64_t)facts.st_size : limit;
    if (run(&work, threads) < 0) return 74; // into the page cache
    double best = 0;
    for (int i = 0; i < passes; i++) {
        const double rate = pass(&work, threads);
        if (rate < 0) return 74;
        if (rate > best) best = rate;
    }
    close(work.descriptor);
    if (json)
        printf("{\"bytes\": %llu, \"threads\": %d, \"passes\": %d, \"gb_per_s\": %.3f}\n",
               (unsigned long long)work.bytes, threads, passes, best);
    else
        printf("%.3f GB/s (%llu bytes, %d threads, best of %d)\n", best, (unsigned long long)work.bytes, threads,
               passes);
    return fflush(stdout) == 0 ? 0 : 74;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"threads", required_argument, NULL, 't'}, {"max-bytes", required_argument, NULL, 'b'},
        {"passes", required_argument, NULL, 'p'},  {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0}};
    long threads = sysconf(_SC_NPROCESSORS_ONLN), passes = 3;
    uint64_t limit = most_bytes;
    bool json = false;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 't') threads = strtol(optarg, NULL, 10);
        if (c == 'b') limit = parse_bytes(optarg);
        if (c == 'p') passes = strtol(optarg, NULL, 10);
        if (c == 'j') json = true;
        if (c == 'h') return usage(stdout, 0);
        if (c == '?') return usage(stderr, 64);
    }
    if (optind != argc - 1 || threads < 1 || threads > THREADS_MAX || passes < 1 || passes > 1000 || !limit)
        return usage(stderr, 64);
    return measure(argv[optind], (int)threads, limit, (int)passes, json);
}
