// SPDX-License-Identifier: Apache-2.0
// Counts of all processes: a header with their times, then [steps][ranks of the axis] for either axis.
#include "cli/mesh_report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "block.h"
#include "cli/exit.h"

struct times {
    double wait, travel, hidden;
    uint64_t bytes_read;
};

const char *const cli_traffic_keys[MOEBLOCK_TRAFFIC_STEPS] = {"input",      "dispatch", "activations", "combine",
                                                              "whole_rows", "output",   "sums"};

static size_t axis_at(const moeblock_mesh *mesh, int axis)
{
    const size_t first = sizeof(struct times);
    return first + (axis ? MOEBLOCK_TRAFFIC_STEPS * (size_t)mesh->rows * sizeof(moeblock_traffic) : 0);
}

static const struct times *times_of(const struct cli_mesh_counts *counts, int rank)
{
    return (const struct times *)(const void *)(counts->all + counts->bytes * (size_t)rank);
}

// Sums over the steps from `first` on, `count` of them, and the peers (-1: all) of a rank.
static moeblock_traffic sum_of(const moeblock_mesh *mesh, const struct cli_mesh_counts *counts, int rank, int axis,
                               int first, int count, int peer)
{
    const int ranks = mb_mesh_axis_size(mesh, axis);
    const char *at = counts->all + counts->bytes * (size_t)rank + axis_at(mesh, axis);
    const moeblock_traffic *const table = (const moeblock_traffic *)(const void *)at;
    moeblock_traffic sum = {.struct_size = sizeof sum};
    for (int i = first * ranks; i < (first + count) * ranks; i++) {
        if (peer >= 0 && i % ranks != peer) continue;
        sum.messages_sent += table[i].messages_sent;
        sum.bytes_sent += table[i].bytes_sent;
        sum.bytes_received += table[i].bytes_received;
        sum.rows_sent += table[i].rows_sent;
        sum.rows_received += table[i].rows_received;
        sum.bound_sent += table[i].bound_sent;
    }
    return sum;
}

int cli_mesh_collect(const struct cli_session *session, int64_t tokens, struct cli_mesh_counts *out)
{
    moeblock_mesh *const mesh = session->ranks.mesh;
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (!mesh) return CLI_OK;
    const size_t peers = (size_t)mesh->rows + (size_t)mesh->columns;
    out->bytes = sizeof(struct times) + MOEBLOCK_TRAFFIC_STEPS * peers * sizeof(moeblock_traffic);
    char *mine = mb_alloc(&mb_default_allocator, out->bytes);
    out->all = mb_alloc(&mb_default_allocator, cli_ranks_speaks(&session->ranks) ? out->bytes * (size_t)mesh->size : 1);
    moeblock_status status =
        mine && out->all ? MOEBLOCK_OK : mb_fail(&error, MOEBLOCK_OUT_OF_MEMORY, "no memory to report");
    if (status == MOEBLOCK_OK) {
        const struct times times = {mesh->wait_seconds, mesh->travel_seconds, mesh->hidden_seconds,
                                    moeblock_weights_bytes_read(session->weights)};
        memcpy(mine, &times, sizeof times);
        for (int axis = 0; axis < MB_AXES; axis++)
            memcpy(mine + axis_at(mesh, axis), mesh->traffic[axis],
                   MOEBLOCK_TRAFFIC_STEPS * (size_t)mb_mesh_axis_size(mesh, axis) * sizeof(moeblock_traffic));
    }
    status = moeblock_mesh_agree(mesh, status, &error);
    if (status == MOEBLOCK_OK) status = cli_ranks_collect(&session->ranks, mine, out->bytes, out->all, &error);
    mb_free(&mb_default_allocator, mine);
    if (status != MOEBLOCK_OK) return cli_ranks_fail(&session->ranks, CLI_ABOUT_DATA, &error);
    const moeblock_block *const block = session->block;
    struct mb_travel travel;
    const int64_t longest = (tokens + mesh->rows - 1) / mesh->rows, chunk = block->backend->chunk_tokens(block);
    block->backend->travel(block, block->set, longest < chunk ? longest : chunk, &travel);
    out->algorithm = mb_travel_choose(block->config->algorithm, &travel);
    if (block->share.ep > 1)
        mb_travel_explain(block->config->algorithm, &travel, out->explain, sizeof out->explain);
    else
        snprintf(out->explain, sizeof out->explain, "no expert parallelism: all experts on every rank");
    return CLI_OK;
}

void cli_mesh_free(struct cli_mesh_counts *counts)
{
    mb_free(&mb_default_allocator, counts->all);
    counts->all = NULL;
}

// --- text ------------------------------------------------------------------------------------------------------------

static void print_axis(const moeblock_mesh *mesh, const struct cli_mesh_counts *counts, int rank, int axis)
{
    const moeblock_traffic sum = sum_of(mesh, counts, rank, axis, 0, MOEBLOCK_TRAFFIC_STEPS, -1);
    char sent[32], received[32];
    printf("  %s sent, %s received", cli_bytes_text((double)sum.bytes_sent, sent),
           cli_bytes_text((double)sum.bytes_received, received));
}

void cli_mesh_print(const struct cli_session *session, const struct cli_mesh_counts *counts)
{
    const moeblock_mesh *const mesh = session->ranks.mesh;
    double sent = 0, bound = 0, travel = 0, hidden = 0;
    if (!mesh || !counts->all) return;
    printf("mesh %d x %d, %s: %s\n", mesh->rows, mesh->columns, mesh->transport.name, counts->explain);
    if (session->block->share.tp > 1 && session->config->reproducible == MB_REPRODUCIBLE_BATCH)
        printf("  columns exchange %s\n", session->block->set->columns.why);
    for (int r = 0; r < mesh->size; r++) {
        const struct times *const times = times_of(counts, r);
        printf("  rank %d:  axis 0", r);
        print_axis(mesh, counts, r, 0);
        printf(";  axis 1");
        print_axis(mesh, counts, r, 1);
        printf(";  waited %.3f ms\n", 1e3 * times->wait);
        for (int axis = 0; axis < MB_AXES; axis++) {
            const moeblock_traffic one = sum_of(mesh, counts, r, axis, MOEBLOCK_TRAFFIC_DISPATCH, 1, -1);
            sent += (double)one.bytes_sent;
            bound += (double)one.bound_sent;
        }
        travel += times->travel;
        hidden += times->hidden;
    }
    if (bound > 0)
        printf("  dispatch: %.0f bytes, %.3f of the least for this routing (%.0f)\n", sent, sent / bound, bound);
    if (travel > 0)
        printf("  %.1f %% of the time that rows travelled went on beside computing\n", 100 * hidden / travel);
}

// --- JSON ------------------------------------------------------------------------------------------------------------

static json_t *traffic_json(const moeblock_traffic *t)
{
    const struct {
        const char *key;
        uint64_t value;
    } integers[] = {{"messages_sent", t->messages_sent},   {"bytes_sent", t->bytes_sent},
                    {"bytes_received", t->bytes_received}, {"rows_sent", t->rows_sent},
                    {"rows_received", t->rows_received},   {"bound_sent", t->bound_sent}};
    json_t *object = json_object();
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        json_object_set_new(object, integers[i].key, json_integer((json_int_t)integers[i].value));
    return object;
}

static json_t *axis_json(const moeblock_mesh *mesh, const struct cli_mesh_counts *counts, int rank, int axis)
{
    json_t *object = json_object(), *steps = json_object(), *peers = json_array();
    const moeblock_traffic all = sum_of(mesh, counts, rank, axis, 0, MOEBLOCK_TRAFFIC_STEPS, -1);
    json_object_set_new(object, "total", traffic_json(&all));
    for (int s = 0; s < MOEBLOCK_TRAFFIC_STEPS; s++) {
        const moeblock_traffic one = sum_of(mesh, counts, rank, axis, s, 1, -1);
        json_object_set_new(steps, cli_traffic_keys[s], traffic_json(&one));
    }
    for (int i = 0; i < mb_mesh_axis_size(mesh, axis); i++) {
        const moeblock_traffic one = sum_of(mesh, counts, rank, axis, 0, MOEBLOCK_TRAFFIC_STEPS, i);
        json_array_append_new(peers, traffic_json(&one));
    }
    json_object_set_new(object, "steps", steps);
    json_object_set_new(object, "peers", peers);
    return object;
}

json_t *cli_mesh_json(const struct cli_session *session, const struct cli_mesh_counts *counts)
{
    const moeblock_mesh *const mesh = session->ranks.mesh;
    if (!mesh || !counts->all) return NULL;
    json_t *object = json_object(), *ranks = json_array();
    json_object_set_new(object, "rows", json_integer(mesh->rows));
    json_object_set_new(object, "columns", json_integer(mesh->columns));
    json_object_set_new(object, "mpi", json_string(mesh->transport.name));
    json_object_set_new(object, "algorithm", json_string(mb_algorithm_names[counts->algorithm]));
    json_object_set_new(object, "explain", json_string(counts->explain));
    json_object_set_new(object, "reproducible",
                        json_string(session->config->reproducible == MB_REPRODUCIBLE_BATCH ? "batch" : "mesh"));
    json_object_set_new(object, "exchange", json_string(session->block->set->columns.why));
    cli_json_number(object, "deadline_seconds", mesh->deadline);
    for (int r = 0; r < mesh->size; r++) {
        const struct times *const times = times_of(counts, r);
        json_t *rank = json_object(), *axes = json_array();
        cli_json_number(rank, "wait_seconds", times->wait);
        cli_json_number(rank, "travel_seconds", times->travel);
        cli_json_number(rank, "hidden_seconds", times->hidden);
        json_object_set_new(rank, "weight_bytes_read", json_integer((json_int_t)times->bytes_read));
        for (int axis = 0; axis < MB_AXES; axis++) json_array_append_new(axes, axis_json(mesh, counts, r, axis));
        json_object_set_new(rank, "axes", axes);
        json_array_append_new(ranks, rank);
    }
    json_object_set_new(object, "ranks", ranks);
    return object;
}
