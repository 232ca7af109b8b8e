#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The Python package as a user gets it: a wheel is built, installed into an empty virtual environment and tried there
# (python/tests, and the page docs/python.md); its code is checked by ruff and mypy. Needs python3 with venv, and
# whatever packages python/requirements.txt names.
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

"$tools/bin/python" -m build -q --wheel --no-isolation --outdir "$work" . >"$work/build.log" 2>&1 || {
    cat "$work/build.log"
    exit 1
}
python3 -m venv "$work/empty"
site=$("$tools/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
"$work/empty/bin/pip" install -q --disable-pip-version-check "$work"/moeblock-*.whl
# The test tools are seen from the empty environment, behind what the wheel itself brought.
echo "$site" >"$("$work/empty/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/tools.pth"

cd "$work"
"$work/empty/bin/python" -m pytest -q -p no:cacheprovider -c "$root/pyproject.toml" --rootdir "$root" "$root/python/tests"

# The same models under the oldest release of transformers that is served, laid over the newest; torch stays.
oldest=$tools-oldest
if ! cmp -s "$root/python/requirements-oldest.txt" "$oldest/requirements.txt"; then
    rm -rf "$oldest"
    "$tools/bin/pip" install -q --disable-pip-version-check --no-deps --target "$oldest" \
        -r "$root/python/requirements-oldest.txt"
    cp "$root/python/requirements-oldest.txt" "$oldest/requirements.txt"
fi
PYTHONPATH=$oldest "$work/empty/bin/python" -m pytest -q -p no:cacheprovider -c "$root/pyproject.toml" \
    --rootdir "$root" "$root"/python/tests/test_hf*.py
