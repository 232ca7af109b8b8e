#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every public header compiles alone, included twice, as C99, C17 and C++11, with gcc and with clang (those there are);
# mpi.h with the header of each MPI that is there.
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0
failures=0

# compile COMPILER STANDARD SUFFIX HEADER [FLAG]...
compile() {
    source=$work/one.$3
    printf '#include "moeblock/%s"\n#include "moeblock/%s"\n' "$4" "$4" >"$source"
    checks=$((checks + 1))
    compiler_=$1 standard=$2 header_=$4
    shift 4
    if ! "$compiler_" "-std=$standard" -Wall -Wextra -Wpedantic -Werror -Iinclude "$@" -fsyntax-only "$source"; then
        echo "$header_ does not compile alone with $compiler_ as $standard"
        failures=$((failures + 1))
    fi
}

# alone HEADER [FLAG]...
alone() {
    header=$1
    shift
    for compiler in gcc clang; do
        command -v "$compiler" >/dev/null 2>&1 || continue
        compile "$compiler" c99 c "$header" "$@"
        compile "$compiler" c17 c "$header" "$@"
    done
    for compiler in g++ clang++; do
        command -v "$compiler" >/dev/null 2>&1 || continue
        compile "$compiler" c++11 cc "$header" "$@"
    done
}

for path in include/moeblock/*.h; do
    [ "${path##*/}" = mpi.h ] || alone "${path##*/}"
done
for mpi in ompi-c mpich; do
    pkg-config --exists "$mpi" 2>/dev/null || continue
    # The MPI's own header is not held to our warnings. C++ bindings, which Open MPI still includes, are left out.
    # shellcheck disable=SC2046 # several words
    alone mpi.h -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX $(pkg-config --cflags "$mpi" | sed 's/-I/-isystem /g')
done
echo "public headers: $checks compilations, $failures failed"
[ "$checks" -gt 0 ] && [ "$failures" -eq 0 ]
