// SPDX-License-Identifier: Apache-2.0
// Every entry of the kernel table that works on weights, at every level that this machine runs, over formats and row
// counts: weight bytes and operations per second, beside what the machine reads from memory and computes at best.
// Matrices that together exceed the caches are worked on in turn, in tasks of some columns as the block has them.
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/arith.h"
#include "base/float.h"
#include "base/fpmode.h"
#include "cli/limits.h"
#include "kernels/kernels.h"

enum { THREADS_MAX = 64, ROWS_MAX = 4096, REPETITIONS = 5, ATTEMPTS = 8 };
static const size_t huge_page = (size_t)2 << 20;

static struct {
    int64_t n, k, columns; // columns: of a task
    int threads;
    size_t bytes; // of weights to walk
    const char *level, *format;
    bool even_odd; // BF16X2 compute
} options = {.n = 2048, .k = 4096, .columns = 256, .threads = 2, .bytes = (size_t)512 << 20};

static struct {
    struct cli_ruler ruler;
    const struct cli_peak *peak;
} machine;

static double seconds_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
static double seconds(void) { return seconds_of(CLOCK_MONOTONIC); }

static void *memory_of(size_t bytes)
{
    void *memory = aligned_alloc(huge_page, mb_round_up(bytes, huge_page) + huge_page);
    if (!memory) {
        fprintf(stderr, "kernel: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    madvise(memory, mb_round_up(bytes, huge_page), MADV_HUGEPAGE);
    memset(memory, 0, bytes);
    return memory;
}

// Runs work(argument, thread) on all threads at once, and gives the seconds from the first start to the last end. A run
// is disturbed, and repeated a few times, when a thread was without a CPU for more than a twentieth of it.
struct team {
    void (*work)(void *argument, int thread);
    void *argument;
    pthread_barrier_t barrier;
    double begin[THREADS_MAX], end[THREADS_MAX], busy[THREADS_MAX];
};
struct member {
    struct team *team;
    int thread;
};

static void *serve(void *argument)
{
    const struct member *member = argument;
    struct team *team = member->team;
    mb_flush_begin();
    pthread_barrier_wait(&team->barrier);
    const double busy = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    team->begin[member->thread] = seconds();
    team->work(team->argument, member->thread);
    team->end[member->thread] = seconds();
    team->busy[member->thread] = seconds_of(CLOCK_THREAD_CPUTIME_ID) - busy;
    return NULL;
}

static double run_once(void (*work)(void *, int), void *argument, bool *disturbed)
{
    struct team team = {.work = work, .argument = argument};
    struct member members[THREADS_MAX];
    pthread_t ids[THREADS_MAX];
    pthread_barrier_init(&team.barrier, NULL, (unsigned)options.threads);
    for (int i = 0; i < options.threads; i++) {
        members[i] = (struct member){&team, i};
        if (pthread_create(&ids[i], NULL, serve, &members[i]) != 0) exit(1);
    }
    double begin = 0, end = 0;
    *disturbed = false;
    for (int i = 0; i < options.threads; i++) {
        pthread_join(ids[i], NULL);
        if (i == 0 || team.begin[i] < begin) begin = team.begin[i];
        if (team.end[i] > end) end = team.end[i];
        if (team.busy[i] < 0.95 * (team.end[i] - team.begin[i])) *disturbed = true;
    }
    pthread_barrier_destroy(&team.barrier);
    return end - begin;
}

static double run_team(void (*work)(void *, int), void *argument, void (*reset)(void *))
{
    double best = 0;
    for (int i = 0; i < ATTEMPTS; i++) {
        bool disturbed;
        if (reset) reset(argument);
        const double time = run_once(work, argument, &disturbed);
        if (!disturbed) return time;
        if (i == 0 || time < best) best = time;
    }
    return best;
}

// --- the kernels ----------------------------------------------------------------------------------------------------

struct job {
    const struct mb_kernels *kernels;
    struct mb_packing packing;
    const char *packed;
    size_t matrix_bytes;
    int64_t matrices, m;
    const void *rows[ROWS_MAX];
    char *out, *scratch[THREADS_MAX];
    atomic_int_fast64_t next;
};

static void run_task(const struct job *job, int64_t index, char *scratch)
{
    const int64_t tasks = mb_ceil_div(job->packing.n, options.columns), n0 = index % tasks * options.columns;
    const void *packed = job->packed + (size_t)(index / tasks) * job->matrix_bytes;
    const struct mb_rows rows = {.row = job->rows, .m = job->m, .bf16 = true};
    const struct mb_activation silu = {.kind = mb_activation_find("silu")};
    if (job->packing.parts == 2) {
        const struct mb_gate_up_call call = {.packing = &job->packing,
                                             .packed = packed,
                                             .rows = rows,
                                             .n0 = n0,
                                             .n1 = mb_min(job->packing.n, n0 + options.columns),
                                             .activation = &silu,
                                             .out = job->out + (size_t)n0 * 2,
                                             .out_stride = job->packing.n,
                                             .scratch = scratch};
        job->kernels->gate_up(&call);
    } else {
        const struct mb_project_call call = {.packing = &job->packing,
                                             .packed = packed,
                                             .rows = rows,
                                             .n0 = n0,
                                             .n1 = mb_min(job->packing.n, n0 + options.columns),
                                             .out = (float *)(void *)job->out + n0,
                                             .out_stride = job->packing.n,
                                             .scratch = scratch};
        job->kernels->project(&call);
    }
}

static void run_tasks(void *argument, int thread)
{
    struct job *job = argument;
    const int64_t count = job->matrices * mb_ceil_div(job->packing.n, options.columns);
    for (int64_t i; (i = atomic_fetch_add(&job->next, 1)) < count;) run_task(job, i, job->scratch[thread]);
}

static void start_over(void *job) { atomic_store(&((struct job *)job)->next, 0); }

static uint32_t next_random(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static const char *const format_names[MB_PACKED_FORMATS] = {"f32",   "f16",   "bf16", "fp8", "fp4",
                                                            "mxfp8", "nvfp4", "int4", "int8"};
static const int64_t format_groups[MB_PACKED_FORMATS] = {0, 0, 0, 128, 32, 32, 16, 128, 128};

// Of a weight with its part of scales and factors.
static double format_bits(enum mb_packed_format format)
{
    const struct mb_packed_info info = mb_packed_info_of(format);
    const bool by_group = info.scaled && format != MB_PACKED_NVFP4;
    const double extra = (by_group ? 32 : 0) + (info.factors ? 8 : 0);
    return (double)info.code_bits + (extra > 0 ? extra / (double)format_groups[format] : 0);
}

static void fill_codes(enum mb_packed_format format, void *codes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const float value = (float)(int32_t)next_random() * 0x1p-31f;
        const uint16_t half = format == MB_PACKED_F16 ? mb_to_f16(value) : mb_to_bf16(value);
        if (format == MB_PACKED_F32) memcpy((char *)codes + 4 * i, &value, 4);
        if (format == MB_PACKED_F16 || format == MB_PACKED_BF16) memcpy((char *)codes + 2 * i, &half, 2);
        const bool e4m3 = format == MB_PACKED_FP8 || format == MB_PACKED_MXFP8;
        if (format >= MB_PACKED_FP8) ((uint8_t *)codes)[i] = (uint8_t)(next_random() >> 24 & (e4m3 ? 0xbf : 0xff));
    }
}

// One matrix packed from random codes, then copied until the wanted bytes are full. Seconds of packing in *packing.
static char *make_weights(struct job *job, size_t bytes, double *packing_seconds)
{
    const struct mb_packing *p = &job->packing;
    const size_t count = (size_t)(p->n * p->k), groups = p->group ? (size_t)mb_ceil_div(p->k, p->group) : 0;
    char *codes = memory_of(count * 4);
    float *scales = memory_of((size_t)p->n * groups * sizeof *scales + 1);
    uint8_t *factors = memory_of((size_t)p->n * groups + 1);
    const bool exponents = p->format == MB_PACKED_FP4 || p->format == MB_PACKED_MXFP8;
    const bool zeros = p->format == MB_PACKED_INT4 || p->format == MB_PACKED_INT8;
    fill_codes(p->format, codes, count);
    for (size_t i = 0; i < (size_t)p->n * groups; i++)
        scales[i] = 1, factors[i] = (uint8_t)((exponents ? 120 : 4) + next_random() % 8);
    job->matrix_bytes = mb_round_up(job->kernels->packed_bytes(p), 64);
    job->matrices = mb_max(2, (int64_t)(bytes / job->matrix_bytes));
    char *packed = memory_of(job->matrix_bytes * (size_t)job->matrices);
    const double begin = seconds();
    for (int part = 0; part < p->parts; part++) {
        const struct mb_piece piece = {.part = part,
                                       .n1 = p->n,
                                       .k1 = p->k,
                                       .codes = codes,
                                       .row_stride =
                                           mb_packed_info_of(p->format).code_bits == 4 ? mb_ceil_div(p->k, 2) : p->k,
                                       .column_stride = 1,
                                       .scales = scales,
                                       .exponents = zeros ? NULL : factors,
                                       .zeros = zeros ? factors : NULL,
                                       .scale_stride = (ptrdiff_t)groups,
                                       .total = 1};
        job->kernels->pack(p, packed, &piece);
    }
    *packing_seconds = seconds() - begin;
    for (int64_t i = 1; i < job->matrices; i++)
        memcpy(packed + (size_t)i * job->matrix_bytes, packed, job->matrix_bytes);
    free(codes), free(scales), free(factors);
    return packed;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(struct job *job)
{
    double times[REPETITIONS];
    struct cli_samples samples = {0};
    for (int i = 0; i < REPETITIONS; i++) {
        cli_samples_take(&machine.ruler, machine.peak, options.threads, &samples);
        times[i] = run_team(run_tasks, job, start_over);
    }
    const struct cli_limits limits = cli_limits_of(&samples, machine.peak);
    qsort(times, REPETITIONS, sizeof *times, by_value);
    const double weights_done = (double)(job->packing.n * job->packing.k * job->packing.parts * job->matrices);
    const double bytes_done = weights_done * format_bits(job->packing.format) / 8;
    const double flops = 2 * weights_done * (double)job->m, time = times[REPETITIONS / 2];
    const double dram = limits.read.rate, peak = limits.peak.rate;
    const double floor = bytes_done / dram > flops / peak ? bytes_done / dram : flops / peak;
    printf("%-11s %-5s %-8s %5d  %7.1f GB/s  %8.1f GFLOP/s  read %5.1f GB/s  share %.2f of %s\n", job->kernels->name,
           format_names[job->packing.format], job->packing.parts == 2 ? "gate_up" : "project", (int)job->m,
           bytes_done / time * 1e-9, flops / time * 1e-9, dram * 1e-9, floor / time,
           bytes_done / dram > flops / peak ? "memory" : "arithmetic");
    fflush(stdout);
}

static void measure_format(const struct mb_kernels *kernels, enum mb_packed_format format, int parts,
                           const int64_t *row_counts, int counts)
{
    struct job *job = memory_of(sizeof *job);
    job->kernels = kernels;
    job->packing = (struct mb_packing){
        .format = format, .parts = parts, .n = options.n, .k = options.k, .group = format_groups[format]};
    job->packing.even_odd = options.even_odd;
    int64_t most = 1;
    for (int i = 0; i < counts; i++) most = mb_max(most, row_counts[i]);
    double packing;
    char *weights = make_weights(job, options.bytes, &packing);
    const double source = (double)(options.n * options.k * parts) * format_bits(format) / 8;
    printf("%-11s %-5s %-8s packs %.2f GB/s on one thread\n", kernels->name, format_names[format],
           parts == 2 ? "gate_up" : "project", source / packing * 1e-9);
    uint16_t *rows = memory_of((size_t)(most * options.k) * sizeof *rows);
    fill_codes(MB_PACKED_BF16, rows, (size_t)(most * options.k));
    for (int64_t r = 0; r < most; r++) job->rows[r] = rows + r * options.k;
    job->out = memory_of((size_t)(most * options.n) * sizeof(float));
    for (int t = 0; t < options.threads; t++) job->scratch[t] = memory_of(kernels->scratch_bytes(&job->packing, most));
    job->packed = weights;
    const int64_t all = job->matrices;
    for (int i = 0; i < counts; i++) {
        job->m = row_counts[i];
        // With many rows a smaller part of the weights takes long enough.
        job->matrices = mb_max(2, all * 8 / mb_max(8, job->m));
        measure(job);
    }
    for (int t = 0; t < options.threads; t++) free(job->scratch[t]);
    free(job->out), free(rows), free(weights), free(job);
}

static void usage(void)
{
    puts("usage: kernel [--level NAME] [--format f32|f16|bf16|fp8|fp4|mxfp8|nvfp4|int4|int8] [--rows 1,8,32] "
         "[--outputs N] [--inputs K]\n"
         "              [--compute bf16|bf16x2] [--columns OF_A_TASK] [--threads T] [--megabytes WEIGHTS]");
}

static int row_counts_of(char *text, int64_t *counts, int most)
{
    int n = 0;
    for (char *word = strtok(text, ","); word && n < most; word = strtok(NULL, ",")) {
        const int64_t m = strtoll(word, NULL, 10);
        if (m >= 1 && m <= ROWS_MAX) counts[n++] = m;
    }
    return n;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"level", 1, NULL, 'l'},   {"format", 1, NULL, 'f'},  {"rows", 1, NULL, 'm'},      {"outputs", 1, NULL, 'n'},
        {"inputs", 1, NULL, 'k'},  {"threads", 1, NULL, 't'}, {"megabytes", 1, NULL, 'b'}, {"columns", 1, NULL, 'c'},
        {"compute", 1, NULL, 'o'}, {"help", 0, NULL, 'h'},    {NULL, 0, NULL, 0}};
    int64_t counts[64] = {1, 2, 4, 8, 12, 24, 32, 64, 128, 512};
    int count = 10;
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 'l') options.level = optarg;
        if (c == 'f') options.format = optarg;
        if (c == 'm') count = row_counts_of(optarg, counts, 64);
        if (c == 'n') options.n = strtoll(optarg, NULL, 10);
        if (c == 'k') options.k = strtoll(optarg, NULL, 10);
        if (c == 'c') options.columns = strtoll(optarg, NULL, 10);
        if (c == 'o') options.even_odd = strcmp(optarg, "bf16x2") == 0;
        if (c == 't') options.threads = atoi(optarg);
        if (c == 'b') options.bytes = (size_t)strtoull(optarg, NULL, 10) << 20;
        if (c == 'h' || c == '?') return usage(), c == '?';
    }
    if (options.threads < 1 || options.threads > THREADS_MAX || options.n < 1 || options.k < 1 ||
        options.columns < 64 || options.columns % 64)
        return usage(), 1;
    cli_ruler_open(&machine.ruler);
    machine.peak = cli_peak_best(options.even_odd ? CLI_PEAK_BF16X2 : CLI_PEAK_BF16, options.threads);
    printf("%d threads; arithmetic is compared with the %s, memory with the best of %d patterns of reading\n",
           options.threads, machine.peak->name, CLI_READERS);
    for (int l = 0; mb_kernel_levels[l]; l++) {
        const struct mb_kernels *kernels = mb_kernel_levels[l];
        const char *reason;
        if (!kernels->usable(&reason) || (options.level && strcmp(options.level, kernels->name) != 0)) continue;
        for (int f = options.even_odd ? MB_PACKED_BF16 : 0; f < MB_PACKED_FORMATS; f++) {
            if (options.format && strcmp(options.format, format_names[f]) != 0) continue;
            for (int parts = 2; parts >= 1; parts--)
                measure_format(kernels, (enum mb_packed_format)f, parts, counts, count);
        }
    }
    cli_ruler_close(&machine.ruler);
    return 0;
}
