// SPDX-License-Identifier: Apache-2.0
// Ranks as threads; a message is a copy in the queue of its receiver.
#include "support/mesh_double.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/status.h"
#include "cmocka.h"

enum { TRANSFERS = 256 };

struct letter {
    struct letter *next;
    struct mesh_message message;
    double due;
};

struct transfer {
    bool used, send;
    int peer, tag;
    void *data;
    size_t bytes;
};

struct rank {
    struct mesh_double *mesh;
    int number;
    struct letter *inbox; // in the order of arrival
    struct transfer transfers[TRANSFERS];
    struct mesh_call calls[MESH_CALLS_MAX];
    int n_calls;
    mesh_body body;
    void *argument;
};

struct mesh_double {
    int rows, columns;
    double deadline;
    struct rank *ranks; // row-major
    pthread_mutex_t lock;
    mesh_tamper tamper;
    void *tamper_user;
};

static moeblock_status take_transfer(struct rank *self, struct transfer from, uint64_t *out, moeblock_error *error)
{
    for (uint64_t i = 0; i < TRANSFERS; i++) {
        if (self->transfers[i].used) continue;
        self->transfers[i] = from;
        *out = i;
        return MOEBLOCK_OK;
    }
    return mb_fail(error, MOEBLOCK_LIMIT, "the double holds %d transfers a rank", (int)TRANSFERS);
}

static moeblock_status send(void *user, int peer, int tag, const void *data, size_t bytes, uint64_t *transfer,
                            moeblock_error *error)
{
    struct rank *self = user;
    struct mesh_double *mesh = self->mesh;
    struct letter *letter = calloc(1, sizeof *letter);
    letter->message =
        (struct mesh_message){.from = self->number, .to = peer, .tag = tag, .data = malloc(bytes + 1), .bytes = bytes};
    if (bytes) memcpy(letter->message.data, data, bytes);
    pthread_mutex_lock(&mesh->lock);
    const bool arrives = !mesh->tamper || mesh->tamper(mesh->tamper_user, &letter->message);
    letter->due = mb_seconds() + letter->message.delay;
    struct letter **last = &mesh->ranks[peer].inbox;
    while (*last) last = &(*last)->next;
    if (arrives) *last = letter;
    pthread_mutex_unlock(&mesh->lock);
    if (!arrives) {
        free(letter->message.data);
        free(letter);
    }
    return take_transfer(self, (struct transfer){.used = true, .send = true, .bytes = bytes}, transfer, error);
}

static moeblock_status receive(void *user, int peer, int tag, void *data, size_t capacity, uint64_t *transfer,
                               moeblock_error *error)
{
    const struct transfer wanted = {.used = true, .peer = peer, .tag = tag, .data = data, .bytes = capacity};
    return take_transfer(user, wanted, transfer, error);
}

// Takes the first letter from `peer` (-1: anyone) with the tag out of the inbox if it is due.
static struct letter *take_letter(struct rank *self, int peer, int tag)
{
    pthread_mutex_lock(&self->mesh->lock);
    struct letter **at = &self->inbox, *found = NULL;
    while (*at && ((peer >= 0 && (*at)->message.from != peer) || (*at)->message.tag != tag)) at = &(*at)->next;
    if (*at && (*at)->due <= mb_seconds()) {
        found = *at;
        *at = found->next;
    }
    pthread_mutex_unlock(&self->mesh->lock);
    return found;
}

static size_t open_letter(struct letter *letter, void *data, size_t capacity)
{
    const size_t bytes = letter->message.bytes;
    memcpy(data, letter->message.data, bytes < capacity ? bytes : capacity);
    free(letter->message.data);
    free(letter);
    return bytes;
}

static moeblock_status poll(void *user, uint64_t *transfers, int count, int *which, size_t *bytes,
                            moeblock_error *error)
{
    struct rank *self = user;
    *which = -1;
    for (int i = 0; i < count; i++) {
        struct transfer *transfer = &self->transfers[transfers[i]];
        struct letter *letter = transfer->send ? NULL : take_letter(self, transfer->peer, transfer->tag);
        if (!transfer->send && !letter) continue;
        *which = i;
        *bytes = transfer->send ? transfer->bytes : open_letter(letter, transfer->data, transfer->bytes);
        transfer->used = false;
        if (*bytes <= transfer->bytes) return MOEBLOCK_OK;
        return mb_fail(error, MOEBLOCK_MISMATCH, "a message of %zu bytes came, expected at most %zu", *bytes,
                       transfer->bytes);
    }
    return MOEBLOCK_OK;
}

static moeblock_status look(void *user, int tag, void *data, size_t capacity, size_t *bytes, moeblock_error *error)
{
    (void)error;
    struct letter *letter = take_letter(user, -1, tag);
    *bytes = letter ? open_letter(letter, data, capacity) : 0;
    return MOEBLOCK_OK;
}

static void abandon(void *user, uint64_t *transfers, int count)
{
    struct rank *self = user;
    for (int i = 0; i < count; i++) self->transfers[transfers[i]].used = false;
}

static void note(void *user, const char *what, int axis, size_t bytes)
{
    struct rank *self = user;
    if (self->n_calls < MESH_CALLS_MAX) self->calls[self->n_calls++] = (struct mesh_call){what, axis, bytes};
}

struct mesh_double *mesh_double_create(int rows, int columns)
{
    struct mesh_double *mesh = calloc(1, sizeof *mesh);
    mesh->rows = rows;
    mesh->columns = columns;
    mesh->ranks = calloc((size_t)(rows * columns), sizeof *mesh->ranks);
    pthread_mutex_init(&mesh->lock, NULL);
    for (int i = 0; i < rows * columns; i++) {
        mesh->ranks[i].mesh = mesh;
        mesh->ranks[i].number = i;
    }
    return mesh;
}

static void empty_inboxes(struct mesh_double *mesh)
{
    for (int i = 0; i < mesh->rows * mesh->columns; i++) {
        while (mesh->ranks[i].inbox) {
            struct letter *letter = mesh->ranks[i].inbox;
            mesh->ranks[i].inbox = letter->next;
            free(letter->message.data);
            free(letter);
        }
    }
}

void mesh_double_destroy(struct mesh_double *mesh)
{
    empty_inboxes(mesh);
    pthread_mutex_destroy(&mesh->lock);
    free(mesh->ranks);
    free(mesh);
}

void mesh_double_deadline(struct mesh_double *mesh, double seconds) { mesh->deadline = seconds; }

void mesh_double_tamper(struct mesh_double *mesh, mesh_tamper tamper, void *user)
{
    mesh->tamper = tamper;
    mesh->tamper_user = user;
}

static void *rank_main(void *argument)
{
    struct rank *self = argument;
    const moeblock_transport transport = {
        .struct_size = sizeof transport,
        .user = self,
        .name = "threads",
        .size = self->mesh->rows * self->mesh->columns,
        .rank = self->number,
        .node_size = self->mesh->rows * self->mesh->columns,
        .send = send,
        .receive = receive,
        .poll = poll,
        .look = look,
        .abandon = abandon,
    };
    const moeblock_mesh_options options = {.struct_size = sizeof options,
                                           .rows = self->mesh->rows,
                                           .columns = self->mesh->columns,
                                           .deadline = self->mesh->deadline};
    moeblock_mesh *mesh;
    moeblock_error error;
    if (moeblock_mesh_create(&transport, &options, &mesh, &error) != MOEBLOCK_OK) fail_msg("%s", error.message);
    mb_mesh_set_trace(mesh, note, self);
    self->body(self->argument, mesh);
    moeblock_mesh_destroy(&mesh);
    return NULL;
}

void mesh_double_run(struct mesh_double *mesh, mesh_body body, void *argument)
{
    const int n = mesh->rows * mesh->columns;
    pthread_t *threads = calloc((size_t)n, sizeof *threads);
    alarm(120); // a wait without end ends the test program instead
    for (int i = 0; i < n; i++) {
        mesh->ranks[i].body = body;
        mesh->ranks[i].argument = argument;
        memset(mesh->ranks[i].transfers, 0, sizeof mesh->ranks[i].transfers);
        pthread_create(&threads[i], NULL, rank_main, &mesh->ranks[i]);
    }
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    alarm(0);
    free(threads);
    empty_inboxes(mesh);
}

const struct mesh_call *mesh_double_calls(const struct mesh_double *mesh, int row, int column, int *count)
{
    const struct rank *self = &mesh->ranks[row * mesh->columns + column];
    *count = self->n_calls;
    return self->calls;
}

void mesh_double_reset(struct mesh_double *mesh)
{
    for (int i = 0; i < mesh->rows * mesh->columns; i++) mesh->ranks[i].n_calls = 0;
}
