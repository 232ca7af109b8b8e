// SPDX-License-Identifier: Apache-2.0
// Text, JSON and files as the command line writes them.
#include "cli/out.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/status.h"
#include "weights/npy.h"

void cli_prepare_streams(void)
{
    signal(SIGPIPE, SIG_IGN);
    for (int descriptor = 0; descriptor < 3; descriptor++) {
        if (fcntl(descriptor, F_GETFD) >= 0) continue;
        // Read-only for stdout, so that printing to a stdout that was closed fails as it should.
        const int placeholder = open("/dev/null", descriptor == 2 ? O_WRONLY : O_RDONLY);
        if (placeholder != descriptor && placeholder >= 0) close(placeholder);
    }
}

int cli_finish(int code)
{
    errno = 0;
    const bool failed = fflush(stdout) != 0 || ferror(stdout);
    if (!failed) return code;
    cli_fail(CLI_IO, "writing to standard output: %s", errno ? strerror(errno) : "an earlier write failed");
    return code ? code : CLI_IO;
}

json_t *cli_json_begin(const char *name)
{
    char schema[64];
    snprintf(schema, sizeof schema, "moeblock.%s/1", name);
    json_t *document = json_object();
    json_object_set_new(document, "schema", json_string(schema));
    return document;
}

void cli_json_print(json_t *document)
{
    json_dumpf(document, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    printf("\n");
    json_decref(document);
}

json_t *cli_json_dims(int rank, const int64_t *dims)
{
    json_t *array = json_array();
    for (int i = 0; i < rank; i++) json_array_append_new(array, json_integer(dims[i]));
    return array;
}

void cli_json_number(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, isfinite(value) ? json_real(value) : json_null());
}

void cli_print_safe(const char *text)
{
    char safe[4096];
    mb_escape(safe, sizeof safe, text);
    printf("%s", safe);
}

const char *cli_bytes_text(double bytes, char out[32])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;
    for (; bytes >= 1000 && unit + 1 < sizeof units / sizeof *units; unit++) bytes /= 1000;
    snprintf(out, 32, "%.*f %s", unit == 0 || bytes >= 100 ? 0 : bytes >= 10 ? 1 : 2, bytes, units[unit]);
    return out;
}

const char *cli_dims_text(int rank, const int64_t *dims, char out[200])
{
    int used = snprintf(out, 200, "[");
    for (int i = 0; i < rank && used < 170; i++)
        used += snprintf(out + used, 200 - (size_t)used, "%s%" PRId64, i ? ", " : "", dims[i]);
    snprintf(out + used, 200 - (size_t)used, "]");
    return out;
}

int cli_check_output(const char *path)
{
    struct stat found;
    char folder[4096];
    if (snprintf(folder, sizeof folder, "%s", path) >= (int)sizeof folder)
        return cli_fail(CLI_IO, "the name of the output is longer than %zu bytes: '%.100s...'", sizeof folder, path);
    if (stat(path, &found) == 0) {
        if (S_ISDIR(found.st_mode)) return cli_fail(CLI_IO, "cannot write '%s': it is a folder", path);
        if (!S_ISREG(found.st_mode)) return CLI_OK; // a device or pipe is written directly
    }
    char *slash = strrchr(folder, '/');
    if (!slash)
        snprintf(folder, sizeof folder, ".");
    else
        slash[slash == folder] = '\0';
    if (stat(folder, &found) != 0 || !S_ISDIR(found.st_mode))
        return cli_fail(CLI_IO, "cannot write '%s': there is no folder '%s'", path, folder);
    if (access(folder, W_OK) != 0)
        return cli_fail(CLI_IO, "cannot write '%s': folder '%s': %s", path, folder, strerror(errno));
    return CLI_OK;
}

int cli_write_array(const char *path, moeblock_dtype dtype, int rank, const int64_t *dims, const void *data)
{
    moeblock_error error = {0};
    const bool held = cli_hold_signals();
    const moeblock_status status = mb_npy_write(path, dtype, rank, dims, data, &error);
    if (!held) cli_release_signals();
    return status == MOEBLOCK_OK ? CLI_OK : cli_fail_status(CLI_ABOUT_DATA, &error);
}

// Signals that the process was told to ignore (nohup) stay out of it.
static sigset_t interrupting_signals(void)
{
    static const int interrupting[] = {SIGINT, SIGTERM, SIGHUP};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof interrupting / sizeof *interrupting; i++) {
        struct sigaction action;
        if (sigaction(interrupting[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
            sigaddset(&set, interrupting[i]);
    }
    return set;
}

// The library's threads take no signals, so that those of the main thread decide.
bool cli_hold_signals(void)
{
    const sigset_t set = interrupting_signals();
    sigset_t before;
    sigprocmask(SIG_BLOCK, &set, &before);
    return sigismember(&before, SIGTERM) == 1 || sigismember(&before, SIGINT) == 1;
}

bool cli_interrupted(void)
{
    const sigset_t set = interrupting_signals();
    sigset_t waiting;
    sigpending(&waiting);
    sigandset(&waiting, &waiting, &set);
    return !sigisemptyset(&waiting);
}

void cli_release_signals(void)
{
    const sigset_t set = interrupting_signals();
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}
