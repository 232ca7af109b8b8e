// SPDX-License-Identifier: Apache-2.0
// The mesh object: its shape, its counts, its end. Also the TP-sharding rule and how ranges are split.
#include "mesh/mesh.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/status.h"

// How often a wait asks again at once, then after giving the CPU away, before it sleeps between two questions.
enum { SPINS = 64, YIELDS = 20000 };
static const double default_deadline = 60;
static const struct timespec nap = {0, 200000};

static moeblock_status check_transport(const moeblock_transport *transport, moeblock_error *error)
{
    const char *wrong = NULL;
    if (transport->struct_size < sizeof *transport)
        wrong = "struct_size is too small";
    else if (transport->size < 1 || transport->rank < 0 || transport->rank >= transport->size)
        wrong = "rank is outside its size";
    else if (!transport->send || !transport->receive || !transport->poll || !transport->look || !transport->abandon)
        wrong = "a call is NULL";
    return wrong ? mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating a mesh: transport: %s", wrong) : MOEBLOCK_OK;
}

static moeblock_status check_shape(const moeblock_transport *transport, const moeblock_mesh_options *options,
                                   moeblock_error *error)
{
    if (options->rows < 1 || options->columns < 1)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "creating a mesh: %d x %d, expected at least one row and column", options->rows,
                       options->columns);
    if ((int64_t)options->rows * options->columns != transport->size)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "creating a mesh: %d x %d needs %" PRId64 " processes, but there are %d; start as many as rows "
                       "times columns",
                       options->rows, options->columns, (int64_t)options->rows * options->columns, transport->size);
    if (!(options->deadline >= 0 && options->deadline <= 1e9))
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating a mesh: deadline is %g, expected 0 to 1e9 seconds",
                       options->deadline);
    return MOEBLOCK_OK;
}

static bool allocate(moeblock_mesh *mesh)
{
    mesh->said = mb_alloc_zero(&mesh->allocator, (size_t)mesh->size);
    bool all = mesh->said;
    for (int axis = 0; axis < MB_AXES; axis++) {
        const size_t count = (size_t)mb_mesh_axis_size(mesh, axis);
        mesh->exchange[axis].peers = mb_alloc_zero(&mesh->allocator, count * sizeof(struct mb_peer));
        mesh->relay[axis].peers = mb_alloc_zero(&mesh->allocator, (count + 1) * sizeof(struct mb_peer));
        mesh->traffic[axis] =
            mb_alloc_zero(&mesh->allocator, count * MOEBLOCK_TRAFFIC_STEPS * sizeof(moeblock_traffic));
        all = all && mesh->exchange[axis].peers && mesh->relay[axis].peers && mesh->traffic[axis];
    }
    return all;
}

moeblock_status moeblock_mesh_create(const moeblock_transport *transport, const moeblock_mesh_options *options,
                                     moeblock_mesh **out, moeblock_error *error)
{
    if (!out) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating a mesh: out is NULL");
    *out = NULL;
    if (!transport || !options)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating a mesh: %s is NULL",
                       transport ? "options" : "transport");
    moeblock_mesh_options chosen;
    MB_TRY(mb_options_read(&chosen, sizeof chosen, options, "moeblock_mesh_options", error));
    MB_TRY(check_transport(transport, error));
    MB_TRY(check_shape(transport, &chosen, error));
    const moeblock_allocator *allocator = chosen.allocator ? chosen.allocator : &mb_default_allocator;
    moeblock_mesh *mesh = mb_alloc_zero(allocator, sizeof *mesh);
    if (!mesh) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating a mesh: no memory");
    mesh->allocator = *allocator;
    mesh->transport = *transport;
    mesh->rows = chosen.rows;
    mesh->columns = chosen.columns;
    mesh->rank = transport->rank;
    mesh->size = transport->size;
    mesh->row = mesh->rank / mesh->columns;
    mesh->column = mesh->rank % mesh->columns;
    mesh->deadline = chosen.deadline > 0 ? chosen.deadline : default_deadline;
    mesh->failed_rank = -1;
    if (!allocate(mesh)) {
        moeblock_mesh_destroy(&mesh);
        return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating a mesh: no memory");
    }
    *out = mesh;
    return MOEBLOCK_OK;
}

static void abandon(struct mb_exchange *exchange, const moeblock_transport *transport)
{
    transport->abandon(transport->user, exchange->transfer, exchange->flights);
    exchange->flights = 0;
    exchange->running = false;
}

void mb_mesh_abandon(moeblock_mesh *mesh)
{
    for (int axis = 0; axis < MB_AXES; axis++) {
        abandon(&mesh->exchange[axis], &mesh->transport);
        abandon(&mesh->relay[axis].stage, &mesh->transport);
    }
}

void moeblock_mesh_destroy(moeblock_mesh **mesh)
{
    if (!mesh || !*mesh) return;
    mb_mesh_abandon(*mesh);
    const moeblock_allocator allocator = (*mesh)->allocator;
    for (int axis = 0; axis < MB_AXES; axis++) {
        mb_free(&allocator, (*mesh)->exchange[axis].peers);
        mb_free(&allocator, (*mesh)->relay[axis].peers);
        mb_free(&allocator, (*mesh)->traffic[axis]);
    }
    mb_free(&allocator, (*mesh)->said);
    mb_free(&allocator, *mesh);
    *mesh = NULL;
}

void mb_mesh_set_trace(moeblock_mesh *mesh, mb_mesh_trace trace, void *user)
{
    mesh->trace = trace;
    mesh->trace_user = user;
}

moeblock_status mb_mesh_check(const moeblock_mesh *mesh, moeblock_error *error)
{
    if (!mesh->dead) return MOEBLOCK_OK;
    if (error) *error = mesh->death;
    return mesh->death.code;
}

bool mb_mesh_yield(moeblock_mesh *mesh, double since, unsigned *turn)
{
    const unsigned now = (*turn)++;
    if (now < SPINS || mesh->transport.blocks) return true;
    if (now < YIELDS)
        sched_yield();
    else
        nanosleep(&nap, NULL);
    return mb_seconds() - since < mesh->deadline;
}

void moeblock_mesh_get_info(const moeblock_mesh *mesh, moeblock_mesh_info *out)
{
    moeblock_mesh_info info = {.struct_size = sizeof info, .rows = 1, .columns = 1, .failed_rank = -1};
    if (mesh) {
        info.rows = mesh->rows;
        info.columns = mesh->columns;
        info.row = mesh->row;
        info.column = mesh->column;
        info.dead = mesh->dead;
        info.failed_rank = mesh->failed_rank;
        info.wait_seconds = mesh->wait_seconds;
        info.travel_seconds = mesh->travel_seconds;
        info.hidden_seconds = mesh->hidden_seconds;
    }
    mb_options_write(out, &info, sizeof info);
}

void moeblock_mesh_get_traffic(const moeblock_mesh *mesh, moeblock_traffic_step step, int axis, int peer,
                               moeblock_traffic *out)
{
    moeblock_traffic sum = {.struct_size = sizeof sum};
    const bool known = mesh && (unsigned)step < MOEBLOCK_TRAFFIC_STEPS && (unsigned)axis < MB_AXES;
    const int count = known ? mb_mesh_axis_size(mesh, axis) : 0;
    for (int i = 0; i < count; i++) {
        const moeblock_traffic *one = &mesh->traffic[axis][(int)step * count + i];
        if (peer >= 0 && peer != i) continue;
        sum.messages_sent += one->messages_sent;
        sum.bytes_sent += one->bytes_sent;
        sum.bytes_received += one->bytes_received;
        sum.rows_sent += one->rows_sent;
        sum.rows_received += one->rows_received;
        sum.bound_sent += one->bound_sent;
    }
    mb_options_write(out, &sum, sizeof sum);
}

void moeblock_mesh_reset_traffic(moeblock_mesh *mesh)
{
    if (!mesh) return;
    for (int axis = 0; axis < MB_AXES; axis++)
        memset(mesh->traffic[axis], 0,
               (size_t)mb_mesh_axis_size(mesh, axis) * MOEBLOCK_TRAFFIC_STEPS * sizeof(moeblock_traffic));
    mesh->wait_seconds = mesh->travel_seconds = mesh->hidden_seconds = 0;
}

moeblock_status moeblock_tp_sharding(int64_t width, int64_t hidden, int columns, int enabled, moeblock_sharding *out,
                                     moeblock_error *error)
{
    if (!out) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "detecting TP sharding: out is NULL");
    *out = MOEBLOCK_REPLICATED;
    if (width == hidden) return MOEBLOCK_OK;
    const int can_shard = enabled && columns > 1 && hidden % columns == 0;
    if (can_shard && width == hidden / columns) {
        *out = MOEBLOCK_SHARDED;
        return MOEBLOCK_OK;
    }
    if (can_shard)
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "detecting TP sharding: x has last dimension %" PRId64 ", expected %" PRId64
                       " (replicated) or %" PRId64 " (sharded over %d columns)",
                       width, hidden, hidden / columns, columns);
    return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                   "detecting TP sharding: x has last dimension %" PRId64 ", expected %" PRId64
                   "; a sharded x needs tensor parallelism on more than one column (enabled: %s, columns: %d) and a "
                   "hidden size that the columns divide",
                   width, hidden, enabled ? "true" : "false", columns);
}

void mb_split(int64_t total, int parts, int index, int64_t *begin, int64_t *end)
{
    const int64_t each = total / parts, extra = total % parts;
    *begin = each * index + (index < extra ? index : extra);
    *end = *begin + each + (index < extra);
}
