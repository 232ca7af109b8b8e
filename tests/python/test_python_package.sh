#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The Python package as a user gets it: a source distribution is made, a wheel is built from it without a network, and
# that wheel is installed into an empty virtual environment and tried there (python/tests, and the page docs/python.md).
# The package's code is checked by ruff and mypy. Needs python3 with venv, and what python/requirements.txt names.
set -eu

python3 -c 'import venv, ensurepip' 2>/dev/null || {
    echo "python3 has no venv: install it (Debian: apt-get install python3-venv)"
    exit 1
}
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tools=$MOEBLOCK_BUILD_DIR/python-tools

# The tools are kept between runs; the environment that the wheel is tried in is not.
if ! cmp -s python/requirements.txt "$tools/requirements.txt"; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install -q --disable-pip-version-check -r python/requirements.txt
    cp python/requirements.txt "$tools/requirements.txt"
fi

"$tools/bin/ruff" check -q python
"$tools/bin/ruff" format -q --check python
"$tools/bin/mypy"

# quietly COMMAND...: its output is shown when it fails.
quietly() {
    "$@" >"$work/log" 2>&1 || {
        cat "$work/log"
        exit 1
    }
}

# offline COMMAND...: without a network where the system lets us take it away, and without an index of packages anyway.
offline() {
    if unshare -n true 2>/dev/null; then
        PIP_NO_INDEX=1 unshare -n "$@"
    elif unshare -rn true 2>/dev/null; then
        PIP_NO_INDEX=1 unshare -rn "$@"
    else
        PIP_NO_INDEX=1 http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9 "$@"
    fi
}

quietly "$tools/bin/python" -m build -q --sdist --no-isolation --outdir "$work" .
mkdir "$work/source"
tar -xzf "$work"/moeblock-*.tar.gz -C "$work/source" --strip-components=1
quietly offline "$tools/bin/python" -m build -q --wheel --no-isolation --outdir "$work" "$work/source"

# From source and without jansson: the build ends with the line that installs it.
if PKG_CONFIG_LIBDIR=/nonexistent "$tools/bin/python" -m build --wheel --no-isolation --outdir "$work/none" \
    "$work/source" >"$work/log" 2>&1; then
    echo "a wheel was built without jansson"
    exit 1
fi
grep -q "apt-get install libjansson-dev" "$work/log" || {
    cat "$work/log"
    exit 1
}

python3 -m venv "$work/empty"
"$work/empty/bin/pip" install -q --disable-pip-version-check "$work"/moeblock-*.whl
cd "$work"
quietly "$work/empty/bin/python" "$root/tests/python/clean_environment.py" "$root/docs/python.md"

# A user's own type checker sees the types.
printf 'import moeblock\nreveal_type(moeblock.Block.from_pretrained("folder").info)\n' >"$work/user.py"
quietly "$tools/bin/mypy" --strict --config-file= --python-executable "$work/empty/bin/python" "$work/user.py"
grep -q 'dict\[.*str' "$work/log"

# The test tools are seen from the empty environment, behind what the wheel itself brought.
site=$("$tools/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
echo "$site" >"$("$work/empty/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/tools.pth"
"$work/empty/bin/python" -m pytest -q -p no:cacheprovider -c "$root/pyproject.toml" --rootdir "$root" "$root/python/tests"

# The same models under the oldest release of transformers that is served, laid over the newest; torch stays. How exact
# the kernels are is no question of the release.
oldest=$tools-oldest
if ! cmp -s "$root/python/requirements-oldest.txt" "$oldest/requirements.txt"; then
    rm -rf "$oldest"
    "$tools/bin/pip" install -q --disable-pip-version-check --no-deps --target "$oldest" \
        -r "$root/python/requirements-oldest.txt"
    cp "$root/python/requirements-oldest.txt" "$oldest/requirements.txt"
fi
PYTHONPATH=$oldest "$work/empty/bin/python" -m pytest -q -p no:cacheprovider -c "$root/pyproject.toml" \
    --rootdir "$root" -k 'not no_worse' "$root"/python/tests/test_hf*.py
