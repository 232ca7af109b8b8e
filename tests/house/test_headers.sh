#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every public header compiles alone, included twice, as C99, C17 and C++11, with gcc and with clang (those there are).
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0
failures=0

# compile COMPILER STANDARD SUFFIX HEADER
compile() {
    source=$work/one.$3
    printf '#include "moeblock/%s"\n#include "moeblock/%s"\n' "$4" "$4" >"$source"
    checks=$((checks + 1))
    if ! "$1" "-std=$2" -Wall -Wextra -Wpedantic -Werror -Iinclude -fsyntax-only "$source"; then
        echo "$4 does not compile alone with $1 as $2"
        failures=$((failures + 1))
    fi
}

for path in include/moeblock/*.h; do
    header=${path##*/}
    for compiler in gcc clang; do
        command -v "$compiler" >/dev/null 2>&1 || continue
        compile "$compiler" c99 c "$header"
        compile "$compiler" c17 c "$header"
    done
    for compiler in g++ clang++; do
        command -v "$compiler" >/dev/null 2>&1 || continue
        compile "$compiler" c++11 cc "$header"
    done
done
echo "public headers: $checks compilations, $failures failed"
[ "$checks" -gt 0 ] && [ "$failures" -eq 0 ]
