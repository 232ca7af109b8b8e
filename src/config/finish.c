// SPDX-License-Identifier: Apache-2.0
// Decides what follows from the values that were given: presets, further spellings, and defaults that depend on other
// keys. Runs once, after all documents are read.
#include <string.h>

#include "base/status.h"
#include "config/preset.h"
#include "config/reader.h"
#include "config/value.h"

static int origin(const moeblock_config *config, const void *field)
{
    return config->given[mb_schema_row_of(config, field)];
}

// An outside router has its own config: what a config.json says of the built-in routers is not meant for it.
static void forget_pipeline(moeblock_config *config)
{
    for (size_t i = 0; i < mb_schema_count; i++) {
        const struct mb_schema_row *row = &mb_schema[i];
        if (row->type == MB_TYPE_IGNORED || strncmp(row->path, "router.config.", 14) ||
            config->given[i] != MB_FROM_MODEL)
            continue;
        config->given[i] = row->fallback ? MB_FROM_DEFAULT : MB_FROM_NOWHERE;
        if (row->fallback) mb_value_set_text(config, (int)i, row->fallback);
    }
}

// norm_topk_prob is the original's yes or no to normalising; norm says which. The stronger source wins, and two of the
// same strength must agree.
static moeblock_status fold_norm(const struct mb_reader *reader, moeblock_error *error)
{
    moeblock_config *config = reader->config;
    struct mb_router_config *router = &config->router;
    const int flag = origin(config, &config->norm_topk_prob), norm = origin(config, &router->norm);
    const bool normed = router->norm != MB_NORM_NONE;
    if (flag == MB_FROM_NOWHERE || norm > flag || normed == config->norm_topk_prob) return MOEBLOCK_OK;
    if (norm == flag) {
        char text[MB_VALUE_TEXT];
        mb_value_text(config, mb_schema_row_of(config, &router->norm), true, text);
        return mb_reader_fail(reader, error, mb_schema_row_of(config, &config->norm_topk_prob),
                              "router.config.norm_topk_prob is %s but router.config.norm is %s; keep one",
                              config->norm_topk_prob ? "true" : "false", text);
    }
    router->norm = config->norm_topk_prob ? MB_NORM_SUM : MB_NORM_NONE;
    mb_config_mark(config, &router->norm, MB_FROM_DERIVED);
    return MOEBLOCK_OK;
}

static void derive_router(moeblock_config *config)
{
    struct mb_router_config *router = &config->router;
    if (origin(config, &router->select_score) == MB_FROM_NOWHERE) {
        router->select_score = router->score;
        mb_config_mark(config, &router->select_score, MB_FROM_DERIVED);
    }
    if (router->groups == MB_GROUPS_NONE && router->n_group > 1 &&
        origin(config, &router->groups) < origin(config, &router->n_group)) {
        router->groups = MB_GROUPS_LIMITED;
        mb_config_mark(config, &router->groups, MB_FROM_DERIVED);
    }
}

// swiglu with an alpha is the clamped kind, which has a limit of 7; a limit asks for a clamp.
static void derive_activation(moeblock_config *config, struct mb_activation *activation)
{
    const int oai = mb_activation_find("swiglu_oai"), silu = mb_activation_find("silu");
    if (activation->kind == silu && origin(config, &activation->alpha) >= MB_FROM_MODEL &&
        origin(config, &activation->kind) <= origin(config, &activation->alpha))
        activation->kind = oai;
    if (activation->kind == oai && origin(config, &activation->limit) <= MB_FROM_DEFAULT &&
        origin(config, &activation->clamp) <= MB_FROM_DEFAULT) {
        activation->limit = 7.0f;
        mb_config_mark(config, &activation->limit, MB_FROM_DERIVED);
    }
    if (activation->limit > 0.0f && activation->clamp == MB_CLAMP_NONE &&
        origin(config, &activation->clamp) < origin(config, &activation->limit)) {
        activation->clamp = MB_CLAMP_BEFORE;
        mb_config_mark(config, &activation->clamp, MB_FROM_DERIVED);
    }
}

static void inherit(moeblock_config *config, const void *from, const void *to)
{
    const int source = mb_schema_row_of(config, from), target = mb_schema_row_of(config, to);
    if (config->given[target] > MB_FROM_DEFAULT) return;
    mb_value_move(config, source, target);
    config->given[target] = MB_FROM_DERIVED;
}

// The shared expert is like the routed ones where nothing else is said. One with an activation of its own takes no
// parameter of theirs.
static void derive_shared(moeblock_config *config)
{
    const struct mb_ffn_config *routed = &config->routed, *shared = &config->shared;
    const bool own_kind = origin(config, &shared->activation.kind) > MB_FROM_DEFAULT;
    derive_activation(config, &config->shared.activation);
    inherit(config, &routed->gated, &shared->gated);
    if (own_kind) return;
    inherit(config, &routed->activation.kind, &shared->activation.kind);
    inherit(config, &routed->activation.clamp, &shared->activation.clamp);
    inherit(config, &routed->activation.limit, &shared->activation.limit);
    inherit(config, &routed->activation.alpha, &shared->activation.alpha);
    inherit(config, &routed->activation.plus_one, &shared->activation.plus_one);
    inherit(config, &routed->activation.beta, &shared->activation.beta);
    inherit(config, &routed->activation.linear_beta, &shared->activation.linear_beta);
}

// Sizes that the original's second family of files gives in other words.
static void fold_sizes(moeblock_config *config)
{
    if (origin(config, &config->routed.intermediate_size) == MB_FROM_NOWHERE &&
        origin(config, &config->dense_intermediate_size) != MB_FROM_NOWHERE) {
        config->routed.intermediate_size = config->dense_intermediate_size;
        mb_config_mark(config, &config->routed.intermediate_size, MB_FROM_DERIVED);
    }
    if (config->shared_count > 0 &&
        origin(config, &config->shared.intermediate_size) < origin(config, &config->shared_count)) {
        config->shared.intermediate_size = config->shared_count * config->routed.intermediate_size;
        mb_config_mark(config, &config->shared.intermediate_size,
                       config->routed.intermediate_size > 0 ? MB_FROM_DERIVED : MB_FROM_NOWHERE);
    }
}

static void set_type(moeblock_config *config, const char *type)
{
    memcpy(config->expert_type, type, strlen(type) + 1);
    mb_config_mark(config, config->expert_type, MB_FROM_DERIVED);
}

// The kind of experts that the other keys ask for, and how the second bank is used by the operator that knows it.
static void derive_experts(moeblock_config *config)
{
    struct mb_second_config *second = &config->second;
    const char *router = config->router.type;
    if (origin(config, &config->down_orientation) < origin(config, &config->orientation)) {
        config->down_orientation = config->orientation;
        mb_config_mark(config, &config->down_orientation, MB_FROM_DERIVED);
    }
    if (second->count && origin(config, &second->slots) == MB_FROM_NOWHERE) {
        second->slots = !strcmp(router, "joint")      ? second->count
                        : !strcmp(router, "adjugate") ? config->num_experts_per_tok
                                                      : 0;
        mb_config_mark(config, &second->slots, MB_FROM_DERIVED);
    }
    if (strcmp(config->expert_type, "distributed") && strcmp(config->expert_type, "throughput")) return;
    if (second->count) set_type(config, "banked");
    if (config->post_norm) set_type(config, "post_normed");
}

// Whether there is a shared expert: said, or to be concluded from its size, its count or its placement.
static moeblock_status fold_shared_enabled(const struct mb_reader *reader, moeblock_error *error)
{
    moeblock_config *config = reader->config;
    const int enabled = origin(config, &config->shared_enabled), count = origin(config, &config->shared_count);
    const int placement = origin(config, &config->shared_placement);
    const bool none_placed = placement != MB_FROM_NOWHERE && config->shared_placement == MB_PLACED_NONE;
    const bool none_counted = count != MB_FROM_NOWHERE && config->shared_count == 0;
    if (config->shared_enabled && ((none_placed && placement == enabled) || (none_counted && count == enabled)))
        return mb_reader_fail(reader, error, mb_schema_row_of(config, &config->shared_enabled),
                              "experts.shared.enabled is true but %s; keep one",
                              none_placed ? "shared_expert_placement is \"none\"" : "model.n_shared_experts is 0");
    if (none_placed || none_counted) {
        const int other = none_placed ? placement : count;
        if (other < enabled) return MOEBLOCK_OK;
        config->shared_enabled = false;
    } else if (enabled <= MB_FROM_DEFAULT && origin(config, &config->shared.intermediate_size) > MB_FROM_DEFAULT) {
        config->shared_enabled = true;
    } else {
        return MOEBLOCK_OK;
    }
    mb_config_mark(config, &config->shared_enabled, MB_FROM_DERIVED);
    return MOEBLOCK_OK;
}

moeblock_status mb_reader_finish(struct mb_reader *reader, moeblock_error *error)
{
    moeblock_config *config = reader->config;
    if (!mb_router_is_builtin(config->router.type)) forget_pipeline(config);
    mb_router_preset(config);
    MB_TRY(fold_norm(reader, error));
    derive_router(config);
    fold_sizes(config);
    MB_TRY(fold_shared_enabled(reader, error));
    derive_activation(config, &config->routed.activation);
    derive_experts(config);
    derive_shared(config);
    return MOEBLOCK_OK;
}
