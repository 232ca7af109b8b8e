// SPDX-License-Identifier: Apache-2.0
// From arguments to the library's objects, and the defaults that stand in for options left out.
#include "cli/session.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/file.h"
#include "base/team.h"
#include "cli/exit.h"
#include "cli/progress.h"
#include "config/schema.h"
#include "weights/format.h"

static void print_log(void *user, const char *line)
{
    (void)user;
    cli_note("%s", line);
}

int cli_open_context(struct cli_session *session, const struct cli_args *args, int threads)
{
    const moeblock_transport *const transport = session->ranks.transport;
    if (!threads && transport && transport->node_size > 1) {
        threads = mb_cpus_allowed() / transport->node_size;
        if (threads < 1) threads = 1;
    }
    const moeblock_context_options options = {
        .struct_size = sizeof options,
        .threads = threads,
        .cpu_level = args->level,
        .log = args->quiet ? NULL : print_log,
    };
    if (moeblock_context_create(&options, &session->context, &session->error) == MOEBLOCK_OK) return CLI_OK;
    return cli_fail_status(CLI_ABOUT_OPTIONS, &session->error);
}

static bool holds(const char *folder, const char *name)
{
    char path[CLI_PATH_MAX];
    return mb_path_join(folder, name, path, sizeof path, NULL) == MOEBLOCK_OK && mb_exists(path);
}

static bool holds_checkpoint(const char *folder)
{
    return holds(folder, "model.safetensors") || holds(folder, "model.safetensors.index.json");
}

// The folder that a path lies in, or the path itself when it is a folder.
static void folder_of(const char *path, char out[CLI_PATH_MAX])
{
    snprintf(out, CLI_PATH_MAX, "%s", path);
    if (mb_is_directory(path)) return;
    char *slash = strrchr(out, '/');
    if (!slash)
        snprintf(out, CLI_PATH_MAX, ".");
    else
        slash[slash == out] = '\0';
}

int cli_open_config(struct cli_session *session, const struct cli_args *args, const char *config,
                    const char *const *set, size_t n_set)
{
    char *const path = session->config_path;
    if (snprintf(path, CLI_PATH_MAX, "%s", config) >= CLI_PATH_MAX)
        return cli_fail(CLI_NO_INPUT, "the name of the configuration is longer than %d bytes", CLI_PATH_MAX);

    // Options that stand for a key of the mesh.
    const struct {
        const char *key, *value;
    } mesh[] = {{"deadline", args->deadline}, {"algorithm", args->algorithm}, {"reproducible", args->reproducible}};
    enum { MESH_KEYS = sizeof mesh / sizeof *mesh };
    char texts[MESH_KEYS][96];
    const char *all[CLI_SET_MAX + 8 + MESH_KEYS];
    size_t count = 0;
    for (size_t i = 0; i < args->set.count; i++) all[count++] = args->set.text[i];
    for (size_t i = 0; i < MESH_KEYS; i++) {
        if (!mesh[i].value) continue;
        snprintf(texts[i], sizeof texts[i], "mesh.%s=%.60s", mesh[i].key, mesh[i].value);
        all[count++] = texts[i];
    }
    for (size_t i = 0; i < n_set && count < sizeof all / sizeof *all; i++) all[count++] = set[i];
    const moeblock_config_options options = {
        .struct_size = sizeof options,
        .layer = args->layer,
        .weights_path = args->weights,
        .set = all,
        .n_set = count,
    };
    if (moeblock_config_open(session->context, path, &options, &session->config, &session->error) == MOEBLOCK_OK)
        return CLI_OK;
    return cli_fail_status(CLI_ABOUT_CONFIG, &session->error);
}

int cli_find_weights(struct cli_session *session, const struct cli_args *args)
{
    char folder[CLI_PATH_MAX];
    folder_of(session->config_path, folder);
    const char *path = args->weights;
    if (!path && *session->config->weight_path) path = session->config->weight_path;
    if (!path && holds_checkpoint(folder)) path = folder;
    if (!path)
        return cli_fail(CLI_NO_INPUT,
                        "no weights: '%.500s' names none and no checkpoint lies in its folder; give --weights",
                        session->config_path);
    if (snprintf(session->weights_path, CLI_PATH_MAX, "%s", path) >= CLI_PATH_MAX)
        return cli_fail(CLI_NO_INPUT, "the name of the weights is longer than %d bytes", CLI_PATH_MAX);
    return CLI_OK;
}

int cli_open_weights(struct cli_session *session, const char *path)
{
    if (moeblock_weights_open(session->context, path, &session->weights, &session->error) == MOEBLOCK_OK) return CLI_OK;
    return cli_fail_status(CLI_ABOUT_DATA, &session->error);
}

static const char *const compute_names[] = {[MOEBLOCK_COMPUTE_AUTO] = "auto",
                                            [MOEBLOCK_COMPUTE_F32] = "f32",
                                            [MOEBLOCK_COMPUTE_BF16] = "bf16",
                                            [MOEBLOCK_COMPUTE_INT16] = "int16",
                                            [MOEBLOCK_COMPUTE_BF16X2] = "bf16x2"};

moeblock_compute cli_compute_of(const char *name)
{
    for (int i = 0; name && i < (int)(sizeof compute_names / sizeof *compute_names); i++)
        if (strcmp(name, compute_names[i]) == 0) return (moeblock_compute)i;
    return MOEBLOCK_COMPUTE_AUTO; // the command has no --compute
}

const char *cli_compute_name(moeblock_compute compute)
{
    return (unsigned)compute < sizeof compute_names / sizeof *compute_names ? compute_names[compute] : "?";
}

int cli_make_block(struct cli_session *session, const struct cli_args *args)
{
    const moeblock_block_options options = {.struct_size = sizeof options, .compute = cli_compute_of(args->compute)};
    if (moeblock_block_create(session->context, session->config, session->ranks.mesh, &options, &session->block,
                              &session->error) == MOEBLOCK_OK)
        return CLI_OK;
    return cli_ranks_fail(&session->ranks, CLI_ABOUT_CONFIG, &session->error);
}

void cli_expect_format(moeblock_config *config, const char *format)
{
    const struct mb_format_info *const info = &mb_format_table[mb_format_find(format)];
    if (strcmp(config->format, "auto") != 0 || info->told) {
        snprintf(config->format, sizeof config->format, "%s", format);
        mb_config_mark(config, &config->format, MB_FROM_FILE);
    }
    if (!info->any_group || config->group_size || info->column_tile == MB_WHOLE) return;
    config->group_size = info->column_tile;
    mb_config_mark(config, &config->group_size, MB_FROM_FILE);
}

static int show_progress(void *user, uint64_t done, uint64_t total)
{
    cli_progress_update(user, done, total);
    return 0;
}

int cli_load(struct cli_session *session, const struct cli_args *args)
{
    struct cli_progress progress;
    cli_progress_begin(&progress, "loading", args->quiet || args->json || !cli_ranks_speaks(&session->ranks));
    const moeblock_load_options options = {.struct_size = sizeof options, .progress = show_progress, .user = &progress};
    const double started = cli_seconds();
    const moeblock_status status = moeblock_block_load(session->block, session->weights, &options, &session->error);
    session->load_seconds = cli_seconds() - started;
    cli_progress_end(&progress);
    return status == MOEBLOCK_OK ? CLI_OK : cli_ranks_fail(&session->ranks, CLI_ABOUT_DATA, &session->error);
}

int cli_load_router(struct cli_session *session)
{
    const moeblock_load_options options = {.struct_size = sizeof options, .router_only = 1};
    if (moeblock_block_load(session->block, session->weights, &options, &session->error) == MOEBLOCK_OK) return CLI_OK;
    return cli_fail_status(CLI_ABOUT_DATA, &session->error);
}

void cli_close(struct cli_session *session)
{
    moeblock_block_destroy(&session->block);
    moeblock_weights_destroy(&session->weights);
    moeblock_config_destroy(&session->config);
    moeblock_context_destroy(&session->context);
}

double cli_peak_memory(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return 1024.0 * (double)usage.ru_maxrss; // Linux counts kibibytes
}
