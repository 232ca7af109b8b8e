// SPDX-License-Identifier: Apache-2.0
// The routing that a plan is made for: all experts alike, in proportion to a load file, or ids from a file.
#include <inttypes.h>
#include <string.h>

#include "base/arith.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/draw.h"
#include "cli/exit.h"
#include "cli/plan.h"
#include "weights/npy.h"

// Choices are drawn for so many tokens; longer inputs repeat them.
enum { DRAWN_MOST = 1 << 15, LOAD_BYTES_MAX = 16 << 20 };

static const moeblock_allocator *const allocator = &mb_default_allocator;

static bool ends_with(const char *text, const char *end)
{
    const size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

// Where a router keeps only some groups of experts, a token's experts come from as many random groups.
static void keep_groups(const struct mb_router_config *router, const double *all, int64_t experts, uint64_t *state,
                        double *keys, double *weight)
{
    const int64_t groups = router->n_group, size = experts / groups;
    memcpy(weight, all, (size_t)experts * sizeof *weight);
    for (int64_t dropped = 0; dropped < groups - router->topk_group; dropped++) {
        int64_t left = (int64_t)(cli_draw_uniform(state) * (double)(groups - dropped)), g = 0;
        for (;; g++) // the left-th group that is still there; keys of a dropped group's first expert are marked
            if (keys[g] == 0 && left-- == 0) break;
        keys[g] = 1;
        memset(weight + g * size, 0, (size_t)size * sizeof *weight);
    }
}

static int draw_ids(struct plan *plan, const double *weight)
{
    const moeblock_config *const config = plan->session.config;
    const int64_t experts = config->num_experts, k = plan->choices.k;
    const int64_t rows = mb_min(plan->args->token_count, DRAWN_MOST);
    const bool limited = config->router.groups == MB_GROUPS_LIMITED && experts % config->router.n_group == 0;
    uint64_t state = (uint64_t)plan->args->seed;
    double *const kept = mb_alloc(allocator, 2 * (size_t)experts * sizeof *kept);
    plan->ids = mb_alloc(allocator, (size_t)(rows * k) * sizeof *plan->ids);
    if (kept && plan->ids) {
        double *const keys = kept + experts;
        for (int64_t t = 0; t < rows; t++) {
            memset(keys, 0, (size_t)experts * sizeof *keys);
            if (limited) keep_groups(&config->router, weight, experts, &state, keys, kept);
            cli_draw_experts(limited ? kept : weight, experts, k, &state, keys, plan->ids + t * k);
        }
    }
    mb_free(allocator, kept);
    plan->choices.ids = plan->ids;
    plan->choices.rows = rows;
    return plan->ids ? CLI_OK : cli_fail(CLI_SYSTEM_REFUSED, "no memory for the choices of %" PRId64 " tokens", rows);
}

// Counts of the experts in a load file that `route` wrote. An expert without rows keeps a small chance.
static int read_load(struct plan *plan, const char *path, double *weight)
{
    static const struct mb_json_options options = {.max_bytes = LOAD_BYTES_MAX, .invalid = MOEBLOCK_INVALID_FILE};
    const int64_t experts = plan->shape.num_experts;
    moeblock_error *const error = &plan->session.error;
    char *text = NULL;
    size_t bytes;
    json_t *root = NULL;
    moeblock_status status = mb_file_read_text(allocator, path, LOAD_BYTES_MAX, &text, &bytes, error);
    if (status == MOEBLOCK_OK) status = mb_json_parse(text, bytes, path, &options, &root, error);
    int code = status == MOEBLOCK_OK ? CLI_OK : cli_fail_status(CLI_ABOUT_DATA, error);
    const json_t *counts = json_object_get(root, "counts");
    if (!code && (int64_t)json_array_size(counts) != experts)
        code = cli_fail(CLI_BAD_DATA, "'%s' has counts of %zu experts, expected %" PRId64 ", those of '%s'", path,
                        json_array_size(counts), experts, plan->session.config_path);
    for (int64_t e = 0; !code && e < experts; e++) {
        const json_int_t count = json_integer_value(json_array_get(counts, (size_t)e));
        if (count < 0) code = cli_fail(CLI_BAD_DATA, "'%s' has a negative count of expert %" PRId64, path, e);
        weight[e] = count > 0 ? (double)count : 1e-3;
    }
    json_decref(root);
    mb_free(allocator, text);
    return code;
}

static int read_ids(struct plan *plan, const char *path)
{
    struct mb_npy array;
    if (mb_npy_read(allocator, path, &array, &plan->session.error) != MOEBLOCK_OK)
        return cli_fail_status(CLI_ABOUT_DATA, &plan->session.error);
    const int64_t k = plan->choices.k, experts = plan->shape.num_experts + plan->session.config->router.null_experts;
    int code = CLI_OK;
    plan->ids = mb_alloc(allocator, (size_t)array.count * sizeof *plan->ids);
    if (array.rank != 2 || array.dims[1] != k || array.dims[0] < 1)
        code = cli_fail(CLI_BAD_DATA,
                        "'%s' is no array [tokens, %" PRId64 "] of expert ids, as run --router-out writes", path, k);
    else if (!plan->ids)
        code = cli_fail(CLI_SYSTEM_REFUSED, "no memory for %" PRId64 " ids", array.count);
    for (int64_t i = 0; !code && i < array.count; i++) {
        const double id = mb_npy_value(&array, i);
        if (!(id >= 0 && id < (double)experts && id == (double)(int32_t)id))
            code = cli_fail(CLI_BAD_DATA, "'%s': id %g of token %" PRId64 ", expected 0 to %" PRId64, path, id, i / k,
                            experts - 1);
        else
            plan->ids[i] = (int32_t)id;
    }
    plan->choices.ids = plan->ids;
    plan->choices.rows = array.dims[0];
    mb_npy_free(allocator, &array);
    return code;
}

int plan_read_routing(struct plan *plan)
{
    const char *const routing = plan->args->routing;
    const int64_t experts = plan->shape.num_experts;
    plan->choices.k = plan->shape.num_experts_per_tok;
    plan->choices.replicated = plan->session.config->replicated_batch;
    if (ends_with(routing, ".npy")) return read_ids(plan, routing);
    double *const weight = mb_alloc(allocator, (size_t)experts * sizeof *weight);
    if (!weight) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for the weights of %" PRId64 " experts", experts);
    int code = CLI_OK;
    for (int64_t e = 0; e < experts; e++) weight[e] = 1;
    if (strcmp(routing, "uniform") != 0) code = read_load(plan, routing, weight);
    if (!code) code = draw_ids(plan, weight);
    mb_free(allocator, weight);
    return code;
}
