// SPDX-License-Identifier: Apache-2.0
// The exchange: ranks are served in the order of their distance, so that no two rounds wait for each other in a circle,
// at most MB_WINDOW each way at a time. A payload follows its header under the same tag; the receiver starts to receive
// it when the header has told how long it is.
#include "mesh/exchange.h"

#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "base/clock.h"
#include "base/status.h"
#include "mesh/mesh.h"
#include "mesh/relay.h"

enum { MAGIC = 0x6d6f6562, PIECE = 1 << 30 }; // longest single message of a payload

static const char *const step_names[] = {
    [MOEBLOCK_TRAFFIC_INPUT] = "gathering x",
    [MOEBLOCK_TRAFFIC_DISPATCH] = "dispatch",
    [MOEBLOCK_TRAFFIC_ACTIVATIONS] = "gathering activations",
    [MOEBLOCK_TRAFFIC_COMBINE] = "combine",
    [MOEBLOCK_TRAFFIC_WHOLE_ROWS] = "gathering whole rows",
    [MOEBLOCK_TRAFFIC_OUTPUT] = "handing out y",
    [MOEBLOCK_TRAFFIC_SUMS] = "adding partial sums",
};

static int place_of(const struct mb_exchange *exchange, int peer) { return exchange->first + peer * exchange->stride; }

static int rank_of(const struct mb_exchange *exchange, int peer)
{
    const moeblock_mesh *mesh = exchange->mesh;
    const int place = place_of(exchange, peer);
    return exchange->axis == 0 ? place * mesh->columns + mesh->column : mesh->row * mesh->columns + place;
}

static moeblock_traffic *traffic_with(const struct mb_exchange *exchange, int peer)
{
    moeblock_mesh *mesh = exchange->mesh;
    const int ranks = mb_mesh_axis_size(mesh, exchange->axis);
    return &mesh->traffic[exchange->axis][(int)exchange->step * ranks + place_of(exchange, peer)];
}

struct mb_exchange *mb_exchange_begin(moeblock_mesh *mesh, int axis, moeblock_traffic_step step)
{
    struct mb_exchange *exchange = &mesh->exchange[axis];
    struct mb_peer *peers = exchange->peers;
    *exchange = (struct mb_exchange){.mesh = mesh,
                                     .axis = axis,
                                     .count = mb_mesh_axis_size(mesh, axis),
                                     .index = mb_mesh_axis_index(mesh, axis),
                                     .step = step,
                                     .stride = 1,
                                     .peers = peers,
                                     .next_send = 1,
                                     .next_receive = 1,
                                     .origin = -1};
    memset(peers, 0, (size_t)exchange->count * sizeof *peers);
    return exchange;
}

static moeblock_status broken(struct mb_exchange *exchange, int peer, const moeblock_error *why, moeblock_error *error)
{
    return mb_mesh_die(exchange->mesh, error, why->code ? why->code : MOEBLOCK_PEER_FAILED,
                       "%s, exchange with rank %d: %s", step_names[exchange->step], rank_of(exchange, peer),
                       why->message);
}

// Starts one transfer of the header or of the next piece of the payload.
static moeblock_status launch(struct mb_exchange *exchange, int index, bool send, bool header, moeblock_error *error)
{
    struct mb_peer *peer = &exchange->peers[index];
    const moeblock_transport *transport = &exchange->mesh->transport;
    uint64_t *transfer = &exchange->transfer[exchange->flights];
    const int rank = rank_of(exchange, index), tag = exchange->axis;
    moeblock_error why = {MOEBLOCK_OK, ""};
    moeblock_status status;
    if (send) {
        const size_t bytes = (size_t)peer->out.bytes - peer->sent_so_far;
        const void *from = header ? (const void *)&peer->out : (const char *)peer->send + peer->sent_so_far;
        status = transport->send(transport->user, rank, tag, from,
                                 header ? sizeof peer->out : (size_t)mb_min((int64_t)bytes, PIECE), transfer, &why);
    } else {
        const size_t bytes = (size_t)peer->in.bytes - peer->received_so_far;
        void *to = header ? (void *)&peer->in : (char *)peer->receive + peer->received_so_far;
        status = transport->receive(transport->user, rank, tag, to,
                                    header ? sizeof peer->in : (size_t)mb_min((int64_t)bytes, PIECE), transfer, &why);
    }
    if (status != MOEBLOCK_OK) return broken(exchange, index, &why, error);
    exchange->flight[exchange->flights++] = (struct mb_flight){index, send, header};
    return MOEBLOCK_OK;
}

// Starts sends and receives while the window has room.
static moeblock_status fill_window(struct mb_exchange *exchange, moeblock_error *error)
{
    for (; exchange->receiving < MB_WINDOW && exchange->next_receive < exchange->count; exchange->next_receive++) {
        const int from = (exchange->index - exchange->next_receive + exchange->count) % exchange->count;
        exchange->receiving++;
        MB_TRY(launch(exchange, from, false, true, error));
    }
    for (; exchange->sending < MB_WINDOW && exchange->next_send < exchange->count; exchange->next_send++) {
        const int to = (exchange->index + exchange->next_send) % exchange->count;
        exchange->sending++;
        MB_TRY(launch(exchange, to, true, true, error));
        if (exchange->peers[to].out.bytes) MB_TRY(launch(exchange, to, true, false, error));
    }
    return MOEBLOCK_OK;
}

static void end_receive(struct mb_exchange *exchange, int index)
{
    struct mb_peer *peer = &exchange->peers[index];
    moeblock_traffic *traffic = traffic_with(exchange, index);
    exchange->receiving--;
    exchange->open--;
    traffic->bytes_received += sizeof peer->in + peer->in.bytes;
    if (peer->in.status) return;
    peer->received = (size_t)peer->in.bytes;
    peer->rows = (int64_t)peer->in.rows;
    traffic->rows_received += peer->in.rows;
}

static void end_send(struct mb_exchange *exchange, int index)
{
    const struct mb_peer *peer = &exchange->peers[index];
    moeblock_traffic *traffic = traffic_with(exchange, index);
    exchange->sending--;
    exchange->open--;
    traffic->messages_sent++;
    traffic->bytes_sent += sizeof peer->out + peer->out.bytes;
    if (!peer->out.status) traffic->rows_sent += peer->out.rows;
}

static moeblock_status check_header(struct mb_exchange *exchange, int index, size_t bytes, moeblock_error *error)
{
    const struct mb_peer *peer = &exchange->peers[index];
    const struct mb_header *in = &peer->in, *out = &peer->out;
    moeblock_mesh *mesh = exchange->mesh;
    const int rank = rank_of(exchange, index);
    if (bytes != sizeof *in || in->magic != MAGIC)
        return mb_mesh_die(mesh, error, MOEBLOCK_MISMATCH, "%s: rank %d sent %zu bytes that are no header of moeblock",
                           step_names[exchange->step], rank, bytes);
    if (in->sequence != out->sequence || in->step != out->step)
        return mb_mesh_die(mesh, error, MOEBLOCK_MISMATCH,
                           "%s: rank %d is at exchange %u of axis %d (%s), expected %u; the ranks must make the same "
                           "calls in the same order",
                           step_names[exchange->step], rank, in->sequence, exchange->axis,
                           in->step < MOEBLOCK_TRAFFIC_STEPS ? step_names[in->step] : "?", out->sequence);
    const uint64_t most = in->status ? 0 : peer->capacity;
    if (in->bytes > most)
        return mb_mesh_die(mesh, error, MOEBLOCK_MISMATCH,
                           "%s: rank %d announces %" PRIu64 " rows in %" PRIu64 " bytes, expected at most %" PRIu64
                           " bytes",
                           step_names[exchange->step], rank, in->rows, in->bytes, most);
    return MOEBLOCK_OK;
}

void mb_exchange_keep_failure(struct mb_exchange *exchange, moeblock_status status, int origin)
{
    if (status == MOEBLOCK_OK || (exchange->status != MOEBLOCK_OK && exchange->origin <= origin)) return;
    exchange->status = status;
    exchange->origin = origin;
}

static moeblock_status landed(struct mb_exchange *exchange, struct mb_flight flight, size_t bytes,
                              moeblock_error *error)
{
    struct mb_peer *peer = &exchange->peers[flight.peer];
    if (flight.send) {
        if (flight.header)
            peer->header_gone = true;
        else
            peer->sent_so_far += (size_t)mb_min((int64_t)((size_t)peer->out.bytes - peer->sent_so_far), PIECE);
        if (!flight.header && peer->sent_so_far < peer->out.bytes)
            return launch(exchange, flight.peer, true, false, error);
        // The bytes behind a header may be reported sent before the header is.
        if (peer->header_gone && peer->sent_so_far == peer->out.bytes) end_send(exchange, flight.peer);
        return MOEBLOCK_OK;
    }
    if (flight.header) {
        MB_TRY(check_header(exchange, flight.peer, bytes, error));
        mb_exchange_keep_failure(exchange, (moeblock_status)peer->in.status, peer->in.origin);
    } else {
        const size_t expected = (size_t)mb_min((int64_t)((size_t)peer->in.bytes - peer->received_so_far), PIECE);
        if (bytes != expected)
            return mb_mesh_die(exchange->mesh, error, MOEBLOCK_MISMATCH,
                               "%s: rank %d sent %zu bytes, expected the %zu that its header announced",
                               step_names[exchange->step], rank_of(exchange, flight.peer), bytes, expected);
        peer->received_so_far += bytes;
    }
    if (peer->received_so_far < peer->in.bytes) return launch(exchange, flight.peer, false, false, error);
    end_receive(exchange, flight.peer);
    return MOEBLOCK_OK;
}

// Takes in what is done; *moved says whether anything was.
static moeblock_status advance(struct mb_exchange *exchange, bool *moved, moeblock_error *error)
{
    const moeblock_transport *transport = &exchange->mesh->transport;
    *moved = false;
    while (exchange->flights > 0) {
        int which = -1;
        size_t bytes = 0;
        moeblock_error why = {MOEBLOCK_OK, ""};
        if (transport->poll(transport->user, exchange->transfer, exchange->flights, &which, &bytes, &why))
            return broken(exchange, which >= 0 ? exchange->flight[which].peer : exchange->index, &why, error);
        if (which < 0) return MOEBLOCK_OK;
        const struct mb_flight flight = exchange->flight[which];
        exchange->flights--;
        exchange->flight[which] = exchange->flight[exchange->flights];
        exchange->transfer[which] = exchange->transfer[exchange->flights];
        *moved = true;
        MB_TRY(landed(exchange, flight, bytes, error));
        MB_TRY(fill_window(exchange, error));
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_exchange_start(struct mb_exchange *exchange, moeblock_status failure, int origin,
                                  moeblock_error *error)
{
    moeblock_mesh *mesh = exchange->mesh;
    MB_TRY(mb_mesh_check(mesh, error));
    if (exchange->relay) return mb_relay_start(exchange, failure, origin, error);
    const uint32_t sequence = ++mesh->sequence[exchange->axis];
    for (int i = 0; i < exchange->count; i++) {
        struct mb_peer *peer = &exchange->peers[i];
        peer->out = (struct mb_header){.magic = MAGIC,
                                       .sequence = sequence,
                                       .status = (uint16_t)failure,
                                       .step = (uint16_t)exchange->step,
                                       .origin = origin,
                                       .rows = failure ? 0 : (uint64_t)peer->send_rows,
                                       .bytes = failure ? 0 : peer->send_bytes};
    }
    exchange->running = true;
    exchange->open = 2 * (exchange->count - 1);
    exchange->started = exchange->moved = exchange->ended = mb_seconds();
    return fill_window(exchange, error);
}

moeblock_status mb_exchange_poke(struct mb_exchange *exchange, moeblock_error *error)
{
    bool moved;
    if (exchange->relay) return mb_relay_poke(exchange, error);
    if (!exchange->running || exchange->mesh->transport.blocks || mb_exchange_done(exchange)) return MOEBLOCK_OK;
    MB_TRY(advance(exchange, &moved, error));
    if (mb_exchange_done(exchange)) exchange->ended = mb_seconds();
    return MOEBLOCK_OK;
}

// The first peer that has not done its part.
static moeblock_status too_late(struct mb_exchange *exchange, double waited, moeblock_error *error)
{
    const struct mb_flight *flight = exchange->flight;
    for (int i = 1; i < exchange->flights && flight->send; i++) flight++;
    const struct mb_peer *peer = &exchange->peers[flight->peer];
    const int rank = rank_of(exchange, flight->peer);
    return mb_mesh_give_up(
        exchange->mesh, error, rank, waited,
        "%s: waited %.1f s for rank %d (exchange %u of axis %d), which %s; is it dead, stopped or slow?",
        step_names[exchange->step], waited, rank, peer->out.sequence, exchange->axis,
        flight->send     ? "takes nothing"
        : flight->header ? "has sent nothing"
                         : "has sent a part only");
}

moeblock_status mb_exchange_finish(struct mb_exchange *exchange, moeblock_error *error)
{
    moeblock_mesh *mesh = exchange->mesh;
    MB_TRY(mb_mesh_check(mesh, error));
    if (exchange->relay) return mb_relay_finish(exchange, error);
    const double before = mb_seconds();
    double since = before;
    unsigned turn = 0;
    mesh->waits++;
    while (!mb_exchange_done(exchange)) {
        bool moved;
        MB_TRY(advance(exchange, &moved, error));
        if (moved) {
            since = exchange->ended = mb_seconds();
            turn = 0;
        } else if (!mb_exchange_done(exchange)) {
            const bool told = turn % 64 == 63 && mb_mesh_listen(mesh);
            if (told || !mb_mesh_yield(mesh, since, &turn)) return too_late(exchange, mb_seconds() - since, error);
        }
    }
    exchange->running = false;
    mesh->wait_seconds += mb_seconds() - before;
    return MOEBLOCK_OK;
}
