#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs this build into a temporary folder, moves it, and builds and runs consumer.c against it in every documented
# way: pkg-config (shared and static) and find_package (shared and static).
set -eu

if grep -q '^MOEBLOCK_SANITIZE:STRING=..*' "$MOEBLOCK_BUILD_DIR/CMakeCache.txt"; then
    echo "skipped: a sanitized library needs a sanitized consumer"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
consumer=$PWD/tests/house/consumer.c

cmake --install "$MOEBLOCK_BUILD_DIR" --prefix "$work/first" >/dev/null
mv "$work/first" "$work/prefix"
prefix=$work/prefix
libraries=$(dirname "$(find "$prefix" -name libmoeblock.so)")
PKG_CONFIG_PATH=$libraries/pkgconfig
export PKG_CONFIG_PATH

run() {
    echo "--- $1"
    shift
    LD_LIBRARY_PATH=$libraries "$@"
}

# shellcheck disable=SC2046 # the flags are several words
"$CC" "$consumer" -o "$work/shared" $(pkg-config --cflags --libs moeblock)
run "pkg-config, shared" "$work/shared"

# As a distribution's static builds do it: everything of this package from its archive.
# shellcheck disable=SC2046
"$CC" "$consumer" -o "$work/static" $(pkg-config --cflags --libs --static moeblock |
    sed 's/-lmoeblock/-l:libmoeblock.a/')
run "pkg-config, static" "$work/static"
if ldd "$work/static" | grep -q libmoeblock; then
    echo "the program linked with --static still loads the shared library"
    exit 1
fi

mkdir "$work/project"
cat >"$work/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C)
find_package(moeblock $(pkg-config --modversion moeblock) REQUIRED)
add_executable(shared "$consumer")
target_link_libraries(shared PRIVATE moeblock::moeblock)
add_executable(static "$consumer")
target_link_libraries(static PRIVATE moeblock::moeblock_static)
END
cmake -S "$work/project" -B "$work/project/build" -DCMAKE_PREFIX_PATH="$prefix" >"$work/log" 2>&1 ||
    { cat "$work/log"; exit 1; }
cmake --build "$work/project/build" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
run "find_package, shared" "$work/project/build/shared"
run "find_package, static" "$work/project/build/static"

for file in bin/moeblock include/moeblock/moeblock.h share/doc/moeblock/LICENSE share/man/man1/moeblock.1 \
    share/man/man1/moeblock-run.1 share/bash-completion/completions/moeblock; do
    [ -s "$prefix/$file" ] || { echo "$file was not installed, or is empty"; exit 1; }
done
