// SPDX-License-Identifier: Apache-2.0
// Writing a file that appears only when it is complete. What cannot be replaced by renaming (a device, a pipe, the
// process's own streams) is written directly, and every failure of it is reported.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/status.h"

enum { MOST_ATTEMPTS = 1000 }; // at a free temporary name

static moeblock_status fail_writing(moeblock_error *error, const char *path, int reason)
{
    const moeblock_status code = reason == ENOENT || reason == ENOTDIR ? MOEBLOCK_NOT_FOUND : MOEBLOCK_IO;
    return mb_fail(error, code, "writing %s: %s", path, reason ? strerror(reason) : "the system reported an error");
}

// Names that stand for an open descriptor: a regular file behind one belongs to whoever opened it.
static bool names_descriptor(const char *path)
{
    static const char *const starts[] = {"/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        if (strncmp(path, starts[i], strlen(starts[i])) == 0) return true;
    }
    return false;
}

// Length of the path's folder with its slash, 0 for the current one.
static size_t folder_bytes(const char *path)
{
    const char *const slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

static moeblock_status attach_stream(struct mb_output *out, int descriptor, moeblock_error *error)
{
    out->stream = fdopen(descriptor, "wb");
    if (out->stream) return MOEBLOCK_OK;
    const int reason = errno;
    close(descriptor);
    if (out->temporary[0]) unlink(out->temporary);
    return fail_writing(error, out->path, reason);
}

// At the end of what is there: a shell's `>>` keeps its meaning. A pipe without a reader is an error, not a wait.
static moeblock_status open_directly(struct mb_output *out, moeblock_error *error)
{
    const int descriptor = mb_open_retrying(out->path, O_WRONLY | O_APPEND | O_NONBLOCK, 0);
    if (descriptor < 0) return fail_writing(error, out->path, errno);
    const int flags = fcntl(descriptor, F_GETFL);
    if (flags >= 0) fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK);
    return attach_stream(out, descriptor, error);
}

// Beside the target, because rename works within one file system only. `mode` 0: what the process's mask gives.
static moeblock_status open_temporary(struct mb_output *out, mode_t mode, moeblock_error *error)
{
    const size_t folder = folder_bytes(out->path);
    memcpy(out->temporary, out->path, folder);
    for (int attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
        snprintf(out->temporary + folder, sizeof out->temporary - folder, ".moeblock-%d-%d", (int)getpid(), attempt);
        const int descriptor = mb_open_retrying(out->temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
        if (descriptor < 0 && errno == EEXIST) continue;
        if (descriptor < 0) return fail_writing(error, out->path, errno);
        if (mode) fchmod(descriptor, mode); // best effort: the content matters more
        return attach_stream(out, descriptor, error);
    }
    return mb_fail(error, MOEBLOCK_IO, "writing %s: %d temporary names beside it are taken; remove .moeblock-* there",
                   out->path, MOST_ATTEMPTS);
}

// Follows links, so that the link stays and the file it names is replaced.
static moeblock_status resolve(const char *path, struct mb_output *out, moeblock_error *error)
{
    char resolved[PATH_MAX];
    const char *const target = realpath(path, resolved) ? resolved : path;
    const size_t bytes = strlen(target);
    if (bytes == 0) return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "writing a file: its path is empty");
    if (bytes >= sizeof out->path) {
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "writing %s: the path has %zu bytes; at most %zu are allowed",
                       target, bytes, sizeof out->path - 1);
    }
    memcpy(out->path, target, bytes + 1);
    return MOEBLOCK_OK;
}

moeblock_status mb_output_open(const char *path, struct mb_output *out, moeblock_error *error)
{
    memset(out, 0, sizeof *out);
    struct stat facts;
    const bool exists = stat(path, &facts) == 0;
    if (exists && S_ISDIR(facts.st_mode)) return fail_writing(error, path, EISDIR);
    if (exists && (names_descriptor(path) || !S_ISREG(facts.st_mode))) {
        if (strlen(path) >= sizeof out->path) return fail_writing(error, path, ENAMETOOLONG);
        memcpy(out->path, path, strlen(path) + 1);
        return open_directly(out, error);
    }
    if (exists && access(path, W_OK) != 0) return fail_writing(error, path, errno);
    MB_TRY(resolve(path, out, error));
    if (out->path[strlen(out->path) - 1] == '/') return fail_writing(error, path, EISDIR);
    return open_temporary(out, exists ? facts.st_mode & 0777 : 0, error);
}

moeblock_status mb_output_write(struct mb_output *output, const void *data, size_t bytes, moeblock_error *error)
{
    errno = 0;
    if (bytes == 0 || fwrite(data, 1, bytes, output->stream) == bytes) return MOEBLOCK_OK;
    return fail_writing(error, output->path, errno);
}

// Makes the new name last through a power failure. The file is whole either way, so a file system that cannot do it
// for folders is no failure.
static void sync_folder(const char *path)
{
    char folder[sizeof((struct mb_output *)0)->path] = ".";
    const size_t bytes = folder_bytes(path);
    if (bytes) {
        memcpy(folder, path, bytes);
        folder[bytes] = '\0';
    }
    const int descriptor = mb_open_retrying(folder, O_RDONLY | O_DIRECTORY, 0);
    if (descriptor < 0) return;
    fsync(descriptor);
    close(descriptor);
}

// Flushes, syncs and closes; errno of the first step that failed, 0 when none did.
static int finish_stream(struct mb_output *output)
{
    int reason = 0;
    errno = 0;
    const bool failed_before = ferror(output->stream) != 0;
    if (fflush(output->stream) != 0)
        reason = errno ? errno : EIO;
    else if (failed_before)
        reason = EIO;
    else if (output->temporary[0] && fsync(fileno(output->stream)) != 0)
        reason = errno;
    if (fclose(output->stream) != 0 && reason == 0) reason = errno ? errno : EIO;
    output->stream = NULL;
    return reason;
}

moeblock_status mb_output_commit(struct mb_output *output, moeblock_error *error)
{
    int reason = finish_stream(output);
    if (reason == 0 && output->temporary[0]) {
        if (rename(output->temporary, output->path) != 0) reason = errno;
    }
    if (reason != 0) {
        mb_output_abort(output);
        return fail_writing(error, output->path, reason);
    }
    if (output->temporary[0]) sync_folder(output->path);
    output->temporary[0] = '\0';
    return MOEBLOCK_OK;
}

void mb_output_abort(struct mb_output *output)
{
    if (output->stream) fclose(output->stream);
    output->stream = NULL;
    if (output->temporary[0]) unlink(output->temporary);
    output->temporary[0] = '\0';
}
