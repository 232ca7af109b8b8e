// SPDX-License-Identifier: Apache-2.0
// Third step: which rows this rank's experts compute on. With expert parallelism each row travels at most once to a
// rank that owns one of its experts, with the ids and weights of the experts there; own rows are ready at once, the
// others when they have arrived. Then a counting sort of the (row, expert) pairs by expert.
#include <inttypes.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/wire.h"
#include "base/arith.h"
#include "base/clock.h"
#include "base/status.h"

static const char *own_row(const struct mb_run *run, int64_t token)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    const void *rows = run->set->latent ? b->latent : b->rows;
    return (const char *)rows + (size_t)token * mb_row_bytes(run->set, run->block->routed_width);
}

// The pairs of own rows with own experts.
static void take_own_rows(struct mb_run *run)
{
    struct mb_buffers *b = mb_buffers_of(run);
    struct mb_choice *pair = b->own_pairs;
    run->arrived = run->n;
    for (int64_t t = 0; t < run->n; t++) {
        b->arrived_row[t] = own_row(run, t);
        b->arrived_pairs[t] = pair;
        for (int64_t j = t * run->k; j < (t + 1) * run->k; j++)
            if (mb_share_rank(run->block, b->ids[j]) == run->block->share.ep_index)
                *pair++ = (struct mb_choice){b->ids[j], b->weights[j]};
        b->arrived_count[t] = (int32_t)(pair - b->arrived_pairs[t]);
    }
}

// Whether an earlier slot of the token goes to the same rank.
static bool goes_there_before(const struct mb_run *run, int64_t token, int64_t slot, int owner)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    for (int64_t i = token * run->k; i < slot; i++)
        if (mb_share_rank(run->block, b->ids[i]) == owner) return true;
    return false;
}

// Where what comes back for each slot will lie: by rank of its expert, tokens and slots ascending. Ranks that sum
// return one row for a token, which stands with its first slot there.
static void place_returns(struct mb_run *run)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const int ep = run->block->share.ep;
    const bool rows = mb_sums_there(run->block);
    memset(b->place_begin, 0, (size_t)(ep + 1) * sizeof *b->place_begin);
    for (int64_t i = 0; i < run->n * run->k; i++) {
        const int owner = mb_share_rank(run->block, b->ids[i]);
        const bool none = owner < 0 || (rows && goes_there_before(run, i / run->k, i, owner));
        b->return_place[i] = none ? -1 : b->place_begin[owner + 1]++;
    }
    for (int i = 0; i < ep; i++) b->place_begin[i + 1] += b->place_begin[i];
    for (int64_t i = 0; i < run->n * run->k; i++)
        if (b->return_place[i] >= 0) b->return_place[i] += b->place_begin[mb_share_rank(run->block, b->ids[i])];
}

enum { ANY_RANK = -1 };

// Pairs of token t for `rank`, written to `pairs` unless that is NULL; how many.
static int32_t pairs_for(const struct mb_run *run, int64_t t, int rank, struct mb_choice *pairs)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    int32_t count = 0;
    for (int64_t j = t * run->k; j < (t + 1) * run->k; j++) {
        const int owner = mb_share_rank(run->block, b->ids[j]);
        if (owner < 0 || (rank != ANY_RANK && owner != rank)) continue;
        if (pairs) pairs[count] = (struct mb_choice){b->ids[j], b->weights[j]};
        count++;
    }
    return count;
}

// One parcel is rows, then how many pairs each has, then the pairs (backend/wire.h).
_Static_assert(sizeof(int32_t) == MB_WIRE_COUNT && sizeof(struct mb_choice) == MB_WIRE_PAIR &&
                   sizeof(struct mb_header) == MB_WIRE_HEADER,
               "predictions count what is sent");

static size_t row_bytes(const struct mb_run *run) { return mb_row_bytes(run->set, run->block->routed_width); }

static size_t counts_at(const struct mb_run *run, int64_t rows)
{
    return mb_wire_counts_at((uint64_t)rows, row_bytes(run));
}

static size_t parcel_bytes(const struct mb_run *run, int64_t rows, int64_t pairs)
{
    return mb_wire_parcel((uint64_t)rows, row_bytes(run), (uint64_t)pairs);
}

// The rows with pairs for `rank`, or for any.
static void pack_parcel(struct mb_run *run, int rank, char *to, struct mb_peer *peer)
{
    const size_t row = row_bytes(run);
    int64_t rows = 0, total = 0;
    for (int64_t t = 0; t < run->n; t++) {
        const int32_t pairs = pairs_for(run, t, rank, NULL);
        rows += pairs > 0;
        total += pairs;
    }
    int32_t *count = (int32_t *)(void *)(to + counts_at(run, rows));
    struct mb_choice *pair = (struct mb_choice *)(void *)(count + rows);
    char *next = to;
    for (int64_t t = 0; t < run->n; t++) {
        const int32_t pairs = pairs_for(run, t, rank, pair);
        if (!pairs) continue;
        memcpy(next, own_row(run, t), row);
        next += row;
        *count++ = pairs;
        pair += pairs;
    }
    peer->send = to;
    peer->send_rows = rows;
    peer->send_bytes = rows ? parcel_bytes(run, rows, total) : 0;
}

// The least that could go to `rank` for this routing.
static void note_bound(struct mb_run *run, const struct mb_exchange *exchange, int rank)
{
    uint64_t rows = 0, pairs = 0;
    for (int64_t t = 0; t < run->n; t++) {
        const int32_t there = pairs_for(run, t, rank, NULL);
        rows += there > 0;
        pairs += (uint64_t)there;
    }
    moeblock_traffic *traffic = &exchange->mesh->traffic[exchange->axis][(int)exchange->step * exchange->count + rank];
    traffic->bound_sent += mb_wire_bound(rows, row_bytes(run), pairs);
}

// Starts all rows on their way. A run that has failed sends headers alone.
static moeblock_status send_rows(struct mb_run *run)
{
    const moeblock_block *block = run->block;
    struct mb_buffers *b = mb_buffers_of(run);
    const int ep = block->share.ep;
    const bool packs = !mb_run_failed(run) && !block->config->replicated_batch;
    const bool all = run->algorithm == MB_ALLGATHER;
    struct mb_exchange *exchange = mb_exchange_begin(block->mesh, block->share.ep_axis, MOEBLOCK_TRAFFIC_DISPATCH);
    run->travelling = exchange;
    const bool staged = run->algorithm == MB_TWOLEVEL && mb_relay_group(ep) > 1;
    if (staged) mb_exchange_relay(exchange, b->relay_first, b->relay_second, b->relay);
    char *to = b->send;
    size_t given = 0;
    struct mb_peer whole = {.send = NULL};
    if (packs && all) pack_parcel(run, ANY_RANK, to, &whole);
    for (int i = 0; i < ep; i++) {
        struct mb_peer *peer = &exchange->peers[i];
        if (i == block->share.ep_index) continue;
        if (packs && all)
            *peer = whole;
        else if (packs)
            pack_parcel(run, i, to, peer);
        if (packs) note_bound(run, exchange, i);
        if (!all) to += mb_round_up(peer->send_bytes, 64);
        given += peer->send_bytes;
        peer->receive = staged ? NULL : b->receive + (size_t)i * b->parcel_most;
        peer->capacity = b->parcel_most;
    }
    mb_run_trace_mesh(run, all ? "all_gather" : "all_to_all", block->share.ep_axis, given);
    return mb_run_start(run, exchange);
}

static moeblock_status bad_parcel(struct mb_run *run, int rank, const struct mb_peer *peer)
{
    moeblock_error error;
    mb_fail(&error, MOEBLOCK_MISMATCH,
            "dispatching rows: rank %d of axis %d sent %" PRId64
            " rows in %zu bytes whose counts or experts do not fit",
            rank, run->block->share.ep_axis, peer->rows, peer->received);
    return mb_run_fail(run, &error);
}

// Rows of one parcel join the arrived ones.
static moeblock_status unpack_parcel(struct mb_run *run, int rank, const struct mb_peer *peer)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t rows = peer->rows;
    const size_t row = row_bytes(run);
    if (rows == 0 && peer->received == 0) return MOEBLOCK_OK;
    if (rows < 0 || rows > run->workspace->tokens || peer->received < parcel_bytes(run, rows, 0))
        return bad_parcel(run, rank, peer);
    char *from = peer->receive;
    const int32_t *count = (const int32_t *)(const void *)(from + counts_at(run, rows));
    struct mb_choice *pair = (struct mb_choice *)(void *)(from + counts_at(run, rows) + (size_t)rows * sizeof *count);
    const int64_t pairs = (int64_t)((peer->received - parcel_bytes(run, rows, 0)) / sizeof *pair);
    int64_t seen = 0;
    for (int64_t r = 0; r < rows; r++, run->arrived++) {
        if (count[r] < 1 || count[r] > pairs - seen) return bad_parcel(run, rank, peer);
        b->arrived_row[run->arrived] = from + (size_t)r * row;
        b->arrived_pairs[run->arrived] = pair + seen;
        b->arrived_count[run->arrived] = count[r];
        seen += count[r];
    }
    bool fits = parcel_bytes(run, rows, pairs) == peer->received && seen == pairs;
    for (int64_t i = 0; fits && i < pairs; i++)
        fits = mb_computed_here(run, pair[i].id) || run->algorithm == MB_ALLGATHER;
    return fits ? MOEBLOCK_OK : bad_parcel(run, rank, peer);
}

// Of rows that went to all ranks, those with experts that this rank computes for the rank they came from, from
// arrived row `first` on.
static void keep_own_pairs(struct mb_run *run, int rank, int64_t first)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const moeblock_block *block = run->block;
    const int home = block->config->replicated_batch ? 0 : rank;
    int64_t kept = first;
    for (int64_t r = first; r < run->arrived; r++) {
        struct mb_choice *pair = b->arrived_pairs[r];
        int32_t count = 0;
        for (int32_t i = 0; i < b->arrived_count[r]; i++) {
            const int32_t id = pair[i].id;
            if (mb_computed_here(run, id) && mb_placement_rank(&block->placement, id, home) == block->share.ep_index)
                pair[count++] = pair[i];
        }
        if (!count) continue;
        b->arrived_row[kept] = b->arrived_row[r];
        b->arrived_pairs[kept] = pair;
        b->arrived_count[kept++] = count;
    }
    run->arrived = kept;
}

// What the rows from `first` on will return: a row each where sums are made here, else a row for each pair.
static int64_t returns_of(const struct mb_run *run, int64_t first)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    int64_t count = 0;
    for (int64_t r = first; r < run->arrived; r++) count += mb_sums_there(run->block) ? 1 : b->arrived_count[r];
    return count;
}

// Slots by expert, rows ascending within each.
static void sort_slots(struct mb_run *run)
{
    const moeblock_block *block = run->block;
    struct mb_buffers *b = mb_buffers_of(run);
    const int64_t range = block->share.e1 - block->share.e0;
    memset(b->expert_begin, 0, (size_t)(range + 1) * sizeof *b->expert_begin);
    run->slots = 0;
    for (int64_t r = 0; r < run->arrived; r++) {
        run->slots += b->arrived_count[r];
        for (int32_t i = 0; i < b->arrived_count[r]; i++)
            b->expert_begin[b->arrived_pairs[r][i].id - block->share.e0 + 1]++;
    }
    for (int64_t e = 0; e < range; e++) b->expert_begin[e + 1] += b->expert_begin[e];
    int64_t arrival = 0;
    for (int64_t r = 0; r < run->arrived; r++) {
        for (int32_t i = 0; i < b->arrived_count[r]; i++) {
            const struct mb_choice pair = b->arrived_pairs[r][i];
            const int64_t at = b->expert_begin[pair.id - block->share.e0]++;
            b->slot[at] = (struct mb_slot){r, arrival++, pair.weight};
            b->slot_row[at] = b->arrived_row[r];
        }
    }
    // The scatter moved each begin to its end: shift back.
    memmove(b->expert_begin + 1, b->expert_begin, (size_t)range * sizeof *b->expert_begin);
    b->expert_begin[0] = 0;
}

static size_t output_bytes(const struct mb_run *run)
{
    return (size_t)(run->set->columns.d1 - run->set->columns.d0) * mb_output_bytes(run->set);
}

moeblock_status mb_cpu_dispatch(struct mb_run *run)
{
    struct mb_buffers *b = mb_buffers_of(run);
    const struct mb_share *share = &run->block->share;
    if (!run->block->config->routed_enabled) return MOEBLOCK_OK;
    if (share->ep > 1) {
        place_returns(run);
        MB_TRY(send_rows(run));
        b->outputs = (char *)b->returned + (size_t)b->place_begin[share->ep_index] * output_bytes(run);
    }
    take_own_rows(run);
    if (mb_run_failed(run)) run->arrived = 0; // ids may be anything
    sort_slots(run);
    mb_run_trace(run, "dispatch", run->arrived, run->slots);
    return MOEBLOCK_OK;
}

moeblock_status mb_cpu_receive(struct mb_run *run)
{
    struct mb_buffers *b = mb_buffers_of(run);
    struct mb_exchange *exchange = run->travelling;
    if (!exchange) {
        run->arrived = run->slots = 0;
        return MOEBLOCK_OK;
    }
    mb_run_trace(run, "wait", exchange->open, 0);
    if (mb_sums_there(run->block) && !mb_run_failed(run)) MB_TRY(mb_round_sums(run));
    run->arrived = run->slots = 0;
    const double asked = mb_seconds();
    run->travelling = NULL;
    MB_TRY(mb_run_finish(run, exchange));
    moeblock_mesh *mesh = run->block->mesh;
    mesh->travel_seconds += exchange->ended - exchange->started;
    mesh->hidden_seconds += (exchange->ended < asked ? exchange->ended : asked) - exchange->started;
    for (int i = 0; i < exchange->count && !mb_run_failed(run); i++) {
        const int64_t first = run->arrived;
        if (i != exchange->index) MB_TRY(unpack_parcel(run, i, &exchange->peers[i]));
        if (run->algorithm == MB_ALLGATHER && !mb_run_failed(run)) keep_own_pairs(run, i, first);
        b->returns[i] = returns_of(run, first);
    }
    if (mb_run_failed(run)) run->arrived = 0;
    b->outputs = b->out_slots;
    sort_slots(run);
    mb_run_trace(run, "receive", run->arrived, run->slots);
    return MOEBLOCK_OK;
}
