// SPDX-License-Identifier: Apache-2.0
// Bundles: a table with rows and bytes of each parcel, then the parcels, each 64-byte aligned. Nothing where all are
// empty.
#include "mesh/relay.h"

#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "base/status.h"
#include "mesh/mesh.h"

enum { ALIGNED = 64 };

struct entry {
    uint64_t rows, bytes;
};

// A parcel at hand: one of this rank's own, or of a bundle that came.
struct parcel {
    const char *data;
    int64_t rows;
    size_t bytes;
};

int mb_relay_group(int ranks)
{
    int group = 1;
    for (int g = 2; (int64_t)g * g <= ranks; g++)
        if (ranks % g == 0) group = g;
    return group;
}

static size_t table_bytes(int parcels) { return mb_round_up((size_t)parcels * sizeof(struct entry), ALIGNED); }

static size_t bundle_most(int parcels, size_t payload)
{
    return mb_round_up(table_bytes(parcels) + payload + (size_t)parcels * ALIGNED, ALIGNED);
}

struct areas {
    size_t first_most, second_most, first, second, out;
};

static struct areas areas_of(int ranks, size_t first, size_t second)
{
    const int group = mb_relay_group(ranks), groups = ranks / group;
    struct areas a = {.first_most = bundle_most(groups, first), .second_most = bundle_most(group, second)};
    a.first = (size_t)group * a.first_most;
    a.second = (size_t)groups * a.second_most;
    a.out = a.first > a.second ? a.first : a.second;
    return a;
}

size_t mb_relay_bytes(int ranks, size_t first, size_t second)
{
    const struct areas a = areas_of(ranks, first, second);
    return mb_relay_group(ranks) > 1 ? a.first + a.second + a.out : 0;
}

void mb_exchange_relay(struct mb_exchange *exchange, size_t first, size_t second, void *memory)
{
    struct mb_relay *relay = &exchange->mesh->relay[exchange->axis];
    const struct areas a = areas_of(exchange->count, first, second);
    relay->group = mb_relay_group(exchange->count);
    relay->groups = exchange->count / relay->group;
    if (relay->group == 1) return;
    relay->first_most = a.first_most;
    relay->second_most = a.second_most;
    relay->first_in = memory;
    relay->second_in = relay->first_in + a.first;
    relay->out = relay->second_in + a.second;
    exchange->relay = relay;
}

// --- bundles ---------------------------------------------------------------------------------------------------------

// Parcel `index` of `count` in a bundle; false: the bundle is none.
static bool open_bundle(const struct mb_peer *from, int count, int index, struct parcel *out)
{
    const struct entry *table = from->receive;
    *out = (struct parcel){NULL, 0, 0};
    if (from->received == 0) return true;
    if (from->received < table_bytes(count)) return false;
    size_t at = table_bytes(count);
    for (int i = 0; i < index; i++) {
        if (table[i].bytes > from->received - at) return false;
        at += mb_round_up((size_t)table[i].bytes, ALIGNED);
        if (at > from->received) return false;
    }
    if (table[index].bytes > from->received - at || table[index].rows > INT64_MAX) return false;
    *out = (struct parcel){(const char *)from->receive + at, (int64_t)table[index].rows, (size_t)table[index].bytes};
    return true;
}

static void add_parcel(struct mb_peer *to, char *bundle, int count, int index, const struct parcel *parcel)
{
    struct entry *table = (struct entry *)(void *)bundle;
    if (index == 0) to->send_bytes = table_bytes(count);
    table[index] = (struct entry){(uint64_t)parcel->rows, parcel->bytes};
    if (parcel->bytes) memcpy(bundle + to->send_bytes, parcel->data, parcel->bytes);
    to->send_bytes += mb_round_up(parcel->bytes, ALIGNED);
    to->send_rows += parcel->rows;
    if (index == count - 1 && to->send_bytes == table_bytes(count) && to->send_rows == 0) to->send_bytes = 0;
    to->send = bundle;
}

// --- stages ----------------------------------------------------------------------------------------------------------

static struct mb_exchange *begin_stage(struct mb_exchange *exchange, int number)
{
    struct mb_relay *relay = exchange->relay;
    struct mb_exchange *stage = &relay->stage;
    const int mine = exchange->index / relay->group, place = exchange->index % relay->group;
    relay->number = number;
    *stage = (struct mb_exchange){.mesh = exchange->mesh,
                                  .axis = exchange->axis,
                                  .count = number == 1 ? relay->group : relay->groups,
                                  .index = number == 1 ? place : mine,
                                  .first = number == 1 ? mine * relay->group : place,
                                  .stride = number == 1 ? 1 : relay->group,
                                  .step = exchange->step,
                                  .peers = relay->peers + (number == 1 ? 0 : relay->group),
                                  .next_send = 1,
                                  .next_receive = 1,
                                  .origin = -1};
    memset(stage->peers, 0, (size_t)stage->count * sizeof *stage->peers);
    const size_t most = number == 1 ? relay->first_most : relay->second_most;
    for (int i = 0; i < stage->count; i++) {
        stage->peers[i].receive = (number == 1 ? relay->first_in : relay->second_in) + (size_t)i * most;
        stage->peers[i].capacity = most;
    }
    return stage;
}

static struct parcel own_parcel(const struct mb_exchange *exchange, int place)
{
    const struct mb_peer *peer = &exchange->peers[place];
    return (struct parcel){peer->send, peer->send_rows, peer->send_bytes};
}

moeblock_status mb_relay_start(struct mb_exchange *exchange, moeblock_status failure, int origin, moeblock_error *error)
{
    struct mb_relay *relay = exchange->relay;
    struct mb_exchange *stage = begin_stage(exchange, 1);
    relay->failure = failure;
    relay->origin = origin;
    for (int b = 0; b < relay->group && !failure; b++) {
        if (b == stage->index) continue;
        for (int a = 0; a < relay->groups; a++) {
            const struct parcel parcel = own_parcel(exchange, a * relay->group + b);
            add_parcel(&stage->peers[b], relay->out + (size_t)b * relay->first_most, relay->groups, a, &parcel);
        }
    }
    MB_TRY(mb_exchange_start(stage, failure, origin, error));
    exchange->running = true;
    exchange->open = stage->open;
    exchange->started = stage->started;
    return MOEBLOCK_OK;
}

static moeblock_status bad_bundle(struct mb_exchange *exchange, int peer, moeblock_error *error)
{
    const struct mb_exchange *stage = &exchange->relay->stage;
    return mb_mesh_die(exchange->mesh, error, MOEBLOCK_MISMATCH,
                       "stage %d of two on axis %d: place %d sent %zu bytes whose table does not fit",
                       exchange->relay->number, exchange->axis, stage->first + peer * stage->stride,
                       stage->peers[peer].received);
}

// What came in the first stage goes on.
static moeblock_status start_second(struct mb_exchange *exchange, moeblock_error *error)
{
    struct mb_relay *relay = exchange->relay;
    const int own = relay->stage.index;
    const struct mb_peer *const from = relay->stage.peers;
    mb_exchange_keep_failure(exchange, relay->stage.status, relay->stage.origin);
    if (!relay->failure && exchange->status) {
        relay->failure = exchange->status;
        relay->origin = exchange->origin;
    }
    // Checked before the stage is another one.
    for (int b = 0; b < relay->group; b++) {
        struct parcel parcel;
        if (b != own && !open_bundle(&from[b], relay->groups, relay->groups - 1, &parcel))
            return bad_bundle(exchange, b, error);
    }
    struct mb_exchange *stage = begin_stage(exchange, 2);
    for (int a = 0; a < relay->groups && !relay->failure; a++) {
        if (a == stage->index) continue;
        for (int b = 0; b < relay->group; b++) {
            struct parcel parcel = own_parcel(exchange, a * relay->group + own);
            if (b != own) open_bundle(&from[b], relay->groups, a, &parcel);
            add_parcel(&stage->peers[a], relay->out + (size_t)a * relay->second_most, relay->group, b, &parcel);
        }
    }
    return mb_exchange_start(stage, relay->failure, relay->origin, error);
}

moeblock_status mb_relay_poke(struct mb_exchange *exchange, moeblock_error *error)
{
    struct mb_relay *relay = exchange->relay;
    if (!exchange->running) return MOEBLOCK_OK;
    MB_TRY(mb_exchange_poke(&relay->stage, error));
    if (relay->number == 1 && mb_exchange_done(&relay->stage)) MB_TRY(start_second(exchange, error));
    exchange->open = relay->stage.open;
    if (relay->number == 2 && mb_exchange_done(&relay->stage)) exchange->ended = relay->stage.ended;
    return MOEBLOCK_OK;
}

// Every parcel is here: those of the own group since the first stage.
static moeblock_status deliver(struct mb_exchange *exchange, moeblock_error *error)
{
    struct mb_relay *relay = exchange->relay;
    const int mine = exchange->index / relay->group;
    for (int i = 0; i < exchange->count; i++) {
        struct mb_peer *peer = &exchange->peers[i];
        struct parcel parcel;
        const int a = i / relay->group, b = i % relay->group;
        if (i == exchange->index) continue;
        const bool near = a == mine;
        const struct mb_peer *from = &relay->peers[near ? b : relay->group + a];
        if (!open_bundle(from, near ? relay->groups : relay->group, near ? mine : b, &parcel) ||
            parcel.bytes > peer->capacity)
            return bad_bundle(exchange, near ? b : a, error);
        peer->received = parcel.bytes;
        peer->rows = parcel.rows;
        if (parcel.bytes == 0) continue;
        if (peer->receive)
            memcpy(peer->receive, parcel.data, parcel.bytes);
        else
            peer->receive = relay->first_in + (parcel.data - relay->first_in);
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_relay_finish(struct mb_exchange *exchange, moeblock_error *error)
{
    struct mb_relay *relay = exchange->relay;
    if (relay->number == 1) {
        MB_TRY(mb_exchange_finish(&relay->stage, error));
        MB_TRY(start_second(exchange, error));
    } else {
        exchange->mesh->waits++; // the first stage ended while this rank computed: all ranks count it
    }
    MB_TRY(mb_exchange_finish(&relay->stage, error));
    exchange->running = false;
    exchange->open = 0;
    exchange->ended = relay->stage.ended;
    mb_exchange_keep_failure(exchange, relay->stage.status, relay->stage.origin);
    return exchange->status || relay->failure ? MOEBLOCK_OK : deliver(exchange, error);
}
