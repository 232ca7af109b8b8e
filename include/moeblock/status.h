// SPDX-License-Identifier: Apache-2.0
// Status codes and the error object that every fallible call can fill.
#ifndef MOEBLOCK_STATUS_H
#define MOEBLOCK_STATUS_H

#include "moeblock/export.h"

#ifdef __cplusplus
extern "C" {
#endif

// The numbers are part of the ABI and never change.
typedef enum moeblock_status {
    MOEBLOCK_OK = 0,
    MOEBLOCK_INVALID_ARGUMENT = 1, // the caller's argument
    MOEBLOCK_INVALID_CONFIG = 2,   // a configuration file or value
    MOEBLOCK_INVALID_FILE = 3,     // a checkpoint or array file
    MOEBLOCK_UNSUPPORTED = 4,      // well formed, but not something moeblock computes
    MOEBLOCK_NOT_FOUND = 5,        // a file or tensor that does not exist
    MOEBLOCK_OUT_OF_MEMORY = 6,
    MOEBLOCK_LIMIT = 7, // a declared size above a ceiling
    MOEBLOCK_IO = 8,
    MOEBLOCK_WRONG_STATE = 9, // for example forward before the weights
    MOEBLOCK_NONFINITE = 10,
    MOEBLOCK_MISMATCH = 11, // ranks of a mesh disagree
    MOEBLOCK_PEER_FAILED = 12,
    MOEBLOCK_TIMEOUT = 13,
    MOEBLOCK_CANCELLED = 14,
    MOEBLOCK_INTERNAL = 15
} moeblock_status;

// Filled by a call that fails, untouched by one that succeeds. The message is one sentence: what was
// being done, on which object, what was found, what was expected, what to do. Every fallible function
// takes a pointer to one as its last argument; NULL is allowed.
typedef struct moeblock_error {
    moeblock_status code;
    char message[1024];
} moeblock_error;

// Name of a status, for example "INVALID_FILE". Static storage; never NULL.
MOEBLOCK_API const char *moeblock_status_name(moeblock_status status);

#ifdef __cplusplus
}
#endif
#endif
