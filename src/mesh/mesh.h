// SPDX-License-Identifier: Apache-2.0
// Inside of a mesh: its shape, its state, what it counts, and small agreements between all of its ranks.
#ifndef MB_MESH_MESH_H
#define MB_MESH_MESH_H

#include <stdatomic.h>
#include <stdbool.h>

#include "mesh/exchange.h"
#include "mesh/relay.h"
#include "moeblock/mesh.h"

enum { MB_AXES = 2, MB_TAG_TREE = 2, MB_TAG_WORD = 3, MB_VOTES = 4 }; // tags 0 and 1 are the axes

// Told, for tests, what a rank gives to a collective: "all_gather", "all_to_all", "reduce_scatter" with the bytes of
// its own data, "agree" (axis -1) with the number of values.
typedef void (*mb_mesh_trace)(void *user, const char *what, int axis, size_t bytes);

// The last word of a rank of a mesh that ends.
struct mb_word {
    int32_t rank, code;  // code 0: it was told, and knows nothing that comes before
    int32_t about, said; // the rank that it waited for; -1: none
    uint64_t wait;       // the wait of the flow that it stands in: all ranks count the same ones
    char message[sizeof((moeblock_error *)0)->message];
};

struct moeblock_mesh {
    moeblock_allocator allocator;
    moeblock_transport transport;
    int rows, columns, row, column, rank, size;
    double deadline;
    atomic_bool busy; // a forward is under way
    bool dead;
    moeblock_error death;
    uint64_t waits;       // how many there have been, this one included
    struct mb_word word;  // on its way to others
    struct mb_word heard; // the first of another
    uint8_t *said;        // [size] whose words came
    int failed_rank;
    uint32_t sequence[MB_AXES + 1]; // of the exchanges along each axis, and of the agreements
    struct mb_exchange exchange[MB_AXES];
    struct mb_relay relay[MB_AXES];
    moeblock_traffic *traffic[MB_AXES]; // [steps][ranks of the axis]
    double wait_seconds, travel_seconds, hidden_seconds;
    mb_mesh_trace trace;
    void *trace_user;
};

static inline int mb_mesh_axis_size(const moeblock_mesh *mesh, int axis)
{
    return axis == 0 ? mesh->rows : mesh->columns;
}
static inline int mb_mesh_axis_index(const moeblock_mesh *mesh, int axis)
{
    return axis == 0 ? mesh->row : mesh->column;
}

// Part `index` of [0, total) cut into `parts` runs whose lengths differ by at most one, the longer ones first.
void mb_split(int64_t total, int parts, int index, int64_t *begin, int64_t *end);

void mb_mesh_set_trace(moeblock_mesh *mesh, mb_mesh_trace trace, void *user);

// The error of a dead mesh; OK when it is alive.
moeblock_status mb_mesh_check(const moeblock_mesh *mesh, moeblock_error *error);
// Gives up what is under way, without communicating.
void mb_mesh_abandon(moeblock_mesh *mesh);
// One turn of a wait that began (or last moved) at `since`: yields the CPU. False: the deadline has passed.
bool mb_mesh_yield(moeblock_mesh *mesh, double since, unsigned *turn);

// last_word.c. The end of the mesh, for something that must not be: all ranks that live come to the same error, within
// a moment that they wait for each other's words. Returns its code. The message gets this rank's name before it.
moeblock_status mb_mesh_die(moeblock_mesh *mesh, moeblock_error *error, moeblock_status code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
// The same (TIMEOUT) for a wait of `waited` seconds for rank `about`, which passed the deadline or was told to end.
moeblock_status mb_mesh_give_up(moeblock_mesh *mesh, moeblock_error *error, int about, double waited,
                                const char *format, ...) __attribute__((format(printf, 5, 6)));
// Whether another rank has said its last word: what waits must give up.
bool mb_mesh_listen(moeblock_mesh *mesh);

// agree.c. Largest of `count` (at most MB_VOTES) values of all ranks, and the failure of the lowest rank that has one:
// `mine` with the text in *error on its own rank, and the same status and text on every rank.
moeblock_status mb_mesh_agree(moeblock_mesh *mesh, int64_t *values, int count, moeblock_status mine,
                              moeblock_error *error);
// Compares lines "name=value" between all ranks; what differs is MISMATCH and named on every rank. `doing` begins the
// sentence. `mine` as above.
moeblock_status mb_mesh_same(moeblock_mesh *mesh, const char *doing, const char *lines, moeblock_status mine,
                             moeblock_error *error);

#endif
