#!/usr/bin/env bash
# Measure feature extraction on a machine with an NVIDIA GPU and no internet.
#
#   benchmarks/gpu.sh pack          with internet: put the wheels that such a machine lacks into benchmarks/gpu-wheels
#   benchmarks/gpu.sh [OPTION ...]  there: install them into a folder of their own, then run benchmarks/gpu.py
#
# The machine brings Python 3.12, PyTorch and JAX with CUDA, NumPy and h5py. PYTHON names its python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
WHEELS=benchmarks/gpu-wheels
# What relearn's extraction and keras import, except what depends on the machine's CUDA.
PACKAGES='absl-py annotated-types keras markdown-it-py mdurl namex optree packaging pillow pydantic pydantic-core
    pygments rich ruamel-yaml typing-extensions typing-inspection'

pack() {
    local names lock
    lock=$(mktemp)
    trap 'rm -f "$lock"' RETURN
    names=$(tr -s ' \n' '|' <<<"$PACKAGES")
    awk -v names="^(${names%|})==" '/^[a-z]/ {keep = $0 ~ names} keep' requirements.lock >"$lock"
    rm -rf "$WHEELS"
    # pip takes a platform by its exact name.
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --dest "$WHEELS" --requirement "$lock"
    local wanted got
    wanted=$(wc -w <<<"$PACKAGES") got=$(ls "$WHEELS" | wc -l)
    if [ "$got" != "$wanted" ]; then
        echo "gpu.sh: wanted $wanted wheels in $WHEELS, got $got; look in requirements.lock for the others" >&2
        exit 1
    fi
    du -sh "$WHEELS"
}

if [ "${1:-}" = pack ]; then
    pack
    exit
fi
if [ -z "$(ls "$WHEELS"/*.whl 2>/dev/null)" ]; then
    echo "gpu.sh: wanted wheels in $WHEELS, got none; run \`benchmarks/gpu.sh pack\` where there is internet" >&2
    exit 1
fi
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
    --target "$site" "$WHEELS"/*.whl
export PYTHONPATH="$site:$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# The last resort: gpu.py itself stops earlier.
timeout --kill-after=10 "${GPU_TIMEOUT_SECONDS:-480}" "$PYTHON" benchmarks/gpu.py "$@"
