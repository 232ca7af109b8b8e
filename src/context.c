// SPDX-License-Identifier: Apache-2.0
// The context's life and what may be registered in it.
#include "base/context.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/options.h"
#include "base/status.h"
#include "base/team.h"
#include "experts/expert.h"
#include "kernels/kernels.h"
#include "moeblock/moeblock.h"
#include "routers/router.h"

#define TEXT_OF(number) #number
#define DOTTED(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

enum { MOST_THREADS = 4096 }; // a larger number is a mistake, not a machine

const char *moeblock_version(void)
{
    return DOTTED(MOEBLOCK_VERSION_MAJOR, MOEBLOCK_VERSION_MINOR, MOEBLOCK_VERSION_PATCH);
}

static moeblock_status check_options(const moeblock_context_options *options, moeblock_error *error)
{
    const moeblock_allocator *allocator = options->allocator;
    const moeblock_parallel *parallel = options->parallel;
    if (options->threads < 0 || options->threads > MOST_THREADS) {
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "creating a context: threads is %d; allowed are 0 (the CPUs of the affinity mask) to %d",
                       options->threads, MOST_THREADS);
    }
    if (allocator && (!allocator->allocate || !allocator->release)) {
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "creating a context: the allocator lacks allocate or release; set both");
    }
    if (parallel && (!parallel->run || parallel->workers < 1 || parallel->workers > MOST_THREADS)) {
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "creating a context: parallel has %s and %d workers; it needs a run call and 1 to %d workers",
                       parallel->run ? "a run call" : "no run call", parallel->workers, MOST_THREADS);
    }
    if (parallel && options->threads != 0 && options->threads != parallel->workers) {
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT,
                       "creating a context: threads is %d but parallel brings %d workers; leave threads at 0",
                       options->threads, parallel->workers);
    }
    return MOEBLOCK_OK;
}

// The level asked for in the options, else in the environment, else the best.
static moeblock_status choose_kernels(moeblock_context *context, const char *asked, moeblock_error *error)
{
    const char *const from_environment = asked ? NULL : getenv("MOEBLOCK_CPU");
    const bool use_environment = from_environment && *from_environment;
    moeblock_error reason = {MOEBLOCK_OK, ""};
    context->kernels = mb_kernels_select(use_environment ? from_environment : asked, &reason);
    if (context->kernels) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_UNSUPPORTED, "creating a context%s: %s",
                   use_environment ? " (level from the environment's MOEBLOCK_CPU)" : "", reason.message);
}

static moeblock_status fill(moeblock_context *context, const moeblock_context_options *options, moeblock_error *error)
{
    context->log = options->log;
    context->log_user = options->log_user;
    if (options->parallel) {
        context->parallel = *options->parallel;
    } else {
        const int threads = options->threads ? options->threads : mb_cpus_allowed();
        context->team = mb_team_create(&context->allocator, threads < MOST_THREADS ? threads : MOST_THREADS);
        if (!context->team) {
            return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating a context: no memory for a team of %d threads",
                           threads);
        }
    }
    context->prefers_int16 = mb_kernels_prefer_int16();
    context->prefers_bf16x2 = mb_kernels_prefer_bf16x2();
    MB_TRY(choose_kernels(context, options->cpu_level, error));
    MB_TRY(mb_routers_register(context, error));
    return mb_experts_register(context, error);
}

moeblock_status moeblock_context_create(const moeblock_context_options *options, moeblock_context **out,
                                        moeblock_error *error)
{
    if (!out) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "creating a context: out is NULL");
    *out = NULL;
    moeblock_context_options own;
    MB_TRY(mb_options_read(&own, sizeof own, options, "moeblock_context_options", error));
    MB_TRY(check_options(&own, error));
    const moeblock_allocator allocator = own.allocator ? *own.allocator : mb_default_allocator;
    moeblock_context *context = mb_alloc_zero(&allocator, sizeof *context);
    if (!context) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating a context: %zu bytes", sizeof *context);
    context->allocator = allocator;
    const moeblock_status status = fill(context, &own, error);
    if (status == MOEBLOCK_OK)
        *out = context;
    else
        moeblock_context_destroy(&context);
    return status;
}

void moeblock_context_destroy(moeblock_context **context)
{
    if (!context || !*context) return;
    moeblock_context *own = *context;
    *context = NULL;
    mb_registry_clear(own);
    mb_team_destroy(own->team);
    const moeblock_allocator allocator = own->allocator;
    mb_free(&allocator, own);
}

int moeblock_context_threads(const moeblock_context *context) { return context ? mb_workers(context) : 0; }

const char *moeblock_context_level(const moeblock_context *context) { return context ? context->kernels->name : ""; }

const char *moeblock_level(int i, int *usable, const char **reason)
{
    const struct mb_kernels *level = i < 0 ? NULL : mb_kernel_levels[0];
    for (int at = 0; level && at < i; at++) level = mb_kernel_levels[at + 1];
    const char *why = "";
    const bool runs = level && level->usable(&why);
    if (usable) *usable = runs;
    if (reason) *reason = why;
    return level ? level->name : NULL;
}

// One call that a class must have: its name and whether it is there.
struct required_call {
    const char *name;
    bool present;
};

static moeblock_status check_calls(const char *kind, const char *name, const struct required_call *calls, size_t count,
                                   moeblock_error *error)
{
    for (size_t i = 0; i < count; i++) {
        if (calls[i].present) continue;
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "registering %s \"%s\": its class lacks the call %s", kind,
                       name ? name : "", calls[i].name);
    }
    return MOEBLOCK_OK;
}

// What stands in for the calls that an outside kind may leave out: it has no tensors, no scratch, no logits.
static int need_no_tensor(const void *self, int64_t layer, int i, moeblock_tensor_need *out)
{
    (void)self, (void)layer, (void)i, (void)out;
    return 0;
}

static moeblock_status load_nothing(void *self, moeblock_weights *weights, int64_t layer, moeblock_error *error)
{
    (void)self, (void)weights, (void)layer, (void)error;
    return MOEBLOCK_OK;
}

static int64_t width_zero(const void *self)
{
    (void)self;
    return 0;
}

static size_t no_bytes(const void *self)
{
    (void)self;
    return 0;
}

moeblock_status moeblock_register_router(moeblock_context *context, const char *name,
                                         const moeblock_router_class *router, void *user, moeblock_error *error)
{
    if (!context || !router) {
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "registering a router kind: %s is NULL",
                       context ? "router" : "context");
    }
    moeblock_router_class own;
    MB_TRY(mb_options_read(&own, sizeof own, router, "moeblock_router_class", error));
    const struct required_call calls[] = {
        {"create", own.create},
        {"destroy", own.destroy},
        {"select", own.select},
        {"width (it has logits)", own.width || !own.logits},
    };
    MB_TRY(check_calls("a router kind", name, calls, sizeof calls / sizeof *calls, error));
    if (!own.need) own.need = need_no_tensor;
    if (!own.load) own.load = load_nothing;
    if (!own.scratch_bytes) own.scratch_bytes = no_bytes;
    if (!own.width) own.width = width_zero;
    return mb_register(context, MB_ROUTER_KIND, name, &own, sizeof own, user, error);
}

// The same for expert kinds: nothing to pack, any column range, and no inner phase.
static int need_no_expert_tensor(const void *self, int64_t layer, const char *format, int64_t i,
                                 moeblock_tensor_need *out)
{
    (void)self, (void)layer, (void)format, (void)i, (void)out;
    return 0;
}

static moeblock_status pack_nothing(void *self, int64_t item, moeblock_error *error)
{
    (void)self, (void)item, (void)error;
    return MOEBLOCK_OK;
}

static size_t no_scratch(const void *self, int64_t m)
{
    (void)self, (void)m;
    return 0;
}

static int64_t granule_one(const void *self)
{
    (void)self;
    return 1;
}

static moeblock_status no_inner(const void *self, const moeblock_expert_call *call, moeblock_error *error)
{
    (void)self, (void)call;
    return mb_fail(
        error, MOEBLOCK_INVALID_CONFIG,
        "running an outside expert kind: experts.distributed.intermediate_size is not 0, but the kind has no "
        "inner call; set the size to 0 or give the kind one");
}

moeblock_status moeblock_register_expert(moeblock_context *context, const char *name,
                                         const moeblock_expert_class *expert, void *user, moeblock_error *error)
{
    if (!context || !expert) {
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "registering an expert kind: %s is NULL",
                       context ? "expert" : "context");
    }
    moeblock_expert_class own;
    MB_TRY(mb_options_read(&own, sizeof own, expert, "moeblock_expert_class", error));
    const struct required_call calls[] = {
        {"create", own.create},
        {"destroy", own.destroy},
        {"open", own.open},
        {"outer", own.outer},
    };
    MB_TRY(check_calls("an expert kind", name, calls, sizeof calls / sizeof *calls, error));
    if (!own.need) own.need = need_no_expert_tensor;
    if (!own.pack) own.pack = pack_nothing;
    if (!own.packed_bytes) own.packed_bytes = no_bytes;
    if (!own.scratch_bytes) own.scratch_bytes = no_scratch;
    if (!own.granule) own.granule = granule_one;
    if (!own.inner) own.inner = no_inner;
    return mb_register(context, MB_EXPERT_KIND, name, &own, sizeof own, user, error);
}
