// SPDX-License-Identifier: Apache-2.0
// What the ranks of a mesh compare before they compute together: library, machine and description when a block is made,
// stored weights and compute type when it has loaded. What differs is an error on every rank that names it.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "block.h"
#include "config/schema.h"
#include "config/tensors.h"
#include "config/value.h"

enum { LINE = MB_VALUE_TEXT + 160, SAMPLE = 256 };

static uint64_t mix(uint64_t hash, const void *data, size_t bytes) // FNV-1a
{
    const unsigned char *at = data;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
    return hash;
}
static const uint64_t hash_start = UINT64_C(0xcbf29ce484222325);

struct lines {
    char *text;
    size_t used, capacity;
};

static void add(struct lines *lines, const char *name, const char *value)
{
    const int length =
        snprintf(lines->text + lines->used, lines->capacity - lines->used, "%s = %s\n", name, *value ? value : "none");
    if (length > 0 && lines->used + (size_t)length < lines->capacity) lines->used += (size_t)length;
}

static void add_hash(struct lines *lines, const char *name, uint64_t hash)
{
    char value[32];
    snprintf(value, sizeof value, "%016" PRIx64, hash);
    add(lines, name, value);
}

// Where things lie may differ from machine to machine.
static bool is_place(const moeblock_config *config, size_t row)
{
    const void *const field = (const char *)config + mb_schema[row].offset;
    return field == config->weight_path || field == config->placement || field == config->name;
}

static const char *compute_name(moeblock_compute compute)
{
    static const char *const names[] = {"auto", "f32", "bf16", "int16", "bf16x2"};
    return names[compute];
}

static void describe_block(const moeblock_block *block, struct lines *lines)
{
    const moeblock_config *config = block->config;
    const struct mb_placement_table *placement = &block->placement;
    const uint16_t one = 1;
    char value[MB_VALUE_TEXT];
    snprintf(value, sizeof value, "%d x %d", block->mesh->rows, block->mesh->columns);
    add(lines, "library version", moeblock_version());
    add(lines, "byte order", *(const unsigned char *)&one ? "little" : "big");
    add(lines, "mesh", value);
    add(lines, "compute", compute_name(block->requested));
    for (size_t i = 0; i < mb_schema_count; i++) {
        if (mb_schema[i].type == MB_TYPE_IGNORED || mb_schema[i].folded || is_place(config, i)) continue;
        if (!mb_value_matters(config, (int)i)) continue;
        mb_value_text(config, (int)i, false, value);
        add(lines, mb_schema[i].path, value);
    }
    if (config->router_json)
        add_hash(lines, "router.config", mix(hash_start, config->router_json, strlen(config->router_json)));
    if (config->expert_json)
        add_hash(lines, "experts.config", mix(hash_start, config->expert_json, strlen(config->expert_json)));
    if (placement->begin)
        add_hash(lines, "mesh.placement (its table)",
                 mix(mix(hash_start, placement->begin, (size_t)(placement->experts + 1) * sizeof *placement->begin),
                     placement->holder, (size_t)placement->begin[placement->experts] * sizeof *placement->holder));
}

// A tensor's type and shape, and its first bytes; all of the router, which every rank reads anyway.
static uint64_t identity(const moeblock_block *block, moeblock_weights *weights, enum mb_role role, int64_t layer)
{
    moeblock_tensor_info info;
    char bytes[SAMPLE];
    uint64_t hash = hash_start;
    if (mb_role_find(block->config, weights, role, "", layer, 0, &info, NULL) != MOEBLOCK_OK) return 0;
    // Tensors in a caller's memory may be the owned ones alone; the router's are everyone's.
    if (!info.file && role != MB_ROLE_ROUTER) return 0;
    hash = mix(hash, info.dtype_name, strlen(info.dtype_name));
    hash = mix(hash, info.dims, sizeof *info.dims * (size_t)info.rank);
    const uint64_t all = role == MB_ROLE_ROUTER ? info.bytes : info.bytes < SAMPLE ? info.bytes : SAMPLE;
    for (uint64_t at = 0; at < all; at += SAMPLE) {
        const size_t n = all - at < SAMPLE ? (size_t)(all - at) : SAMPLE;
        if (moeblock_weights_read(weights, &info, at, n, bytes, NULL) != MOEBLOCK_OK) return 0;
        hash = mix(hash, bytes, n);
    }
    return hash;
}

static void describe_weights(const moeblock_block *block, moeblock_weights *weights, const struct mb_weight_set *set,
                             struct lines *lines)
{
    const int64_t layer = mb_block_layer(block->config);
    char value[32];
    snprintf(value, sizeof value, "%" PRId64, layer);
    add(lines, "layer", value);
    add(lines, "stored format", set->format);
    add(lines, "compute", compute_name(set->compute));
    add(lines, "what columns exchange", set->columns.sums ? "sums" : "activations");
    for (int role = 0; role < MB_ROLES; role++) {
        if (!mb_role_wanted(block->config, (enum mb_role)role)) continue;
        snprintf(value, sizeof value, "tensor %.24s", mb_role_key((enum mb_role)role));
        add_hash(lines, value, identity(block, weights, (enum mb_role)role, layer));
    }
}

static moeblock_status compare(const moeblock_block *block, const char *doing, struct lines *lines,
                               moeblock_status mine, moeblock_error *error)
{
    const moeblock_status status = mb_mesh_same(block->mesh, doing, lines->text ? lines->text : "", mine, error);
    mb_free(&block->context->allocator, lines->text);
    return status;
}

static struct lines new_lines(const moeblock_block *block)
{
    struct lines lines = {.capacity = (mb_schema_count + 32) * LINE};
    lines.text = mb_alloc_zero(&block->context->allocator, lines.capacity);
    return lines;
}

// Ranks may be different machines. What they choose for themselves is what all of them do well: the compute type for
// AUTO, and for float32 compute sums that have the same bits everywhere.
static moeblock_status agree_machine(moeblock_block *block, moeblock_error *error)
{
    int64_t any[] = {!block->may_be_int16, !block->may_be_bf16x2, !block->context->kernels->fused};
    MB_TRY(mb_mesh_agree(block->mesh, any, 3, MOEBLOCK_OK, error));
    block->may_be_int16 = !any[0];
    block->may_be_bf16x2 = !any[1];
    block->rounds_apart = any[2];
    return MOEBLOCK_OK;
}

moeblock_status mb_agree_created(moeblock_block *block, moeblock_status mine, moeblock_error *error)
{
    if (!block->mesh || block->mesh->size == 1) return mine;
    struct lines lines = {NULL, 0, 0};
    if (mine == MOEBLOCK_OK && !(lines = new_lines(block)).text)
        mine = mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "creating a block: no memory");
    if (mine == MOEBLOCK_OK) describe_block(block, &lines);
    MB_TRY(compare(block, "creating a block on a mesh", &lines, mine, error));
    return agree_machine(block, error);
}

moeblock_status mb_agree_loaded(const moeblock_block *block, moeblock_weights *weights, const struct mb_weight_set *set,
                                moeblock_status mine, moeblock_error *error)
{
    if (!block->mesh || block->mesh->size == 1) return mine;
    struct lines lines = {NULL, 0, 0};
    if (mine == MOEBLOCK_OK && !(lines = new_lines(block)).text)
        mine = mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "loading weights: no memory");
    if (mine == MOEBLOCK_OK) describe_weights(block, weights, set, &lines);
    return compare(block, "loading weights on a mesh", &lines, mine, error);
}
