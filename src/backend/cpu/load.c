// SPDX-License-Identifier: Apache-2.0
// Loading: finds and checks every tensor first, then packs routed and shared experts in independent items on all
// threads.
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/arith.h"
#include "base/status.h"
#include "config/preset.h"
#include "config/tensors.h"

static bool may_be_int16(const moeblock_block *block) { return block->may_be_int16 && !block->config->second.count; }

moeblock_status mb_find_stored(const moeblock_block *block, moeblock_weights *weights, enum mb_projection map,
                               int64_t layer, struct mb_matrix *out, moeblock_error *error)
{
    const moeblock_config *config = block->config;
    const int64_t own = mb_min(block->share.e0, config->num_experts - 1);
    if (mb_projection_find(config, weights, map, layer, 0, out, NULL) == MOEBLOCK_OK) return MOEBLOCK_OK;
    return mb_projection_find(config, weights, map, layer, own, out, error);
}

// Whether AUTO is int16: where every linear map of the experts has integers, too.
static bool prefers_int16(const moeblock_block *block, moeblock_weights *weights, int64_t layer)
{
    static const enum mb_projection maps[] = {MB_PROJ_GATE,      MB_PROJ_UP,          MB_PROJ_DOWN,
                                              MB_PROJ_SHARED_UP, MB_PROJ_SHARED_GATE, MB_PROJ_SHARED_DOWN,
                                              MB_PROJ_LATENT_UP, MB_PROJ_LATENT_DOWN};
    if (!may_be_int16(block)) return false;
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        struct mb_matrix matrix;
        if (!mb_projection_wanted(block->config, maps[i])) continue;
        if (mb_find_stored(block, weights, maps[i], layer, &matrix, NULL) != MOEBLOCK_OK) return false;
        if (!mb_packed_has_integers(mb_format_table[matrix.format].packed)) return false;
    }
    return true;
}

// What AUTO stands for.
static moeblock_compute automatic(const moeblock_block *block, enum mb_format format, bool int16)
{
    if (mb_format_table[format].f32_compute) return MOEBLOCK_COMPUTE_F32;
    if (int16) return MOEBLOCK_COMPUTE_INT16;
    return block->may_be_bf16x2 ? MOEBLOCK_COMPUTE_BF16X2 : MOEBLOCK_COMPUTE_BF16;
}

// The compute type that AUTO stands for, and the stored format's name. An outside kind computes in float32 unless told.
static moeblock_status resolve_compute(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                                       struct mb_weight_set *set, moeblock_error *error)
{
    const moeblock_config *config = block->config;
    set->format = "outside";
    set->compute = block->requested == MOEBLOCK_COMPUTE_AUTO ? MOEBLOCK_COMPUTE_F32 : block->requested;
    const bool routed = block->routed_kind != NULL;
    if (routed ? !mb_expert_is_builtin(config->expert_type) : !block->shared_kind) {
        if (!routed || block->requested != MOEBLOCK_COMPUTE_INT16) return MOEBLOCK_OK;
        return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                       "loading for int16 compute: expert kind \"%s\" is the program's own and knows float rows only; "
                       "choose compute auto, f32 or bf16",
                       config->expert_type);
    }
    const enum mb_projection down = routed ? MB_PROJ_DOWN : MB_PROJ_SHARED_DOWN;
    struct mb_matrix matrix;
    MB_TRY(mb_find_stored(block, weights, down, layer, &matrix, error));
    set->format = mb_format_table[matrix.format].name;
    if (block->requested != MOEBLOCK_COMPUTE_AUTO) return MOEBLOCK_OK;
    set->compute = automatic(block, matrix.format, prefers_int16(block, weights, layer));
    return MOEBLOCK_OK;
}

static moeblock_status create_router(const moeblock_block *block, struct mb_weight_set *set, moeblock_error *error)
{
    if (!block->router_kind) return MOEBLOCK_OK;
    const moeblock_router_class *kind = block->router_kind->class_copy;
    const moeblock_config *config = block->config;
    const moeblock_router_build build = {
        .struct_size = sizeof build,
        .context = block->context,
        .config = config,
        .config_json = config->router_json ? config->router_json : "{}",
        .hidden = config->hidden_size,
        .experts = config->num_experts,
        .top_k = config->num_experts_per_tok,
        .second_experts = config->second.count,
        .slots = mb_all_slots(config),
    };
    const struct mb_registered *registered = block->router_kind;
    void *self = NULL;
    MB_TRY(mb_kind_status("router", registered, "create", kind->create(registered->user, &build, &self, error), error));
    set->router = self;
    return MOEBLOCK_OK;
}

static moeblock_status load_router(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                                   struct mb_weight_set *set, moeblock_error *error)
{
    if (!block->router_kind) return MOEBLOCK_OK;
    const moeblock_router_class *kind = block->router_kind->class_copy;
    MB_TRY(create_router(block, set, error));
    MB_TRY(mb_router_needs(block->router_kind, set->router, weights, layer, error));
    return mb_kind_status("router", block->router_kind, "load", kind->load(set->router, weights, layer, error), error);
}

static moeblock_status create_experts(const moeblock_block *block, bool shared, const struct mb_weight_set *set,
                                      void **self, moeblock_error *error)
{
    const struct mb_registered *registered = shared ? block->shared_kind : block->routed_kind;
    if (!registered) return MOEBLOCK_OK;
    const moeblock_expert_class *kind = registered->class_copy;
    const moeblock_config *config = block->config;
    const struct mb_share *share = &block->share;
    const struct mb_columns *columns = &set->columns;
    const bool outside = !shared && !mb_expert_is_builtin(config->expert_type);
    moeblock_expert_build build = {
        .struct_size = sizeof build,
        .context = block->context,
        .config = config,
        .config_json = config->expert_json ? config->expert_json : "{}",
        .shared = shared,
        .compute = outside && mb_has_bf16_rows(set->compute) ? MOEBLOCK_COMPUTE_BF16 : set->compute,
        .experts = shared ? 1 : mb_all_experts(config),
        .hidden = shared ? config->hidden_size : block->routed_width,
        .intermediate = shared ? config->shared.intermediate_size : config->routed.intermediate_size,
        .e0 = shared ? 0 : share->e0,
        .e1 = shared ? 1 : share->e1,
        .i0 = shared ? columns->s0 : columns->i0,
        .i1 = shared ? columns->s1 : columns->i1,
        .h0 = shared ? columns->h0 : columns->d0,
        .h1 = shared ? columns->h1 : columns->d1,
        .owns = !shared && share->owned < share->e1 - share->e0 ? block->owns + share->e0 : NULL,
        .rounds_apart = mb_set_rounds_apart(block, set),
        .partial = columns->sums,
    };
    if (!kind->splits) {
        build.i0 = build.h0 = 0;
        build.i1 = build.intermediate;
        build.h1 = build.hidden;
    }
    void *made = NULL;
    MB_TRY(mb_kind_status("expert", registered, "create", kind->create(registered->user, &build, &made, error), error));
    *self = made;
    return MOEBLOCK_OK;
}

static moeblock_status open_experts(const moeblock_block *block, bool shared, moeblock_weights *weights, int64_t layer,
                                    const struct mb_weight_set *set, void **self, int64_t *items, moeblock_error *error)
{
    const struct mb_registered *registered = shared ? block->shared_kind : block->routed_kind;
    *items = 0;
    if (!registered) return MOEBLOCK_OK;
    const moeblock_expert_class *kind = registered->class_copy;
    MB_TRY(create_experts(block, shared, set, self, error));
    MB_TRY(mb_expert_needs(registered, *self, weights, layer, error));
    MB_TRY(mb_kind_status("expert", registered, "open", kind->open(*self, weights, layer, items, error), error));
    if (*items >= 0) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_INTERNAL, "expert kind \"%s\" opened with %" PRId64 " items to pack, expected >= 0",
                   registered->name, *items);
}

struct packing {
    const moeblock_block *block;
    struct mb_weight_set *set;
    int64_t routed_items, items;
    const moeblock_load_options *options;
    pthread_mutex_t lock; // guards what follows
    int64_t done;
    moeblock_status status;
    moeblock_error *error;
};

// Counts the item, reports progress, keeps the first failure.
static void packed_one(struct packing *packing, moeblock_status status, const moeblock_error *error)
{
    pthread_mutex_lock(&packing->lock);
    packing->done++;
    const size_t total = packing->set->packed_bytes;
    if (packing->status == MOEBLOCK_OK && status != MOEBLOCK_OK)
        packing->status = mb_fail(packing->error, status, "%s", error->message);
    if (packing->status == MOEBLOCK_OK && packing->options && packing->options->progress) {
        const uint64_t bytes = (uint64_t)((double)total * (double)packing->done / (double)packing->items);
        if (packing->options->progress(packing->options->user, bytes, total))
            packing->status = mb_fail(packing->error, MOEBLOCK_CANCELLED, "loading weights: cancelled by the caller");
    }
    pthread_mutex_unlock(&packing->lock);
}

static bool may_go_on(struct packing *packing)
{
    pthread_mutex_lock(&packing->lock);
    const bool goes_on = packing->status == MOEBLOCK_OK;
    pthread_mutex_unlock(&packing->lock);
    return goes_on;
}

static void pack_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    struct packing *packing = argument;
    if (!may_go_on(packing)) return;
    const bool shared = index >= packing->routed_items;
    const struct mb_registered *registered = shared ? packing->block->shared_kind : packing->block->routed_kind;
    const moeblock_expert_class *kind = registered->class_copy;
    void *self = shared ? packing->set->shared : packing->set->routed;
    moeblock_error error = {MOEBLOCK_OK, ""};
    const moeblock_status status = kind->pack(self, index - (shared ? packing->routed_items : 0), &error);
    packed_one(packing, mb_kind_status("expert", registered, "pack", status, &error), &error);
}

static size_t packed_bytes_of(const struct mb_registered *registered, const void *self)
{
    return self ? ((const moeblock_expert_class *)registered->class_copy)->packed_bytes(self) : 0;
}

static moeblock_status load_experts(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                                    const moeblock_load_options *options, struct mb_weight_set *set,
                                    moeblock_error *error)
{
    struct packing packing = {.block = block, .set = set, .options = options, .error = error};
    int64_t shared_items;
    MB_TRY(open_experts(block, false, weights, layer, set, &set->routed, &packing.routed_items, error));
    MB_TRY(open_experts(block, true, weights, layer, set, &set->shared, &shared_items, error));
    packing.items = packing.routed_items + shared_items;
    const size_t routed_bytes = packed_bytes_of(block->routed_kind, set->routed);
    set->packed_bytes = routed_bytes + packed_bytes_of(block->shared_kind, set->shared);
    set->expert_packed_bytes = block->share.owned ? routed_bytes / (size_t)block->share.owned : 0;
    pthread_mutex_init(&packing.lock, NULL);
    mb_parallel(block->context, packing.items, pack_task, &packing);
    pthread_mutex_destroy(&packing.lock);
    return packing.status;
}

// NULL where the description does not call for it.
static moeblock_status load_vector(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                                   enum mb_role role, int64_t count, float **out, moeblock_error *error)
{
    if (!mb_role_wanted(block->config, role)) return MOEBLOCK_OK;
    *out = mb_alloc(&block->context->allocator, (size_t)count * sizeof **out);
    if (!*out) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading %s: no memory", mb_role_key(role));
    return mb_role_floats(block->config, weights, role, layer, count, *out, error);
}

static moeblock_status load_rest(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                                 struct mb_weight_set *set, moeblock_error *error)
{
    const moeblock_config *config = block->config;
    if (config->routed_enabled && config->latent_size) {
        MB_TRY(mb_latent_create(block->context, config, set->compute, mb_set_kernels(block, set), &set->latent, error));
        MB_TRY(mb_latent_load(set->latent, weights, layer, error));
        set->packed_bytes += mb_latent_packed_bytes(set->latent);
    }
    MB_TRY(mb_shared_gate_load(block->context, config, weights, layer, &set->shared_gate, error));
    MB_TRY(load_vector(block, weights, layer, MB_ROLE_OUTPUT_BIAS, block->routed_width, &set->output_bias, error));
    MB_TRY(load_vector(block, weights, layer, MB_ROLE_OUTPUT_SCALE, config->hidden_size, &set->output_scale, error));
    return load_vector(block, weights, layer, MB_ROLE_OUT_NORM, config->hidden_size, &set->out_norm, error);
}

static moeblock_status load_all(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                                const moeblock_load_options *options, struct mb_weight_set *set, moeblock_error *error)
{
    MB_TRY(resolve_compute(block, weights, layer, set, error));
    MB_TRY(mb_columns_stored(block, weights, layer, set, error));
    MB_TRY(load_router(block, weights, layer, set, error));
    MB_TRY(load_experts(block, weights, layer, options, set, error));
    return load_rest(block, weights, layer, set, error);
}

static moeblock_status new_set(const moeblock_block *block, enum mb_loaded loaded, struct mb_weight_set **out,
                               moeblock_error *error)
{
    *out = mb_alloc_zero(&block->context->allocator, sizeof **out);
    if (!*out) return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading weights: no memory");
    (*out)->loaded = loaded;
    (*out)->format = "";
    (*out)->compute = block->requested == MOEBLOCK_COMPUTE_AUTO ? MOEBLOCK_COMPUTE_F32 : block->requested;
    return MOEBLOCK_OK;
}

// Hands the set on, or takes it apart after a failure.
static moeblock_status finish_set(const moeblock_block *block, moeblock_status status, const moeblock_error *reason,
                                  struct mb_weight_set *set, struct mb_weight_set **out, moeblock_error *error)
{
    *out = status == MOEBLOCK_OK ? set : NULL;
    if (status == MOEBLOCK_OK) return MOEBLOCK_OK;
    if (error) *error = *reason;
    mb_cpu_unload(block, set);
    return status;
}

moeblock_status mb_cpu_load(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                            const moeblock_load_options *options, struct mb_weight_set **out, moeblock_error *error)
{
    struct mb_weight_set *set;
    *out = NULL;
    MB_TRY(new_set(block, options->router_only ? MB_LOADED_ROUTER : MB_LOADED_ALL, &set, error));
    moeblock_error reason = {MOEBLOCK_OK, ""}; // empty, so that a kind that gives none is noticed
    const moeblock_status status = options->router_only ? load_router(block, weights, layer, set, &reason)
                                                        : load_all(block, weights, layer, options, set, &reason);
    return finish_set(block, status, &reason, set, out, error);
}

static moeblock_status size_all(const moeblock_block *block, enum mb_format format, struct mb_weight_set *set,
                                moeblock_error *error)
{
    const moeblock_config *config = block->config;
    const struct mb_registered *const kinds[] = {block->routed_kind, block->shared_kind};
    void **const made[] = {&set->routed, &set->shared};
    size_t bytes[2] = {0, 0};
    const bool integers = mb_packed_has_integers(mb_format_table[format].packed);
    set->format = mb_format_table[format].name;
    if (block->requested == MOEBLOCK_COMPUTE_AUTO)
        set->compute = automatic(block, format, integers && !config->latent_size && may_be_int16(block));
    if (set->compute == MOEBLOCK_COMPUTE_INT16 && !integers)
        return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                       "sizing the block for int16 compute: %s has no exact integers as mxfp4 has; choose compute auto",
                       set->format);
    MB_TRY(mb_columns_sized(block, format, set, error));
    if (block->router_kind) MB_TRY(create_router(block, set, error));
    for (int shared = 0; shared < 2; shared++) {
        if (!kinds[shared]) continue;
        MB_TRY(create_experts(block, shared, set, made[shared], error));
        if (!mb_expert_size(kinds[shared]->class_copy, *made[shared], format))
            return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                           "sizing the block: expert kind \"%s\" comes from outside; only its own load knows its size",
                           kinds[shared]->name);
        bytes[shared] = packed_bytes_of(kinds[shared], *made[shared]);
    }
    set->packed_bytes = bytes[0] + bytes[1];
    set->expert_packed_bytes = block->share.owned ? bytes[0] / (size_t)block->share.owned : 0;
    if (!config->routed_enabled || !config->latent_size) return MOEBLOCK_OK;
    MB_TRY(mb_latent_create(block->context, config, set->compute, mb_set_kernels(block, set), &set->latent, error));
    set->packed_bytes += mb_latent_packed_bytes(set->latent);
    return MOEBLOCK_OK;
}

moeblock_status mb_cpu_size(const moeblock_block *block, enum mb_format format, struct mb_weight_set **out,
                            moeblock_error *error)
{
    struct mb_weight_set *set;
    *out = NULL;
    MB_TRY(new_set(block, MB_LOADED_SIZES, &set, error));
    moeblock_error reason = {MOEBLOCK_OK, ""};
    return finish_set(block, size_all(block, format, set, &reason), &reason, set, out, error);
}

void mb_cpu_unload(const moeblock_block *block, struct mb_weight_set *set)
{
    if (!set) return;
    if (set->router) ((const moeblock_router_class *)block->router_kind->class_copy)->destroy(set->router);
    if (set->routed) ((const moeblock_expert_class *)block->routed_kind->class_copy)->destroy(set->routed);
    if (set->shared) ((const moeblock_expert_class *)block->shared_kind->class_copy)->destroy(set->shared);
    mb_latent_destroy(set->latent);
    mb_shared_gate_destroy(set->shared_gate);
    mb_free(&block->context->allocator, set->output_bias);
    mb_free(&block->context->allocator, set->out_norm);
    mb_free(&block->context->allocator, set->output_scale);
    mb_free(&block->context->allocator, set);
}
