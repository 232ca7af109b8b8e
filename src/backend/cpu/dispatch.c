// SPDX-License-Identifier: Apache-2.0
// Third step: which rows this rank's experts compute on. With expert parallelism each row travels at most once to a
// rank that owns one of its experts, with its ids and weights. Then a counting sort of the (row, expert) pairs by
// expert.
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/arith.h"
#include "base/status.h"

static const char *own_row(const struct mb_run *run, int64_t token)
{
    const struct mb_buffers *b = mb_buffers_of(run);
    const void *rows = run->set->latent ? b->latent : b->rows;
    return (const char *)rows + (size_t)token * mb_row_bytes(run->set, run->block->routed_width);
}

static void take_own_rows(struct mb_run *run)
{
    struct mb_buffers *b = mb_buffers_of(run);
    run->arrived = run->n;
    for (int64_t t = 0; t < run->n; t++) {
        b->arrived_row[t] = own_row(run, t);
        b->arrived_ids[t] = b->ids + t * run->k;
        b->arrived_weights[t] = b->weights + t * run->k;
    }
}

static bool goes_to(const struct mb_run *run, int64_t token, int rank)
{
    const int32_t *ids = mb_buffers_of(run)->ids + token * run->k;
    for (int64_t j = 0; j < run->k; j++)
        if (mb_share_rank(run->block, ids[j]) == rank) return true;
    return false;
}

// Records by destination, tokens ascending, with the ids that are computed there and -1 for the others; also where each
// slot's output will lie when it comes back.
static void fill_records(struct mb_run *run)
{
    const moeblock_block *block = run->block;
    struct mb_buffers *b = mb_buffers_of(run);
    const size_t row = mb_row_bytes(run->set, block->routed_width);
    const size_t record = mb_record_bytes(block, run->set, run->k), ids_at = mb_round_up(row, 8);
    const size_t ids_bytes = (size_t)run->k * sizeof(int32_t);
    for (int64_t i = 0; i < run->n * run->k; i++) b->return_place[i] = -1;
    int64_t place = 0, sent = 0;
    for (int rank = 0; rank < block->share.ep; rank++) {
        const int64_t before = sent;
        for (int64_t t = 0; t < run->n; t++) {
            if (!goes_to(run, t, rank)) continue;
            char *to = b->send + (size_t)sent * record;
            memset(to + ids_at, 0, record - ids_at);
            memcpy(to, own_row(run, t), row);
            memcpy(to + ids_at + ids_bytes, b->weights + t * run->k, (size_t)run->k * sizeof(float));
            b->record_token[sent++] = t;
            int32_t *there = (int32_t *)(void *)(to + ids_at);
            for (int64_t j = 0; j < run->k; j++) {
                const int64_t slot = t * run->k + j;
                const bool goes = mb_share_rank(run->block, b->ids[slot]) == rank;
                there[j] = goes ? b->ids[slot] : -1;
                if (goes) b->return_place[slot] = place++;
            }
        }
        b->send_rows[rank] = sent - before;
    }
}

static moeblock_status exchange_rows(struct mb_run *run)
{
    const moeblock_block *block = run->block;
    const moeblock_mesh *mesh = block->mesh;
    struct mb_buffers *b = mb_buffers_of(run);
    const int ep = block->share.ep, axis = block->share.ep_axis;
    const size_t record = mb_record_bytes(block, run->set, run->k);
    for (int i = 0; i < ep; i++) b->send_bytes[i] = b->receive_bytes[i] = sizeof(int64_t);
    MB_TRY(
        mesh->all_to_all(mesh->user, axis, b->send_rows, b->send_bytes, b->receive_rows, b->receive_bytes, run->error));
    run->arrived = 0;
    for (int i = 0; i < ep; i++) {
        if (b->receive_rows[i] < 0 || b->receive_rows[i] > run->workspace->tokens)
            return mb_fail(run->error, MOEBLOCK_MISMATCH,
                           "dispatching rows: rank %d of axis %d announces %lld rows, expected 0 to %lld", i, axis,
                           (long long)b->receive_rows[i], (long long)run->workspace->tokens);
        b->send_bytes[i] = (size_t)b->send_rows[i] * record;
        b->receive_bytes[i] = (size_t)b->receive_rows[i] * record;
        run->arrived += b->receive_rows[i];
    }
    MB_TRY(mesh->all_to_all(mesh->user, axis, b->send, b->send_bytes, b->receive, b->receive_bytes, run->error));
    const size_t ids_at = mb_round_up(mb_row_bytes(run->set, block->routed_width), 8);
    for (int64_t r = 0; r < run->arrived; r++) {
        const char *from = b->receive + (size_t)r * record;
        b->arrived_row[r] = from;
        b->arrived_ids[r] = (const int32_t *)(const void *)(from + ids_at);
        b->arrived_weights[r] = (const float *)(const void *)(from + ids_at + (size_t)run->k * sizeof(int32_t));
    }
    return MOEBLOCK_OK;
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
        for (int64_t j = 0; j < run->k; j++) {
            if (!mb_computed_here(run, b->arrived_ids[r][j])) continue;
            b->expert_begin[b->arrived_ids[r][j] - block->share.e0 + 1]++;
            run->slots++;
        }
    }
    for (int64_t e = 0; e < range; e++) b->expert_begin[e + 1] += b->expert_begin[e];
    int64_t arrival = 0;
    for (int64_t r = 0; r < run->arrived; r++) {
        for (int64_t j = 0; j < run->k; j++) {
            const int32_t id = b->arrived_ids[r][j];
            if (!mb_computed_here(run, id)) continue;
            const int64_t at = b->expert_begin[id - block->share.e0]++;
            b->slot[at] = (struct mb_slot){r, arrival++, b->arrived_weights[r][j]};
            b->slot_row[at] = b->arrived_row[r];
        }
    }
    // The scatter moved each begin to its end: shift back.
    memmove(b->expert_begin + 1, b->expert_begin, (size_t)range * sizeof *b->expert_begin);
    b->expert_begin[0] = 0;
}

moeblock_status mb_cpu_dispatch(struct mb_run *run)
{
    if (!run->block->config->routed_enabled) return MOEBLOCK_OK;
    if (run->block->share.ep == 1) {
        take_own_rows(run);
    } else {
        fill_records(run);
        MB_TRY(exchange_rows(run));
    }
    sort_slots(run);
    mb_run_trace(run, "dispatch", run->arrived, run->slots);
    return MOEBLOCK_OK;
}
