// SPDX-License-Identifier: Apache-2.0
// From a launcher's processes to a mesh. moeblock-mpi is loaded only when there is more than one process: the library
// for the MPI whose launcher's variables are in the environment, or the one that --mpi names.
#include "cli/ranks.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/status.h"
#include "cli/exit.h"
#include "cli/mesh_shape.h"
#include "cli/session.h"
#include "mesh/mesh.h"

static const struct launcher {
    const char *size, *mpi; // the variable that tells the number of processes; moeblock-mpi for it
} launchers[] = {{"OMPI_COMM_WORLD_SIZE", "openmpi"}, {"PMI_SIZE", "mpich"}};

// The functions of moeblock/mpi.h that are used, whose header needs an MPI.
typedef moeblock_status (*begin_call)(const void *options, moeblock_transport **out, moeblock_error *error);
typedef void (*end_call)(moeblock_transport **transport, int dead, int code);

// How many processes a launcher started; 1 without one. *by: which.
static int launched(const struct launcher **by)
{
    *by = NULL;
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        const char *const size = getenv(launchers[i].size);
        if (!size || atoi(size) < 1) continue;
        *by = &launchers[i];
        return atoi(size);
    }
    return 1;
}

enum { PATH_BYTES = 4096 };

// Where moeblock-mpi for an MPI lies beside the program, as built or as installed. False: nowhere there.
static bool find_library(const char *mpi, char path[PATH_BYTES])
{
    static const char *const places[] = {"", "../lib/", "../lib/" MOEBLOCK_MULTIARCH "/"};
    const ssize_t length = readlink("/proc/self/exe", path, PATH_BYTES - 128);
    path[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(path, '/');
    for (size_t i = 0; slash && i < sizeof places / sizeof *places; i++) {
        snprintf(slash + 1, 128, "%slibmoeblock-mpi-%s.so.%d", places[i], mpi, MOEBLOCK_VERSION_MAJOR);
        if (access(path, F_OK) == 0) return true;
    }
    return false;
}

// Open MPI's own parts look for its symbols among the global ones.
static void *open_library(const char *mpi)
{
    char path[PATH_BYTES];
    if (!find_library(mpi, path)) // then where the system looks
        snprintf(path, sizeof path, "libmoeblock-mpi-%s.so.%d", mpi, MOEBLOCK_VERSION_MAJOR);
    return dlopen(path, RTLD_NOW | RTLD_GLOBAL);
}

const char *cli_ranks_mpi(int i)
{
    char path[PATH_BYTES];
    for (size_t at = 0; at < sizeof launchers / sizeof *launchers; at++)
        if (find_library(launchers[at].mpi, path) && i-- == 0) return launchers[at].mpi;
    return NULL;
}

static int load(struct cli_ranks *mesh, const char *mpi, moeblock_error *error)
{
    void *library = open_library(mpi);
    if (!library)
        return cli_fail(
            CLI_USAGE,
            "a mesh needs the library moeblock-mpi for %s, which cannot be loaded (%s); install %s and build "
            "moeblock with it (Debian: apt-get install lib%s-dev), or choose another with --mpi",
            mpi, dlerror(), mpi, mpi);
    begin_call begin;
    *(void **)&begin = dlsym(library, "moeblock_mpi_begin");
    *(void **)&mesh->end = dlsym(library, "moeblock_mpi_end");
    if (!begin || !mesh->end) return cli_fail(CLI_OUR_BUG, "moeblock-mpi for %s lacks its functions", mpi);
    if (begin(NULL, &mesh->transport, error) == MOEBLOCK_OK) return CLI_OK;
    return cli_fail_status(CLI_ABOUT_OPTIONS, error);
}

// The shape that the configuration names, if it does. What is wrong with the file is told when it is read for the run.
static bool shape_of_config(const struct cli_args *args, struct cli_mesh *shape)
{
    struct cli_session session = {.context = NULL};
    const moeblock_context_options one = {.struct_size = sizeof one, .threads = 1};
    const moeblock_config_options options = {.struct_size = sizeof options,
                                             .layer = args->layer,
                                             .weights_path = args->weights,
                                             .set = args->set.text,
                                             .n_set = args->set.count};
    bool named = false;
    if (moeblock_context_create(&one, &session.context, NULL) == MOEBLOCK_OK &&
        moeblock_config_open(session.context, args->positional[0], &options, &session.config, NULL) == MOEBLOCK_OK) {
        named = session.config->mesh_rows > 0 && session.config->mesh_columns > 0;
        if (named) *shape = (struct cli_mesh){(int)session.config->mesh_rows, (int)session.config->mesh_columns};
    }
    cli_close(&session);
    return named;
}

int cli_ranks_open(struct cli_ranks *mesh, const struct cli_args *args)
{
    const struct launcher *by;
    const int processes = launched(&by);
    struct cli_mesh shape = {1, 1};
    int count, code;
    if (args->mesh && (code = cli_mesh_read(args->mesh, 1, &shape, &count))) return code;
    if (!args->mesh && processes > 1 && !shape_of_config(args, &shape))
        return cli_fail(CLI_USAGE,
                        "started as one of %d processes (%s) without --mesh: each would do the same work; give --mesh "
                        "RxC with R times C = %d (or mesh.rows and mesh.columns in the configuration), or start one "
                        "process",
                        processes, by->size, processes);
    const int64_t wanted = (int64_t)shape.rows * shape.columns;
    if (wanted != processes)
        return cli_fail(CLI_USAGE,
                        "the mesh %dx%d needs %" PRId64
                        " processes, but %d %s started; start them with `mpiexec -n %" PRId64 " moeblock ...`",
                        shape.rows, shape.columns, wanted, processes, processes == 1 ? "was" : "were", wanted);
    if (processes == 1) return CLI_OK;
    moeblock_error error = {MOEBLOCK_OK, ""};
    code = load(mesh, strcmp(args->mpi, "auto") ? args->mpi : by->mpi, &error);
    if (code) return code;
    moeblock_mesh_options options = {.struct_size = sizeof options, .rows = shape.rows, .columns = shape.columns};
    // For the waits before the configuration is read, which checks the option.
    const double deadline = args->deadline ? strtod(args->deadline, NULL) : 0;
    if (deadline > 0 && deadline <= 1e9) options.deadline = deadline;
    if (moeblock_mesh_create(mesh->transport, &options, &mesh->mesh, &error) == MOEBLOCK_OK) return CLI_OK;
    return cli_fail_status(CLI_ABOUT_OPTIONS, &error);
}

void cli_ranks_lay(struct cli_ranks *mesh, const moeblock_config *config)
{
    if (!mesh->mesh) return;
    mesh->tp_axis = (int)config->tp_axis;
    mesh->token_axis = config->tp_enabled ? 1 - mesh->tp_axis : (int)config->ep_axis;
    const int tp = config->tp_enabled ? mb_mesh_axis_size(mesh->mesh, mesh->tp_axis) : 1;
    mesh->tp = config->hidden_size % tp == 0 ? tp : 1;
    mesh->replicated = config->replicated_batch;
}

int cli_ranks_agree(const struct cli_ranks *mesh, int code)
{
    moeblock_error error = {MOEBLOCK_OK, ""};
    if (!mesh->mesh) return code;
    const moeblock_status mine =
        code ? mb_fail(&error, MOEBLOCK_PEER_FAILED, "ended with exit code %d; its own message tells why", code)
             : MOEBLOCK_OK;
    const moeblock_status status = moeblock_mesh_agree(mesh->mesh, mine, &error);
    if (status == MOEBLOCK_OK || code) return code;
    return cli_ranks_fail(mesh, CLI_ABOUT_DATA, &error);
}

int cli_ranks_fail(const struct cli_ranks *mesh, enum cli_subject subject, const moeblock_error *error)
{
    const moeblock_mesh *all = mesh->mesh;
    const int code = cli_fail_status(subject, error);
    const bool own = !all || all->failed_rank < 0 || all->failed_rank == all->rank;
    return own || code == CLI_TIMEOUT ? code : CLI_PEER_FAILED;
}

void cli_ranks_close(struct cli_ranks *mesh, int code)
{
    // A launcher ends all processes as soon as one has failed: slower ones get a moment to tell their error as well.
    static const struct timespec moment = {0, 500000000};
    const struct launcher *by;
    if (code && launched(&by) > 1) nanosleep(&moment, NULL);
    const bool dead = mesh->mesh && mesh->mesh->dead;
    moeblock_mesh_destroy(&mesh->mesh);
    if (mesh->transport) mesh->end(&mesh->transport, dead, code);
}

bool cli_ranks_speaks(const struct cli_ranks *mesh) { return !mesh->mesh || mesh->mesh->rank == 0; }

struct cli_part cli_ranks_part(const struct cli_ranks *mesh, int64_t tokens, int64_t hidden)
{
    struct cli_part part = {0, tokens, 0, hidden};
    if (!mesh->mesh) return part;
    if (!mesh->replicated)
        mb_split(tokens, mb_mesh_axis_size(mesh->mesh, mesh->token_axis),
                 mb_mesh_axis_index(mesh->mesh, mesh->token_axis), &part.t0, &part.t1);
    mb_split(hidden, mesh->tp, mesh->tp > 1 ? mb_mesh_axis_index(mesh->mesh, mesh->tp_axis) : 0, &part.h0, &part.h1);
    return part;
}

// To the first rank of the axis: what each gives, one after the other at `all`.
static moeblock_status collect(moeblock_mesh *mesh, int axis, const void *mine, const size_t *bytes, char *all,
                               moeblock_error *error)
{
    struct mb_exchange *exchange = mb_exchange_begin(mesh, axis, MOEBLOCK_TRAFFIC_OUTPUT);
    const bool first = exchange->index == 0;
    size_t at = 0;
    for (int i = 0; i < exchange->count; i++) {
        struct mb_peer *peer = &exchange->peers[i];
        peer->send = mine;
        peer->send_bytes = i == 0 ? bytes[exchange->index] : 0;
        peer->receive = all + at;
        peer->capacity = first ? bytes[i] : 0;
        at += bytes[i];
    }
    if (first) memcpy(all, mine, bytes[0]);
    MB_TRY(mb_exchange_start(exchange, MOEBLOCK_OK, mesh->rank, error));
    return mb_exchange_finish(exchange, error);
}

moeblock_status cli_ranks_collect(const struct cli_ranks *mesh, const void *mine, size_t bytes, void *all,
                                  moeblock_error *error)
{
    moeblock_mesh *const m = mesh->mesh;
    const int most = m->rows > m->columns ? m->rows : m->columns;
    size_t *sizes = mb_alloc(&mb_default_allocator, sizeof *sizes * (size_t)most);
    char *row = mb_alloc(&mb_default_allocator, bytes * (size_t)m->columns + 1);
    moeblock_status status = sizes && row ? MOEBLOCK_OK : mb_fail(error, MOEBLOCK_OUT_OF_MEMORY, "no memory to report");
    status = mb_mesh_agree(m, NULL, 0, status, error);
    for (int i = 0; status == MOEBLOCK_OK && i < m->columns; i++) sizes[i] = bytes;
    if (status == MOEBLOCK_OK) status = collect(m, 1, mine, sizes, row, error);
    for (int i = 0; status == MOEBLOCK_OK && i < m->rows; i++) sizes[i] = bytes * (size_t)m->columns;
    // Those of other columns have nothing that the first row waits for.
    if (status == MOEBLOCK_OK && m->column == 0)
        status = collect(m, 0, row, sizes, all, error);
    else
        m->waits++; // all ranks count the same
    mb_free(&mb_default_allocator, sizes);
    mb_free(&mb_default_allocator, row);
    return status;
}

// Parts [parts][rows][width of each] become rows of the whole width.
static void interleave(const char *parts, int count, int64_t rows, int64_t width, size_t element, char *whole)
{
    for (int i = 0; i < count; i++) {
        int64_t begin, end;
        mb_split(width, count, i, &begin, &end);
        const size_t bytes = (size_t)(end - begin) * element;
        for (int64_t r = 0; r < rows; r++, parts += bytes)
            memcpy(whole + (size_t)(r * width + begin) * element, parts, bytes);
    }
}

moeblock_status cli_ranks_gather(const struct cli_ranks *mesh, const void *part, int64_t tokens, int64_t width,
                                 size_t element, bool sharded, void *whole, moeblock_error *error)
{
    const struct cli_part own = cli_ranks_part(mesh, tokens, width);
    const int64_t rows = own.t1 - own.t0;
    const int tp = sharded ? mesh->tp : 1;
    const size_t row = (size_t)width * element, all = (size_t)rows * row;
    moeblock_mesh *const m = mesh->mesh;
    if (!m) return MOEBLOCK_OK;
    const int ranks = mb_mesh_axis_size(m, mesh->token_axis);
    size_t *bytes = mb_alloc(&mb_default_allocator, sizeof *bytes * (size_t)(tp > ranks ? tp : ranks));
    char *parts = mb_alloc(&mb_default_allocator, all + 1), *rows_here = mb_alloc(&mb_default_allocator, all + 1);
    moeblock_status status = bytes && parts && rows_here ? MOEBLOCK_OK : MOEBLOCK_OUT_OF_MEMORY;
    if (status != MOEBLOCK_OK) mb_fail(error, status, "gathering results: no memory for %zu bytes", 2 * all);
    status = mb_mesh_agree(m, NULL, 0, status, error);
    if (status == MOEBLOCK_OK && tp > 1) {
        for (int i = 0; i < tp; i++) bytes[i] = all / (size_t)tp;
        status = collect(m, mesh->tp_axis, part, bytes, parts, error);
        if (status == MOEBLOCK_OK) interleave(parts, tp, rows, width, element, rows_here);
    } else if (status == MOEBLOCK_OK) {
        memcpy(rows_here, part, all);
    }
    for (int i = 0; status == MOEBLOCK_OK && i < ranks; i++) {
        int64_t t0, t1;
        mb_split(tokens, ranks, i, &t0, &t1);
        bytes[i] = mesh->replicated ? (i ? 0 : all) : (size_t)(t1 - t0) * row;
    }
    if (status == MOEBLOCK_OK) status = collect(m, mesh->token_axis, rows_here, bytes, whole, error);
    mb_free(&mb_default_allocator, bytes);
    mb_free(&mb_default_allocator, parts);
    mb_free(&mb_default_allocator, rows_here);
    return status;
}
