// SPDX-License-Identifier: Apache-2.0
// `moeblock info`: the machine and what this build makes of it.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/info.h"
#include "cli/machine.h"
#include "cli/out.h"
#include "cli/ranks.h"
#include "cli/session.h"
#include "kernels/kernels.h"
#include "moeblock/export.h"

static json_t *levels_json(void)
{
    json_t *levels = json_array();
    int usable;
    const char *reason, *name;
    for (int i = 0; (name = moeblock_level(i, &usable, &reason)); i++) {
        json_t *level = json_object();
        json_object_set_new(level, "name", json_string(name));
        json_object_set_new(level, "usable", json_boolean(usable));
        json_object_set_new(level, "reason", json_string(reason));
        json_array_append_new(levels, level);
    }
    return levels;
}

static const char *why_chosen(const struct cli_args *args)
{
    const char *const wish = getenv("MOEBLOCK_CPU");
    if (args->level) return "asked for by --level";
    if (wish && *wish) return "asked for by MOEBLOCK_CPU";
    const char *why = "";
    mb_kernels_best(&why);
    return why;
}

// What --compute auto stands for on this machine where weights are stored in 16 bits or fewer; in fp4 with a scale per
// 32 inputs.
static const char *automatic(bool mxfp4)
{
    if (mxfp4 && mb_kernels_prefer_int16()) return cli_compute_name(MOEBLOCK_COMPUTE_INT16);
    return cli_compute_name(mb_kernels_prefer_bf16x2() ? MOEBLOCK_COMPUTE_BF16X2 : MOEBLOCK_COMPUTE_BF16);
}

static void print_json(const struct cli_session *session, const struct cli_args *args,
                       const struct cli_machine *machine, const struct cli_info_rates *rates)
{
    json_t *document = cli_json_begin("info");
    json_object_set_new(document, "version", json_string(moeblock_version()));
    json_object_set_new(document, "cpu", json_string(machine->cpu));
    json_object_set_new(document, "features", json_string(machine->features));
    json_object_set_new(document, "levels", levels_json());
    json_object_set_new(document, "level", json_string(moeblock_context_level(session->context)));
    json_object_set_new(document, "level_reason", json_string(why_chosen(args)));
    json_object_set_new(document, "auto_compute", json_string(automatic(false)));
    json_object_set_new(document, "auto_compute_mxfp4", json_string(automatic(true)));
    json_object_set_new(document, "threads", json_integer(moeblock_context_threads(session->context)));
    json_object_set_new(document, "memory_bytes", json_integer((json_int_t)machine->memory_bytes));
    json_object_set_new(document, "memory_available_bytes", json_integer((json_int_t)machine->available_bytes));
    json_object_set_new(document, "huge_pages", json_string(machine->huge_pages));
    json_t *mpis = json_array();
    for (int i = 0; cli_ranks_mpi(i); i++) json_array_append_new(mpis, json_string(cli_ranks_mpi(i)));
    json_object_set_new(document, "mpi", mpis);
    if (rates) json_object_set_new(document, "measured", cli_info_rates_json(rates));
    cli_json_print(document);
}

static void print_text(const struct cli_session *session, const struct cli_args *args,
                       const struct cli_machine *machine, const struct cli_info_rates *rates)
{
    char total[32], available[32];
    int usable;
    const char *reason, *name;
    printf("moeblock %s\n", moeblock_version());
    printf("cpu         ");
    cli_print_safe(machine->cpu);
    printf("\nfeatures    %s\n", machine->features);
    for (int i = 0; (name = moeblock_level(i, &usable, &reason)); i++)
        printf("%-12s%-10s %s: %s\n", i ? "" : "levels", name, usable ? "usable" : "not usable", reason);
    printf("chosen      %s: %s\n", moeblock_context_level(session->context), why_chosen(args));
    printf("compute     auto is %s in one process, %s for mxfp4 weights, f32 for f32 and f16\n", automatic(false),
           automatic(true));
    printf("threads     %d\n", moeblock_context_threads(session->context));
    printf("memory      %s, %s available\n", cli_bytes_text((double)machine->memory_bytes, total),
           cli_bytes_text((double)machine->available_bytes, available));
    printf("huge pages  %s\n", machine->huge_pages);
    printf("mpi        %s", cli_ranks_mpi(0) ? "" : " none: libmoeblock-mpi-*.so is not beside the program");
    for (int i = 0; cli_ranks_mpi(i); i++) printf(" %s", cli_ranks_mpi(i));
    printf("\n");
    if (rates) cli_info_print_rates(rates);
}

int cli_info(const struct cli_args *args)
{
    static struct cli_session session; // paths and messages inside: too large for the stack's taste
    struct cli_machine machine;
    const int code = cli_open_context(&session, args, (int)args->threads);
    if (!code) {
        struct cli_info_rates measured, *const rates = args->measure ? &measured : NULL;
        cli_machine_read(&machine);
        if (rates) cli_info_measure(moeblock_context_threads(session.context), rates);
        if (args->json)
            print_json(&session, args, &machine, rates);
        else if (!args->quiet)
            print_text(&session, args, &machine, rates);
    }
    cli_close(&session);
    return code;
}
