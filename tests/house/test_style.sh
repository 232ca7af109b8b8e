#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# All C files are formatted as clang-format 14 does it. Other versions differ in details, so they do not count.
set -eu

for candidate in clang-format-14 clang-format; do
    if "$candidate" --version 2>/dev/null | grep -q 'version 14\.'; then
        formatter=$candidate
        break
    fi
done
if [ -z "${formatter:-}" ]; then
    echo "skipped: clang-format 14 was not found (Debian 12: apt-get install clang-format)"
    exit 77
fi
find include src cli tests examples bench \( -name '*.c' -o -name '*.h' -o -name '*.inl' \) -type f \
    -exec "$formatter" --dry-run --Werror {} +
