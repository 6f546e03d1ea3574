#!/usr/bin/env bash
# Run the speed comparison on one GPU from a bare machine: create the environment, then measure both shapes. Meant to
# take under 8 minutes of computing; this has not been measured.
#
#   recipes/bench_gpu.sh                         install packages from the index
#   WHEELS=wheels recipes/bench_gpu.sh           install from a folder of wheels, offline
#   BENCH=tiny recipes/bench_gpu.sh              the same steps with a tiny model, also on a CPU
#
# Tables are printed and saved in $OUT (default runs/bench). Existing measurements are reused.
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
