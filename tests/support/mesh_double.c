// SPDX-License-Identifier: Apache-2.0
// Ranks as threads.
#include "support/mesh_double.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct rank {
    struct mesh_double *mesh;
    int row, column;
    moeblock_mesh view;
    // What this rank offers to the others during a collective.
    const char *data;
    const size_t *bytes;
    int64_t value;
    struct mesh_call calls[MESH_CALLS_MAX];
    int n_calls;
    mesh_body body;
    void *argument;
};

struct mesh_double {
    int rows, columns;
    struct rank *ranks;          // row-major
    pthread_barrier_t *group[2]; // group[axis][index of the other axis]
    pthread_barrier_t everybody;
};

static struct rank *peer(struct rank *self, int axis, int i)
{
    struct mesh_double *mesh = self->mesh;
    return axis == 0 ? &mesh->ranks[i * mesh->columns + self->column] : &mesh->ranks[self->row * mesh->columns + i];
}

static int axis_size(const struct rank *self, int axis) { return axis == 0 ? self->mesh->rows : self->mesh->columns; }

static void meet(struct rank *self, int axis)
{
    pthread_barrier_wait(&self->mesh->group[axis][axis == 0 ? self->column : self->row]);
}

static void note(struct rank *self, const char *name, int axis, size_t bytes)
{
    if (self->n_calls < MESH_CALLS_MAX) self->calls[self->n_calls++] = (struct mesh_call){name, axis, bytes};
}

static moeblock_status all_gather(void *user, int axis, const void *mine, const size_t *bytes, void *all,
                                  moeblock_error *error)
{
    (void)error;
    struct rank *self = user;
    note(self, "all_gather", axis, bytes[axis == 0 ? self->row : self->column]);
    self->data = mine;
    meet(self, axis);
    char *to = all;
    for (int i = 0; i < axis_size(self, axis); to += bytes[i++]) memcpy(to, peer(self, axis, i)->data, bytes[i]);
    meet(self, axis);
    return MOEBLOCK_OK;
}

static moeblock_status all_to_all(void *user, int axis, const void *send, const size_t *send_bytes, void *receive,
                                  const size_t *receive_bytes, moeblock_error *error)
{
    (void)error;
    struct rank *self = user;
    const int index = axis == 0 ? self->row : self->column;
    size_t given = 0;
    for (int i = 0; i < axis_size(self, axis); i++) given += send_bytes[i];
    note(self, "all_to_all", axis, given);
    self->data = send;
    self->bytes = send_bytes;
    meet(self, axis);
    char *to = receive;
    moeblock_status status = MOEBLOCK_OK;
    for (int i = 0; i < axis_size(self, axis); i++) {
        const struct rank *from = peer(self, axis, i);
        size_t offset = 0;
        for (int j = 0; j < index; j++) offset += from->bytes[j];
        if (from->bytes[index] != receive_bytes[i])
            status = MOEBLOCK_MISMATCH;
        else
            memcpy(to, from->data + offset, receive_bytes[i]);
        to += receive_bytes[i];
    }
    meet(self, axis);
    return status;
}

static moeblock_status reduce_scatter(void *user, int axis, const void *mine, size_t bytes, void *scattered,
                                      moeblock_error *error)
{
    (void)error;
    struct rank *self = user;
    note(self, "reduce_scatter", axis, bytes);
    meet(self, axis);
    memcpy(scattered, mine, bytes);
    return MOEBLOCK_OK;
}

static moeblock_status agree(void *user, int64_t mine, int64_t *largest, moeblock_error *error)
{
    (void)error;
    struct rank *self = user;
    note(self, "agree", -1, sizeof mine);
    self->value = mine;
    pthread_barrier_wait(&self->mesh->everybody);
    *largest = mine;
    for (int i = 0; i < self->mesh->rows * self->mesh->columns; i++)
        if (self->mesh->ranks[i].value > *largest) *largest = self->mesh->ranks[i].value;
    pthread_barrier_wait(&self->mesh->everybody);
    return MOEBLOCK_OK;
}

static void init_rank(struct mesh_double *mesh, int row, int column)
{
    struct rank *self = &mesh->ranks[row * mesh->columns + column];
    self->mesh = mesh;
    self->row = row;
    self->column = column;
    self->view = (moeblock_mesh){
        .struct_size = sizeof(moeblock_mesh),
        .user = self,
        .rows = mesh->rows,
        .columns = mesh->columns,
        .row = row,
        .column = column,
        .all_gather = all_gather,
        .all_to_all = all_to_all,
        .reduce_scatter = reduce_scatter,
        .agree = agree,
    };
}

struct mesh_double *mesh_double_create(int rows, int columns)
{
    struct mesh_double *mesh = calloc(1, sizeof *mesh);
    mesh->rows = rows;
    mesh->columns = columns;
    mesh->ranks = calloc((size_t)(rows * columns), sizeof *mesh->ranks);
    mesh->group[0] = calloc((size_t)columns, sizeof *mesh->group[0]);
    mesh->group[1] = calloc((size_t)rows, sizeof *mesh->group[1]);
    for (int i = 0; i < columns; i++) pthread_barrier_init(&mesh->group[0][i], NULL, (unsigned)rows);
    for (int i = 0; i < rows; i++) pthread_barrier_init(&mesh->group[1][i], NULL, (unsigned)columns);
    pthread_barrier_init(&mesh->everybody, NULL, (unsigned)(rows * columns));
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < columns; column++) init_rank(mesh, row, column);
    return mesh;
}

void mesh_double_destroy(struct mesh_double *mesh)
{
    for (int i = 0; i < mesh->columns; i++) pthread_barrier_destroy(&mesh->group[0][i]);
    for (int i = 0; i < mesh->rows; i++) pthread_barrier_destroy(&mesh->group[1][i]);
    pthread_barrier_destroy(&mesh->everybody);
    free(mesh->group[0]);
    free(mesh->group[1]);
    free(mesh->ranks);
    free(mesh);
}

static void *rank_main(void *argument)
{
    struct rank *self = argument;
    self->body(self->argument, &self->view);
    return NULL;
}

void mesh_double_run(struct mesh_double *mesh, mesh_body body, void *argument)
{
    const int n = mesh->rows * mesh->columns;
    pthread_t *threads = calloc((size_t)n, sizeof *threads);
    alarm(60); // a rank that fails leaves the others waiting: end the test program instead
    for (int i = 0; i < n; i++) {
        mesh->ranks[i].body = body;
        mesh->ranks[i].argument = argument;
        pthread_create(&threads[i], NULL, rank_main, &mesh->ranks[i]);
    }
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    alarm(0);
    free(threads);
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
