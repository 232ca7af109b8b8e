// SPDX-License-Identifier: Apache-2.0
// The stored tensors, one row each: key, owner, size, and when a description calls for them.
#include "config/roles.h"

#include <stdio.h>
#include <string.h>

#include "base/arith.h"
#include "base/status.h"
#include "config/preset.h"
#include "weights/checkpoint.h"

// When a description calls for a tensor.
static bool router(const moeblock_config *c) { return c->routed_enabled && mb_router_is_builtin(c->router.type); }
static bool router_bias(const moeblock_config *c) { return router(c) && c->router.linear_bias; }
static bool selection_bias(const moeblock_config *c) { return router(c) && c->router.selection_bias; }
static bool input_scale(const moeblock_config *c) { return router(c) && c->router.input_scale_vector; }
static bool expert_scale(const moeblock_config *c) { return router(c) && c->router.per_expert_scale; }
static bool of_type(const moeblock_config *c, const char *type)
{
    return c->routed_enabled && !strcmp(c->router.type, type);
}
static bool token_table(const moeblock_config *c) { return router(c) && c->router.ids == MB_IDS_TOKEN_TABLE; }
static bool router_second(const moeblock_config *c) { return of_type(c, "token_type"); }
static bool learned_scale(const moeblock_config *c) { return of_type(c, "joint") && c->router.learned_scale; }
static bool state(const moeblock_config *c) { return of_type(c, "mlp_state"); }
static bool state_scale(const moeblock_config *c) { return state(c) && c->router.state_carried; }
static bool post_norm(const moeblock_config *c) { return c->routed_enabled && c->post_norm; }
static bool never(const moeblock_config *c) { return (void)c, false; } // of the main description: mb_second_bank
static bool down(const moeblock_config *c) { return c->routed_enabled && mb_expert_is_builtin(c->expert_type); }
static bool gate_up(const moeblock_config *c)
{
    return down(c) && c->routed.gated && c->gate_up != MB_GATE_UP_SEPARATE;
}
static bool up(const moeblock_config *c) { return down(c) && !gate_up(c); }
static bool gate(const moeblock_config *c) { return up(c) && c->routed.gated; }
static bool gate_bias(const moeblock_config *c) { return gate(c) && c->routed.bias; }
static bool up_bias(const moeblock_config *c) { return up(c) && c->routed.bias; }
static bool gate_up_bias(const moeblock_config *c) { return gate_up(c) && c->routed.bias; }
static bool down_bias(const moeblock_config *c) { return down(c) && c->routed.bias; }
static bool output_bias(const moeblock_config *c) { return c->routed_enabled && c->output_bias; }
static bool shared(const moeblock_config *c) { return c->shared_enabled; }
static bool shared_gate_up(const moeblock_config *c)
{
    return shared(c) && c->shared.gated && c->shared_gate_up != MB_GATE_UP_SEPARATE;
}
static bool shared_up(const moeblock_config *c) { return shared(c) && !shared_gate_up(c); }
static bool shared_gate(const moeblock_config *c) { return shared_up(c) && c->shared.gated; }
static bool shared_gate_bias(const moeblock_config *c) { return shared_gate(c) && c->shared.bias; }
static bool shared_up_bias(const moeblock_config *c) { return shared_up(c) && c->shared.bias; }
static bool shared_down_bias(const moeblock_config *c) { return shared(c) && c->shared.bias; }
static bool shared_sigmoid(const moeblock_config *c) { return shared(c) && c->shared_gate == MB_SHARED_SIGMOID; }
static bool mix_coefficient(const moeblock_config *c) { return shared(c) && c->mix == MB_MIX_SOFTMAX_COEF; }
static bool output_scale(const moeblock_config *c) { return c->output_scale; }
static bool out_norm(const moeblock_config *c) { return c->out_norm; }
static bool latent(const moeblock_config *c) { return c->routed_enabled && c->latent_size > 0; }
static bool latent_bias(const moeblock_config *c) { return latent(c) && c->latent_bias; }
static bool latent_in_norm(const moeblock_config *c) { return latent(c) && c->latent_in_norm; }
static bool latent_out_norm(const moeblock_config *c) { return latent(c) && c->latent_out_norm; }

#define ROLE(role, key, owner, rows, columns, wanted)                                                                  \
    [MB_ROLE_##role] = {key, MB_OWNER_##owner, MB_EXTENT_##rows, MB_EXTENT_##columns, wanted}

const struct mb_role_info mb_roles[MB_ROLES] = {
    ROLE(ROUTER, "router_weight", ROUTER, LOGITS, ROUTER_INPUT, router),
    ROLE(ROUTER_BIAS, "router_bias", ROUTER, LOGITS, NONE, router_bias),
    ROLE(SELECTION_BIAS, "selection_bias", ROUTER, CHOICES, NONE, selection_bias),
    ROLE(INPUT_SCALE, "router_input_scale", ROUTER, HIDDEN, NONE, input_scale),
    ROLE(PER_EXPERT_SCALE, "per_expert_scale", ROUTER, EXPERTS, NONE, expert_scale),
    ROLE(GATE, "gate", ROUTED, INNER, ROUTED, gate),
    ROLE(UP, "up", ROUTED, INNER, ROUTED, up),
    ROLE(GATE_UP, "gate_up", ROUTED, INNER_TWICE, ROUTED, gate_up),
    ROLE(DOWN, "down", ROUTED, ROUTED, INNER, down),
    ROLE(GATE_BIAS, "gate_bias", ROUTED, INNER, NONE, gate_bias),
    ROLE(UP_BIAS, "up_bias", ROUTED, INNER, NONE, up_bias),
    ROLE(GATE_UP_BIAS, "gate_up_bias", ROUTED, INNER_TWICE, NONE, gate_up_bias),
    ROLE(DOWN_BIAS, "down_bias", ROUTED, ROUTED, NONE, down_bias),
    ROLE(OUTPUT_BIAS, "output_bias", BLOCK, ROUTED, NONE, output_bias),
    ROLE(SHARED_GATE, "shared_gate", SHARED, SHARED, HIDDEN, shared_gate),
    ROLE(SHARED_UP, "shared_up", SHARED, SHARED, HIDDEN, shared_up),
    ROLE(SHARED_GATE_UP, "shared_gate_up", SHARED, SHARED_TWICE, HIDDEN, shared_gate_up),
    ROLE(SHARED_DOWN, "shared_down", SHARED, HIDDEN, SHARED, shared),
    ROLE(SHARED_GATE_BIAS, "shared_gate_bias", SHARED, SHARED, NONE, shared_gate_bias),
    ROLE(SHARED_UP_BIAS, "shared_up_bias", SHARED, SHARED, NONE, shared_up_bias),
    ROLE(SHARED_DOWN_BIAS, "shared_down_bias", SHARED, HIDDEN, NONE, shared_down_bias),
    ROLE(SHARED_SIGMOID, "shared_sigmoid_gate", BLOCK, ONE, HIDDEN, shared_sigmoid),
    ROLE(LATENT_DOWN, "latent_down", BLOCK, LATENT, HIDDEN, latent),
    ROLE(LATENT_UP, "latent_up", BLOCK, HIDDEN, LATENT, latent),
    ROLE(LATENT_DOWN_BIAS, "latent_down_bias", BLOCK, LATENT, NONE, latent_bias),
    ROLE(LATENT_UP_BIAS, "latent_up_bias", BLOCK, HIDDEN, NONE, latent_bias),
    ROLE(LATENT_IN_NORM, "latent_in_norm", BLOCK, LATENT, NONE, latent_in_norm),
    ROLE(LATENT_OUT_NORM, "latent_out_norm", BLOCK, LATENT, NONE, latent_out_norm),
    ROLE(MIX_COEFFICIENT, "mix_coefficient", BLOCK, TWO, HIDDEN, mix_coefficient),
    ROLE(MIX_COEFFICIENT_BIAS, "mix_coefficient_bias", BLOCK, TWO, NONE, mix_coefficient),
    ROLE(OUTPUT_SCALE, "output_scale", BLOCK, HIDDEN, NONE, output_scale),
    ROLE(OUT_NORM, "out_norm", BLOCK, HIDDEN, NONE, out_norm),
    ROLE(POST_NORM, "expert_post_norm", BLOCK, ROUTED, NONE, post_norm),
    ROLE(TOKEN_TABLE, "token_table", ROUTER, TABLE, TOP_K, token_table),
    ROLE(ROUTER_SECOND, "router_weight_second", ROUTER, LOGITS, ROUTER_INPUT, router_second),
    ROLE(LEARNED_SCALE, "learned_scale", ROUTER, ONE, NONE, learned_scale),
    ROLE(STATE_DOWN, "state_down", ROUTER, STATE, HIDDEN, state),
    ROLE(STATE_DOWN_BIAS, "state_down_bias", ROUTER, STATE, NONE, state),
    ROLE(STATE_SCALE, "state_scale", ROUTER, STATE, NONE, state_scale),
    ROLE(STATE_NORM, "state_norm", ROUTER, STATE, NONE, state),
    ROLE(STATE_FC1, "state_fc1", ROUTER, STATE, STATE, state),
    ROLE(STATE_FC1_BIAS, "state_fc1_bias", ROUTER, STATE, NONE, state),
    ROLE(STATE_FC2, "state_fc2", ROUTER, STATE, STATE, state),
    ROLE(STATE_FC2_BIAS, "state_fc2_bias", ROUTER, STATE, NONE, state),
    ROLE(SECOND_GATE, "second_gate", ROUTED, INNER, ROUTED, never),
    ROLE(SECOND_UP, "second_up", ROUTED, INNER, ROUTED, never),
    ROLE(SECOND_GATE_UP, "second_gate_up", ROUTED, INNER_TWICE, ROUTED, never),
    ROLE(SECOND_DOWN, "second_down", ROUTED, ROUTED, INNER, never),
};
_Static_assert((int)MB_ROLES <= MB_ROLES_MAX, "moeblock_config.tensor is too short");

// Which role each of the second bank's plays in the description that it has of its own.
static const struct {
    enum mb_role second, place;
} second_bank[] = {{MB_ROLE_SECOND_GATE, MB_ROLE_GATE},
                   {MB_ROLE_SECOND_UP, MB_ROLE_UP},
                   {MB_ROLE_SECOND_GATE_UP, MB_ROLE_GATE_UP},
                   {MB_ROLE_SECOND_DOWN, MB_ROLE_DOWN}};

void mb_second_bank(const moeblock_config *config, moeblock_config *out)
{
    *out = *config;
    out->num_experts = config->second.count;
    out->routed.intermediate_size = config->second.intermediate_size;
    out->expert_first = config->second.first;
    out->second = (struct mb_second_config){.count = 0};
    for (size_t i = 0; i < sizeof second_bank / sizeof second_bank[0]; i++)
        memcpy(out->tensor[second_bank[i].place], config->tensor[second_bank[i].second], sizeof out->tensor[0]);
}

bool mb_role_named(const moeblock_config *config, enum mb_role role)
{
    for (size_t i = 0; i < sizeof second_bank / sizeof second_bank[0]; i++)
        if (second_bank[i].second == role)
            return config->second.count > 0 && mb_role_wanted(config, second_bank[i].place);
    return mb_role_wanted(config, role);
}

// Outputs of the router's last linear map.
static int64_t logits_of(const moeblock_config *config)
{
    if (!strcmp(config->router.type, "joint")) return mb_all_experts(config);
    if (strcmp(config->router.type, "product_keys")) return config->num_experts + config->router.null_experts;
    int64_t keys = 1;
    while ((keys + 1) * (keys + 1) <= config->num_experts) keys++;
    return 2 * keys;
}

int64_t mb_extent(const moeblock_config *config, enum mb_extent extent)
{
    switch (extent) {
    case MB_EXTENT_NONE:
        return 0;
    case MB_EXTENT_ONE:
        return 1;
    case MB_EXTENT_TWO:
        return 2;
    case MB_EXTENT_CLASSES:
        return config->num_experts + config->router.null_experts;
    case MB_EXTENT_EXPERTS:
        return config->num_experts;
    case MB_EXTENT_HIDDEN:
        return config->hidden_size;
    case MB_EXTENT_ROUTED:
        return config->latent_size > 0 ? config->latent_size : config->hidden_size;
    case MB_EXTENT_INNER:
        return config->routed.intermediate_size;
    case MB_EXTENT_INNER_TWICE:
        return 2 * config->routed.intermediate_size;
    case MB_EXTENT_SHARED:
        return config->shared.intermediate_size;
    case MB_EXTENT_SHARED_TWICE:
        return 2 * config->shared.intermediate_size;
    case MB_EXTENT_LATENT:
        return config->latent_size;
    case MB_EXTENT_LOGITS:
        return logits_of(config);
    case MB_EXTENT_ROUTER_INPUT:
        return state(config) ? config->router.state_size : config->hidden_size;
    case MB_EXTENT_CHOICES:
        return (router_second(config) ? 2 : 1) * (config->num_experts + config->router.null_experts);
    case MB_EXTENT_STATE:
        return config->router.state_size;
    case MB_EXTENT_TABLE:
        return config->router.table_size;
    case MB_EXTENT_TOP_K:
        return config->num_experts_per_tok;
    }
    return 0;
}

const char *mb_role_key(enum mb_role role) { return mb_roles[role].key; }

bool mb_role_wanted(const moeblock_config *config, enum mb_role role) { return mb_roles[role].wanted(config); }

int64_t mb_role_outputs(const moeblock_config *config, enum mb_role role)
{
    return mb_extent(config, mb_roles[role].rows);
}

int64_t mb_role_inputs(const moeblock_config *config, enum mb_role role)
{
    return mb_extent(config, mb_roles[role].columns);
}

bool mb_role_stacked(const moeblock_config *config, enum mb_role role)
{
    return mb_roles[role].owner == MB_OWNER_ROUTED && config->layout != MB_LAYOUT_PER_EXPERT;
}

bool mb_role_per_expert(const moeblock_config *config, enum mb_role role)
{
    return mb_roles[role].owner == MB_OWNER_ROUTED && config->layout == MB_LAYOUT_PER_EXPERT;
}

bool mb_role_is_vector(enum mb_role role)
{
    return mb_roles[role].columns == MB_EXTENT_NONE || role == MB_ROLE_TOKEN_TABLE;
}

bool mb_role_input_major(const moeblock_config *config, enum mb_role role, enum mb_format format)
{
    if (mb_roles[role].columns == MB_EXTENT_NONE || !mb_format_table[format].oriented) return false;
    if (role == MB_ROLE_ROUTER || role == MB_ROLE_ROUTER_SECOND) return config->router.transposed;
    if (role == MB_ROLE_DOWN) return config->down_orientation == MB_INPUT_MAJOR;
    return mb_roles[role].owner == MB_OWNER_ROUTED && config->orientation == MB_INPUT_MAJOR;
}

enum mb_gate_up mb_role_joined(const moeblock_config *config, enum mb_role role)
{
    if (role == MB_ROLE_GATE_UP || role == MB_ROLE_GATE_UP_BIAS) return config->gate_up;
    return role == MB_ROLE_SHARED_GATE_UP ? config->shared_gate_up : MB_GATE_UP_SEPARATE;
}

int mb_role_dims(const moeblock_config *config, enum mb_role role, enum mb_format format, enum mb_part part,
                 int64_t group, int64_t dims[MOEBLOCK_MAX_RANK])
{
    const int64_t rows = mb_extent(config, mb_roles[role].rows), columns = mb_extent(config, mb_roles[role].columns);
    int rank = 0;
    if (mb_role_stacked(config, role)) dims[rank++] = config->num_experts;
    if (mb_roles[role].columns == MB_EXTENT_NONE) {
        const bool both = role == MB_ROLE_SELECTION_BIAS && router_second(config); // a row for either bank
        if (both) dims[rank++] = 2;
        dims[rank++] = both ? rows / 2 : rows;
        return rank;
    }
    int64_t of_one[MOEBLOCK_MAX_RANK];
    const int more = mb_format_dims(format, part, rows, columns, group, of_one);
    const bool upright = part == MB_PART_SCALES && role == MB_ROLE_DOWN && mb_format_table[format].down_scales_upright;
    const bool input_major = mb_role_input_major(config, role, format) && !upright;
    for (int i = 0; i < more; i++) dims[rank++] = of_one[input_major ? more - 1 - i : i];
    if (!mb_role_stacked(config, role) || config->layout != MB_LAYOUT_FLATTENED) return rank;
    dims[0] *= dims[1]; // [E * rows, columns]
    memmove(dims + 1, dims + 2, (size_t)(rank - 2) * sizeof dims[0]);
    return rank - 1;
}

// Appends text; what does not fit is dropped, and the name then matches nothing.
static void append(char out[256], size_t *used, const char *text, size_t length)
{
    for (size_t i = 0; i < length && *used < 255; i++) out[(*used)++] = text[i];
    out[*used] = 0;
}

static void append_pattern(const moeblock_config *config, char out[256], size_t *used, const char *pattern,
                           int64_t layer, int64_t expert)
{
    const struct {
        const char *text;
        int64_t number;
    } places[] = {{"{layer}", layer},
                  {"{expert}", config->expert_first + expert},
                  {"{bank}", config->banks ? layer % config->banks : 0}};
    while (*pattern) {
        size_t length = 0;
        for (size_t i = 0; i < sizeof places / sizeof places[0] && !length; i++) {
            char number[24];
            if (strncmp(pattern, places[i].text, strlen(places[i].text))) continue;
            snprintf(number, sizeof number, "%lld", (long long)places[i].number);
            append(out, used, number, strlen(number));
            length = strlen(places[i].text);
        }
        if (!length) append(out, used, pattern, 1);
        pattern += length ? length : 1;
    }
}

void mb_role_name(const moeblock_config *config, enum mb_role role, int64_t layer, int64_t expert, char out[256])
{
    const char *pattern = config->tensor[role];
    size_t used = 0;
    out[0] = 0;
    if (pattern[0] != '/' && config->module_prefix[0]) {
        append_pattern(config, out, &used, config->module_prefix, layer, expert);
        append(out, &used, ".", 1);
    }
    append_pattern(config, out, &used, pattern + (pattern[0] == '/'), layer, expert);
}

void mb_name_with(const char *name, const char *suffix, char out[288])
{
    static const char plain[] = ".weight", again[] = "_weight";
    size_t length = strlen(name);
    const size_t tail = sizeof plain - 1;
    const bool is_weight = length >= tail && !strcmp(name + length - tail, plain);
    if (is_weight && suffix[0] == '.') length -= tail;
    if (is_weight && !strncmp(suffix, again, sizeof again - 1)) suffix += sizeof again - 1;
    snprintf(out, 288, "%.*s%s", (int)length, name, suffix);
}

moeblock_status mb_role_find(const moeblock_config *config, moeblock_weights *weights, enum mb_role role,
                             const char *suffix, int64_t layer, int64_t expert, moeblock_tensor_info *out,
                             moeblock_error *error)
{
    char full[256], part[256] = "";
    size_t used = 0;
    mb_role_name(config, role, layer, expert, full);
    append_pattern(config, part, &used, config->tensor[role] + (config->tensor[role][0] == '/'), layer, expert);
    const char *dot = strchr(part, '.');
    const char *const names[] = {full, part, dot ? dot + 1 : part};
    char tried[3][288];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        moeblock_error reason = {MOEBLOCK_OK, ""};
        mb_name_with(names[i], suffix, tried[i]);
        const moeblock_status status = moeblock_weights_find(weights, tried[i], out, &reason);
        if (status == MOEBLOCK_OK) return MOEBLOCK_OK;
        if (status == MOEBLOCK_NOT_FOUND) continue;
        if (error) *error = reason;
        return status;
    }
    return mb_fail(error, MOEBLOCK_NOT_FOUND,
                   "%s: the checkpoint has no tensor '%s' (weights.names.%s), nor '%s' or '%s'", weights->path,
                   tried[0], mb_roles[role].key, tried[1], tried[2]);
}
