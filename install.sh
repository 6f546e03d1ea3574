#!/usr/bin/env bash
# Make a virtual environment and install into it with uv, from where this machine's pip would take packages.
#
#   install.sh PYTHON FOLDER REQUIREMENT...       versions as in constraints.txt; `make setup` calls it
#   install.sh PYTHON FOLDER                      uv alone
#
# uv reads none of pip's settings, so they are handed over: indexes, folders of wheels and certificates of pip.conf and
# PIP_* variables. uv's own variables (UV_*) come first where they are set.
set -euo pipefail

python=$1 folder=$2
requirements=("${@:3}")
log=$folder/install.log
uv=$(sed -nE 's/.*"(uv==[0-9.]+)".*/\1/p' pyproject.toml)

fail() {
    echo "error: $*"
    exit 1
}

if [[ ! -x $folder/bin/pip ]]; then
    [[ -n $python ]] || fail "no Python 3.11, 3.12 or 3.13 found; install one with its venv module" \
        "(Debian, Ubuntu: apt install python3-venv), or name one: PYTHON=/path/to/python3.12"
    "$python" -m venv "$folder" || fail "$python cannot make a virtual environment; install its venv module" \
        "(Debian, Ubuntu: apt install python3-venv), or name another Python 3.11 to 3.13: PYTHON=/path/to/python3.12"
fi
"$folder/bin/pip" install --quiet "$uv" > "$log" 2>&1 || { tail -n 12 "$log"; fail "pip cannot install $uv, see $log"; }

((${#requirements[@]})) || exit 0
echo "installing into $folder, a minute or two; the log is $log"

# What pip's configuration says of a setting, in its order: the environment, a file's [install], its [global]. Values on
# several lines are listed with \n between them.
of_pip() {
    local from value words
    for from in :env: install global; do
        value=$("$folder/bin/pip" config list 2> /dev/null | sed -nE "s/^$from\.$1='(.*)'\$/\1/p")
        read -ra words <<< "${value//\\n/ }"
        ((!${#words[@]})) || { echo "${words[*]}" && return; }
    done
}
hand_over() { # VARIABLE VALUE: unless uv's own variable is set, or pip says nothing
    [[ -n ${!1-} || -z $2 ]] || export "$1=$2"
}
hand_over UV_DEFAULT_INDEX "$(of_pip index-url)"
hand_over UV_INDEX "$(of_pip extra-index-url)"
hand_over UV_FIND_LINKS "$(of_pip find-links | tr ' ' ',')"
hand_over SSL_CERT_FILE "$(of_pip cert)"
hand_over UV_INDEX_STRATEGY unsafe-best-match # of several indexes pip takes the best match, not the first

install() {
    "$folder/bin/uv" pip install --python "$folder/bin/python" --constraint constraints.txt "$@" "${requirements[@]}"
}

if [[ ! -e /proc/driver/nvidia/version ]] && install --dry-run 2>&1 | grep -q '^ + nvidia-'; then
    echo "note: this machine has no NVIDIA driver, and torch comes as its CUDA build, about 3 GB; for the build without:" \
        "stop this (Ctrl-C) and run it with UV_TORCH_BACKEND=cpu in the environment"
fi
install >> "$log" 2>&1 || {
    tail -n 12 "$log"
    fail "the installation failed, see $log; fix the cause and run the same command again"
}
