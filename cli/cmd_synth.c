// SPDX-License-Identifier: Apache-2.0
// `moeblock synth`: one layer of random weights as a checkpoint that `moeblock run DIR` takes.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "block.h"
#include "cli/commands.h"
#include "cli/exit.h"
#include "cli/out.h"
#include "cli/progress.h"
#include "cli/synth.h"
#include "config/schema.h"

// A single file beside an older index would never be read: the index comes first.
static int prepare_folder(const char *folder, size_t shards, bool *made)
{
    char index[CLI_PATH_MAX];
    *made = mkdir(folder, 0777) == 0;
    if (!*made && (errno != EEXIST || !mb_is_directory(folder)))
        return cli_fail(CLI_IO, "cannot make the folder '%s': %s", folder, strerror(errno));
    if (snprintf(index, sizeof index, "%s/model.safetensors.index.json", folder) >= (int)sizeof index)
        return cli_fail(CLI_IO, "the name of the folder is longer than %d bytes: '%.100s...'", CLI_PATH_MAX, folder);
    if (shards == 1 && mb_exists(index))
        return cli_fail(CLI_USAGE,
                        "'%s' holds a checkpoint in several files: choose another folder or give "
                        "--shard-bytes",
                        folder);
    return CLI_OK;
}

// What moeblock.json says about the checkpoint beside it: its layer, its format, and no path elsewhere.
static void describe_checkpoint(moeblock_config *config, int64_t layer, const char *format)
{
    config->layer_index = layer;
    mb_config_mark(config, &config->layer_index, MB_FROM_FILE);
    config->weight_path[0] = '\0';
    mb_config_mark(config, &config->weight_path, MB_FROM_NOWHERE);
    cli_expect_format(config, format);
}

static void report(const struct synth_plan *plan, const struct cli_args *args, double seconds)
{
    char all[32], rate[32];
    if (args->json) {
        json_t *document = cli_json_begin("synth");
        json_object_set_new(document, "output", json_string(args->output));
        json_object_set_new(document, "format", json_string(args->format));
        json_object_set_new(document, "layer", json_integer(plan->layer));
        json_object_set_new(document, "tensors", json_integer((json_int_t)plan->count));
        json_object_set_new(document, "shards", json_integer((json_int_t)plan->shards));
        json_object_set_new(document, "bytes", json_integer((json_int_t)plan->bytes));
        cli_json_number(document, "seconds", seconds);
        cli_json_print(document);
    } else if (!args->quiet) {
        cli_print_safe(args->output);
        printf(": layer %" PRId64 ", %zu tensors in %zu file%s, %s of %s, %.2f s (%s/s)\n", plan->layer, plan->count,
               plan->shards, plan->shards == 1 ? "" : "s", cli_bytes_text((double)plan->bytes, all), args->format,
               seconds, cli_bytes_text((double)plan->bytes / seconds, rate));
    }
}

static int write_checkpoint(struct synth_plan *plan, struct cli_session *session, const struct cli_args *args)
{
    const double started = cli_seconds();
    const size_t length = moeblock_config_print(session->config, NULL, 0);
    char *const description = mb_alloc(&mb_default_allocator, length + 1);
    if (!description) return cli_fail(CLI_SYSTEM_REFUSED, "no memory for a configuration of %zu bytes", length);
    moeblock_config_print(session->config, description, length + 1);
    bool made = false;
    int code = prepare_folder(args->output, plan->shards, &made);
    if (!code) code = synth_write(plan, session, args, args->output, description);
    if (code && made) rmdir(args->output); // stays when something lies in it
    mb_free(&mb_default_allocator, description);
    cli_release_signals(); // an interruption that waited ends the program here
    if (!code) report(plan, args, cli_seconds() - started);
    return code;
}

static int synth(struct cli_session *session, const struct cli_args *args, struct synth_plan *plan)
{
    int code;
    if ((code = cli_open_context(session, args, (int)args->threads))) return code;
    if ((code = cli_open_config(session, args, args->positional[0], NULL, 0))) return code;
    if ((code = cli_make_block(session, args))) return code; // kinds from outside bring tensors that only they know
    const int64_t layer = mb_block_layer(session->config);
    describe_checkpoint(session->config, layer, args->format);
    const enum mb_format format = (enum mb_format)mb_format_find(args->format);
    if ((code = synth_plan_make(session->config, format, layer, (uint64_t)args->seed, args->shard_bytes, plan)))
        return code;
    return write_checkpoint(plan, session, args);
}

int cli_synth(const struct cli_args *args)
{
    static struct cli_session session; // paths and messages inside: too large for the stack's taste
    struct synth_plan plan = {0};
    const int code = synth(&session, args, &plan);
    synth_plan_free(&plan);
    cli_close(&session);
    return code;
}
