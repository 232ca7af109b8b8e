// SPDX-License-Identifier: Apache-2.0
// Decides which descriptions make sense: nothing missing, everything in range, and no two keys against each other.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "config/layers.h"
#include "config/preset.h"
#include "config/reader.h"
#include "config/tensors.h"
#include "config/value.h"

// Fails at the line of the key that `field` belongs to.
#define FAIL_AT(field, ...) return mb_reader_fail(reader, error, mb_schema_row_of(c, &(field)), __VA_ARGS__)

static moeblock_status check_supported(const struct mb_reader *reader, moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    if (c->dense_backbone)
        return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                       "%s: experts.dense_backbone.enabled is true, expected false: a dense branch beside the block "
                       "belongs to the model's layer, outside this block",
                       reader->name);
    return MOEBLOCK_OK;
}

static moeblock_status check_missing(const struct mb_reader *reader, moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    char list[700] = "";
    int used = 0;
    for (size_t i = 0; i < mb_schema_count; i++) {
        const struct mb_schema_row *row = &mb_schema[i];
        if (!row->required || c->given[i] != MB_FROM_NOWHERE || (row->matters && !row->matters(c))) continue;
        if (used < (int)sizeof list)
            used += snprintf(list + used, sizeof list - (size_t)used, "%s%s", used ? ", " : "", row->path);
    }
    if (!used) return MOEBLOCK_OK;
    return mb_reader_fail(reader, error, -1,
                          "no value for %s; give them in the file or load from a folder whose config.json has them",
                          list);
}

// What our own parser has checked already; a mapped config.json has not been.
static moeblock_status check_ranges(const struct mb_reader *reader, moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    for (size_t i = 0; i < mb_schema_count; i++) {
        const struct mb_schema_row *row = &mb_schema[i];
        const char *at = (const char *)c + row->offset;
        if (c->given[i] <= MB_FROM_DEFAULT) continue;
        double value;
        if (row->type == MB_TYPE_INT)
            value = (double)*(const int64_t *)(const void *)at;
        else if (row->type == MB_TYPE_NUMBER)
            value = *(const double *)(const void *)at;
        else if (row->type == MB_TYPE_FLOAT)
            value = (double)*(const float *)(const void *)at;
        else
            continue;
        char found[MB_VALUE_TEXT], allowed[256];
        if (value >= row->minimum && value <= row->maximum) continue;
        mb_value_text(c, (int)i, true, found);
        mb_value_allowed((int)i, allowed, sizeof allowed);
        return mb_reader_fail(reader, error, (int)i, "%s is %.64s, expected %s", row->path, found, allowed);
    }
    return MOEBLOCK_OK;
}

static moeblock_status check_groups(const struct mb_reader *reader, moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    const struct mb_router_config *r = &c->router;
    const int64_t classes = c->num_experts + r->null_experts, n = r->n_group, k = c->num_experts_per_tok;
    if (r->groups == MB_GROUPS_NONE) {
        if (n > 1 && c->given[mb_schema_row_of(c, &r->groups)] == c->given[mb_schema_row_of(c, &r->n_group)])
            FAIL_AT(r->n_group, "router.config.n_group is %" PRId64 " but router.config.groups is \"none\"; keep one",
                    n);
        return MOEBLOCK_OK;
    }
    if (classes % n)
        FAIL_AT(r->n_group,
                "router.config.n_group is %" PRId64 ", which does not divide model.num_experts (%" PRId64 ")%s", n,
                c->num_experts, r->null_experts ? " plus router.config.null_experts" : "");
    const int64_t size = classes / n;
    if (r->groups == MB_GROUPS_PER_GROUP && k % n)
        FAIL_AT(r->n_group,
                "router.config.n_group is %" PRId64 ", which does not divide model.num_experts_per_tok (%" PRId64
                "), as groups \"per_group\" needs",
                n, k);
    if (r->groups == MB_GROUPS_PER_GROUP) return MOEBLOCK_OK;
    if (r->topk_group > n)
        FAIL_AT(r->topk_group, "router.config.topk_group is %" PRId64 ", more than router.config.n_group (%" PRId64 ")",
                r->topk_group, n);
    if (r->topk_group * size < k)
        FAIL_AT(r->topk_group,
                "router.config.topk_group %" PRId64 " keeps %" PRId64
                " experts, fewer than model.num_experts_per_tok (%" PRId64 ")",
                r->topk_group, r->topk_group * size, k);
    if (r->group_score == MB_GROUP_SUM_TOP2 && size < 2)
        FAIL_AT(r->group_score,
                "router.config.group_score is \"sum_top2\" but router.config.n_group %" PRId64
                " leaves groups of one of model.num_experts (%" PRId64 ")",
                n, c->num_experts);
    return MOEBLOCK_OK;
}

// What the named operators ask of the other keys.
static moeblock_status check_operator(const struct mb_reader *reader, moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    const char *type = c->router.type;
    const struct mb_second_config *second = &c->second;
    const bool groups = c->router.groups != MB_GROUPS_NONE, table = c->router.ids == MB_IDS_TOKEN_TABLE;
    const bool banks = !strcmp(type, "token_type") || !strcmp(type, "joint") || !strcmp(type, "adjugate");
    const bool keys = !strcmp(type, "product_keys"), mixer = !strcmp(type, "sparsemixer"),
               joint = !strcmp(type, "joint");
    if (mixer && c->num_experts_per_tok != 2)
        FAIL_AT(c->num_experts_per_tok,
                "model.num_experts_per_tok is %" PRId64 ", expected 2: router.type "
                "\"sparsemixer\" makes two picks",
                c->num_experts_per_tok);
    if ((mixer || keys || joint) && (groups || table || c->router.null_experts))
        FAIL_AT(c->router.type,
                "router.type is \"%s\", which knows no groups, no table of token ids and no null experts; "
                "leave router.config.%s out",
                type,
                groups  ? "groups"
                : table ? "ids"
                        : "null_experts");
    if (!strcmp(type, "capacity") && !c->router.capacity)
        FAIL_AT(c->router.type,
                "router.type is \"capacity\" but router.config.capacity is 0 or missing; give the tokens "
                "of a sequence that an expert takes");
    if (!strcmp(type, "capacity_by_choice") && c->num_experts_per_tok > 2)
        FAIL_AT(c->num_experts_per_tok,
                "model.num_experts_per_tok is %" PRId64
                ", expected 1 or 2: router.type \"capacity_by_choice\" queues first "
                "and second choices",
                c->num_experts_per_tok);
    if (!strcmp(type, "capacity_by_choice") && c->router.null_experts)
        FAIL_AT(c->router.null_experts,
                "router.config.null_experts is %" PRId64
                " but router.type \"capacity_by_choice\" knows none; leave it out",
                c->router.null_experts);
    if (banks && !second->count)
        FAIL_AT(c->router.type, "router.type is \"%s\" but experts.second.count is 0; give the size of the second bank",
                type);
    if (!second->count) return MOEBLOCK_OK;
    if (c->router.null_experts)
        FAIL_AT(c->router.null_experts,
                "router.config.null_experts is %" PRId64 " but experts.second.count is %" PRId64 "; keep one",
                c->router.null_experts, second->count);
    if (mb_router_is_builtin(type) && !banks)
        FAIL_AT(c->second.count,
                "experts.second.count is %" PRId64 " but router.type \"%s\" never chooses them; expected "
                "token_type, joint or adjugate",
                second->count, type);
    if (!strcmp(type, "token_type") && second->count != c->num_experts)
        FAIL_AT(c->second.count,
                "experts.second.count is %" PRId64 ", expected %" PRId64 " (model.num_experts): either bank "
                "of router.type \"token_type\" has its own router of that size",
                second->count, c->num_experts);
    if (!strcmp(type, "adjugate") && c->num_experts % second->count)
        FAIL_AT(c->second.count,
                "experts.second.count is %" PRId64 ", which does not divide model.num_experts (%" PRId64 ")",
                second->count, c->num_experts);
    if (c->second.intermediate_size > c->routed.intermediate_size)
        FAIL_AT(c->second.intermediate_size,
                "experts.second.intermediate_size is %" PRId64 ", expected at most %" PRId64
                ", the width of the first bank",
                c->second.intermediate_size, c->routed.intermediate_size);
    return MOEBLOCK_OK;
}

static moeblock_status check_router(const struct mb_reader *reader, moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    const int64_t classes = c->num_experts + c->router.null_experts;
    if (c->num_experts_per_tok > classes)
        FAIL_AT(c->num_experts_per_tok,
                "model.num_experts_per_tok is %" PRId64 ", more than model.num_experts (%" PRId64 ")%s",
                c->num_experts_per_tok, c->num_experts,
                c->router.null_experts ? " plus router.config.null_experts" : "");
    if (!mb_router_is_builtin(c->router.type)) return MOEBLOCK_OK;
    if (c->router.norm == MB_NORM_SUM_CLAMPED && c->router.norm_eps <= 0)
        FAIL_AT(c->router.norm_eps,
                "router.config.norm is \"sum_clamped\" but router.config.norm_eps, its minimum, is 0");
    if (c->router.selection_bias_subtract_mean && !c->router.selection_bias)
        FAIL_AT(c->router.selection_bias_subtract_mean,
                "router.config.selection_bias_subtract_mean is true but router.config.score_correction_bias is false; "
                "there is no bias to subtract from");
    MB_TRY(check_operator(reader, error));
    return check_groups(reader, error);
}

static moeblock_status check_ffn(const struct mb_reader *reader, const struct mb_ffn_config *ffn, const char *path,
                                 moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    const struct mb_activation *a = &ffn->activation;
    const char *kind = mb_activation_kinds[a->kind].name;
    if (a->clamp != MB_CLAMP_NONE && a->limit <= 0.0f)
        FAIL_AT(a->clamp, "%s.clamp is \"%s\" but %s.limit is 0; give a limit", path,
                a->clamp == MB_CLAMP_BEFORE ? "before" : "after", path);
    if (a->clamp == MB_CLAMP_NONE && a->limit > 0.0f &&
        c->given[mb_schema_row_of(c, &a->clamp)] == c->given[mb_schema_row_of(c, &a->limit)] &&
        c->given[mb_schema_row_of(c, &a->limit)] >= MB_FROM_MODEL)
        FAIL_AT(a->limit, "%s.limit is %g but %s.clamp is \"none\"; keep one", path, (double)a->limit, path);
    if (!ffn->gated && (!strcmp(kind, "swiglu_oai") || !strcmp(kind, "situ")))
        FAIL_AT(ffn->gated, "%s.gated is false but %s.activation \"%s\" needs a gate", path, path, kind);
    return MOEBLOCK_OK;
}

static moeblock_status check_experts(const struct mb_reader *reader, moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    if (!c->routed_enabled && !c->shared_enabled)
        FAIL_AT(c->routed_enabled, "experts.distributed.enabled and experts.shared.enabled are both false: nothing is "
                                   "left to compute");
    if (c->routed_enabled && mb_expert_is_builtin(c->expert_type) && !c->routed.intermediate_size)
        FAIL_AT(c->routed.intermediate_size, "experts.distributed.intermediate_size is 0, expected 1 or more unless "
                                             "experts.type names a registered kind");
    if (c->post_norm && c->second.count)
        FAIL_AT(c->post_norm, "experts.post_norm is true and experts.second.count is %" PRId64 "; keep one",
                c->second.count);
    if (c->second.count && c->routed.bias)
        FAIL_AT(c->routed.bias,
                "experts.distributed.bias is true but the second bank of experts has no biases; keep one");
    if (c->routed_enabled) MB_TRY(check_ffn(reader, &c->routed, "experts.distributed", error));
    if (c->shared_enabled) MB_TRY(check_ffn(reader, &c->shared, "experts.shared", error));
    if (!c->latent_size && (c->latent_bias || c->latent_in_norm || c->latent_out_norm))
        FAIL_AT(c->latent_size, "experts.latent.%s is true but experts.latent.size is 0; give a size",
                c->latent_bias      ? "bias"
                : c->latent_in_norm ? "in_norm"
                                    : "out_norm");
    if (c->latent_size && c->router.null_experts && c->router.null_kind == MB_NULL_IDENTITY)
        FAIL_AT(c->router.null_experts,
                "router.config.null_experts return x itself, but experts.latent.size is %" PRId64
                " and the routed sum is that narrow; use one or the other",
                c->latent_size);
    if (c->mix == MB_MIX_SOFTMAX_COEF && c->shared_enabled && c->shared_gate == MB_SHARED_SIGMOID)
        FAIL_AT(c->shared_gate, "experts.shared.gate is \"sigmoid\" but experts.shared.mix \"softmax_coef\" has a "
                                "coefficient for the shared expert; keep one");
    if (c->mix == MB_MIX_SUM || c->shared_enabled) return MOEBLOCK_OK;
    char mix[MB_VALUE_TEXT];
    mb_value_text(c, mb_schema_row_of(c, &c->mix), true, mix);
    FAIL_AT(c->mix, "experts.shared.mix is %s but experts.shared.enabled is false", mix);
}

// Only {layer}, {bank} and {expert} stand in braces; {bank} where there are banks; {expert} where every expert has a
// tensor of its own, and only there.
static moeblock_status check_pattern(const struct mb_reader *reader, enum mb_role role, moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    const char *pattern = c->tensor[role];
    const bool routed = (role >= MB_ROLE_GATE && role <= MB_ROLE_DOWN_BIAS) || role >= MB_ROLE_SECOND_GATE;
    const bool wants = routed && c->layout == MB_LAYOUT_PER_EXPERT, has = strstr(pattern, "{expert}") != NULL;
    for (const char *open = strpbrk(pattern, "{}"); open; open = strpbrk(open, "{}")) {
        const bool bank = !strncmp(open, "{bank}", 6);
        const size_t length = !strncmp(open, "{layer}", 7) ? 7 : !strncmp(open, "{expert}", 8) ? 8 : bank ? 6 : 0;
        if (!length)
            FAIL_AT(c->tensor[role], "weights.names.%s is \"%s\", expected no braces but {layer}, {bank} and {expert}",
                    mb_role_key(role), pattern);
        if (bank && !c->banks)
            FAIL_AT(c->banks, "weights.names.%s is \"%s\" but weights.banks is 0, expected the number of banks",
                    mb_role_key(role), pattern);
        open += length;
    }
    if (has && !wants)
        FAIL_AT(c->tensor[role], "weights.names.%s is \"%s\", expected no {expert}%s", mb_role_key(role), pattern,
                !routed                          ? ": there is one such tensor"
                : c->layout == MB_LAYOUT_STACKED ? " because weights.layout is \"stacked\""
                                                 : " because weights.layout is \"flattened\"");
    if (wants && !has)
        FAIL_AT(c->tensor[role],
                "weights.names.%s is \"%s\", expected an {expert} in it because weights.layout is "
                "\"per_expert\"",
                mb_role_key(role), pattern);
    return MOEBLOCK_OK;
}

static moeblock_status check_weights(const struct mb_reader *reader, moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    if (strcmp(c->format, "auto") && mb_format_find(c->format) < 0) {
        char list[512] = "\"auto\"";
        for (int i = 0, used = 6; i < MB_FORMATS && used < (int)sizeof list; i++)
            used += snprintf(list + used, sizeof list - (size_t)used, ", \"%s\"", mb_format_table[i].name);
        FAIL_AT(c->format, "weights.format is \"%s\", expected one of %s", c->format, list);
    }
    if (!c->routed.gated && c->routed_enabled && c->gate_up != MB_GATE_UP_SEPARATE)
        FAIL_AT(c->gate_up, "weights.gate_up joins gate and up but experts.distributed.gated is false");
    if (c->shared_enabled && c->shared_gate_up != MB_GATE_UP_SEPARATE && (!c->shared.gated || c->shared.bias))
        FAIL_AT(c->shared_gate_up, "weights.shared_gate_up joins gate and up but experts.shared.%s",
                c->shared.gated ? "bias is true, which needs them separate" : "gated is false");
    for (int role = 0; role < MB_ROLES; role++)
        if (mb_role_named(c, (enum mb_role)role)) MB_TRY(check_pattern(reader, (enum mb_role)role, error));
    return MOEBLOCK_OK;
}

// A fixed prefix such as "model.layers.3" names the layer a second time.
static moeblock_status check_mesh(const struct mb_reader *reader, moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    if (c->exchanged != MB_EXCHANGE_SUMS || c->reproducible == MB_REPRODUCIBLE_BATCH) return MOEBLOCK_OK;
    FAIL_AT(c->exchanged, "mesh.exchange is \"sums\" but mesh.reproducible is \"mesh\", whose bits partial sums do not "
                          "keep; say \"batch\" there");
}

static moeblock_status check_layer(const struct mb_reader *reader, moeblock_error *error)
{
    const moeblock_config *c = reader->config;
    const char *last = strrchr(c->module_prefix, '.');
    const bool fixed = !strstr(c->module_prefix, "{layer}");
    if (fixed && c->layer_index >= 0 && last && last[1] >= '0' && last[1] <= '9') {
        char *end;
        const long long named = strtoll(last + 1, &end, 10);
        if (!*end && named != c->layer_index)
            FAIL_AT(c->module_prefix,
                    "weights.module_prefix is \"%s\" but layer_index is %" PRId64 "; write {layer} in the prefix",
                    c->module_prefix, c->layer_index);
    }
    if (!mb_layers_valid(c->moe_layers))
        FAIL_AT(c->moe_layers, "model.moe_layers is \"%s\", expected layers such as \"3-60\" or \"1,3,5\"",
                c->moe_layers);
    if (c->layer_index >= 0 && c->num_layers > 0 && c->layer_index >= c->num_layers)
        FAIL_AT(c->layer_index,
                "layer_index is %" PRId64 " but model.num_layers is %" PRId64 ", expected 0 to %" PRId64,
                c->layer_index, c->num_layers, c->num_layers - 1);
    if (c->layer_index >= 0 && c->moe_layers[0] && !mb_layers_contain(c->moe_layers, c->layer_index))
        FAIL_AT(c->layer_index, "layer_index is %" PRId64 ", which is a dense layer; the MoE layers are %s",
                c->layer_index, c->moe_layers);
    return MOEBLOCK_OK;
}

moeblock_status mb_reader_validate(const struct mb_reader *reader, moeblock_error *error)
{
    MB_TRY(check_supported(reader, error));
    MB_TRY(check_missing(reader, error));
    MB_TRY(check_ranges(reader, error));
    MB_TRY(check_router(reader, error));
    MB_TRY(check_experts(reader, error));
    MB_TRY(check_weights(reader, error));
    MB_TRY(check_mesh(reader, error));
    return check_layer(reader, error);
}
