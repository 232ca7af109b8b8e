// SPDX-License-Identifier: Apache-2.0
// What goes wrong on a mesh ends in the same named error on every rank, within the deadline, and nothing hangs: ranks
// that fail, differ, stay away, and messages that are lost, late, cut or wrong.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "block.h"
#include "cmocka.h"
#include "support/golden.h"
#include "support/mesh_double.h"
#include "support/mesh_rank.h"

enum { RANKS_MOST = 16, TOKENS = 4, K = 4, HIDDEN_MOST = 64 };

static struct golden_case golden;

// What each rank does, and what came of it.
struct trial {
    int side;                         // of the mesh, side x side
    const char *const *set_of_rank_1; // settings of rank 1 alone
    size_t n_set;
    int absent;     // this rank makes its block and then stays away; -1: none
    int bad_call;   // this rank's y has another shape; -1: none
    int32_t bad_id; // rank 2 runs the experts on this id, others on good ones; -2: nobody
    double deadline;
    bool twice; // a second forward
    moeblock_error errors[RANKS_MOST], again[RANKS_MOST];
    double seconds[RANKS_MOST];
    double waited_at[RANKS_MOST]; // when own rows and the shared expert were done
    int dead[RANKS_MOST];
};

static int ranks_of(const struct trial *trial) { return trial->side * trial->side; }

static void note_wait(void *user, const char *what, int64_t a, int64_t b)
{
    (void)a, (void)b;
    if (!strcmp(what, "wait")) *(double *)user = mb_seconds();
}

static moeblock_status call(const struct trial *trial, const struct rank_objects *rank, int number, float *y,
                            moeblock_error *error)
{
    const int64_t hidden = golden.hidden;
    moeblock_array x = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {TOKENS, hidden}, .data = golden.x.data}, out = x;
    out.data = y;
    if (number == trial->bad_call) out.dims[0]--;
    if (trial->bad_id != -2) {
        int32_t ids[TOKENS * K];
        float weights[TOKENS * K];
        for (int i = 0; i < TOKENS * K; i++) ids[i] = i % K, weights[i] = 0.25f;
        if (number == 2) ids[TOKENS * K - 1] = trial->bad_id;
        return moeblock_block_forward_experts(rank->block, rank->workspace, &x, ids, weights, K, &out, error);
    }
    const moeblock_forward_input in = {.struct_size = sizeof in, .mode = MOEBLOCK_PREFILL, .x = x};
    const moeblock_forward_output output = {.struct_size = sizeof output, .y = out};
    return moeblock_block_forward(rank->block, rank->workspace, &in, &output, error);
}

static void body(void *argument, moeblock_mesh *mesh)
{
    struct trial *trial = argument;
    const int number = mesh->rank;
    moeblock_error *error = &trial->errors[number];
    float y[TOKENS * HIDDEN_MOST];
    struct rank_objects rank = {.context = NULL};
    const moeblock_context_options threads = {.struct_size = sizeof threads, .threads = 1};
    const moeblock_config_options options = {.struct_size = sizeof options,
                                             .layer = golden.layer,
                                             .set = trial->set_of_rank_1,
                                             .n_set = number == 1 ? trial->n_set : 0};
    moeblock_status status = moeblock_context_create(&threads, &rank.context, error);
    if (!status) status = moeblock_config_open(rank.context, golden.folder, &options, &rank.config, error);
    if (!status) status = moeblock_block_create(rank.context, rank.config, mesh, NULL, &rank.block, error);
    if (!status) status = moeblock_block_load_files(rank.block, golden.folder, NULL, error);
    if (!status) status = moeblock_workspace_create(rank.block, TOKENS, NULL, 0, &rank.workspace, error);
    if (!status) mb_block_set_trace(rank.block, note_wait, &trial->waited_at[number]);
    const double started = mb_seconds();
    // What goes before is not what is tried here, and takes its time on a busy machine.
    mesh->deadline = trial->deadline;
    if (!status && number != trial->absent) status = call(trial, &rank, number, y, error);
    trial->seconds[number] = mb_seconds() - started;
    trial->dead[number] = mesh->dead;
    if (trial->twice && rank.workspace && number != trial->absent) {
        const struct trial good = {.bad_call = -1, .absent = -1, .bad_id = -2};
        call(&good, &rank, number, y, &trial->again[number]);
    }
    moeblock_workspace_destroy(&rank.workspace);
    moeblock_block_destroy(&rank.block);
    moeblock_config_destroy(&rank.config);
    moeblock_context_destroy(&rank.context);
}

static void run(struct trial *trial, mesh_tamper tamper, void *user)
{
    struct mesh_double *mesh = mesh_double_create(trial->side, trial->side);
    mesh_double_tamper(mesh, tamper, user);
    mesh_double_run(mesh, body, trial);
    mesh_double_destroy(mesh);
}

// The same code and text on all ranks but `except`, with the parts in it; whether the mesh is dead then.
static void expect(const struct trial *trial, int except, moeblock_status code, int dead, const char *part,
                   const char *other)
{
    const char *first = NULL;
    for (int r = 0; r < ranks_of(trial); r++) {
        if (r == except) continue;
        const char *const text = trial->errors[r].message;
        if (trial->errors[r].code != code)
            fail_msg("rank %d: %s: %s", r, moeblock_status_name(trial->errors[r].code), text);
        if (!first) first = text;
        assert_string_equal(text, first);
        if (!strstr(text, part) || !strstr(text, other)) fail_msg("rank %d: %s", r, text);
        assert_int_equal(trial->dead[r], dead);
    }
}

// A second forward follows the first, all ranks take part, nothing is wrong yet.
static struct trial usual(void)
{
    return (struct trial){.side = 2, .absent = -1, .bad_call = -1, .bad_id = -2, .deadline = 20, .twice = true};
}

static void nothing_wrong(void **state)
{
    (void)state;
    struct trial trial = usual();
    run(&trial, NULL, NULL);
    for (int r = 0; r < ranks_of(&trial); r++) {
        assert_string_equal(trial.errors[r].message, "");
        assert_string_equal(trial.again[r].message, "");
    }
}

// An error of one rank's arguments, and one in the middle of the flow; the mesh lives on.
static void a_rank_fails(void **state)
{
    (void)state;
    struct trial wrong = usual();
    wrong.bad_call = 3;
    struct trial duplicate = usual();
    duplicate.bad_id = 0;
    struct trial outside = usual();
    outside.bad_id = 12345;
    run(&wrong, NULL, NULL);
    expect(&wrong, -1, MOEBLOCK_INVALID_ARGUMENT, 0, "rank 3: ", "y differs in shape");
    run(&duplicate, NULL, NULL);
    expect(&duplicate, -1, MOEBLOCK_INVALID_ARGUMENT, 0, "rank 2: ", "a second time");
    run(&outside, NULL, NULL);
    expect(&outside, -1, MOEBLOCK_INVALID_ARGUMENT, 0, "rank 2: ", "12345");
    for (int r = 0; r < ranks_of(&wrong); r++) {
        assert_string_equal(wrong.again[r].message, "");
        assert_string_equal(duplicate.again[r].message, "");
        assert_string_equal(outside.again[r].message, "");
    }
}

static void ranks_differ(void **state)
{
    (void)state;
    static const char *const key[] = {"router.config.routed_scaling_factor=2.25"};
    static const char *const name[] = {"weights.names.down=elsewhere.{expert}"};
    struct trial config = usual();
    config.set_of_rank_1 = key;
    config.n_set = 1;
    struct trial tensors = usual();
    tensors.set_of_rank_1 = name;
    tensors.n_set = 1;
    run(&config, NULL, NULL);
    expect(&config, -1, MOEBLOCK_MISMATCH, 0, "router.config.routed_scaling_factor = 2.25", "rank 0 has");
    run(&tensors, NULL, NULL);
    expect(&tensors, -1, MOEBLOCK_MISMATCH, 0, "weights.names.down", "elsewhere");
}

// A rank that never comes: the others name it, in time, and the mesh is dead for good.
static void a_rank_stays_away(void **state)
{
    (void)state;
    static const struct {
        int side, absent;
    } tries[] = {{2, 1}, {2, 0}, {4, 5}, {4, 15}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        char name[32];
        struct trial trial = usual();
        trial.side = tries[i].side;
        trial.absent = tries[i].absent;
        trial.deadline = 1;
        run(&trial, NULL, NULL);
        snprintf(name, sizeof name, "for rank %d to", trial.absent);
        expect(&trial, trial.absent, MOEBLOCK_TIMEOUT, 1, name, "dead");
        for (int r = 0; r < ranks_of(&trial); r++) {
            if (r == trial.absent) continue;
            assert_true(trial.seconds[r] < trial.deadline + 5);
            assert_string_equal(trial.again[r].message, trial.errors[r].message);
        }
    }
}

// Messages to rank 0 from the rank below it in its column, of the dispatch.
struct fault {
    int from;
    moeblock_traffic_step step;
    enum { LOSE, HEADER_ROWS, HEADER_BYTES, SEQUENCE, COUNTS, SHORTEN, LATE } kind;
    bool payload; // the message after the header is meant
    double delay, due;
};

static bool meddle(void *user, struct mesh_message *message)
{
    struct fault *fault = user;
    struct mb_header header = {.magic = 0};
    if (message->tag != 0 || message->from != fault->from || message->to != 0) return true;
    if (message->bytes == sizeof header) memcpy(&header, message->data, sizeof header);
    const bool is_header = message->bytes == sizeof header && header.magic == 0x6d6f6562;
    if (is_header) fault->payload = header.step == (uint16_t)fault->step;
    if (fault->kind == LATE && (is_header ? header.step == (uint16_t)fault->step : fault->payload)) {
        message->delay = fault->delay;
        fault->due = mb_seconds() + fault->delay;
    }
    if (!is_header && fault->payload && fault->kind == COUNTS) memset(message->data, 0x7f, message->bytes);
    if (!is_header && fault->payload && fault->kind == SHORTEN) message->bytes /= 2;
    if (!is_header && fault->payload && fault->kind == LOSE) return false;
    if (!is_header || header.step != (uint16_t)fault->step) return true;
    header.rows += fault->kind == HEADER_ROWS;
    header.bytes += fault->kind == HEADER_BYTES ? 1u << 30 : 0;
    header.sequence += fault->kind == SEQUENCE;
    memcpy(message->data, &header, sizeof header);
    return fault->kind != LOSE;
}

// On 2 x 2 ranks and on 4 x 4.
static void messages_go_wrong(void **state)
{
    (void)state;
    static const struct {
        struct fault fault;
        moeblock_status code;
        int dead;
        const char *part, *other;
    } tries[] = {
        {{.step = MOEBLOCK_TRAFFIC_DISPATCH, .kind = LOSE}, MOEBLOCK_MISMATCH, 1, "is at exchange 2", "expected 1"},
        {{.step = MOEBLOCK_TRAFFIC_COMBINE, .kind = LOSE}, MOEBLOCK_TIMEOUT, 1, "combine", "rank 0: "},
        {{.step = MOEBLOCK_TRAFFIC_DISPATCH, .kind = SEQUENCE}, MOEBLOCK_MISMATCH, 1, "is at", "same order"},
        {{.step = MOEBLOCK_TRAFFIC_DISPATCH, .kind = HEADER_BYTES}, MOEBLOCK_MISMATCH, 1, "announces", "at most"},
        {{.step = MOEBLOCK_TRAFFIC_DISPATCH, .kind = SHORTEN}, MOEBLOCK_MISMATCH, 1, "sent", "announced"},
        {{.step = MOEBLOCK_TRAFFIC_DISPATCH, .kind = HEADER_ROWS},
         MOEBLOCK_MISMATCH,
         0,
         "dispatching rows",
         "do not fit"},
        {{.step = MOEBLOCK_TRAFFIC_DISPATCH, .kind = COUNTS}, MOEBLOCK_MISMATCH, 0, "dispatching rows", "do not fit"},
    };
    for (int side = 2; side <= 4; side += 2) {
        for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
            char sender[32];
            struct fault fault = tries[i].fault;
            struct trial trial = usual();
            trial.side = side;
            trial.deadline = 1;
            fault.from = side;
            run(&trial, meddle, &fault);
            expect(&trial, -1, tries[i].code, tries[i].dead, tries[i].part, tries[i].other);
            snprintf(sender, sizeof sender, "rank %d ", fault.from);
            if (trial.dead[0] && !strstr(trial.errors[0].message, sender)) fail_msg("%s", trial.errors[0].message);
            for (int r = 0; r < ranks_of(&trial); r++) assert_true(trial.seconds[r] < trial.deadline + 5);
        }
    }
}

// While remote rows travel, own rows and the shared expert are computed: done before the first remote row is there.
static void travel_is_hidden(void **state)
{
    (void)state;
    struct fault late = {.step = MOEBLOCK_TRAFFIC_DISPATCH, .kind = LATE, .from = 2, .delay = 0.6};
    struct trial trial = usual();
    run(&trial, meddle, &late);
    for (int r = 0; r < ranks_of(&trial); r++) assert_string_equal(trial.errors[r].message, "");
    assert_true(trial.seconds[0] >= late.delay);
    assert_true(trial.waited_at[0] > 0 && trial.waited_at[0] < late.due);
}

static int begin(void **state)
{
    (void)state;
    golden_open("deepseek_v3-bf16", &golden);
    return golden.hidden > HIDDEN_MOST || golden.tokens < TOKENS;
}

static int end(void **state)
{
    (void)state;
    golden_close(&golden);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_wrong),     cmocka_unit_test(a_rank_fails),      cmocka_unit_test(ranks_differ),
        cmocka_unit_test(a_rank_stays_away), cmocka_unit_test(messages_go_wrong), cmocka_unit_test(travel_is_hidden),
    };
    return cmocka_run_group_tests_name("mesh faults", tests, begin, end);
}
