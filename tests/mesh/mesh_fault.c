// SPDX-License-Identifier: Apache-2.0
// Preloaded into the processes of a job by tests/mesh/test_faults.py: at the n-th message that one rank sends,
// something happens to that rank. It stands between the program and MPI by way of the profiling names that the standard
// gives every call, so that what runs is the program as it is installed.
//
//   FAULT_KIND    none, kill, exit and exit0 (status 3 and 0, nothing finalised), stop, hang, slow (3 s), rows or bytes
//                 (the headers of dispatched rows count wrongly from then on)
//   FAULT_RANK    whom it strikes        FAULT_AT      at which message of that rank, from 1
//   FAULT_FOLDER  where it writes: RANK holds the exit code, the time of leaving and the messages sent; "struck" the
//                 time of the fault. Times are seconds of the monotonic clock, which all processes share.
#include <mpi.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mesh/exchange.h"

enum { HEADERS = 64, MAGIC = 0x6d6f6562 };

static int messages; // calls come from one thread

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

static int own_rank(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    return atoi(rank ? rank : setting("PMI_RANK"));
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void note(const char *name, int code)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", setting("FAULT_FOLDER"), name);
    FILE *file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "%d %.3f %d\n", code, now(), messages);
    fclose(file);
}

static void leave(int code, void *unused)
{
    char name[16];
    (void)unused;
    snprintf(name, sizeof name, "%d", own_rank());
    note(name, code);
}

__attribute__((constructor)) static void watch(void) { on_exit(leave, NULL); }

// What the program calls when it gives up a mesh; nothing registered with on_exit runs then.
void _exit(int code)
{
    leave(code, NULL);
    syscall(SYS_exit_group, code);
    __builtin_unreachable();
}

static void strike(const char *kind)
{
    if (strcmp(kind, "none")) note("struck", 0);
    if (!strcmp(kind, "kill")) raise(SIGKILL);
    if (!strcmp(kind, "stop")) raise(SIGSTOP);
    if (!strcmp(kind, "exit")) syscall(SYS_exit_group, 3);
    if (!strcmp(kind, "exit0")) syscall(SYS_exit_group, 0);
    if (!strcmp(kind, "slow")) sleep(3);
    while (!strcmp(kind, "hang")) pause();
}

// A copy of a header of dispatched rows, with wrong counts, that lasts as long as the transfer may.
static const void *miscount(const char *kind, const void *data, int bytes)
{
    static struct mb_header copies[HEADERS];
    static int next;
    struct mb_header *header = &copies[next % HEADERS];
    if (bytes != sizeof *header) return data;
    memcpy(header, data, sizeof *header);
    if (header->magic != MAGIC || header->step != MOEBLOCK_TRAFFIC_DISPATCH) return data;
    next++;
    header->rows += strcmp(kind, "rows") ? 0 : 1;
    header->bytes += strcmp(kind, "bytes") ? 0 : (uint64_t)1 << 40;
    return header;
}

int MPI_Isend(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm communicator,
              MPI_Request *request)
{
    const char *kind = setting("FAULT_KIND");
    const int at = atoi(setting("FAULT_AT"));
    messages++;
    if (own_rank() != atoi(setting("FAULT_RANK"))) return PMPI_Isend(data, count, type, to, tag, communicator, request);
    if (messages == at) strike(kind);
    if (messages >= at && (!strcmp(kind, "rows") || !strcmp(kind, "bytes"))) data = miscount(kind, data, count);
    return PMPI_Isend(data, count, type, to, tag, communicator, request);
}
