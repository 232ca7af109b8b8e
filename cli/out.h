// SPDX-License-Identifier: Apache-2.0
// What goes to stdout, as text or as one JSON document, and to files; interruption.
#ifndef MB_CLI_OUT_H
#define MB_CLI_OUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "cli/exit.h"
#include "moeblock/tensor.h"

// Called first: writing to a closed pipe becomes an error instead of a signal, and descriptors 0 to 2 are taken, so
// that no file opened later can receive what was meant for stdout.
void cli_prepare_streams(void);

// Called last: `code`, or CLI_IO after a message when stdout did not take everything.
int cli_finish(int code);

// Starts a JSON document {"schema": "moeblock.NAME/1"}; cli_json_print writes it to stdout and releases it.
json_t *cli_json_begin(const char *name);
void cli_json_print(json_t *document);
// Shape as a JSON array.
json_t *cli_json_dims(int rank, const int64_t *dims);
// Sets a key to a number; infinite and NaN, which JSON cannot hold, become null.
void cli_json_number(json_t *object, const char *key, double value);

// Prints text from outside: control characters escaped.
void cli_print_safe(const char *text);
// "1.5 GB": decimal units, three digits.
const char *cli_bytes_text(double bytes, char out[32]);
// "[3, 4]"
const char *cli_dims_text(int rank, const int64_t *dims, char out[200]);

// Checks before long work that a file can appear at `path`: its folder is there and writable, and what has the name
// now, if anything, is no folder. CLI_OK, or an exit code after a message.
int cli_check_output(const char *path);

// Writes an array. SIGINT, SIGTERM and SIGHUP wait until the file is complete.
int cli_write_array(const char *path, moeblock_dtype dtype, int rank, const int64_t *dims, const void *data);

// While held, SIGINT, SIGTERM and SIGHUP wait; cli_interrupted says that one does. cli_release_signals lets it act.
// Returns whether they were held before.
bool cli_hold_signals(void);
bool cli_interrupted(void);
void cli_release_signals(void);

#endif
