// SPDX-License-Identifier: Apache-2.0
// Agreements between all ranks, over a binary tree: up to rank 0 and down again, two short messages a rank each way,
// for two ranks as for thousands.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "mesh/mesh.h"

enum { CHILDREN = 2, LINES_MOST = 1 << 20 };

// What travels. The text is sent as far as it goes.
struct vote {
    uint32_t sequence, count;
    int64_t values[MB_VOTES];
    int32_t origin, status;
    char text[sizeof((moeblock_error *)0)->message];
};

static size_t vote_bytes(const struct vote *vote)
{
    return offsetof(struct vote, text) + (vote->status ? strlen(vote->text) + 1 : 1);
}

static int parent_of(const moeblock_mesh *mesh) { return (mesh->rank - 1) / CHILDREN; }

static int children_of(const moeblock_mesh *mesh, int children[CHILDREN])
{
    int count = 0;
    for (int i = 1; i <= CHILDREN; i++)
        if (mesh->rank <= (mesh->size - 1 - i) / CHILDREN && mesh->size > i)
            children[count++] = mesh->rank * CHILDREN + i;
    return count;
}

// One transfer, waited for. `bytes` is the capacity of a receive and becomes what came.
static moeblock_status move(moeblock_mesh *mesh, int rank, bool send, void *data, size_t *bytes, moeblock_error *error)
{
    const moeblock_transport *t = &mesh->transport;
    moeblock_error why = {MOEBLOCK_OK, ""};
    uint64_t transfer;
    const moeblock_status status = send ? t->send(t->user, rank, MB_TAG_TREE, data, *bytes, &transfer, &why)
                                        : t->receive(t->user, rank, MB_TAG_TREE, data, *bytes, &transfer, &why);
    if (status != MOEBLOCK_OK)
        return mb_mesh_die(mesh, error, MOEBLOCK_PEER_FAILED, "agreeing with rank %d: %s", rank, why.message);
    const double since = mb_seconds();
    unsigned turn = 0;
    for (;;) {
        int which = -1;
        size_t moved = 0;
        if (t->poll(t->user, &transfer, 1, &which, &moved, &why))
            return mb_mesh_die(mesh, error, MOEBLOCK_PEER_FAILED, "agreeing with rank %d: %s", rank, why.message);
        if (which >= 0) {
            if (!send) *bytes = moved;
            mesh->wait_seconds += mb_seconds() - since;
            return MOEBLOCK_OK;
        }
        const bool told = turn % 64 == 63 && mb_mesh_listen(mesh);
        if (!told && mb_mesh_yield(mesh, since, &turn)) continue;
        t->abandon(t->user, &transfer, 1);
        const double waited = mb_seconds() - since;
        return mb_mesh_give_up(mesh, error, rank, waited,
                               "waited %.1f s for rank %d to %s agreement %u; is it dead, stopped or slow?", waited,
                               rank, send ? "take" : "send its part of", mesh->sequence[MB_AXES]);
    }
}

static moeblock_status send_vote(moeblock_mesh *mesh, int rank, struct vote *vote, moeblock_error *error)
{
    size_t bytes = vote_bytes(vote);
    return move(mesh, rank, true, vote, &bytes, error);
}

static moeblock_status receive_vote(moeblock_mesh *mesh, int rank, struct vote *vote, const struct vote *own,
                                    moeblock_error *error)
{
    size_t bytes = sizeof *vote;
    MB_TRY(move(mesh, rank, false, vote, &bytes, error));
    if (bytes <= offsetof(struct vote, text) || vote->sequence != own->sequence || vote->count != own->count)
        return mb_mesh_die(
            mesh, error, MOEBLOCK_MISMATCH,
            "rank %d is at agreement %u, expected %u; the ranks must make the same calls in the same order", rank,
            bytes <= offsetof(struct vote, text) ? 0 : vote->sequence, own->sequence);
    vote->text[bytes - offsetof(struct vote, text) - 1] = '\0';
    return MOEBLOCK_OK;
}

// The largest values, and the failure of the lower rank.
static void merge(struct vote *into, const struct vote *from)
{
    for (uint32_t i = 0; i < into->count; i++)
        if (from->values[i] > into->values[i]) into->values[i] = from->values[i];
    if (!from->status || (into->status && into->origin <= from->origin)) return;
    into->status = from->status;
    into->origin = from->origin;
    memcpy(into->text, from->text, sizeof into->text);
}

moeblock_status mb_mesh_agree(moeblock_mesh *mesh, int64_t *values, int count, moeblock_status mine,
                              moeblock_error *error)
{
    struct vote own = {.count = (uint32_t)count, .origin = mesh->rank, .status = (int32_t)mine}, other = {.count = 0};
    moeblock_error named = {MOEBLOCK_OK, ""};
    int children[CHILDREN];
    if (mesh->trace) mesh->trace(mesh->trace_user, "agree", -1, (size_t)count);
    if (mesh->size == 1) return mine;
    MB_TRY(mb_mesh_check(mesh, error));
    own.sequence = ++mesh->sequence[MB_AXES];
    for (int i = 0; i < count; i++) own.values[i] = values[i];
    if (mine != MOEBLOCK_OK) {
        mb_fail(&named, mine, "rank %d: %s", mesh->rank,
                error && error->message[0] ? error->message : "no reason given");
        memcpy(own.text, named.message, sizeof own.text);
    }
    const int below = children_of(mesh, children);
    mesh->waits++;
    for (int i = 0; i < below; i++) {
        MB_TRY(receive_vote(mesh, children[i], &other, &own, error));
        merge(&own, &other);
    }
    if (mesh->rank > 0) MB_TRY(send_vote(mesh, parent_of(mesh), &own, error));
    mesh->waits++;
    // What comes from above comes late when a rank elsewhere is missing: the last words tell which (last_word.c).
    if (mesh->rank > 0) {
        MB_TRY(receive_vote(mesh, parent_of(mesh), &other, &own, error));
        own = other;
    }
    for (int i = 0; i < below; i++) MB_TRY(send_vote(mesh, children[i], &own, error));
    for (int i = 0; i < count; i++) values[i] = own.values[i];
    mesh->failed_rank = own.status ? own.origin : -1;
    if (!own.status) return MOEBLOCK_OK;
    if (error) {
        error->code = (moeblock_status)own.status;
        memcpy(error->message, own.text, sizeof error->message);
    }
    return (moeblock_status)own.status;
}

moeblock_status moeblock_mesh_agree(moeblock_mesh *mesh, moeblock_status mine, moeblock_error *error)
{
    return mesh ? mb_mesh_agree(mesh, NULL, 0, mine, error) : mine;
}

// The first line in which the texts differ.
static moeblock_status compare(const moeblock_mesh *mesh, const char *doing, const char *own, int rank,
                               const char *other, moeblock_error *error)
{
    while (*own && *own == *other) {
        const size_t length = strcspn(own, "\n");
        if (strncmp(own, other, length + 1)) break;
        own += length + (own[length] == '\n');
        other += length + (other[length] == '\n');
    }
    if (!*own && !*other) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_MISMATCH, "%s: the ranks differ: rank %d has \"%.*s\", rank %d has \"%.*s\"", doing,
                   mesh->rank, (int)strcspn(own, "\n"), own, rank, (int)strcspn(other, "\n"), other);
}

static moeblock_status compare_children(moeblock_mesh *mesh, const char *doing, const char *lines,
                                        moeblock_status *mine, moeblock_error *reason, moeblock_error *error)
{
    int children[CHILDREN];
    const int below = children_of(mesh, children);
    if (!below) return MOEBLOCK_OK;
    char *other = mb_alloc(&mesh->allocator, LINES_MOST + 1);
    if (!other) return mb_mesh_die(mesh, error, MOEBLOCK_OUT_OF_MEMORY, "%s: no memory to compare the ranks", doing);
    moeblock_status status = MOEBLOCK_OK;
    for (int i = 0; i < below && status == MOEBLOCK_OK; i++) {
        size_t bytes = LINES_MOST;
        status = move(mesh, children[i], false, other, &bytes, error);
        other[status == MOEBLOCK_OK ? bytes : 0] = '\0';
        if (status == MOEBLOCK_OK && *mine == MOEBLOCK_OK && *other)
            *mine = compare(mesh, doing, lines, children[i], other, reason);
    }
    mb_free(&mesh->allocator, other);
    return status;
}

moeblock_status mb_mesh_same(moeblock_mesh *mesh, const char *doing, const char *lines, moeblock_status mine,
                             moeblock_error *error)
{
    moeblock_error reason = {MOEBLOCK_OK, ""};
    if (mesh->size == 1) return mine;
    MB_TRY(mb_mesh_check(mesh, error));
    if (mine != MOEBLOCK_OK && error) reason = *error;
    mesh->waits++;
    // A rank that failed has nothing to compare: it sends nothing but the end of its text.
    const char *const sent = mine == MOEBLOCK_OK ? lines : "";
    MB_TRY(compare_children(mesh, doing, lines, &mine, &reason, error));
    if (mesh->rank > 0) {
        char *copy;
        size_t bytes = strlen(sent);
        memcpy(&copy, &sent, sizeof copy); // sending does not change it
        MB_TRY(move(mesh, parent_of(mesh), true, copy, &bytes, error));
    }
    const moeblock_status agreed = mb_mesh_agree(mesh, NULL, 0, mine, &reason);
    if (agreed != MOEBLOCK_OK && error) *error = reason;
    return agreed;
}
