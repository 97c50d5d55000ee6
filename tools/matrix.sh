#!/usr/bin/env bash
# Makes .venv-<version> for each version of JAX given, where a Python that it supports is at hand; after --packages only
# what does not write into this folder, and so may run beside other installations.
set -euo pipefail
cd "$(dirname "$0")/.."
only_packages=
if [ "${1-}" = --packages ]; then
    only_packages=yes
    shift
fi

find_python() {
    local candidate
    for candidate in python3.12 python3.13 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[23].*/bin/python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

python=$(find_python)
if [ -z "$python" ]; then
    echo "No Python 3.12 or 3.13 at hand: JAX 0.11 and later need one; their tests are left out."
    exit 0
fi
packages=()
for version in "$@"; do
    folder=".venv-$version"
    [ -f "$folder/installed" ] && continue
    (
        "$python" -m venv "$folder"
        "$folder/bin/python" -m pip install -q -q --disable-pip-version-check \
            "jax[cuda13-local]==$version" pytest hypothesis absl-py
    ) &
    packages+=($!)
done
for job in "${packages[@]}"; do wait "$job"; done
[ -z "$only_packages" ] || exit 0

# One after the other: an editable installation writes into this folder.
for version in "$@"; do
    folder=".venv-$version"
    [ -f "$folder/installed" ] && continue
    "$folder/bin/python" -m pip install -q -q --disable-pip-version-check "jax==$version" -e '.[gpu-targets]'
    touch "$folder/installed"
done
