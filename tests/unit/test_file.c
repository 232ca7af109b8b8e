// SPDX-License-Identifier: Apache-2.0
// Reading regular files only and in full; writing so that an existing file survives every failure.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "cmocka.h"

static char folder[64]; // of one test, empty at its start

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/moeblock-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    DIR *listing = opendir(folder);
    for (struct dirent *entry; listing && (entry = readdir(listing));) {
        char path[sizeof folder + sizeof entry->d_name];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (unlink(path) != 0) rmdir(path);
    }
    if (listing) closedir(listing);
    return rmdir(folder);
}

static const char *path_of(const char *name)
{
    static char paths[4][128];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof *paths, "%s/%s", folder, name);
    return path;
}

static void write_text(const char *path, const char *text)
{
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(text, 1, strlen(text), stream), strlen(text));
    assert_int_equal(fclose(stream), 0);
}

static void assert_content(const char *path, const char *expected)
{
    char *text;
    size_t bytes;
    assert_int_equal(mb_file_read_text(&mb_default_allocator, path, 1000000, &text, &bytes, NULL), MOEBLOCK_OK);
    assert_int_equal(bytes, strlen(expected));
    assert_string_equal(text, expected);
    mb_free(&mb_default_allocator, text);
}

static int entries(void)
{
    int count = -2; // . and ..
    DIR *listing = opendir(folder);
    while (readdir(listing)) count++;
    closedir(listing);
    return count;
}

static void test_reads(void **state)
{
    (void)state;
    const char *path = path_of("a");
    write_text(path, "0123456789");
    struct mb_file file;
    moeblock_error error;
    assert_int_equal(mb_file_open(path, &file, &error), MOEBLOCK_OK);
    assert_int_equal(file.bytes, 10);
    char to[8] = "";
    assert_int_equal(mb_file_read(&file, path, 3, 4, to, &error), MOEBLOCK_OK);
    assert_string_equal(to, "3456");
    assert_int_equal(mb_file_read(&file, path, 10, 0, to, &error), MOEBLOCK_OK);
    assert_int_equal(mb_file_read(&file, path, 7, 4, to, &error), MOEBLOCK_INVALID_FILE);
    assert_non_null(strstr(error.message, "it ends at byte 10, but bytes up to 11 are needed"));
    assert_int_equal(mb_file_read(&file, path, UINT64_MAX, 4, to, &error), MOEBLOCK_INVALID_FILE);
    assert_int_equal(mb_file_read(&file, path, INT64_MAX, 1, to, &error), MOEBLOCK_INVALID_FILE);
    mb_file_close(&file);
    assert_int_equal(file.descriptor, -1);
    mb_file_close(&file);
    assert_int_equal(mb_file_read(&file, path, 0, 1, to, &error), MOEBLOCK_IO);
}

static void assert_refused(const char *path, moeblock_status status, const char *part)
{
    struct mb_file file;
    moeblock_error error;
    assert_int_equal(mb_file_open(path, &file, &error), status);
    assert_int_equal(file.descriptor, -1);
    assert_non_null(strstr(error.message, path));
    if (!strstr(error.message, part)) fail_msg("\"%s\" lacks \"%s\"", error.message, part);
}

static void test_what_cannot_be_read(void **state)
{
    (void)state;
    assert_refused(path_of("absent"), MOEBLOCK_NOT_FOUND, "No such file");
    assert_refused(folder, MOEBLOCK_IO, "it is a directory; expected a regular file");
    assert_int_equal(mkfifo(path_of("pipe"), 0600), 0);
    assert_refused(path_of("pipe"), MOEBLOCK_IO, "it is a pipe"); // and does not wait for a writer
    assert_refused("/dev/null", MOEBLOCK_IO, "it is a device");
    write_text(path_of("a"), "x");
    assert_refused(path_of("a/b"), MOEBLOCK_NOT_FOUND, "Not a directory");
    assert_int_equal(symlink("loop", path_of("loop")), 0);
    assert_refused(path_of("loop"), MOEBLOCK_IO, "symbolic links");
    assert_int_equal(chmod(path_of("a"), 0), 0);
    if (geteuid() != 0) assert_refused(path_of("a"), MOEBLOCK_IO, "Permission denied");
}

static void test_changes_are_seen(void **state)
{
    (void)state;
    const char *path = path_of("a"), *other = path_of("b");
    struct mb_file file;
    moeblock_error error;
    write_text(path, "same size 1");
    assert_int_equal(mb_file_open(path, &file, &error), MOEBLOCK_OK);
    assert_int_equal(mb_file_unchanged(&file, path, &error), MOEBLOCK_OK);
    const struct timespec times[2] = {{1, 0}, {1, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_int_equal(mb_file_unchanged(&file, path, &error), MOEBLOCK_INVALID_FILE);
    assert_non_null(strstr(error.message, "changed while loading"));
    mb_file_close(&file);

    assert_int_equal(mb_file_open(path, &file, &error), MOEBLOCK_OK);
    write_text(other, "same size 2");
    assert_int_equal(utimensat(AT_FDCWD, other, times, 0), 0);
    assert_int_equal(rename(other, path), 0);
    assert_int_equal(mb_file_unchanged(&file, path, &error), MOEBLOCK_INVALID_FILE);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mb_file_unchanged(&file, path, &error), MOEBLOCK_INVALID_FILE);
    mb_file_close(&file);
}

static void test_text(void **state)
{
    (void)state;
    const char *path = path_of("a");
    char *text;
    size_t bytes;
    moeblock_error error;
    write_text(path, "");
    assert_content(path, "");
    write_text(path, "12345");
    assert_content(path, "12345");
    assert_int_equal(mb_file_read_text(&mb_default_allocator, path, 4, &text, &bytes, &error), MOEBLOCK_LIMIT);
    assert_null(text);
    assert_non_null(strstr(error.message, "it has 5 bytes; at most 4 are allowed"));
    assert_int_equal(mb_file_read_text(&mb_default_allocator, path_of("no"), 4, &text, &bytes, &error),
                     MOEBLOCK_NOT_FOUND);
    assert_null(text);
}

static void test_appears_only_when_committed(void **state)
{
    (void)state;
    struct mb_output output;
    moeblock_error error;
    const char *path = path_of("y");
    assert_int_equal(mb_output_open(path, &output, &error), MOEBLOCK_OK);
    assert_int_equal(mb_output_write(&output, "new", 3, &error), MOEBLOCK_OK);
    assert_false(mb_exists(path));
    assert_int_equal(mb_output_commit(&output, &error), MOEBLOCK_OK);
    assert_content(path, "new");
    assert_int_equal(entries(), 1);
    mb_output_abort(&output); // after a commit: nothing
    assert_content(path, "new");
    struct stat facts;
    const mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(stat(path, &facts), 0);
    assert_int_equal(facts.st_mode & 0777, 0666 & ~mask);
}

static void test_abort_keeps_the_old_file(void **state)
{
    (void)state;
    struct mb_output output, second;
    moeblock_error error;
    const char *path = path_of("y");
    write_text(path, "old");
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(mb_output_open(path, &output, &error), MOEBLOCK_OK);
    assert_int_equal(mb_output_open(path, &second, &error), MOEBLOCK_OK); // two writers do not meet
    assert_int_equal(mb_output_write(&output, "new", 3, &error), MOEBLOCK_OK);
    mb_output_abort(&output);
    mb_output_abort(&output);
    assert_content(path, "old");
    assert_int_equal(mb_output_write(&second, "second", 6, &error), MOEBLOCK_OK);
    assert_int_equal(mb_output_commit(&second, &error), MOEBLOCK_OK);
    assert_content(path, "second");
    assert_int_equal(entries(), 1);
    struct stat facts;
    assert_int_equal(stat(path, &facts), 0);
    assert_int_equal(facts.st_mode & 0777, 0640);
}

static void test_a_link_stays_a_link(void **state)
{
    (void)state;
    struct mb_output output;
    struct stat facts;
    const char *link = path_of("link"), *target = path_of("target");
    write_text(target, "old");
    assert_int_equal(symlink("target", link), 0);
    assert_int_equal(mb_output_open(link, &output, NULL), MOEBLOCK_OK);
    assert_int_equal(mb_output_write(&output, "new", 3, NULL), MOEBLOCK_OK);
    assert_int_equal(mb_output_commit(&output, NULL), MOEBLOCK_OK);
    assert_int_equal(lstat(link, &facts), 0);
    assert_true(S_ISLNK(facts.st_mode));
    assert_content(target, "new");
}

static void test_what_cannot_be_written(void **state)
{
    (void)state;
    struct mb_output output;
    moeblock_error error;
    assert_int_equal(mb_output_open(folder, &output, &error), MOEBLOCK_IO);
    assert_non_null(strstr(error.message, "Is a directory"));
    assert_int_equal(mb_output_open(path_of("absent/y"), &output, &error), MOEBLOCK_NOT_FOUND);
    assert_int_equal(mb_output_open(path_of("absent/"), &output, &error), MOEBLOCK_IO);
    assert_int_equal(mb_output_open("", &output, &error), MOEBLOCK_INVALID_ARGUMENT);
    static char longest[5000];
    memset(longest, 'n', sizeof longest - 1);
    assert_int_equal(mb_output_open(longest, &output, &error), MOEBLOCK_INVALID_ARGUMENT);
    longest[300] = '\0';
    assert_int_equal(mb_output_open(path_of("pipe"), &output, &error), MOEBLOCK_OK); // a name like any other
    mb_output_abort(&output);
    assert_int_equal(mkfifo(path_of("pipe"), 0600), 0);
    assert_int_equal(mb_output_open(path_of("pipe"), &output, &error), MOEBLOCK_IO); // no reader: an error, no wait
    assert_int_equal(entries(), 1);
}

static void test_a_name_that_the_system_refuses(void **state)
{
    (void)state;
    struct mb_output output;
    moeblock_error error;
    char name[301];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    char path[sizeof folder + sizeof name + 1];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    moeblock_status status = mb_output_open(path, &output, &error); // the temporary's name is short
    if (status == MOEBLOCK_OK) status = mb_output_commit(&output, &error);
    assert_int_equal(status, MOEBLOCK_IO);
    assert_non_null(strstr(error.message, "File name too long"));
    assert_int_equal(entries(), 0);
}

static void test_devices_are_written_directly(void **state)
{
    (void)state;
    struct mb_output output;
    moeblock_error error;
    assert_int_equal(mb_output_open("/dev/null", &output, &error), MOEBLOCK_OK);
    assert_int_equal(mb_output_write(&output, "x", 1, &error), MOEBLOCK_OK);
    assert_int_equal(mb_output_commit(&output, &error), MOEBLOCK_OK);
    if (!mb_exists("/dev/full")) skip();
    assert_int_equal(mb_output_open("/dev/full", &output, &error), MOEBLOCK_OK);
    assert_int_equal(mb_output_write(&output, "x", 1, &error), MOEBLOCK_OK); // buffered
    assert_int_equal(mb_output_commit(&output, &error), MOEBLOCK_IO);
    assert_non_null(strstr(error.message, "/dev/full"));
    assert_non_null(strstr(error.message, "No space left"));
    static const char block[1 << 16];
    assert_int_equal(mb_output_open("/dev/full", &output, &error), MOEBLOCK_OK);
    assert_int_equal(mb_output_write(&output, block, sizeof block, &error), MOEBLOCK_IO);
    assert_int_equal(mb_output_commit(&output, &error), MOEBLOCK_IO); // an earlier failure is not forgotten
    struct stat facts;
    assert_int_equal(stat("/dev/full", &facts), 0);
    assert_true(S_ISCHR(facts.st_mode));
}

// In a child, because standard output is replaced.
static void test_own_streams_are_appended_to(void **state)
{
    (void)state;
    const char *path = path_of("log");
    write_text(path, "kept\n");
    const pid_t child = fork();
    if (child == 0) {
        struct mb_output output;
        const int log = open(path, O_WRONLY | O_APPEND);
        if (log < 0 || dup2(log, 1) < 0) _exit(1);
        if (mb_output_open("/dev/stdout", &output, NULL) || mb_output_write(&output, "y", 1, NULL)) _exit(2);
        _exit(mb_output_commit(&output, NULL) ? 3 : 0);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_content(path, "kept\ny");
}

static int write_beyond_the_limit(const char *path)
{
    static const char block[1 << 16];
    const struct rlimit limit = {1000, 1000};
    struct mb_output output;
    moeblock_error error = {MOEBLOCK_OK, ""};
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
    if (mb_output_open(path, &output, &error) != MOEBLOCK_OK) return 2;
    if (mb_output_write(&output, block, sizeof block, &error) != MOEBLOCK_IO) return 3;
    if (!strstr(error.message, "File too large")) return 4;
    mb_output_abort(&output);
    if (mb_output_open(path, &output, &error) != MOEBLOCK_OK) return 5;
    if (mb_output_write(&output, block, 2000, &error) != MOEBLOCK_OK) return 6; // buffered
    return mb_output_commit(&output, &error) == MOEBLOCK_IO ? 0 : 7;
}

static void test_a_full_disk_keeps_the_old_file(void **state)
{
    (void)state;
    const char *path = path_of("y");
    write_text(path, "old");
    const pid_t child = fork();
    if (child == 0) _exit(write_beyond_the_limit(path));
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_content(path, "old");
    assert_int_equal(entries(), 1);
}

static void test_no_descriptor_left(void **state)
{
    (void)state;
    const char *path = path_of("y");
    write_text(path, "old");
    struct rlimit saved;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &saved), 0);
    const struct rlimit none = {0, saved.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    struct mb_output output;
    struct mb_file file;
    moeblock_error error;
    const moeblock_status write_status = mb_output_open(path, &output, &error);
    const moeblock_status read_status = mb_file_open(path, &file, &error);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &saved), 0);
    assert_int_equal(write_status, MOEBLOCK_IO);
    assert_int_equal(read_status, MOEBLOCK_IO);
    assert_non_null(strstr(error.message, "Too many open files"));
    assert_content(path, "old");
}

static void test_rename_that_fails_removes_the_temporary(void **state)
{
    (void)state;
    struct mb_output output;
    moeblock_error error;
    const char *path = path_of("y");
    assert_int_equal(mb_output_open(path, &output, &error), MOEBLOCK_OK);
    assert_int_equal(mkdir(path, 0700), 0); // a folder takes the name meanwhile
    assert_int_equal(mb_output_commit(&output, &error), MOEBLOCK_IO);
    assert_int_equal(entries(), 1);
    assert_true(mb_is_directory(path));
}

static void test_paths(void **state)
{
    (void)state;
    char out[8];
    moeblock_error error;
    assert_int_equal(mb_path_join("a", "b", out, sizeof out, &error), MOEBLOCK_OK);
    assert_string_equal(out, "a/b");
    assert_int_equal(mb_path_join("a/", "b", out, sizeof out, &error), MOEBLOCK_OK);
    assert_string_equal(out, "a/b");
    assert_int_equal(mb_path_join("", "b", out, sizeof out, &error), MOEBLOCK_OK);
    assert_string_equal(out, "b");
    assert_int_equal(mb_path_join("abc", "def", out, sizeof out, &error), MOEBLOCK_OK);
    assert_string_equal(out, "abc/def");
    assert_int_equal(mb_path_join("abcd", "def", out, sizeof out, &error), MOEBLOCK_INVALID_ARGUMENT);
    assert_true(mb_is_directory(folder));
    assert_false(mb_is_directory("/dev/null"));
    assert_true(mb_exists("/dev/null"));
    assert_false(mb_exists(path_of("absent")));
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_reads),
        IN_FOLDER(test_what_cannot_be_read),
        IN_FOLDER(test_changes_are_seen),
        IN_FOLDER(test_text),
        IN_FOLDER(test_appears_only_when_committed),
        IN_FOLDER(test_abort_keeps_the_old_file),
        IN_FOLDER(test_a_link_stays_a_link),
        IN_FOLDER(test_what_cannot_be_written),
        IN_FOLDER(test_a_name_that_the_system_refuses),
        IN_FOLDER(test_devices_are_written_directly),
        IN_FOLDER(test_own_streams_are_appended_to),
        IN_FOLDER(test_a_full_disk_keeps_the_old_file),
        IN_FOLDER(test_no_descriptor_left),
        IN_FOLDER(test_rename_that_fails_removes_the_temporary),
        IN_FOLDER(test_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
