// SPDX-License-Identifier: Apache-2.0
// How tensor-parallel ranks share the experts' work. By activations: each computes activations of its columns, all of
// them are gathered, and each computes whole outputs of its columns: no sum crosses ranks, so the bits are those of one
// process. By sums, only with MB_REPRODUCIBLE_BATCH: each takes its activations to partial sums of all outputs, which
// reduce.c adds at the end. Which one depends on the description and on what is stored, never on an input.
#include <stdio.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/status.h"
#include "config/preset.h"
#include "config/tensors.h"

enum { LEAST_UNIT = 16 }; // codes with scales that are read together

// The down projection of the routed and of the shared experts.
struct down {
    bool there;
    enum mb_format format;
    int64_t inner, group; // its inputs; those of one scale
};

// Columns of the intermediate that stay on one rank: whole groups of a scale where a sum has several.
static int64_t unit_of(const struct down *down)
{
    if (down->group <= 0) return 1;
    const int64_t group = down->group < down->inner ? down->group : LEAST_UNIT;
    int64_t unit = group;
    while (unit % LEAST_UNIT) unit += group;
    return unit;
}

static void cut(const struct down *down, const struct mb_share *share, int64_t *begin, int64_t *end)
{
    const int64_t unit = unit_of(down);
    mb_split(mb_ceil_div(down->inner, unit), share->tp, share->tp_index, begin, end);
    *begin = mb_min(*begin * unit, down->inner);
    *end = mb_min(*end * unit, down->inner);
}

// Why sums cannot be partial; false: they can.
static bool whole(const moeblock_block *block, const struct down down[2], char *why, size_t capacity)
{
    const moeblock_expert_class *const kind = block->routed_kind ? block->routed_kind->class_copy : NULL;
    if (block->config->latent_size) {
        snprintf(why, capacity, "the latent projections take whole rows");
        return true;
    }
    if (kind && kind->splits < 2) {
        snprintf(why, capacity, "experts of kind \"%.40s\" give whole outputs alone", block->routed_kind->name);
        return true;
    }
    for (int i = 0; i < 2; i++) {
        if (!down[i].there || !mb_format_suffix(down[i].format, MB_PART_ORDER)) continue;
        snprintf(why, capacity, "%s weights have an order of inputs of their own",
                 mb_format_table[down[i].format].name);
        return true;
    }
    return false;
}

// Whether some rank would have nothing to do.
static bool idles(const struct down *down, int ranks)
{
    return down->there && mb_ceil_div(down->inner, unit_of(down)) < ranks;
}

// Bytes that a rank sends for each token with uniform routing, headers apart: [0] by activations, [1] by sums.
static void bytes_of(const moeblock_block *block, const struct mb_weight_set *set, double bytes[2])
{
    const moeblock_config *config = block->config;
    const double tp = block->share.tp, ep = block->share.ep, hidden = (double)config->hidden_size;
    const double element = (double)mb_element_bytes(set), output = (double)mb_output_bytes(set);
    struct mb_travel travel;
    mb_cpu_travel(block, set, 1, &travel);
    const double returned = config->routed_enabled ? mb_travel_rows(&travel) : 0;
    const double pairs = config->routed_enabled ? (double)travel.k / (travel.same_tokens ? ep : 1) : 0;
    const double shared = config->shared_enabled ? (double)config->shared.intermediate_size : 0;
    const double inner = pairs * (double)config->routed.intermediate_size + shared;
    bytes[0] = inner * element * (tp - 1) / tp + returned * hidden * output / tp;
    bytes[1] = hidden * output * (tp - 1) / tp + returned * hidden * output;
}

static bool chooses_sums(const moeblock_block *block, const struct down down[2], const struct mb_weight_set *set,
                         char *why, size_t capacity)
{
    double bytes[2];
    if (whole(block, down, why, capacity)) return false;
    bytes_of(block, set, bytes);
    const bool asked = block->config->exchanged == MB_EXCHANGE_SUMS, idle = idles(&down[0], block->share.tp);
    const bool fewer = bytes[1] < bytes[0], sums = asked || (fewer && !idle);
    snprintf(why, capacity, "%s: %.4g KB a token and rank, %.4g by %s",
             asked    ? "as asked"
             : !fewer ? "fewer bytes"
             : idle   ? "groups of a scale are not cut and fewer than the ranks"
                      : "fewer bytes",
             bytes[sums] / 1e3, bytes[!sums] / 1e3, sums ? "activations" : "sums");
    return sums;
}

static void fill(const moeblock_block *block, const struct down down[2], struct mb_columns *out)
{
    const moeblock_config *config = block->config;
    const struct mb_share *share = &block->share;
    out->d1 = block->routed_width;
    out->h1 = config->hidden_size;
    if (out->sums) {
        cut(&down[0], share, &out->i0, &out->i1);
        cut(&down[1], share, &out->s0, &out->s1);
        return;
    }
    mb_share_columns(share, config->routed.intermediate_size, share->tp_index, &out->i0, &out->i1);
    mb_share_columns(share, config->shared.intermediate_size, share->tp_index, &out->s0, &out->s1);
    mb_share_columns(share, out->d1, share->tp_index, &out->d0, &out->d1);
    mb_share_columns(share, out->h1, share->tp_index, &out->h0, &out->h1);
}

static moeblock_status choose(const moeblock_block *block, const struct down down[2], struct mb_weight_set *set,
                              moeblock_error *error)
{
    const moeblock_config *config = block->config;
    struct mb_columns *out = &set->columns;
    char why[160];
    *out = (struct mb_columns){.sums = false};
    if (block->share.tp == 1)
        snprintf(why, sizeof why, "no tensor parallelism");
    else if (config->reproducible == MB_REPRODUCIBLE_MESH)
        snprintf(why, sizeof why, "the bits of one process");
    else if (config->exchanged == MB_EXCHANGE_ACTIVATIONS)
        snprintf(why, sizeof why, "as asked");
    else
        out->sums = chooses_sums(block, down, set, why, sizeof why);
    if (!out->sums && block->share.tp > 1 && config->exchanged == MB_EXCHANGE_SUMS)
        return mb_fail(error, MOEBLOCK_UNSUPPORTED,
                       "sharing the experts by columns: mesh.exchange is \"sums\", but %s; choose auto or activations",
                       why);
    snprintf(out->why, sizeof out->why, "%s (%s)", out->sums ? "partial sums" : "activations", why);
    fill(block, down, out);
    return MOEBLOCK_OK;
}

moeblock_status mb_columns_sized(const moeblock_block *block, enum mb_format format, struct mb_weight_set *set,
                                 moeblock_error *error)
{
    const moeblock_config *config = block->config;
    const int64_t inner[2] = {config->routed.intermediate_size, config->shared.intermediate_size};
    const int64_t said = mb_format_table[format].any_group ? config->group_size : 0;
    struct down down[2];
    for (int i = 0; i < 2; i++)
        down[i] = (struct down){.there = i ? config->shared_enabled : config->routed_enabled,
                                .format = format,
                                .inner = inner[i],
                                .group = said ? said : mb_format_group(format, inner[i])};
    return choose(block, down, set, error);
}

moeblock_status mb_columns_stored(const moeblock_block *block, moeblock_weights *weights, int64_t layer,
                                  struct mb_weight_set *set, moeblock_error *error)
{
    const moeblock_config *config = block->config;
    static const enum mb_projection maps[] = {MB_PROJ_DOWN, MB_PROJ_SHARED_DOWN};
    struct down down[2] = {{.inner = config->routed.intermediate_size}, {.inner = config->shared.intermediate_size}};
    for (int i = 0; i < 2 && block->share.tp > 1; i++) {
        struct mb_matrix matrix;
        const bool built_in = i || (block->routed_kind && mb_expert_is_builtin(config->expert_type));
        if (!built_in || !mb_projection_wanted(config, maps[i])) continue;
        if (mb_find_stored(block, weights, maps[i], layer, &matrix, NULL) != MOEBLOCK_OK) continue; // opening tells
        down[i].there = true;
        down[i].format = matrix.format;
        down[i].group = mb_matrix_group(&matrix);
    }
    return choose(block, down, set, error);
}
