// SPDX-License-Identifier: Apache-2.0
// The processes that a launcher started, as a mesh: which MPI, whether their number fits, who writes and who reports.
#ifndef MB_CLI_RANKS_H
#define MB_CLI_RANKS_H

#include "cli/exit.h"
#include "cli/opt.h"
#include "config/config.h"
#include "moeblock/mesh.h"

struct cli_ranks {
    moeblock_mesh *mesh; // NULL: one process
    moeblock_transport *transport;
    void (*end)(moeblock_transport **transport, int dead, int code);
    int token_axis, tp_axis,
        tp;          // over which axis tokens are split; over which the hidden size is, and in how many parts
    bool replicated; // every rank holds all tokens
};

// The i-th MPI whose moeblock-mpi lies beside the program, as --mpi names it; NULL behind the last.
const char *cli_ranks_mpi(int i);
// What --mesh, or else the configuration, asks for; a launcher's number of processes must fit. With one process nothing
// happens. CLI_OK, or an exit code after a message.
int cli_ranks_open(struct cli_ranks *mesh, const struct cli_args *args);
// How the configuration lays tokens and hidden size over the mesh.
void cli_ranks_lay(struct cli_ranks *mesh, const moeblock_config *config);
// Every process tells how it fared, CLI_OK or an exit code; one that fared well while another did not gets
// CLI_PEER_FAILED after a message.
int cli_ranks_agree(const struct cli_ranks *mesh, int code);
// The exit code and message of a failed collective call.
int cli_ranks_fail(const struct cli_ranks *mesh, enum cli_subject subject, const moeblock_error *error);
// Ends MPI. After an error that left processes waiting it does not return: the process ends with `code`.
void cli_ranks_close(struct cli_ranks *mesh, int code);

// Brings `bytes` of every process to the one that speaks, in the order of their ranks at `all`.
moeblock_status cli_ranks_collect(const struct cli_ranks *mesh, const void *mine, size_t bytes, void *all,
                                  moeblock_error *error);

// Tokens and columns of x that this process holds, of `tokens` x `hidden`.
struct cli_part {
    int64_t t0, t1, h0, h1;
};
struct cli_part cli_ranks_part(const struct cli_ranks *mesh, int64_t tokens, int64_t hidden);
// Whether this process writes files and reports.
bool cli_ranks_speaks(const struct cli_ranks *mesh);
// Brings [t1 - t0][h1 - h0] elements of every process to the one that speaks, as [tokens][hidden] at `whole`; `part`
// may lie in it at its own place only when there is one process. `sharded`: the columns are parts, else the same
// everywhere.
moeblock_status cli_ranks_gather(const struct cli_ranks *mesh, const void *part, int64_t tokens, int64_t width,
                                 size_t element, bool sharded, void *whole, moeblock_error *error);

#endif
