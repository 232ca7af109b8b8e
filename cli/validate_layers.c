// SPDX-License-Identifier: Apache-2.0
// A configuration against the tensors of a checkpoint, layer by layer: all that is missing or of another shape, and
// what lies beside the block's tensors without being called for.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "block.h"
#include "cli/out.h"
#include "cli/validate.h"
#include "config/layers.h"
#include "config/tensors.h"

enum { PROBLEMS_MAX = 200, UNUSED_MAX = 50 };

static void add_problem(struct cli_findings *findings, moeblock_status status, const char *message)
{
    if (!json_array_size(findings->problems)) findings->code = cli_exit_code(CLI_ABOUT_DATA, status);
    if (json_array_size(findings->problems) < PROBLEMS_MAX)
        json_array_append_new(findings->problems, json_string(message));
}

// The linear maps in whatever format each is stored: names, types, shapes, scales. One bank of experts.
static void check_projections(struct cli_session *session, const moeblock_config *config, int64_t layer, bool second,
                              struct cli_findings *findings)
{
    for (int p = 0; p < MB_PROJECTIONS; p++) {
        const enum mb_projection projection = (enum mb_projection)p;
        const bool routed = projection == MB_PROJ_GATE || projection == MB_PROJ_UP || projection == MB_PROJ_DOWN;
        if (!mb_projection_wanted(config, projection) || (second && !routed)) continue;
        for (int64_t expert = 0; expert < (routed ? config->num_experts : 1); expert++) {
            struct mb_matrix matrix;
            const moeblock_status status =
                mb_projection_find(config, session->weights, projection, layer, expert, &matrix, &session->error);
            if (status != MOEBLOCK_OK) {
                add_problem(findings, status, session->error.message);
                if (config->layout != MB_LAYOUT_PER_EXPERT) break; // one tensor, one sentence
            } else if (projection == MB_PROJ_DOWN && !second) {
                snprintf(findings->format, sizeof findings->format, "%s", mb_format_table[matrix.format].name);
                findings->compute =
                    mb_format_table[matrix.format].f32_compute ? MOEBLOCK_COMPUTE_F32 : MOEBLOCK_COMPUTE_BF16;
            } else if (projection == MB_PROJ_SHARED_DOWN) {
                snprintf(findings->shared_format, sizeof findings->shared_format, "%s",
                         mb_format_table[matrix.format].name);
            }
        }
    }
}

// Everything that is no linear map: biases, norms, factors, the table of token ids.
static void check_vectors(struct cli_session *session, const moeblock_config *config, int64_t layer,
                          struct cli_findings *findings)
{
    for (int r = 0; r < MB_ROLES; r++) {
        const enum mb_role role = (enum mb_role)r;
        const bool each = mb_role_per_expert(config, role);
        if (!mb_role_wanted(config, role) || !mb_role_is_vector(role)) continue;
        for (int64_t expert = 0; expert < (each ? config->num_experts : 1); expert++) {
            const moeblock_status status =
                mb_role_check(config, session->weights, role, layer, expert, &session->error);
            if (status != MOEBLOCK_OK) add_problem(findings, status, session->error.message);
        }
    }
}

// Tensors that hold one of the plain list: 1, or codes and what lies beside them.
static size_t count_parts(struct cli_session *session, const char *plain)
{
    for (int f = 0; f < MB_FORMATS; f++) {
        const struct mb_format_info *const info = &mb_format_table[f];
        moeblock_tensor_info found;
        char name[288];
        size_t parts = 0;
        mb_name_with(plain, info->codes_suffix, name);
        if (!info->scale_suffix || moeblock_weights_find(session->weights, name, &found, NULL) != MOEBLOCK_OK) continue;
        if (found.dtype != info->dtype && found.dtype != info->also) continue;
        for (int p = 0; p < MB_PARTS; p++) {
            const char *const suffix = mb_format_suffix((enum mb_format)f, (enum mb_part)p);
            mb_name_with(plain, suffix ? suffix : "", name);
            parts += suffix && moeblock_weights_find(session->weights, name, &found, NULL) == MOEBLOCK_OK;
        }
        if (parts > 1) return parts;
    }
    return 1;
}

// Tensors of the layer as they are stored.
static size_t count_tensors(struct cli_session *session, const moeblock_config *config, int64_t layer)
{
    size_t count = 0;
    moeblock_tensor_need need;
    for (int64_t i = 0; mb_tensor_needed(config, MB_FORMAT_BF16, layer, i, &need); i++)
        count += count_parts(session, need.name);
    return count;
}

// "model.layers.3.mlp." of "model.layers.3.mlp.gate.weight": where the block's tensors lie.
static void module_of(const moeblock_config *config, int64_t layer, char out[256])
{
    mb_role_name(config, config->routed_enabled ? MB_ROLE_DOWN : MB_ROLE_SHARED_DOWN, layer, 0, out);
    char *end = strstr(out, ".experts");
    if (!end) end = strrchr(out, '.');
    if (end) end[1] = '\0';
}

static bool called_for(const moeblock_config *config, int64_t layer, const char *name)
{
    moeblock_tensor_need need;
    for (int64_t i = 0; mb_tensor_needed(config, MB_FORMAT_BF16, layer, i, &need); i++) {
        size_t length = strlen(need.name);
        if (length > 7 && !strcmp(need.name + length - 7, ".weight")) length -= 7; // scales and zero points beside it
        if (!strncmp(name, need.name, length)) return true;
    }
    return false;
}

// Tensors in the block's module that the description does not call for: a bias, a shared expert, more experts.
static int list_unused(struct cli_session *session, const moeblock_config *config, int64_t layer,
                       struct cli_findings *findings)
{
    char module[256];
    module_of(config, layer, module);
    for (size_t i = 0; i < findings->tensors && json_array_size(findings->unused) < UNUSED_MAX; i++) {
        moeblock_tensor_info tensor;
        if (moeblock_weights_at(session->weights, i, &tensor, &session->error) != MOEBLOCK_OK)
            return cli_fail_status(CLI_ABOUT_DATA, &session->error);
        if (!strncmp(tensor.name, module, strlen(module)) && !called_for(config, layer, tensor.name))
            json_array_append_new(findings->unused, json_string(tensor.name));
    }
    return CLI_OK;
}

// Whether the checkpoint has anything of the layer's experts.
static bool has_layer(struct cli_session *session, const moeblock_config *config, int64_t layer)
{
    struct mb_matrix matrix;
    const enum mb_projection down = config->routed_enabled ? MB_PROJ_DOWN : MB_PROJ_SHARED_DOWN;
    for (int64_t expert = 0; expert < (config->routed_enabled ? config->num_experts : 1); expert++)
        if (mb_projection_find(config, session->weights, down, layer, expert, &matrix, NULL) != MOEBLOCK_NOT_FOUND)
            return true;
    return mb_projection_wanted(config, MB_PROJ_ROUTER) &&
           mb_projection_find(config, session->weights, MB_PROJ_ROUTER, layer, 0, &matrix, NULL) != MOEBLOCK_NOT_FOUND;
}

static int check_layer(struct cli_session *session, int64_t layer, struct cli_findings *findings)
{
    const moeblock_config *const config = session->config;
    const bool first = !json_array_size(findings->layers);
    json_array_append_new(findings->layers, json_integer(layer));
    check_projections(session, config, layer, false, findings);
    if (config->second.count) {
        moeblock_config second;
        mb_second_bank(config, &second);
        check_projections(session, &second, layer, true, findings);
    }
    check_vectors(session, config, layer, findings);
    if (first) findings->layer_tensors = count_tensors(session, config, layer);
    return list_unused(session, config, layer, findings);
}

// The description at another layer of the same file.
static int open_layer(struct cli_session *session, const struct cli_args *args, const char *config, int64_t layer)
{
    struct cli_args at_layer = *args;
    at_layer.layer = layer;
    moeblock_config_destroy(&session->config);
    return cli_open_config(session, &at_layer, config, NULL, 0);
}

static int check_all(struct cli_session *session, const struct cli_args *args, const char *config,
                     struct cli_findings *findings)
{
    char list[sizeof session->config->moe_layers];
    const int64_t own = mb_block_layer(session->config), layers = session->config->num_layers;
    const bool one = args->layer >= 0 || layers < 1 || !strstr(session->config->module_prefix, "{layer}");
    int code = CLI_OK;
    snprintf(list, sizeof list, "%s", session->config->moe_layers);
    for (int64_t layer = one ? own : 0; !code && layer < (one ? own + 1 : layers); layer++) {
        if (!one && list[0] && !mb_layers_contain(list, layer)) continue;
        if (!one && (code = open_layer(session, args, config, layer))) return code;
        if (one || has_layer(session, session->config, layer))
            code = check_layer(session, layer, findings);
        else
            json_array_append_new(findings->absent, json_integer(layer));
    }
    if (code || one) return code;
    if (json_array_size(findings->layers)) return open_layer(session, args, config, own);
    json_array_clear(findings->absent); // nothing at all: say what the first layer lacks
    if ((code = open_layer(session, args, config, own))) return code;
    return check_layer(session, own, findings);
}

int cli_validate_layers(struct cli_session *session, const struct cli_args *args, const char *config,
                        struct cli_findings *findings)
{
    snprintf(findings->router, sizeof findings->router, "%s", session->config->router.type);
    snprintf(findings->experts, sizeof findings->experts, "%s", session->config->expert_type);
    return check_all(session, args, config, findings);
}
