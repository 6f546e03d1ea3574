#!/usr/bin/env bash
# Check and time training on one GPU in the 15 minutes for which one may be lent: correctness, this engine beside TRL,
# what each speed-up gains, a second shape. The most valuable rows come first, every row is printed and written at once,
# and whatever happens there is a table: $OUT/table.txt. On a GPU this has not been run yet.
#
#   recipes/bench_gpu.sh                         with the first Python that is found: .venv's, then python3
#   WHEELS=wheels recipes/bench_gpu.sh           packages that it lacks come from a folder of wheels, without a network
#   BUDGET=300 recipes/bench_gpu.sh              seconds in all, 780 by default
#   BENCH=tiny recipes/bench_gpu.sh              the same with a tiny model, also on a CPU; names of conf/bench
#
# Where no Python has torch, it is installed from the index into .venv, as by `make setup EXTRAS=bench,liger`.
set -euo pipefail
cd "$(dirname "$0")/.."

BUDGET=${BUDGET:-780}
OUT=${OUT:-runs/bench/gpu}
read -ra benches <<< "${BENCH:-gpu gpu_mistral}"

runs() { # PYTHON CODE
    command -v "$1" > /dev/null && "$1" -c "$2" 2> /dev/null
}
python=""
for each in ${PYTHON:+"$PYTHON"} .venv/bin/python python3 python3.13 python3.12 python3.11; do
    runs "$each" 'import sys; sys.exit(sys.version_info < (3, 11))' || continue
    python=${python:-$each}
    runs "$each" 'from importlib.util import find_spec; import sys; sys.exit(not find_spec("torch"))' || continue
    python=$each
    found=yes
    break
done
if [[ -z $python ]]; then
    mkdir -p "$OUT"
    echo "nothing was measured: there is no Python 3.11 or newer; install one, or name it by PYTHON=" | tee "$OUT/table.txt"
    exit 1
fi
if [[ -n ${WHEELS:-} ]]; then
    site=$(mktemp -d)
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl \
        || echo "lacks  what is in $WHEELS: pip could not install it, see above"
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
elif [[ -z ${found:-} ]]; then
    timeout $((BUDGET / 2)) ./install.sh "$python" .venv -e '.[bench,liger]' || echo "lacks  torch: no index gave it in time"
    [[ ! -x .venv/bin/python ]] || python=.venv/bin/python
fi
PATH="$(dirname "$(command -v "$python")"):$PATH" # DeepSpeed looks for ninja there
exec "$python" -m focalpo.speed.session "$OUT" $((BUDGET - SECONDS)) "${benches[@]}"
