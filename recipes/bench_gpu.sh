#!/usr/bin/env bash
# The speed comparison on one GPU, from a bare machine: an environment, then both shapes. Meant to take under
# 8 minutes of computing: not measured.
#
#   recipes/bench_gpu.sh                         packages from the index
#   WHEELS=wheels recipes/bench_gpu.sh           from a folder of wheels, without a network
#   BENCH=tiny recipes/bench_gpu.sh              the same path with a model of no size, on a CPU too
#
# Tables are printed and kept in $OUT (default runs/bench). What is measured already is not measured again.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3.11}
OUT=${OUT:-runs/bench}
VENV=${VENV:-.venv}

if [[ ! -x $VENV/bin/python ]]; then
    "$PYTHON" -m venv "$VENV"
    from=(${WHEELS:+--no-index --find-links "$WHEELS"})
    "$VENV/bin/pip" install --quiet --constraint constraints.txt "${from[@]}" -e '.[bench,liger]'
fi
PATH="$(realpath -s "$VENV")/bin:$PATH" # DeepSpeed looks for ninja there

command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader

one_shape=('~lengths.long_prompts' '~lengths.short_chat')
if [[ -n ${BENCH:-} ]]; then
    python -m recipes.bench bench="$BENCH" out="$OUT" parts='[peers,ablations,planner]' "${one_shape[@]}"
else
    python -m recipes.bench bench=gpu out="$OUT" "${one_shape[@]}"
    python -m recipes.bench bench=gpu_mistral out="$OUT" parts='[peers]' repeats=1 "${one_shape[@]}"
fi
