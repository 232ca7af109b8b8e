// SPDX-License-Identifier: Apache-2.0
// MPI as the transport of a mesh: the library moeblock-mpi, of which one is built for each MPI
// (libmoeblock-mpi-openmpi, libmoeblock-mpi-mpich). It needs nothing of libmoeblock: a program links both, or loads
// this one when it is asked for a mesh, and hands the transport to moeblock_mesh_create. MPI is called from the calling
// thread only (FUNNELED).
#ifndef MOEBLOCK_MPI_H
#define MOEBLOCK_MPI_H

#include <mpi.h>

#include "moeblock/mesh.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moeblock_mpi_options {
    uint32_t struct_size;
    int blocks; // as in moeblock_transport: waits block inside MPI, for simulators
} moeblock_mpi_options;

// Makes a transport over the processes of a communicator, which is duplicated (collective); errors of the duplicate are
// returned, those of the caller's communicator stay as they were set. `options` may be NULL.
// Errors: WRONG_STATE (MPI is not initialised, or finalised), PEER_FAILED (MPI failed), OUT_OF_MEMORY.
MOEBLOCK_API moeblock_status moeblock_mpi_create(MPI_Comm communicator, const moeblock_mpi_options *options,
                                                 moeblock_transport **out, moeblock_error *error);
// Frees it; nothing is waited for. The mesh made from it must have gone before.
MOEBLOCK_API void moeblock_mpi_destroy(moeblock_transport **transport);

// For programs that do not call MPI themselves. begin initialises MPI and makes a transport over all processes that
// were started; end frees it and finalises MPI, or, with a `code` other than 0 and `dead` set, ends the job without
// waiting for processes that may never answer: it does not return then.
MOEBLOCK_API moeblock_status moeblock_mpi_begin(const moeblock_mpi_options *options, moeblock_transport **out,
                                                moeblock_error *error);
MOEBLOCK_API void moeblock_mpi_end(moeblock_transport **transport, int dead, int code);

#ifdef __cplusplus
}
#endif
#endif
