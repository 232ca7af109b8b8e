// SPDX-License-Identifier: Apache-2.0
// Making contexts: options, levels, allocation failures, the host's own parallel-for, registered names, the log.
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/context.h"
#include "base/team.h"
#include "cmocka.h"
#include "moeblock/moeblock.h"

static int forget_environment(void **state)
{
    (void)state;
    return unsetenv("MOEBLOCK_CPU");
}

static void assert_refused(const moeblock_context_options *options, moeblock_status status, const char *part)
{
    moeblock_context *context = (moeblock_context *)(uintptr_t)64;
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(moeblock_context_create(options, &context, &error), status);
    assert_null(context);
    assert_int_equal(error.code, status);
    if (!strstr(error.message, part)) fail_msg("\"%s\" lacks \"%s\"", error.message, part);
    assert_int_equal(moeblock_context_create(options, &context, NULL), status);
}

static void test_defaults(void **state)
{
    (void)state;
    moeblock_context *context;
    moeblock_error error;
    assert_int_equal(moeblock_context_create(NULL, &context, &error), MOEBLOCK_OK);
    assert_int_equal(moeblock_context_threads(context), mb_cpus_allowed());
    assert_true(strlen(moeblock_context_level(context)) > 0);
    moeblock_context_destroy(&context);
    assert_null(context);
    moeblock_context_destroy(&context);
    moeblock_context_destroy(NULL);
    assert_int_equal(moeblock_context_create(NULL, NULL, &error), MOEBLOCK_INVALID_ARGUMENT);
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", MOEBLOCK_VERSION_MAJOR, MOEBLOCK_VERSION_MINOR,
             MOEBLOCK_VERSION_PATCH);
    assert_string_equal(moeblock_version(), version);
}

static void test_struct_size(void **state)
{
    (void)state;
    moeblock_context_options options = {.threads = 3};
    assert_refused(&options, MOEBLOCK_INVALID_ARGUMENT, "moeblock_context_options: struct_size is 0");
    moeblock_context *context;
    // A caller from before cpu_level: what stands behind the size is not read.
    options.struct_size = offsetof(moeblock_context_options, cpu_level);
    options.cpu_level = "no such level";
    assert_int_equal(moeblock_context_create(&options, &context, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_context_threads(context), 3);
    moeblock_context_destroy(&context);
    struct {
        moeblock_context_options known;
        int64_t unknown;
    } newer = {{.struct_size = sizeof newer}, 0};
    assert_int_equal(moeblock_context_create(&newer.known, &context, NULL), MOEBLOCK_OK);
    moeblock_context_destroy(&context);
    newer.unknown = 1;
    assert_refused(&newer.known, MOEBLOCK_UNSUPPORTED, "knows only the first");
}

static void ignore_run(void *user, int64_t count, moeblock_task task, void *argument)
{
    (void)user, (void)count, (void)task, (void)argument;
}

static void test_options_out_of_range(void **state)
{
    (void)state;
    const moeblock_allocator allocator = {NULL, mb_default_allocator.allocate, NULL};
    const moeblock_parallel no_run = {NULL, 2, NULL}, no_workers = {NULL, 0, ignore_run}, two = {NULL, 2, ignore_run};
    const moeblock_context_options cases[] = {
        {.threads = -1},       {.threads = 4097},         {.allocator = &allocator},
        {.parallel = &no_run}, {.parallel = &no_workers}, {.parallel = &two, .threads = 3},
    };
    static const char *const messages[] = {
        "threads is -1", "threads is 4097",          "the allocator lacks allocate or release",
        "no run call",   "a run call and 0 workers", "threads is 3 but parallel brings 2 workers",
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        moeblock_context_options options = cases[i];
        options.struct_size = sizeof options;
        assert_refused(&options, MOEBLOCK_INVALID_ARGUMENT, messages[i]);
    }
}

static void test_levels(void **state)
{
    (void)state;
    int usable = -1, levels = 0;
    const char *reason = NULL, *name;
    for (; (name = moeblock_level(levels, &usable, &reason)); levels++) {
        assert_true(strlen(name) > 0);
        assert_in_range(usable, 0, 1);
        assert_non_null(reason);
        const moeblock_context_options options = {.struct_size = sizeof options, .threads = 1, .cpu_level = name};
        if (!usable) {
            assert_refused(&options, MOEBLOCK_UNSUPPORTED, name);
            continue;
        }
        moeblock_context *context;
        assert_int_equal(moeblock_context_create(&options, &context, NULL), MOEBLOCK_OK);
        assert_string_equal(moeblock_context_level(context), name);
        moeblock_context_destroy(&context);
    }
    assert_true(levels >= 1);
    assert_string_equal(moeblock_level(0, NULL, NULL), "ref");
    assert_null(moeblock_level(-1, &usable, &reason));
    assert_int_equal(usable, 0);
    assert_null(moeblock_level(1000, NULL, NULL));
}

static void test_level_from_the_environment(void **state)
{
    (void)state;
    moeblock_context *context;
    assert_int_equal(setenv("MOEBLOCK_CPU", "ref", 1), 0);
    assert_int_equal(moeblock_context_create(NULL, &context, NULL), MOEBLOCK_OK);
    assert_string_equal(moeblock_context_level(context), "ref");
    moeblock_context_destroy(&context);

    assert_int_equal(setenv("MOEBLOCK_CPU", "z80\n", 1), 0);
    assert_refused(NULL, MOEBLOCK_UNSUPPORTED, "MOEBLOCK_CPU");
    assert_refused(NULL, MOEBLOCK_UNSUPPORTED, "z80\\x0a");
    const moeblock_context_options options = {.struct_size = sizeof options, .cpu_level = "ref"};
    assert_int_equal(moeblock_context_create(&options, &context, NULL), MOEBLOCK_OK); // the option comes first
    moeblock_context_destroy(&context);

    assert_int_equal(setenv("MOEBLOCK_CPU", "", 1), 0);
    assert_int_equal(moeblock_context_create(NULL, &context, NULL), MOEBLOCK_OK);
    moeblock_context_destroy(&context);
}

static void test_level_that_does_not_exist(void **state)
{
    (void)state;
    const moeblock_context_options options = {.struct_size = sizeof options, .cpu_level = "z80"};
    assert_refused(&options, MOEBLOCK_UNSUPPORTED, "\"z80\"");
}

// Lets `left` allocations succeed.
struct purse {
    int left, blocks;
};

static void *spend(void *user, size_t bytes, size_t alignment)
{
    struct purse *purse = user;
    void *memory = NULL;
    if (purse->left-- <= 0 || posix_memalign(&memory, alignment, bytes) != 0) return NULL;
    purse->blocks++;
    return memory;
}

static void take_back(void *user, void *memory, size_t bytes)
{
    (void)bytes;
    ((struct purse *)user)->blocks--;
    free(memory);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    moeblock_status status = MOEBLOCK_OUT_OF_MEMORY;
    for (int allowed = 0; status != MOEBLOCK_OK; allowed++) {
        assert_true(allowed < 1000);
        struct purse purse = {allowed, 0};
        const moeblock_allocator allocator = {&purse, spend, take_back};
        const moeblock_context_options options = {.struct_size = sizeof options, .threads = 2, .allocator = &allocator};
        moeblock_context *context;
        moeblock_error error = {MOEBLOCK_OK, ""};
        status = moeblock_context_create(&options, &context, &error);
        if (status != MOEBLOCK_OK) {
            assert_int_equal(status, MOEBLOCK_OUT_OF_MEMORY);
            assert_true(strlen(error.message) > 10);
            assert_null(context);
        }
        moeblock_context_destroy(&context);
        assert_int_equal(purse.blocks, 0);
    }
}

struct host {
    int runs;
    int64_t sum;
};

static void run_backwards(void *user, int64_t count, moeblock_task task, void *argument)
{
    ((struct host *)user)->runs++;
    for (int64_t i = count - 1; i >= 0; i--) task(argument, i, (int)(i % 2));
}

static void add_index(void *argument, int64_t index, int worker)
{
    assert_in_range(worker, 0, 1);
    ((struct host *)argument)->sum += index + 1;
}

static void test_a_hosts_parallel_for(void **state)
{
    (void)state;
    struct host host = {0, 0};
    const moeblock_parallel parallel = {&host, 2, run_backwards};
    const moeblock_context_options options = {.struct_size = sizeof options, .parallel = &parallel};
    moeblock_context *context;
    assert_int_equal(moeblock_context_create(&options, &context, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_context_threads(context), 2);
    mb_parallel(context, 10, add_index, &host);
    assert_int_equal(host.sum, 55);
    assert_int_equal(host.runs, 1);
    mb_parallel(context, 1, add_index, &host);
    assert_int_equal(host.sum, 56);
    mb_parallel(context, 0, add_index, &host);
    assert_int_equal(host.sum, 56);
    moeblock_context_destroy(&context);
}

static moeblock_status make_nothing(void *user, const moeblock_router_build *build, void **self, moeblock_error *error)
{
    (void)user, (void)build, (void)self, (void)error;
    return MOEBLOCK_OK;
}
static void destroy_nothing(void *self) { (void)self; }
static int need_nothing(const void *self, int64_t layer, int i, moeblock_tensor_need *out)
{
    (void)self, (void)layer, (void)i, (void)out;
    return 0;
}
static moeblock_status load_nothing(void *self, moeblock_weights *weights, int64_t layer, moeblock_error *error)
{
    (void)self, (void)weights, (void)layer, (void)error;
    return MOEBLOCK_OK;
}
static int64_t no_width(const void *self)
{
    (void)self;
    return 0;
}
static size_t no_scratch(const void *self)
{
    (void)self;
    return 0;
}
static moeblock_status select_nothing(const void *self, const moeblock_router_input *input, const float *logits,
                                      int64_t stride, int32_t *ids, float *weights, moeblock_error *error)
{
    (void)self, (void)input, (void)logits, (void)stride, (void)ids, (void)weights, (void)error;
    return MOEBLOCK_OK;
}

static const moeblock_router_class sample_router = {
    .struct_size = sizeof sample_router,
    .create = make_nothing,
    .destroy = destroy_nothing,
    .need = need_nothing,
    .load = load_nothing,
    .width = no_width,
    .scratch_bytes = no_scratch,
    .select = select_nothing,
};

static void assert_router_refused(moeblock_context *context, const char *name, const moeblock_router_class *router,
                                  moeblock_status status, const char *part)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    assert_int_equal(moeblock_register_router(context, name, router, NULL, &error), status);
    if (!strstr(error.message, part)) fail_msg("\"%s\" lacks \"%s\"", error.message, part);
}

static void test_registering_routers(void **state)
{
    (void)state;
    moeblock_context *context, *other;
    const moeblock_context_options options = {.struct_size = sizeof options, .threads = 1};
    assert_int_equal(moeblock_context_create(&options, &context, NULL), MOEBLOCK_OK);
    assert_int_equal(moeblock_context_create(&options, &other, NULL), MOEBLOCK_OK);
    int user = 0;
    moeblock_router_class router = sample_router;
    assert_int_equal(moeblock_register_router(context, "mine", &router, &user, NULL), MOEBLOCK_OK);
    memset(&router, 0, sizeof router); // the class was copied
    const struct mb_registered *found = mb_registered_find(context, MB_ROUTER_KIND, "mine");
    assert_non_null(found);
    assert_ptr_equal(found->user, &user);
    assert_memory_equal(found->class_copy, &sample_router, sizeof sample_router);
    assert_null(mb_registered_find(context, MB_EXPERT_KIND, "mine"));
    assert_null(mb_registered_find(other, MB_ROUTER_KIND, "mine"));
    assert_non_null(mb_registered_find(other, MB_ROUTER_KIND, "moe_gate"));

    const moeblock_status invalid = MOEBLOCK_INVALID_ARGUMENT;
    assert_router_refused(context, "mine", &sample_router, invalid, "the name \"mine\" is taken");
    assert_router_refused(context, "moe_gate", &sample_router, invalid, "the name \"moe_gate\" is taken");
    assert_router_refused(context, "", &sample_router, invalid, "its name is empty");
    assert_router_refused(context, NULL, &sample_router, invalid, "its name is empty");
    assert_router_refused(context, "x", NULL, invalid, "NULL");
    assert_router_refused(NULL, "x", &sample_router, invalid, "NULL");
    assert_router_refused(context, "x", &router, invalid, "struct_size is 0");
    router = sample_router;
    router.select = NULL;
    assert_router_refused(context, "x", &router, invalid, "lacks the call select");
    router = sample_router;
    router.struct_size = offsetof(moeblock_router_class, select);
    assert_router_refused(context, "x", &router, invalid, "lacks the call select");
    char name[65];
    memset(name, 'n', 64);
    name[64] = '\0';
    assert_router_refused(context, name, &sample_router, invalid, "has 64 bytes; at most 63");
    assert_int_equal(moeblock_register_router(context, name + 1, &sample_router, NULL, NULL), MOEBLOCK_OK);
    assert_non_null(mb_registered_find(context, MB_ROUTER_KIND, name + 1));
    moeblock_context_destroy(&context);
    moeblock_context_destroy(&other);
}

static void test_registering_experts(void **state)
{
    (void)state;
    moeblock_context *context;
    moeblock_error error;
    assert_int_equal(moeblock_context_create(NULL, &context, NULL), MOEBLOCK_OK);
    const struct mb_registered *built_in = context->registry[MB_EXPERT_KIND];
    assert_non_null(built_in);
    const moeblock_expert_class *class = built_in->class_copy;
    assert_int_equal(moeblock_register_expert(context, "mine", class, NULL, &error), MOEBLOCK_OK);
    assert_int_equal(moeblock_register_expert(context, "mine", class, NULL, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "an expert kind: the name \"mine\" is taken"));
    moeblock_expert_class partial = *class;
    partial.outer = NULL;
    assert_int_equal(moeblock_register_expert(context, "x", &partial, NULL, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_non_null(strstr(error.message, "registering an expert kind \"x\": its class lacks the call outer"));
    assert_int_equal(moeblock_register_expert(context, "x", NULL, NULL, &error), MOEBLOCK_INVALID_ARGUMENT);
    moeblock_context_destroy(&context);
}

static void keep_line(void *user, const char *line) { snprintf(user, 256, "%s", line); }

static void test_log(void **state)
{
    (void)state;
    char line[256] = "";
    const moeblock_context_options options = {
        .struct_size = sizeof options, .threads = 1, .log = keep_line, .log_user = line};
    moeblock_context *context;
    assert_int_equal(moeblock_context_create(&options, &context, NULL), MOEBLOCK_OK);
    mb_log_line(context, "%d of %s", 3, "a\nb");
    assert_string_equal(line, "3 of a\\x0ab");
    moeblock_context_destroy(&context);
    assert_int_equal(moeblock_context_create(NULL, &context, NULL), MOEBLOCK_OK);
    mb_log_line(context, "nobody listens");
    moeblock_context_destroy(&context);
}

static void do_nothing(void *argument, int64_t index, int worker) { (void)argument, (void)index, (void)worker; }

// No stack of the size that this child asks for can be mapped.
static int log_a_shortage(void)
{
    char line[256] = "";
    const moeblock_context_options options = {
        .struct_size = sizeof options, .threads = 5, .log = keep_line, .log_user = line};
    moeblock_context *context;
    pthread_attr_t impossible;
    if (pthread_attr_init(&impossible) != 0 || pthread_attr_setstacksize(&impossible, (size_t)1 << 48) != 0 ||
        pthread_setattr_default_np(&impossible) != 0) {
        return 2;
    }
    if (moeblock_context_create(&options, &context, NULL) != MOEBLOCK_OK) return 3;
    mb_parallel(context, 10, do_nothing, NULL);
    if (moeblock_context_threads(context) != 1) return 4;
    moeblock_context_destroy(&context);
    return strcmp(line, "threads: 1 could be created, 5 were wanted") == 0 ? 0 : 5;
}

static void test_a_shortage_of_threads_is_logged(void **state)
{
    (void)state;
    const pid_t child = fork();
    if (child == 0) _exit(log_a_shortage());
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_struct_size),
        cmocka_unit_test(test_options_out_of_range),
        cmocka_unit_test(test_levels),
        cmocka_unit_test_setup_teardown(test_level_from_the_environment, forget_environment, forget_environment),
        cmocka_unit_test_setup(test_level_that_does_not_exist, forget_environment),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_a_hosts_parallel_for),
        cmocka_unit_test(test_registering_routers),
        cmocka_unit_test(test_registering_experts),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_a_shortage_of_threads_is_logged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
