// SPDX-License-Identifier: Apache-2.0
// Files: only regular ones are read, so that nothing blocks, and a written one replaces its target in a single step.
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"

static int64_t modified_ns(const struct stat *facts)
{
    return (int64_t)facts->st_mtim.tv_sec * 1000000000 + facts->st_mtim.tv_nsec;
}

static const char *kind_of(mode_t mode)
{
    return S_ISDIR(mode)    ? "a directory"
           : S_ISFIFO(mode) ? "a pipe"
           : S_ISSOCK(mode) ? "a socket"
           : S_ISREG(mode)  ? "a regular file"
                            : "a device";
}

static moeblock_status fail_errno(moeblock_error *error, const char *doing, const char *path)
{
    const int reason = errno;
    const moeblock_status code = reason == ENOENT || reason == ENOTDIR ? MOEBLOCK_NOT_FOUND : MOEBLOCK_IO;
    return mb_fail(error, code, "%s %s: %s", doing, path, strerror(reason));
}

int mb_open_retrying(const char *path, int flags, mode_t mode)
{
    int descriptor;
    do descriptor = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
    while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

moeblock_status mb_file_open(const char *path, struct mb_file *out, moeblock_error *error)
{
    *out = (struct mb_file){.descriptor = -1};
    // Without O_NONBLOCK, opening a pipe would wait for its other end.
    const int descriptor = mb_open_retrying(path, O_RDONLY | O_NONBLOCK, 0);
    if (descriptor < 0) return fail_errno(error, "opening", path);
    struct stat facts;
    moeblock_status status = MOEBLOCK_OK;
    if (fstat(descriptor, &facts) != 0) {
        status = fail_errno(error, "opening", path);
    } else if (!S_ISREG(facts.st_mode)) {
        status =
            mb_fail(error, MOEBLOCK_IO, "opening %s: it is %s; expected a regular file", path, kind_of(facts.st_mode));
    }
    if (status != MOEBLOCK_OK) {
        close(descriptor);
        return status;
    }
    *out = (struct mb_file){.descriptor = descriptor,
                            .bytes = (uint64_t)facts.st_size,
                            .modified_ns = modified_ns(&facts),
                            .device = (uint64_t)facts.st_dev,
                            .inode = (uint64_t)facts.st_ino};
    return MOEBLOCK_OK;
}

void mb_file_close(struct mb_file *file)
{
    if (file->descriptor >= 0) close(file->descriptor);
    file->descriptor = -1;
}

moeblock_status mb_file_read(const struct mb_file *file, const char *path, uint64_t offset, size_t bytes, void *to,
                             moeblock_error *error)
{
    uint64_t end;
    if (__builtin_add_overflow(offset, bytes, &end) || end > INT64_MAX) {
        return mb_fail(error, MOEBLOCK_INVALID_FILE, "reading %s: %zu bytes at %llu are beyond any file", path, bytes,
                       (unsigned long long)offset);
    }
    for (size_t done = 0; done < bytes;) {
        const ssize_t got = pread(file->descriptor, (char *)to + done, bytes - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail_errno(error, "reading", path);
        if (got == 0) {
            return mb_fail(error, MOEBLOCK_INVALID_FILE,
                           "reading %s: it ends at byte %llu, but bytes up to %llu are needed; it is cut short or "
                           "changed while loading",
                           path, (unsigned long long)(offset + done), (unsigned long long)end);
        }
        done += (size_t)got;
    }
    return MOEBLOCK_OK;
}

moeblock_status mb_file_unchanged(const struct mb_file *file, const char *path, moeblock_error *error)
{
    struct stat now;
    const bool same = stat(path, &now) == 0 && (uint64_t)now.st_dev == file->device &&
                      (uint64_t)now.st_ino == file->inode && (uint64_t)now.st_size == file->bytes &&
                      modified_ns(&now) == file->modified_ns;
    if (same) return MOEBLOCK_OK;
    return mb_fail(error, MOEBLOCK_INVALID_FILE, "%s changed while loading; load it again when nothing writes it",
                   path);
}

moeblock_status mb_file_read_text(const moeblock_allocator *allocator, const char *path, size_t max_bytes, char **text,
                                  size_t *bytes, moeblock_error *error)
{
    *text = NULL;
    *bytes = 0;
    struct mb_file file;
    MB_TRY(mb_file_open(path, &file, error));
    moeblock_status status = MOEBLOCK_OK;
    char *read = NULL;
    if (file.bytes > max_bytes) {
        status = mb_fail(error, MOEBLOCK_LIMIT, "reading %s: it has %llu bytes; at most %zu are allowed", path,
                         (unsigned long long)file.bytes, max_bytes);
    } else if (!(read = mb_alloc(allocator, (size_t)file.bytes + 1))) {
        status = mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "reading %s: no memory for its %llu bytes", path,
                         (unsigned long long)file.bytes);
    } else {
        status = mb_file_read(&file, path, 0, (size_t)file.bytes, read, error);
    }
    mb_file_close(&file);
    if (status != MOEBLOCK_OK) {
        mb_free(allocator, read);
        return status;
    }
    read[file.bytes] = '\0';
    *text = read;
    *bytes = (size_t)file.bytes;
    return MOEBLOCK_OK;
}

bool mb_is_directory(const char *path)
{
    struct stat facts;
    return stat(path, &facts) == 0 && S_ISDIR(facts.st_mode);
}

bool mb_exists(const char *path)
{
    struct stat facts;
    return stat(path, &facts) == 0;
}

moeblock_status mb_path_join(const char *folder, const char *name, char *out, size_t capacity, moeblock_error *error)
{
    const size_t folder_bytes = strlen(folder), name_bytes = strlen(name);
    const size_t slash = folder_bytes > 0 && folder[folder_bytes - 1] != '/';
    if (folder_bytes + slash + name_bytes >= capacity) {
        return mb_fail(error, MOEBLOCK_INVALID_ARGUMENT, "the path %s/%s has %zu bytes; at most %zu are allowed",
                       folder, name, folder_bytes + slash + name_bytes, capacity - 1);
    }
    memcpy(out, folder, folder_bytes);
    if (slash) out[folder_bytes] = '/';
    memcpy(out + folder_bytes + slash, name, name_bytes + 1);
    return MOEBLOCK_OK;
}
