// SPDX-License-Identifier: Apache-2.0
// `moeblock bench`: loads the configuration (each variant of it), times every batch size on every thread count in turn,
// and reports. No result is left out.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "base/memory.h"
#include "base/team.h"
#include "block.h"
#include "cli/bench.h"
#include "cli/commands.h"
#include "cli/exit.h"
#include "cli/out.h"
#include "cli/values.h"

enum { ROOM = 4096, WINDOW_ROWS = 8 * 63 };

static int64_t most_of(const struct cli_list *list)
{
    int64_t most = 0;
    for (size_t i = 0; i < list->count; i++) most = list->value[i] > most ? list->value[i] : most;
    return most;
}

// The values of --compare as settings, one a variant.
static int make_variants(struct bench *bench)
{
    const char *const compare = bench->args->compare, *const equals = compare ? strchr(compare, '=') : NULL;
    bench->variant_count = 1;
    for (const char *c = equals; c && *c; c++) bench->variant_count += *c == ',';
    if (compare && (!equals || equals == compare || bench->variant_count < 2))
        return cli_fail(CLI_USAGE, "option --compare: found '%.200s', expected KEY.PATH=A,B", compare);
    if (bench->variant_count > BENCH_VARIANTS_MAX)
        return cli_fail(CLI_USAGE, "option --compare: %d values, at most %d", bench->variant_count, BENCH_VARIANTS_MAX);
    bench->variants = mb_alloc_zero(&mb_default_allocator, sizeof *bench->variants * (size_t)bench->variant_count);
    if (!bench->variants) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for %d variants", bench->variant_count);
    const char *value = equals ? equals + 1 : "";
    for (int i = 0; equals && i < bench->variant_count; i++) {
        struct bench_variant *const variant = &bench->variants[i];
        const size_t bytes = strcspn(value, ",");
        const int length = snprintf(variant->setting, sizeof variant->setting, "%.*s=%.*s", (int)(equals - compare),
                                    compare, (int)bytes, value);
        if (length >= (int)sizeof variant->setting)
            return cli_fail(CLI_USAGE, "option --compare: a value longer than %zu bytes", sizeof variant->setting);
        value += bytes + 1;
    }
    return CLI_OK;
}

static int make_weights(struct bench *bench, struct bench_variant *variant, struct bench_weights *made)
{
    const struct cli_args *const args = bench->args;
    struct cli_session *const session = &variant->session;
    const bool named = strcmp(session->config->format, "auto") != 0;
    char name[sizeof session->config->format];
    snprintf(name, sizeof name, "%s", args->format ? args->format : named ? session->config->format : "bf16");
    const int found = mb_format_find(name);
    if (found < 0) return cli_fail(CLI_BAD_CONFIG, "weights.format is '%s', which cannot be made up", name);
    const int64_t layer = mb_block_layer(session->config);
    if (variant == bench->variants) {
        const int code = bench_cost_fits(bench, session->config, (enum mb_format)found, layer);
        if (code) return code;
    }
    cli_expect_format(session->config, name);
    return bench_weights_make(session, (enum mb_format)found, layer, (uint64_t)args->seed, made);
}

static int load_variant(struct bench *bench, struct bench_variant *variant)
{
    const struct cli_args *const args = bench->args;
    struct cli_session *const session = &variant->session;
    struct bench_weights made = {0};
    const char *const setting = variant->setting;
    int code;
    if ((code = cli_open_context(session, args, (int)most_of(&bench->threads)))) return code;
    if ((code = cli_open_config(session, args, args->positional[0], &setting, *setting != '\0'))) return code;
    code = args->weights ? cli_open_weights(session, args->weights) : make_weights(bench, variant, &made);
    if (!code) code = cli_make_block(session, args);
    if (!code) code = cli_load(session, args);
    if (!code) {
        moeblock_config_get_shape(session->config, &variant->shape);
        variant->info.struct_size = sizeof variant->info;
        moeblock_block_get_info(session->block, &variant->info);
        const bool alone = strcmp(args->routing, "router") != 0;
        bench_cost_make(variant, mb_block_layer(session->config), alone, &variant->cost);
    }
    moeblock_weights_destroy(&session->weights);
    bench_weights_free(&made);
    return code;
}

// Thread counts share one loaded block: its context works with one team, then with another. A workspace is made for the
// team and the largest batch, as a program would keep it.
static int make_teams(struct bench *bench)
{
    for (size_t t = 0; t < bench->threads.count; t++) {
        bench->teams[t] = mb_team_create(&mb_default_allocator, (int)bench->threads.value[t]);
        if (!bench->teams[t])
            return cli_fail(CLI_SYSTEM_REFUSED, "no memory for %" PRId64 " threads", bench->threads.value[t]);
    }
    for (int v = 0; v < bench->variant_count; v++) {
        struct bench_variant *const variant = &bench->variants[v];
        variant->own_team = variant->session.context->team;
        for (size_t t = 0; t < bench->threads.count; t++) {
            variant->session.context->team = bench->teams[t];
            if (moeblock_workspace_create(variant->session.block, most_of(&bench->args->tokens), NULL, 0,
                                          &variant->workspaces[t], &variant->session.error) != MOEBLOCK_OK)
                return cli_fail_status(CLI_ABOUT_CONFIG, &variant->session.error);
        }
    }
    return CLI_OK;
}

static int make_inputs(struct bench *bench)
{
    const struct bench_variant *const first = &bench->variants[0];
    const int64_t tokens = most_of(&bench->args->tokens), hidden = first->shape.hidden_size;
    for (int v = 1; v < bench->variant_count; v++) {
        if (bench->variants[v].shape.hidden_size != hidden ||
            bench->variants[v].shape.num_experts != first->shape.num_experts)
            return cli_fail(CLI_USAGE,
                            "option --compare: '%s' changes the shape of the block; time it in a run of its "
                            "own",
                            bench->variants[v].setting);
    }
    bench->rows = tokens + WINDOW_ROWS;
    bench->n_load = first->shape.num_experts + first->session.config->router.null_experts + 1;
    bench->x = mb_alloc(&mb_default_allocator, sizeof(float) * (size_t)(bench->rows * hidden));
    bench->y = mb_alloc(&mb_default_allocator, sizeof(float) * (size_t)(tokens * hidden));
    bench->load = mb_alloc_zero(&mb_default_allocator, sizeof *bench->load * (size_t)bench->n_load);
    if (!bench->x || !bench->y || !bench->load)
        return cli_fail(CLI_SYSTEM_REFUSED, "no memory for %" PRId64 " tokens", tokens);
    cli_values_input(first->session.context, (uint64_t)bench->args->seed, bench->rows * hidden, bench->x);
    return bench_routing_make(bench);
}

static int make_cases(struct bench *bench)
{
    const struct cli_list *const tokens = &bench->args->tokens;
    const size_t count = bench->threads.count * tokens->count * (size_t)bench->variant_count;
    const int64_t room = bench->args->repeat ? bench->args->repeat : ROOM;
    bench->cases = mb_alloc_zero(&mb_default_allocator, sizeof *bench->cases * count);
    if (!bench->cases) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for %zu cases", count);
    for (size_t i = 0; i < count; i++) {
        struct bench_case *const one = &bench->cases[bench->case_count];
        const size_t v = i % (size_t)bench->variant_count, t = i / (size_t)bench->variant_count % tokens->count;
        one->team = (int)(i / (size_t)bench->variant_count / tokens->count);
        one->threads = (int)bench->threads.value[one->team];
        one->variant = &bench->variants[v];
        one->tokens = tokens->value[t];
        one->room = room;
        one->seconds = mb_alloc(&mb_default_allocator, sizeof *one->seconds * (size_t)room);
        if (!one->seconds) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for %" PRId64 " times", room);
        bench->case_count++;
    }
    return CLI_OK;
}

// What the limits are compared with: the compute type of what was loaded.
static unsigned peaks_for(moeblock_compute compute)
{
    static const unsigned peaks[] = {[MOEBLOCK_COMPUTE_F32] = CLI_PEAK_F32,
                                     [MOEBLOCK_COMPUTE_BF16] = CLI_PEAK_BF16,
                                     [MOEBLOCK_COMPUTE_INT16] = CLI_PEAK_INT16,
                                     [MOEBLOCK_COMPUTE_BF16X2] = CLI_PEAK_BF16X2};
    return peaks[compute];
}

static int prepare(struct bench *bench)
{
    int code = make_variants(bench);
    for (int v = 0; v < bench->variant_count && !code; v++) code = load_variant(bench, &bench->variants[v]);
    if (code || (code = make_inputs(bench)) || (code = make_teams(bench)) || (code = make_cases(bench))) return code;
    cli_ruler_open(&bench->ruler);
    for (size_t t = 0; t < bench->threads.count; t++)
        bench->peaks[t] = cli_peak_best(peaks_for(bench->variants[0].info.compute), (int)bench->threads.value[t]);
    return CLI_OK;
}

static void tidy(struct bench *bench)
{
    const moeblock_allocator *const allocator = &mb_default_allocator;
    cli_ruler_close(&bench->ruler);
    for (int i = 0; i < bench->case_count; i++) mb_free(allocator, bench->cases[i].seconds);
    for (int v = 0; v < bench->variant_count && bench->variants; v++) {
        struct bench_variant *const variant = &bench->variants[v];
        for (size_t t = 0; t < bench->threads.count; t++) moeblock_workspace_destroy(&variant->workspaces[t]);
        if (variant->own_team) variant->session.context->team = variant->own_team;
        cli_close(&variant->session);
    }
    for (size_t t = 0; t < bench->threads.count; t++)
        if (bench->teams[t]) mb_team_destroy(bench->teams[t]);
    void *const plain[] = {bench->cases, bench->variants, bench->x, bench->y, bench->ids, bench->weights, bench->load};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) mb_free(allocator, plain[i]);
}

// "mixtral_8x7b" of "configs/mixtral_8x7b.json".
static void take_name(const char *path, char *out, size_t room)
{
    size_t bytes = strlen(path);
    while (bytes > 1 && path[bytes - 1] == '/') bytes--;
    size_t begin = bytes;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    const char *const ending = ".json";
    if (bytes - begin > strlen(ending) && memcmp(path + bytes - strlen(ending), ending, strlen(ending)) == 0)
        bytes -= strlen(ending);
    snprintf(out, room, "%.*s", (int)(bytes - begin), path + begin);
}

int cli_bench(const struct cli_args *args)
{
    struct bench bench = {.args = args, .threads = args->thread_list};
    if (bench.threads.count == 0) bench.threads = (struct cli_list){.value = {mb_cpus_allowed()}, .count = 1};
    bench.source = args->weights ? args->weights : "made up";
    take_name(args->positional[0], bench.name, sizeof bench.name);
    int code = args->plot ? cli_check_output(args->plot) : CLI_OK;
    if (!code) code = prepare(&bench);
    if (!code) code = bench_time(&bench);
    if (!code) {
        for (int i = 0; i < bench.case_count; i++) bench_summarise(&bench, &bench.cases[i]);
        bench_report(&bench);
        if (args->plot) code = bench_plot(&bench, args->plot);
    }
    tidy(&bench);
    return code;
}
