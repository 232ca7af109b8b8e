#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The scripts parse as POSIX shell, are executable where they are commands, and shellcheck (when there) finds nothing.
set -eu

for command in scripts/* .ci/*; do
    [ -x "$command" ] || { echo "$command is not executable"; exit 1; }
done
find scripts .ci -type f -exec sh -n {} \; -print
find tests -name '*.sh' -type f -exec sh -n {} \; -print
if ! command -v shellcheck >/dev/null 2>&1; then
    echo "skipped: shellcheck was not found (Debian: apt-get install shellcheck); the scripts parse"
    exit 77
fi
find scripts .ci -type f -exec shellcheck --shell=sh {} +
find tests -name '*.sh' -type f -exec shellcheck --shell=sh {} +
