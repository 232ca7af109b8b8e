// SPDX-License-Identifier: Apache-2.0
// Tables of experts and the ranks that hold them: contiguous runs, and the files in which `moeblock route` writes a
// table and `mesh.placement` names it.
#include "mesh/placement.h"

#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "mesh/mesh.h"

enum { FILE_BYTES_MAX = 64 << 20 };

static const char schema[] = "moeblock.placement/1";

moeblock_status mb_placement_allocate(const moeblock_allocator *allocator, int64_t experts, int ranks, int64_t holders,
                                      struct mb_placement_table *out, moeblock_error *error)
{
    *out = (struct mb_placement_table){.allocator = *allocator, .experts = experts, .ranks = ranks};
    out->begin = mb_alloc_zero(allocator, (size_t)(experts + 1) * sizeof *out->begin);
    out->holder = mb_alloc(allocator, (size_t)holders * sizeof *out->holder);
    if (out->begin && out->holder) return MOEBLOCK_OK;
    mb_placement_free(out);
    return mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "placing %" PRId64 " experts on %d ranks: no memory", experts, ranks);
}

void mb_placement_free(struct mb_placement_table *placement)
{
    mb_free(&placement->allocator, placement->begin);
    mb_free(&placement->allocator, placement->holder);
    placement->begin = NULL;
    placement->holder = NULL;
}

moeblock_status mb_placement_contiguous(const moeblock_allocator *allocator, int64_t experts, int ranks,
                                        struct mb_placement_table *out, moeblock_error *error)
{
    MB_TRY(mb_placement_allocate(allocator, experts, ranks, experts, out, error));
    for (int rank = 0; rank < ranks; rank++) {
        int64_t begin, end;
        mb_split(experts, ranks, rank, &begin, &end);
        for (int64_t e = begin; e < end; e++) out->holder[e] = rank;
    }
    for (int64_t e = 0; e <= experts; e++) out->begin[e] = e;
    return MOEBLOCK_OK;
}

// What is wrong with the ranks of one expert; NULL: nothing.
static const char *wrong_ranks(const json_t *list, int ranks)
{
    json_int_t before = -1;
    if (!json_is_array(list) || json_array_size(list) == 0) return "no list of ranks";
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *rank = json_array_get(list, i);
        if (!json_is_integer(rank) || json_integer_value(rank) < 0 || json_integer_value(rank) >= ranks)
            return "a rank outside the mesh";
        if (json_integer_value(rank) <= before) return "ranks that do not ascend";
        before = json_integer_value(rank);
    }
    return NULL;
}

static moeblock_status check_table(const json_t *root, const char *path, int64_t experts, int ranks, int64_t *holders,
                                   moeblock_error *error)
{
    const char *found = json_string_value(json_object_get(root, "schema"));
    if (!found || strcmp(found, schema) != 0)
        return mb_fail(error, MOEBLOCK_INVALID_FILE,
                       "reading the placement '%s': its schema is '%.60s', expected '%s', which `moeblock route "
                       "--placement` writes",
                       path, found ? found : "(none)", schema);
    const json_t *table = json_object_get(root, "experts");
    const json_int_t made_for = json_integer_value(json_object_get(root, "ranks"));
    if (!json_is_array(table) || (int64_t)json_array_size(table) != experts || made_for != ranks)
        return mb_fail(error, MOEBLOCK_INVALID_CONFIG,
                       "reading the placement '%s': it places %zu experts on %" PRId64 " ranks, expected %" PRId64
                       " on %d; make one for this mesh",
                       path, json_array_size(table), (int64_t)made_for, experts, ranks);
    *holders = 0;
    for (size_t e = 0; e < json_array_size(table); e++) {
        const json_t *list = json_array_get(table, e);
        const char *wrong = wrong_ranks(list, ranks);
        if (wrong)
            return mb_fail(error, MOEBLOCK_INVALID_FILE,
                           "reading the placement '%s': expert %zu has %s, expected ascending ranks in [0, %d)", path,
                           e, wrong, ranks);
        *holders += (int64_t)json_array_size(list);
    }
    return MOEBLOCK_OK;
}

static moeblock_status from_table(const moeblock_allocator *allocator, const json_t *root, const char *path,
                                  int64_t experts, int ranks, struct mb_placement_table *out, moeblock_error *error)
{
    int64_t holders = 0, at = 0;
    MB_TRY(check_table(root, path, experts, ranks, &holders, error));
    MB_TRY(mb_placement_allocate(allocator, experts, ranks, holders, out, error));
    for (int64_t e = 0; e < experts; e++) {
        const json_t *list = json_array_get(json_object_get(root, "experts"), (size_t)e);
        for (size_t i = 0; i < json_array_size(list); i++)
            out->holder[at++] = (int32_t)json_integer_value(json_array_get(list, i));
        out->begin[e + 1] = at;
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_placement_named(const moeblock_allocator *allocator, const char *name, int64_t experts, int ranks,
                                   struct mb_placement_table *out, moeblock_error *error)
{
    static const struct mb_json_options options = {.max_bytes = FILE_BYTES_MAX, .invalid = MOEBLOCK_INVALID_FILE};
    char *text = NULL;
    size_t bytes = 0;
    json_t *root = NULL;
    *out = (struct mb_placement_table){.allocator = *allocator};
    if (!name[0] || !strcmp(name, "contiguous")) return mb_placement_contiguous(allocator, experts, ranks, out, error);
    MB_TRY(mb_file_read_text(allocator, name, FILE_BYTES_MAX, &text, &bytes, error));
    moeblock_status status = mb_json_parse(text, bytes, name, &options, &root, error);
    if (status == MOEBLOCK_OK) status = from_table(allocator, root, name, experts, ranks, out, error);
    json_decref(root);
    mb_free(allocator, text);
    return status;
}

bool mb_placement_holds(const struct mb_placement_table *placement, int64_t expert, int rank)
{
    for (int64_t i = placement->begin[expert]; i < placement->begin[expert + 1]; i++)
        if (placement->holder[i] == rank) return true;
    return false;
}

int64_t mb_placement_count(const struct mb_placement_table *placement, int rank)
{
    int64_t count = 0;
    for (int64_t i = 0; i < placement->begin[placement->experts]; i++) count += placement->holder[i] == rank;
    return count;
}

void mb_placement_loads(const struct mb_placement_table *placement, const int64_t *load, double *out)
{
    for (int rank = 0; rank < placement->ranks; rank++) out[rank] = 0;
    for (int64_t e = 0; e < placement->experts; e++) {
        if (placement->begin[e + 1] - placement->begin[e] == 1) {
            out[placement->holder[placement->begin[e]]] += (double)load[e];
            continue;
        }
        for (int home = 0; home < placement->ranks; home++)
            out[mb_placement_rank(placement, e, home)] += (double)load[e] / placement->ranks;
    }
}

static json_t *as_json(const struct mb_placement_table *placement)
{
    json_t *root = json_pack("{s:s, s:i, s:[]}", "schema", schema, "ranks", placement->ranks, "experts");
    json_t *table = json_object_get(root, "experts");
    for (int64_t e = 0; root && e < placement->experts; e++) {
        json_t *list = json_array();
        for (int64_t i = placement->begin[e]; i < placement->begin[e + 1]; i++)
            json_array_append_new(list, json_integer(placement->holder[i]));
        json_array_append_new(table, list);
    }
    return root;
}

char *mb_placement_text(const struct mb_placement_table *placement)
{
    json_t *root = as_json(placement);
    const size_t bytes = json_dumpb(root, NULL, 0, JSON_COMPACT);
    char *text = root ? mb_alloc(&placement->allocator, bytes + 2) : NULL;
    if (text) {
        json_dumpb(root, text, bytes, JSON_COMPACT);
        memcpy(text + bytes, "\n", 2);
    }
    json_decref(root);
    return text;
}
