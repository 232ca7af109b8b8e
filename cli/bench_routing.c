// SPDX-License-Identifier: Apache-2.0
// Routings other than the router's own. The experts then run alone on the ids made here
// (moeblock_block_forward_experts), since a block's router cannot be told what to choose.
#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "cli/bench.h"
#include "cli/draw.h"
#include "cli/exit.h"
#include "weights/npy.h"

// Uniform: all experts alike. Skewed: expert weights follow Zipf's law, 1 / rank, ranks dealt to the experts at random.
static int draw_all(struct bench *bench, bool skewed)
{
    const int64_t experts = bench->variants[0].shape.num_experts;
    uint64_t state = (uint64_t)bench->args->seed;
    double *const weight = mb_alloc(&mb_default_allocator, sizeof *weight * (size_t)experts * 2);
    if (!weight) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for the weights of %" PRId64 " experts", experts);
    for (int64_t e = 0; e < experts; e++) weight[e] = skewed ? 1.0 / (double)(e + 1) : 1;
    for (int64_t e = experts - 1; e > 0; e--) {
        const int64_t other = (int64_t)(cli_draw_uniform(&state) * (double)(e + 1));
        const double kept = weight[e];
        weight[e] = weight[other];
        weight[other] = kept;
    }
    for (int64_t t = 0; t < bench->rows; t++)
        cli_draw_experts(weight, experts, bench->k, &state, weight + experts, bench->ids + t * bench->k);
    mb_free(&mb_default_allocator, weight);
    return CLI_OK;
}

static int copy_ids(struct bench *bench, const struct mb_npy *array, const char *path)
{
    const int64_t experts = bench->variants[0].shape.num_experts;
    for (int64_t i = 0; i < bench->rows * bench->k; i++) {
        const double id = mb_npy_value(array, i % array->count);
        if (!(id >= -1 && id < (double)experts))
            return cli_fail(CLI_BAD_DATA,
                            "'%s': id %.17g at element %" PRId64 " is no expert (0 to %" PRId64 ", or -1)", path, id,
                            i % array->count, experts - 1);
        bench->ids[i] = (int32_t)id;
    }
    return CLI_OK;
}

static int make_room(struct bench *bench)
{
    const size_t slots = (size_t)(bench->rows * bench->k);
    bench->ids = mb_alloc(&mb_default_allocator, sizeof *bench->ids * slots);
    bench->weights = mb_alloc(&mb_default_allocator, sizeof *bench->weights * slots);
    if (!bench->ids || !bench->weights) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for %zu slots", slots);
    for (size_t i = 0; i < slots; i++) bench->weights[i] = 1.0f / (float)bench->k;
    return CLI_OK;
}

static int read_ids(struct bench *bench, const char *path)
{
    struct mb_npy array;
    moeblock_error error;
    if (mb_npy_read(&mb_default_allocator, path, &array, &error) != MOEBLOCK_OK)
        return cli_fail_status(CLI_ABOUT_DATA, &error);
    const bool integers = array.dtype >= MOEBLOCK_U8 && array.dtype <= MOEBLOCK_I64;
    int code = CLI_OK;
    if (!integers || array.rank != 2 || array.count == 0)
        code = cli_fail(CLI_BAD_DATA,
                        "'%s' holds %s of rank %d, expected integers [tokens, slots]: the experts of "
                        "each token",
                        path, moeblock_dtype_name(array.dtype), array.rank);
    bench->k = array.dims[array.rank == 2];
    if (!code) code = make_room(bench);
    if (!code) code = copy_ids(bench, &array, path);
    mb_npy_free(&mb_default_allocator, &array);
    return code;
}

int bench_routing_make(struct bench *bench)
{
    const char *const routing = bench->args->routing;
    bench->k = bench->variants[0].shape.num_experts_per_tok;
    if (strcmp(routing, "router") == 0) return CLI_OK;
    const bool skewed = strcmp(routing, "skewed") == 0;
    if (!skewed && strcmp(routing, "uniform") != 0) return read_ids(bench, routing);
    const int code = make_room(bench);
    return code ? code : draw_all(bench, skewed);
}
