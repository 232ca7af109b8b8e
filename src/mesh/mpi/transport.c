// SPDX-License-Identifier: Apache-2.0
// The only MPI code: point-to-point messages of bytes on a private duplicate of a communicator. Order, headers,
// deadlines and sums are the mesh's; nothing here adds two numbers of anybody's.
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "moeblock/mpi.h"

enum { POLLED_MOST = 64 };

struct channel {
    moeblock_transport transport; // first: what the caller holds
    MPI_Comm communicator;
    bool began; // MPI was initialised here
    char name[MPI_MAX_LIBRARY_VERSION_STRING];
};

_Static_assert(sizeof(MPI_Request) <= sizeof(uint64_t), "a transfer's name holds a request");

static moeblock_status fail(moeblock_error *error, moeblock_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static moeblock_status fail(moeblock_error *error, moeblock_status code, const char *format, ...)
{
    if (!error) return code;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    error->code = code;
    return code;
}

static moeblock_status check(int result, const char *call, moeblock_error *error)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0, class = MPI_SUCCESS;
    if (result == MPI_SUCCESS) return MOEBLOCK_OK;
    MPI_Error_class(result, &class);
    MPI_Error_string(result, text, &length);
    return fail(error, class == MPI_ERR_TRUNCATE ? MOEBLOCK_MISMATCH : MOEBLOCK_PEER_FAILED, "%s: %s", call, text);
}

static void name_transfer(MPI_Request request, uint64_t *transfer)
{
    *transfer = 0;
    memcpy(transfer, &request, sizeof request);
}

static moeblock_status send_bytes(void *user, int peer, int tag, const void *data, size_t bytes, uint64_t *transfer,
                                  moeblock_error *error)
{
    const struct channel *channel = user;
    MPI_Request request = MPI_REQUEST_NULL;
    if (bytes > INT_MAX) return fail(error, MOEBLOCK_LIMIT, "a message of %zu bytes is longer than MPI takes", bytes);
    const int result = MPI_Isend(data, (int)bytes, MPI_BYTE, peer, tag, channel->communicator, &request);
    name_transfer(request, transfer);
    return check(result, "MPI_Isend", error);
}

static moeblock_status receive_bytes(void *user, int peer, int tag, void *data, size_t capacity, uint64_t *transfer,
                                     moeblock_error *error)
{
    const struct channel *channel = user;
    MPI_Request request = MPI_REQUEST_NULL;
    const int most = capacity > INT_MAX ? INT_MAX : (int)capacity;
    const int result = MPI_Irecv(data, most, MPI_BYTE, peer, tag, channel->communicator, &request);
    name_transfer(request, transfer);
    return check(result, "MPI_Irecv", error);
}

static moeblock_status poll_transfers(void *user, uint64_t *transfers, int count, int *which, size_t *bytes,
                                      moeblock_error *error)
{
    const struct channel *channel = user;
    MPI_Request requests[POLLED_MOST];
    MPI_Status status;
    int index = MPI_UNDEFINED, done = 0, moved = 0;
    *which = -1;
    if (count > POLLED_MOST) return fail(error, MOEBLOCK_LIMIT, "%d transfers at a time", count);
    for (int i = 0; i < count; i++) memcpy(&requests[i], &transfers[i], sizeof requests[i]);
    const int result = channel->transport.blocks ? MPI_Waitany(count, requests, &index, &status)
                                                 : MPI_Testany(count, requests, &index, &done, &status);
    for (int i = 0; i < count; i++) name_transfer(requests[i], &transfers[i]);
    if (result != MPI_SUCCESS) {
        if (index != MPI_UNDEFINED) *which = index;
        return check(result, "completing a transfer", error);
    }
    if ((!channel->transport.blocks && !done) || index == MPI_UNDEFINED) return MOEBLOCK_OK;
    *which = index;
    const int counted = MPI_Get_count(&status, MPI_BYTE, &moved);
    *bytes = counted == MPI_SUCCESS && moved > 0 ? (size_t)moved : 0;
    return MOEBLOCK_OK;
}

static moeblock_status look(void *user, int tag, void *data, size_t capacity, size_t *bytes, moeblock_error *error)
{
    const struct channel *channel = user;
    MPI_Status status;
    int there = 0, length = 0;
    *bytes = 0;
    if (channel->transport.blocks) return MOEBLOCK_OK; // a simulator's clock would advance with every look
    const int probed = MPI_Iprobe(MPI_ANY_SOURCE, tag, channel->communicator, &there, &status);
    if (probed != MPI_SUCCESS || !there) return check(probed, "MPI_Iprobe", error);
    MPI_Get_count(&status, MPI_BYTE, &length);
    if (length < 0 || (size_t)length > capacity)
        return fail(error, MOEBLOCK_MISMATCH, "a message of %d bytes came, expected at most %zu", length, capacity);
    const int received =
        MPI_Recv(data, length, MPI_BYTE, status.MPI_SOURCE, tag, channel->communicator, MPI_STATUS_IGNORE);
    if (received == MPI_SUCCESS) *bytes = (size_t)length;
    return check(received, "MPI_Recv", error);
}

// Receives are withdrawn; a send that nobody takes is forgotten.
static void abandon(void *user, uint64_t *transfers, int count)
{
    int finalized = 0;
    (void)user;
    if (MPI_Finalized(&finalized) != MPI_SUCCESS || finalized) return;
    for (int i = 0; i < count; i++) {
        MPI_Request request;
        memcpy(&request, &transfers[i], sizeof request);
        if (request == MPI_REQUEST_NULL) continue;
        MPI_Cancel(&request);
        MPI_Request_free(&request);
    }
}

static moeblock_status initialised(moeblock_error *error)
{
    int begun = 0, ended = 0;
    MPI_Initialized(&begun);
    MPI_Finalized(&ended);
    if (begun && !ended) return MOEBLOCK_OK;
    return fail(error, MOEBLOCK_WRONG_STATE, "making an MPI transport: MPI is %s",
                ended ? "finalised already" : "not initialised; call MPI_Init_thread, or moeblock_mpi_begin");
}

// How many processes of the communicator are on this machine; 0 when that cannot be told.
static int node_size(MPI_Comm communicator)
{
    MPI_Comm node;
    int size = 0;
    if (MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node) != MPI_SUCCESS) return 0;
    MPI_Comm_size(node, &size);
    MPI_Comm_free(&node);
    return size;
}

static void fill(struct channel *channel, const moeblock_mpi_options *options)
{
    moeblock_transport *transport = &channel->transport;
    int length = 0;
    *transport = (moeblock_transport){
        .struct_size = sizeof *transport,
        .user = channel,
        .name = channel->name,
        .node_size = node_size(channel->communicator),
        .blocks = options ? options->blocks : 0,
        .send = send_bytes,
        .receive = receive_bytes,
        .poll = poll_transfers,
        .look = look,
        .abandon = abandon,
    };
    MPI_Comm_size(channel->communicator, &transport->size);
    MPI_Comm_rank(channel->communicator, &transport->rank);
    MPI_Get_library_version(channel->name, &length);
    channel->name[strcspn(channel->name, ",\n")] = '\0'; // the first words hold name and version
    for (char *c = channel->name; *c; c++)
        if (*c == '\t') *c = ' ';
}

moeblock_status moeblock_mpi_create(MPI_Comm communicator, const moeblock_mpi_options *options,
                                    moeblock_transport **out, moeblock_error *error)
{
    if (!out) return fail(error, MOEBLOCK_INVALID_ARGUMENT, "making an MPI transport: out is NULL");
    *out = NULL;
    const moeblock_status ready = initialised(error);
    if (ready != MOEBLOCK_OK) return ready;
    if (options && options->struct_size < sizeof *options)
        return fail(error, MOEBLOCK_INVALID_ARGUMENT, "making an MPI transport: struct_size is %u, expected %zu",
                    (unsigned)options->struct_size, sizeof *options);
    struct channel *channel = calloc(1, sizeof *channel);
    if (!channel) return fail(error, MOEBLOCK_OUT_OF_MEMORY, "making an MPI transport: no memory");
    int result = MPI_Comm_dup(communicator, &channel->communicator);
    if (result == MPI_SUCCESS) result = MPI_Comm_set_errhandler(channel->communicator, MPI_ERRORS_RETURN);
    if (result != MPI_SUCCESS) {
        free(channel);
        return check(result, "making an MPI transport: MPI_Comm_dup", error);
    }
    fill(channel, options);
    *out = &channel->transport;
    return MOEBLOCK_OK;
}

void moeblock_mpi_destroy(moeblock_transport **transport)
{
    int ended = 0;
    if (!transport || !*transport) return;
    struct channel *channel = (*transport)->user;
    // Freeing a communicator is local in both libraries once nothing is under way on it.
    if (MPI_Finalized(&ended) == MPI_SUCCESS && !ended) MPI_Comm_free(&channel->communicator);
    free(channel);
    *transport = NULL;
}

moeblock_status moeblock_mpi_begin(const moeblock_mpi_options *options, moeblock_transport **out, moeblock_error *error)
{
    int begun = 0, provided = MPI_THREAD_SINGLE;
    if (!out) return fail(error, MOEBLOCK_INVALID_ARGUMENT, "starting MPI: out is NULL");
    *out = NULL;
    MPI_Initialized(&begun);
    if (!begun) {
        const int result = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
        if (result != MPI_SUCCESS) return check(result, "starting MPI: MPI_Init_thread", error);
    }
    const moeblock_status status = moeblock_mpi_create(MPI_COMM_WORLD, options, out, error);
    if (status == MOEBLOCK_OK) ((struct channel *)(*out)->user)->began = !begun;
    return status;
}

void moeblock_mpi_end(moeblock_transport **transport, int dead, int code)
{
    if (!transport || !*transport) return;
    const bool began = ((struct channel *)(*transport)->user)->began;
    if (dead) {
        // The launcher ends the others when this process has gone: they get a moment to report what they were told.
        const struct timespec moment = {1, 0};
        fflush(NULL);
        nanosleep(&moment, NULL);
        _exit(code);
    }
    moeblock_mpi_destroy(transport);
    if (began) MPI_Finalize();
}
