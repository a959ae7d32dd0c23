#!/usr/bin/env bash
# Makes the environment in the folder $VENV from the lock: once, and again only when the lock or setup.py has changed.
#
#   VENV         where to make it                                  (.venv)
#   PYTHON       the Python 3.11 to make it with                   (python3.11, then python3)
#   ACCELERATOR  cpu, gpu, or auto: gpu where nvidia-smi works     (auto)
set -euo pipefail
cd "$(dirname "$0")/.."

VENV="${VENV:-.venv}"
PYTHON="${PYTHON:-python3.11}"
ACCELERATOR="${ACCELERATOR:-auto}"
STAMP="$VENV/.agentfly-installed"
NEEDED_GB=12

say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$@" >&2; exit 1; }

choose_set() {
    case "$ACCELERATOR" in
        cpu | gpu) echo "$ACCELERATOR" ;;
        auto) if nvidia-smi -L >/dev/null 2>&1; then echo gpu; else echo cpu; fi ;;
        *) die "ACCELERATOR is '$ACCELERATOR': set it to cpu, gpu or auto." ;;
    esac
}

fingerprint() {
    echo "$SET $(cat "$LOCK" setup.py agentfly/__init__.py packaging/vllm/pyproject.toml | sha256sum | cut -d' ' -f1)"
}

check_machine() {
    [ "$(uname -sm)" = "Linux x86_64" ] || die "The lock is for Linux x86_64, this is $(uname -sm)." \
        "The light package (agent, tools, client, servers) runs here: pip install -e ."
    local free_gb
    free_gb=$(($(df -Pk "$(dirname "$VENV")" | awk 'NR == 2 { print $4 }') / 1048576))
    [ "$free_gb" -ge "$NEEDED_GB" ] || die "$free_gb GB are free for $VENV and $NEEDED_GB GB are needed." \
        "Free some space, or choose another disk: make install VENV=/path/on/a/larger/disk"
    # pip's cache would keep a second copy of the downloads, usually on the same disk.
    [ "$free_gb" -ge $((NEEDED_GB + 4)) ] || export PIP_NO_CACHE_DIR=1
}

# The first of the candidates that is a Python 3.11 able to make a venv. A name on PATH proves nothing: run it.
find_python() {
    local candidate
    for candidate in "$PYTHON" python3.11 python3 python; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    die "No Python 3.11 with the venv module was found, and the lock is for Python 3.11." \
        "Debian, Ubuntu: apt-get install python3.11-venv; anywhere: uv python install 3.11, or pyenv install 3.11." \
        "Then: make install PYTHON=/path/to/python3.11" \
        "Python 3.10 and 3.12 can run the package from setup.py, without the lock: pip install -e '.[verl]'"
}

# vLLM's CPU kernels link to libnuma, the one library of the system that no wheel brings along.
check_libnuma() {
    "$1" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' >/dev/null 2>&1 && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing the system library libnuma1, which vLLM needs"
        { apt-get -qq update && apt-get -qq install -y libnuma1; } </dev/null >/dev/null 2>&1 && return
    fi
    die "vLLM needs the system library libnuma.so.1." \
        "Debian, Ubuntu: sudo apt-get install libnuma1; Fedora: sudo dnf install numactl-libs"
}

# pip's own output goes to a log; one line shows how far it is, and the log's end is shown if pip fails.
run_pip() {
    local total=$1 log="$VENV/install.log"
    shift
    if ! PYTHONUNBUFFERED=1 "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off --no-input "$@" 2>&1 |
        tee "$log" | awk -v total="$total" -v every="$([ -t 1 ] && echo 1 || echo 50)" '
            /^(Collecting|Processing|Requirement already) / && ++n % every == 0 {
                printf "%s", (every == 1 ? "\r" : "") "install: " n " of " total " packages" (every == 1 ? "" : "\n")
            }
            /^Installing collected/ && n > 10 { print (every == 1 ? "\n" : "") "install: unpacking, about two minutes" }
            { fflush() }'; then
        grep -v '^WARNING: Location' "$log" | tail -n 15 >&2
        die "pip failed; its complete output is in $log. Once the cause is gone, the same command goes on from there."
    fi
}

make_environment() {
    local python
    python=$(find_python)
    [ "$SET" = gpu ] || check_libnuma "$python"
    # Two owners of the module `vllm` cannot share a venv: one made for the other kind of machine is made anew.
    if [ -f "$STAMP" ] && [ "$(cut -d' ' -f1 "$STAMP")" != "$SET" ]; then
        say "$VENV was made for another kind of machine ($(cut -d' ' -f1 "$STAMP")): making it anew"
        rm -rf "$VENV"
    fi
    rm -f "$STAMP"
    [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '' 2>/dev/null || "$python" -m venv --clear "$VENV"
    # The wheels are larger than many a /tmp.
    export TMPDIR="$PWD/$VENV/tmp"
    case "$VENV" in /*) TMPDIR="$VENV/tmp" ;; esac
    mkdir -p "$TMPDIR"
    run_pip "$(grep -c '==' "$LOCK")" --no-deps -r "$LOCK"
    local own=(-e .)
    if [ "$SET" = cpu ]; then
        cp -r packaging/vllm "$TMPDIR/vllm" # setuptools builds where the source is; keep that out of the checkout
        own+=("$TMPDIR/vllm")
    fi
    run_pip "${#own[@]}" --no-deps --no-build-isolation "${own[@]}"
    rm -rf "$TMPDIR"
}

SET=$(choose_set)
LOCK=requirements.txt
[ "$SET" = cpu ] || LOCK=requirements-gpu.txt
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ] && [ -x "$VENV/bin/python" ]; then
    exit 0
fi
check_machine
say "making $VENV from $LOCK: about 7 GB; 5 to 10 minutes, most of them download"
started=$SECONDS
make_environment
fingerprint >"$STAMP"
say "done in $((SECONDS - started)) s: $VENV/bin/agentfly --help"
