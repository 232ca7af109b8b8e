// SPDX-License-Identifier: Apache-2.0
// The commands and their options: one table (options.c) from which the parser, --help, the man pages and the shell
// completion come.
#ifndef MB_CLI_OPT_H
#define MB_CLI_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CLI_LIST_MAX = 64, CLI_SET_MAX = 256, CLI_POSITIONALS_MAX = 2, CLI_OPTIONS_MAX = 64 };

enum cli_type {
    CLI_FLAG,   // bool
    CLI_TEXT,   // const char *
    CLI_FILE,   // const char *, completed as a file name
    CLI_FOLDER, // const char *, completed as a folder name
    CLI_CHOICE, // const char *, one of `choices`
    CLI_INT,    // int64_t in [minimum, maximum]
    CLI_BYTES,  // int64_t, with an optional suffix k, M, G (powers of 1024)
    CLI_NUMBER, // double in [minimum, maximum]
    CLI_LIST,   // struct cli_list, "1,8,32", each in [minimum, maximum]
    CLI_SET     // struct cli_set: may be given any number of times
};

struct cli_list {
    int64_t value[CLI_LIST_MAX];
    size_t count;
};

struct cli_set {
    const char *text[CLI_SET_MAX];
    size_t count;
};

// Everything that options and arguments of any command can set.
struct cli_args {
    const char *positional[CLI_POSITIONALS_MAX];
    const char *weights, *input, *output, *mode, *compute, *router_out, *compare, *aux, *token_ids, *token_types,
        *seq_lens, *router_state, *router_state_out, *mesh, *mpi, *deadline, *algorithm, *reproducible, *level, *format,
        *routing, *plot, *placement, *dtype;
    int64_t layer; // -1: not given
    int64_t threads, show, seed, shard_bytes, token_count, repeat, copies, copy_bytes, memory;
    double alpha, beta, gflops, dram;
    double tolerance; // -1: not given
    struct cli_list tokens, thread_list;
    struct cli_set set;
    bool json, quiet, help, docs, origins, values, measure;
    bool given[CLI_OPTIONS_MAX]; // by row of the option table
};

struct cli_option {
    const char *name;     // without the dashes
    const char *commands; // names separated by blanks; "*": all
    enum cli_type type;
    bool required;
    size_t offset;        // into struct cli_args
    const char *value;    // what stands for the value in the help; NULL: a flag
    const char *fallback; // default as text; NULL: none
    double minimum, maximum;
    const char *choices;  // CLI_CHOICE: "prefill decode"
    const char *needs;    // an option without which this one means nothing
    const char *excludes; // an option that contradicts it
    const char *help;
};

struct cli_command {
    const char *name, *arguments; // arguments: "CONFIG", "[CONFIG]", "PATH [CONFIG]"
    int minimum, maximum;         // positional arguments
    int (*run)(const struct cli_args *args);
    const char *summary;     // one line
    const char *description; // paragraphs, wrapped when printed
    const char *example[2];  // command lines after "moeblock "; the second may be NULL
};

extern const struct cli_option cli_options[];
extern const size_t cli_option_count;

// Fills `args` with defaults and what argv (from the first word after the command) says. Returns CLI_OK, or an exit
// code after a message on stderr. With --help among the arguments only args->help is set.
int cli_parse(const struct cli_command *command, int argc, char **argv, struct cli_args *args);

// Whether the option `name` of `command` was on the command line.
bool cli_given(const struct cli_command *command, const struct cli_args *args, const char *name);

// True when `option` belongs to `command`.
bool cli_option_of(const struct cli_option *option, const struct cli_command *command);

// The word closest to `word` among `count` candidates when it is close enough to be a slip, else NULL.
const char *cli_nearest(const char *word, const char *const *candidates, size_t count);

// What help.c prints to stdout: help of one command or (NULL) of the program, a man page in roff, bash completion.
void cli_print_help(const struct cli_command *commands, const struct cli_command *command);
void cli_print_man(const struct cli_command *commands, const struct cli_command *command);
void cli_print_completion(const struct cli_command *commands);

#endif
