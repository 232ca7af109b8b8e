// SPDX-License-Identifier: Apache-2.0
// Router and expert kinds that a program registers: what they are given, what is checked, how their errors travel, and
// that a block made of them has the same bytes on any mesh, with any number of threads.
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka.h"
#include "mesh/mesh.h"
#include "support/mesh_double.h"
#include "support/outside_kinds.h"

// More than one task of columns in both phases, and sizes that no rank count divides.
enum { HIDDEN = 148, INNER = 136, EXPERTS = 5, TOP_K = 2, TOKENS = 21, TENSORS = 1 + 2 * EXPERTS };

static const char description[] =
    "{\"model\": {\"hidden_size\": 148, \"num_experts\": 5, \"num_experts_per_tok\": 2},"
    " \"router\": {\"type\": \"outside_router\", \"config\": {\"temperature\": 0.5, \"names\": [\"a\", \"b\"]}},"
    " \"experts\": {\"type\": \"outside_experts\", \"config\": {\"power\": 2},"
    "               \"distributed\": {\"intermediate_size\": 136}}}";

static float table[EXPERTS * HIDDEN], in[EXPERTS * INNER * HIDDEN], out[EXPERTS * HIDDEN * INNER];
static float x[TOKENS * HIDDEN];
static char names[TENSORS][32];
static moeblock_tensor tensors[TENSORS];
static const struct outside_tables tables = {HIDDEN, INNER, EXPERTS, TOP_K, table, in, out};

static void fill(float *to, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        to[i] = (float)(seed >> 8) / 16777216.0f - 0.5f;
    }
}

static int make_tensors(void **state)
{
    (void)state;
    fill(table, EXPERTS * HIDDEN, 1);
    fill(in, EXPERTS * INNER * HIDDEN, 2);
    fill(out, EXPERTS * HIDDEN * INNER, 3);
    fill(x, TOKENS * HIDDEN, 4);
    for (int t = 0; t < TOKENS; t++) x[t * HIDDEN] = (float)t;
    strcpy(names[0], "router.table");
    tensors[0] = (moeblock_tensor){names[0], MOEBLOCK_F32, 2, {EXPERTS, HIDDEN}, table, sizeof table};
    for (int e = 0; e < EXPERTS; e++) {
        char *name = names[1 + 2 * e];
        const size_t bytes = INNER * HIDDEN * sizeof(float);
        snprintf(name, sizeof *names, "experts.%d.in", e);
        tensors[1 + 2 * e] = (moeblock_tensor){name, MOEBLOCK_F32, 2, {INNER, HIDDEN}, in + e * INNER * HIDDEN, bytes};
        name = names[2 + 2 * e];
        snprintf(name, sizeof *names, "experts.%d.out", e);
        tensors[2 + 2 * e] = (moeblock_tensor){name, MOEBLOCK_F32, 2, {HIDDEN, INNER}, out + e * INNER * HIDDEN, bytes};
    }
    return 0;
}

// A block of the kinds above, or what stopped it.
struct made {
    moeblock_context *context;
    moeblock_config *config;
    moeblock_block *block;
    moeblock_workspace *workspace;
    moeblock_error error;
};

struct how {
    struct outside *test;
    const moeblock_expert_class *experts; // NULL: outside_splitting
    moeblock_mesh *mesh;
    const char *text; // NULL: the description above
    const char *const *set;
    size_t n_set;
    int threads;
    moeblock_compute compute;
    const moeblock_tensor *tensors; // NULL: those above
    size_t count;
};

static moeblock_status make(const struct how *how, struct made *made)
{
    const moeblock_context_options threads = {.struct_size = sizeof threads, .threads = how->threads};
    const moeblock_config_options options = {
        .struct_size = sizeof options, .layer = -1, .set = how->set, .n_set = how->n_set};
    const moeblock_block_options block = {.struct_size = sizeof block, .compute = how->compute};
    const moeblock_expert_class *experts = how->experts ? how->experts : &outside_splitting;
    const char *text = how->text ? how->text : description;
    *made = (struct made){.error = {MOEBLOCK_OK, ""}};
    moeblock_error *error = &made->error;
    moeblock_status status = moeblock_context_create(&threads, &made->context, error);
    if (!status) status = moeblock_register_router(made->context, "outside_router", &outside_router, how->test, error);
    if (!status) status = moeblock_register_expert(made->context, "outside_experts", experts, how->test, error);
    if (!status)
        status = moeblock_config_parse(made->context, text, strlen(text), "text", &options, &made->config, error);
    if (!status) status = moeblock_block_create(made->context, made->config, how->mesh, &block, &made->block, error);
    const moeblock_tensor *given = how->tensors ? how->tensors : tensors;
    if (!status) status = moeblock_block_load_weights(made->block, given, how->tensors ? how->count : TENSORS, error);
    if (!status) status = moeblock_workspace_create(made->block, TOKENS, NULL, 0, &made->workspace, error);
    return status;
}

static void make_well(const struct how *how, struct made *made)
{
    if (make(how, made)) fail_msg("%s", made->error.message);
}

static void unmake(struct made *made)
{
    moeblock_workspace_destroy(&made->workspace);
    moeblock_block_destroy(&made->block);
    moeblock_config_destroy(&made->config);
    moeblock_context_destroy(&made->context);
}

static void forward_well(const struct made *made, int64_t tokens, float *y)
{
    moeblock_error error;
    if (moeblock_forward(made->block, made->workspace, x, tokens, MOEBLOCK_PREFILL, y, &error))
        fail_msg("%s", error.message);
}

static void expect(moeblock_status status, moeblock_status wanted, const moeblock_error *error, const char *part)
{
    if (!strstr(error->message, part)) fail_msg("\"%s\" does not mention \"%s\"", error->message, part);
    assert_int_equal(status, wanted);
    assert_int_equal(error->code, wanted);
}

// --- registering -----------------------------------------------------------------------------------------------------

static void names_are_taken_once(void **state)
{
    (void)state;
    static const char *const routers[] = {"moe_gate", "grouped_topk", "topk", "linear", "mine"};
    static const char *const experts[] = {"distributed", "throughput", "mine"};
    struct outside test = {.granule = 1};
    moeblock_context *context;
    moeblock_error error;
    assert_int_equal(moeblock_context_create(NULL, &context, &error), MOEBLOCK_OK);
    assert_int_equal(moeblock_register_router(context, "mine", &outside_router, &test, &error), MOEBLOCK_OK);
    assert_int_equal(moeblock_register_expert(context, "mine", &outside_whole, &test, &error), MOEBLOCK_OK);
    for (size_t i = 0; i < sizeof routers / sizeof *routers; i++)
        expect(moeblock_register_router(context, routers[i], &outside_router, &test, &error), MOEBLOCK_INVALID_ARGUMENT,
               &error, routers[i]);
    for (size_t i = 0; i < sizeof experts / sizeof *experts; i++)
        expect(moeblock_register_expert(context, experts[i], &outside_whole, &test, &error), MOEBLOCK_INVALID_ARGUMENT,
               &error, experts[i]);
    moeblock_context_destroy(&context);
}

static void wrong_names_and_classes_are_refused(void **state)
{
    (void)state;
    char longest[80];
    memset(longest, 'n', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    moeblock_context *context;
    moeblock_error error;
    assert_int_equal(moeblock_context_create(NULL, &context, &error), MOEBLOCK_OK);
    const moeblock_status wanted = MOEBLOCK_INVALID_ARGUMENT;
    expect(moeblock_register_router(context, "", &outside_router, NULL, &error), wanted, &error, "empty");
    expect(moeblock_register_router(context, NULL, &outside_router, NULL, &error), wanted, &error, "empty");
    expect(moeblock_register_expert(context, longest, &outside_whole, NULL, &error), wanted, &error, "79 bytes");
    expect(moeblock_register_router(context, "mine", NULL, NULL, &error), wanted, &error, "NULL");
    expect(moeblock_register_expert(NULL, "mine", &outside_whole, NULL, &error), wanted, &error, "NULL");

    moeblock_router_class router = outside_router;
    router.select = NULL;
    expect(moeblock_register_router(context, "mine", &router, NULL, &error), wanted, &error, "select");
    router = outside_router;
    router.width = NULL;
    expect(moeblock_register_router(context, "mine", &router, NULL, &error), wanted, &error, "width");
    router = outside_router;
    router.struct_size = 0;
    expect(moeblock_register_router(context, "mine", &router, NULL, &error), wanted, &error, "struct_size");
    moeblock_expert_class experts = outside_splitting;
    experts.outer = NULL;
    expect(moeblock_register_expert(context, "mine", &experts, NULL, &error), wanted, &error, "outer");
    assert_int_equal(moeblock_register_router(context, "mine", &outside_router, NULL, &error), MOEBLOCK_OK);
    moeblock_context_destroy(&context);
}

static void unknown_types_say_what_to_do(void **state)
{
    (void)state;
    static const char *const settings[][2] = {
        {"router.type=grouped_topc", "router.type is \"grouped_topc\" (did you mean \"grouped_topk\"?), expected "
                                     "\"moe_gate\", \"grouped_topk\", \"topk\", \"linear\", \"sparsemixer\", "
                                     "\"capacity\", \"capacity_by_choice\", \"mlp_state\", \"joint\", "
                                     "\"product_keys\", \"token_type\", \"adjugate\", \"outside_router\", or"},
        {"router.type=mine", "router.type is \"mine\", expected \"moe_gate\""},
        {"experts.type=distribute",
         "experts.type is \"distribute\" (did you mean \"distributed\"?), expected "
         "\"distributed\", \"throughput\", \"banked\", \"post_normed\", \"outside_experts\", or"},
        {"experts.type=shared", "experts.type is \"shared\", expected \"distributed\""},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        struct outside test = {.granule = 1};
        struct made made;
        const moeblock_status status = make(&(struct how){.test = &test, .set = settings[i], .n_set = 1}, &made);
        expect(status, MOEBLOCK_INVALID_CONFIG, &made.error, settings[i][1]);
        expect(status, MOEBLOCK_INVALID_CONFIG, &made.error, "registered in this context");
        assert_null(made.block);
        unmake(&made);
    }
}

// --- what a kind is given --------------------------------------------------------------------------------------------

static void kinds_get_their_objects_and_sizes(void **state)
{
    (void)state;
    struct outside test = {.granule = 8};
    struct made made;
    make_well(&(struct how){.test = &test}, &made);
    assert_string_equal(test.router_json, "{\"temperature\":0.5,\"names\":[\"a\",\"b\"]}");
    assert_string_equal(test.expert_json, "{\"power\":2}");
    assert_int_equal(test.router_hidden, HIDDEN);
    assert_int_equal(test.router_experts, EXPERTS);
    assert_int_equal(test.router_top_k, TOP_K);
    assert_int_equal(test.expert_build.hidden, HIDDEN);
    assert_int_equal(test.expert_build.intermediate, INNER);
    assert_int_equal(test.expert_build.experts, EXPERTS);
    assert_int_equal(test.expert_build.shared, 0);
    assert_int_equal(test.expert_build.compute, MOEBLOCK_COMPUTE_F32);
    assert_int_equal(test.created, 2);
    unmake(&made);
    assert_int_equal(test.destroyed, 2);
}

static void absent_objects_are_empty(void **state)
{
    (void)state;
    struct outside test = {.granule = 1};
    struct made made;
    make_well(&(struct how){.test = &test,
                            .text =
                                "{\"model\": {\"hidden_size\": 148, \"num_experts\": 5, \"num_experts_per_tok\": 2},"
                                " \"router\": {\"type\": \"outside_router\"},"
                                " \"experts\": {\"type\": \"outside_experts\","
                                "               \"distributed\": {\"intermediate_size\": 136}}}"},
              &made);
    assert_string_equal(test.router_json, "{}");
    assert_string_equal(test.expert_json, "{}");
    unmake(&made);
}

// The second tensor and the token ids stand beside x in every tile and every chunk.
static void routers_see_all_inputs(void **state)
{
    (void)state;
    static const char *const set[] = {"chunking.moe_chunk_size=5", "router.config.input=aux"};
    struct outside test = {.granule = 1};
    struct made made;
    make_well(&(struct how){.test = &test, .set = set, .n_set = 2, .threads = 2}, &made);
    static float aux[TOKENS * HIDDEN], y[TOKENS * HIDDEN];
    int64_t token_ids[TOKENS];
    for (int t = 0; t < TOKENS; t++) token_ids[t] = t;
    for (int i = 0; i < TOKENS * HIDDEN; i++) aux[i] = -x[i];
    moeblock_forward_input input = {.struct_size = sizeof input,
                                    .mode = MOEBLOCK_PREFILL,
                                    .x = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {TOKENS, HIDDEN}, .data = x},
                                    .token_ids = token_ids};
    input.aux = input.x;
    input.aux.data = aux;
    moeblock_forward_output output = {.struct_size = sizeof output, .y = input.x};
    output.y.data = y;
    moeblock_error error;
    if (moeblock_block_forward(made.block, made.workspace, &input, &output, &error)) fail_msg("%s", error.message);
    assert_int_equal(test.broken_promises, 0);
    assert_true(test.token_ids_seen >= TOKENS / 5);
    assert_true(test.aux_seen >= TOKENS / 5);
    unmake(&made);
}

// --- errors ----------------------------------------------------------------------------------------------------------

static void missing_tensors_are_named(void **state)
{
    (void)state;
    static const int missing[] = {0, 6};
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++) {
        const moeblock_tensor kept = tensors[missing[i]];
        struct outside test = {.granule = 1};
        struct made made;
        tensors[missing[i]].name = "another";
        const moeblock_status status = make(&(struct how){.test = &test}, &made);
        tensors[missing[i]] = kept;
        expect(status, MOEBLOCK_NOT_FOUND, &made.error, kept.name);
        unmake(&made);
        assert_int_equal(test.created, test.destroyed);
    }
}

static int all_tensors(const void *self, int64_t layer, const char *format, int64_t i, moeblock_tensor_need *need)
{
    (void)self, (void)layer;
    assert_null(format);
    if (i >= TENSORS - 1) return 0;
    snprintf(need->name, sizeof need->name, "%s", names[1 + i]);
    return 1;
}

static int without_end(const void *self, int64_t layer, const char *format, int64_t i, moeblock_tensor_need *need)
{
    (void)self, (void)layer, (void)format, (void)i;
    snprintf(need->name, sizeof need->name, "%s", names[1]);
    return 1;
}

// A kind that lists its tensors is asked before it reads any.
static void all_missing_needs_are_named(void **state)
{
    (void)state;
    struct outside test = {.granule = 8};
    struct made made;
    moeblock_expert_class experts = outside_splitting;
    experts.need = all_tensors;
    make_well(&(struct how){.test = &test, .experts = &experts}, &made);
    unmake(&made);
    tensors[2].name = "another";
    tensors[7].name = "a third";
    moeblock_status status = make(&(struct how){.test = &test, .experts = &experts}, &made);
    tensors[2].name = names[2];
    tensors[7].name = names[7];
    expect(status, MOEBLOCK_NOT_FOUND, &made.error,
           "expert kind \"outside_experts\" needs 2 tensors that the checkpoint does not have: 'experts.0.out', "
           "'experts.3.in'");
    unmake(&made);
    experts.need = without_end;
    status = make(&(struct how){.test = &test, .experts = &experts}, &made);
    expect(status, MOEBLOCK_INTERNAL, &made.error, "needs more than 1048576 tensors");
    unmake(&made);
    assert_int_equal(test.created, test.destroyed);
}

// Every call's error comes back as it was given, from load or from forward, and nothing is left behind.
static void errors_keep_their_sentence(void **state)
{
    (void)state;
    for (int call = OUTSIDE_NO_CALL + 1; call < OUTSIDE_CALLS; call++) {
        struct outside test = {
            .granule = 8, .fails = (enum outside_call)call, .status = call % 2 ? MOEBLOCK_IO : MOEBLOCK_INVALID_CONFIG};
        static float y[TOKENS * HIDDEN];
        struct made made;
        moeblock_status status = make(&(struct how){.test = &test, .threads = 3}, &made);
        if (!status) status = moeblock_forward(made.block, made.workspace, x, TOKENS, MOEBLOCK_PREFILL, y, &made.error);
        expect(status, test.status, &made.error, outside_sentence);
        unmake(&made);
        assert_int_equal(test.created, test.destroyed);
    }
}

// A kind that gives no reason is named, with its call; so the caller always has a sentence.
static void silent_failures_get_a_sentence(void **state)
{
    (void)state;
    static const char *const calls[OUTSIDE_CALLS] = {
        [OUTSIDE_ROUTER_CREATE] = "router kind \"outside_router\" failed in create",
        [OUTSIDE_ROUTER_LOAD] = "router kind \"outside_router\" failed in load",
        [OUTSIDE_ROUTER_LOGITS] = "router kind \"outside_router\" failed in logits",
        [OUTSIDE_ROUTER_SELECT] = "router kind \"outside_router\" failed in select",
        [OUTSIDE_EXPERT_CREATE] = "expert kind \"outside_experts\" failed in create",
        [OUTSIDE_EXPERT_OPEN] = "expert kind \"outside_experts\" failed in open",
        [OUTSIDE_EXPERT_PACK] = "expert kind \"outside_experts\" failed in pack",
        [OUTSIDE_EXPERT_INNER] = "expert kind \"outside_experts\" failed in inner",
        [OUTSIDE_EXPERT_OUTER] = "expert kind \"outside_experts\" failed in outer",
    };
    for (int call = OUTSIDE_NO_CALL + 1; call < OUTSIDE_CALLS; call++) {
        struct outside test = {
            .granule = 8, .fails = (enum outside_call)call, .status = MOEBLOCK_NONFINITE, .silent = true};
        static float y[TOKENS * HIDDEN];
        struct made made;
        moeblock_status status = make(&(struct how){.test = &test, .threads = 2}, &made);
        if (!status) status = moeblock_forward(made.block, made.workspace, x, TOKENS, MOEBLOCK_PREFILL, y, &made.error);
        expect(status, MOEBLOCK_NONFINITE, &made.error, calls[call]);
        expect(status, MOEBLOCK_NONFINITE, &made.error, "with NONFINITE and gave no reason");
        unmake(&made);
        assert_int_equal(test.created, test.destroyed);
    }
}

static void a_failed_load_keeps_the_weights(void **state)
{
    (void)state;
    static const enum outside_call calls[] = {OUTSIDE_ROUTER_CREATE, OUTSIDE_ROUTER_LOAD, OUTSIDE_EXPERT_CREATE,
                                              OUTSIDE_EXPERT_OPEN, OUTSIDE_EXPERT_PACK};
    static float before[TOKENS * HIDDEN], after[TOKENS * HIDDEN];
    struct outside test = {.granule = 8, .status = MOEBLOCK_IO};
    struct made made;
    make_well(&(struct how){.test = &test}, &made);
    forward_well(&made, TOKENS, before);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        test.fails = calls[i];
        assert_int_equal(moeblock_block_load_weights(made.block, tensors, TENSORS, NULL), MOEBLOCK_IO);
        assert_int_equal(test.created - test.destroyed, 2);
        forward_well(&made, TOKENS, after);
        assert_memory_equal(before, after, sizeof before);
    }
    test.fails = OUTSIDE_EXPERT_OUTER; // a failed forward changes nothing either
    assert_int_equal(moeblock_forward(made.block, made.workspace, x, TOKENS, MOEBLOCK_DECODE, after, NULL),
                     MOEBLOCK_IO);
    test.fails = OUTSIDE_NO_CALL;
    forward_well(&made, TOKENS, after);
    assert_memory_equal(before, after, sizeof before);
    unmake(&made);
    assert_int_equal(test.created, test.destroyed);
}

static void wrong_ids_name_router_and_token(void **state)
{
    (void)state;
    static const char *const set[] = {"chunking.moe_chunk_size=6"};
    static const struct {
        int32_t ids[2];
        const char *found;
    } bad[] = {{{EXPERTS, 0}, "id 5"}, {{0, -2}, "id -2"}, {{3, 3}, "a second time"}, {{INT32_MIN, 1}, "-2147483648"}};
    static float marked[TOKENS * HIDDEN], y[TOKENS * HIDDEN];
    struct outside test = {.granule = 8};
    for (size_t chunked = 0; chunked < 2; chunked++) {
        struct made made;
        make_well(&(struct how){.test = &test, .set = set, .n_set = chunked, .threads = 2}, &made);
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            memcpy(marked, x, sizeof x);
            marked[17 * HIDDEN] = OUTSIDE_MARK;
            memcpy(test.bad_ids, bad[i].ids, sizeof test.bad_ids);
            moeblock_error error;
            const moeblock_status status =
                moeblock_forward(made.block, made.workspace, marked, TOKENS, MOEBLOCK_PREFILL, y, &error);
            expect(status, MOEBLOCK_INTERNAL, &error, "outside_router");
            expect(status, MOEBLOCK_INTERNAL, &error, "token 17");
            expect(status, MOEBLOCK_INTERNAL, &error, bad[i].found);
        }
        forward_well(&made, TOKENS, y); // the block and its workspace go on
        unmake(&made);
    }
}

// --- bytes -----------------------------------------------------------------------------------------------------------

static void expected(moeblock_compute compute, float *y)
{
    for (int t = 0; t < TOKENS; t++) outside_expected(&tables, compute, x + t * HIDDEN, y + t * HIDDEN);
}

static const moeblock_expert_class *const classes[] = {&outside_splitting, &outside_whole};
static const moeblock_compute computes[] = {MOEBLOCK_COMPUTE_F32, MOEBLOCK_COMPUTE_BF16};

static void one_process_has_the_bytes_of_plain_loops(void **state)
{
    (void)state;
    static const int64_t granules[] = {1, 8, 48, 64, 100, 1000};
    static float want[TOKENS * HIDDEN], y[TOKENS * HIDDEN];
    for (size_t i = 0; i < 4 * sizeof granules / sizeof *granules; i++) {
        struct outside test = {.granule = granules[i / 4]};
        const struct how how = {
            .test = &test, .experts = classes[i % 2], .compute = computes[i / 2 % 2], .threads = (int)(1 + i % 3)};
        struct made made;
        expected(how.compute, want);
        make_well(&how, &made);
        forward_well(&made, TOKENS, y);
        assert_memory_equal(y, want, sizeof want);
        assert_int_equal(test.broken_promises, 0);
        assert_true(test.inner_calls > 0 && test.outer_calls > 0);
        unmake(&made);
    }
}

// Far more columns of output than of activations: the work list of the outer phase is the longer one.
static void one_expert_of_a_wide_block(void **state)
{
    (void)state;
    enum { WIDE = 4000, ROWS = 16 };
    static const char text[] = "{\"model\": {\"hidden_size\": 4000, \"num_experts\": 1, \"num_experts_per_tok\": 1},"
                               " \"router\": {\"type\": \"outside_router\"},"
                               " \"experts\": {\"type\": \"outside_experts\","
                               "               \"distributed\": {\"intermediate_size\": 1}}}";
    static float values[3][WIDE], rows[ROWS * WIDE], y[ROWS * WIDE], want[WIDE];
    for (uint32_t i = 0; i < 3; i++) fill(values[i], WIDE, 10 + i);
    fill(rows, ROWS * WIDE, 13);
    const moeblock_tensor wide[] = {
        {"router.table", MOEBLOCK_F32, 2, {1, WIDE}, values[0], sizeof values[0]},
        {"experts.0.in", MOEBLOCK_F32, 2, {1, WIDE}, values[1], sizeof values[1]},
        {"experts.0.out", MOEBLOCK_F32, 2, {WIDE, 1}, values[2], sizeof values[2]},
    };
    const struct outside_tables wide_tables = {WIDE, 1, 1, 1, values[0], values[1], values[2]};
    struct outside test = {.granule = 8};
    struct made made;
    make_well(&(struct how){.test = &test, .text = text, .tensors = wide, .count = 3, .threads = 2}, &made);
    moeblock_error error;
    if (moeblock_forward(made.block, made.workspace, rows, ROWS, MOEBLOCK_DECODE, y, &error))
        fail_msg("%s", error.message);
    assert_int_equal(test.broken_promises, 0);
    for (int t = 0; t < ROWS; t++) {
        outside_expected(&wide_tables, MOEBLOCK_COMPUTE_F32, rows + t * WIDE, want);
        assert_memory_equal(y + t * WIDE, want, sizeof want);
    }
    unmake(&made);
}

struct scenario {
    const moeblock_expert_class *experts;
    moeblock_compute compute;
    bool sharded;
    const float *want;
};

static void rank_body(void *argument, moeblock_mesh *mesh)
{
    const struct scenario *scenario = argument;
    struct outside test = {.granule = 8};
    struct made made;
    make_well(
        &(struct how){
            .test = &test, .experts = scenario->experts, .mesh = mesh, .compute = scenario->compute, .threads = 1},
        &made);
    int64_t t0, t1, h0 = 0, h1 = HIDDEN;
    mb_split(TOKENS, mesh->rows, mesh->row, &t0, &t1);
    if (scenario->sharded) mb_split(HIDDEN, mesh->columns, mesh->column, &h0, &h1);
    const int64_t width = h1 - h0;
    float *mine = calloc((size_t)((t1 - t0) * width), sizeof *mine);
    for (int64_t t = t0; t < t1; t++)
        memcpy(mine + (t - t0) * width, x + t * HIDDEN + h0, (size_t)width * sizeof *mine);
    const moeblock_array array = {.dtype = MOEBLOCK_F32, .rank = 2, .dims = {t1 - t0, width}, .data = mine};
    const moeblock_forward_input input = {.struct_size = sizeof input, .mode = MOEBLOCK_PREFILL, .x = array};
    const moeblock_forward_output output = {.struct_size = sizeof output, .y = array}; // in place
    moeblock_error error;
    if (moeblock_block_forward(made.block, made.workspace, &input, &output, &error)) fail_msg("%s", error.message);
    for (int64_t t = t0; t < t1; t++)
        if (memcmp(mine + (t - t0) * width, scenario->want + t * HIDDEN + h0, (size_t)width * sizeof *mine))
            fail_msg("rank %d,%d of %d x %d: token %d has other bytes than one process", mesh->row, mesh->column,
                     mesh->rows, mesh->columns, (int)t);
    if (test.broken_promises) fail_msg("rank %d,%d: %d broken promises", mesh->row, mesh->column, test.broken_promises);
    free(mine);
    unmake(&made);
}

static void any_mesh_has_the_bytes_of_one_process(void **state)
{
    (void)state;
    static const int shapes[][2] = {{1, 2}, {2, 1}, {2, 2}, {3, 4}, {5, 1}};
    static float want[TOKENS * HIDDEN];
    for (size_t i = 0; i < 8 * sizeof shapes / sizeof *shapes; i++) {
        const int *shape = shapes[i / 8];
        struct scenario scenario = {classes[i % 2], computes[i / 2 % 2], (i & 4) && shape[1] > 1, want};
        expected(scenario.compute, want);
        struct mesh_double *mesh = mesh_double_create(shape[0], shape[1]);
        mesh_double_run(mesh, rank_body, &scenario);
        mesh_double_destroy(mesh);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_taken_once),
        cmocka_unit_test(wrong_names_and_classes_are_refused),
        cmocka_unit_test(unknown_types_say_what_to_do),
        cmocka_unit_test(kinds_get_their_objects_and_sizes),
        cmocka_unit_test(absent_objects_are_empty),
        cmocka_unit_test(routers_see_all_inputs),
        cmocka_unit_test(missing_tensors_are_named),
        cmocka_unit_test(all_missing_needs_are_named),
        cmocka_unit_test(errors_keep_their_sentence),
        cmocka_unit_test(silent_failures_get_a_sentence),
        cmocka_unit_test(a_failed_load_keeps_the_weights),
        cmocka_unit_test(wrong_ids_name_router_and_token),
        cmocka_unit_test(one_process_has_the_bytes_of_plain_loops),
        cmocka_unit_test(one_expert_of_a_wide_block),
        cmocka_unit_test(any_mesh_has_the_bytes_of_one_process),
    };
    return cmocka_run_group_tests_name("custom_kinds", tests, make_tensors, NULL);
}
