#!/usr/bin/env bash
# Makes the environment in the folder $VENV from the lock: once, and again only when the lock or setup.py has changed.
#
#   VENV         where to make it                                  (.venv)
#   PYTHON       the Python 3.11 or 3.12 to make it with           (the first on PATH)
#   ACCELERATOR  cpu, gpu, or auto: gpu where nvidia-smi works     (auto)
#   INSTALLER    uv, or pip, which takes several times as long     (uv)
set -euo pipefail
cd "$(dirname "$0")/.."

VENV="${VENV:-.venv}"
PYTHON="${PYTHON:-}"
ACCELERATOR="${ACCELERATOR:-auto}"
INSTALLER="${INSTALLER:-uv}"
STAMP="$VENV/.agentfly-installed"
LOG="$VENV/install.log"
NEEDED_GB=12
# Not in the lock: pip installs the lock where this cannot be had.
UV_PIN=uv==0.13.9
[ -t 1 ] && TERMINAL=1 || TERMINAL=0

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

# The version of a Python that the lock is for and that can make a venv. A name on PATH proves nothing: run it.
version_of() {
    "$1" -c 'import sys, ensurepip, venv
version = sys.version_info[:2]
print("%d.%d" % version) if (3, 11) <= version <= (3, 12) else sys.exit(1)' 2>/dev/null
}

find_python() {
    local candidate candidates=(python3.11 python3.12 python3 python)
    local problem="No Python 3.11 or 3.12 with the venv module was found."
    if [ -n "$PYTHON" ]; then
        candidates=("$PYTHON") problem="PYTHON=$PYTHON is no Python 3.11 or 3.12 with the venv module."
    fi
    for candidate in "${candidates[@]}"; do
        if version_of "$candidate" >/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "$problem" \
        "Python 3.13 will not do: verl 0.9.1, the trainer, requires an older one." \
        "Debian, Ubuntu: apt-get install python3.11-venv (or python3.12-venv)" \
        "Anywhere: uv python install 3.12, or pyenv install 3.12" \
        "Then: make install PYTHON=/path/to/python3.12"
}

# Whether the Python in the venv runs, and is of the version that PYTHON asks for, if it asks for one.
venv_fits() {
    local version
    version=$(version_of "$VENV/bin/python") && [ "$version" = "$(version_of "${PYTHON:-$VENV/bin/python}")" ]
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

pip() { PYTHONUNBUFFERED=1 "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

# The value of a setting that pip takes from its environment or its files; those come first that win.
pip_setting() { pip config list 2>>"$LOG" | sed -nE "s/^(:env:|install|global)\.($1)='?([^']*)'?$/\3/p" | sed -n 1p; }

# uv reads none of pip's settings. The two that a company's mirror needs are handed on, unless uv has its own.
hand_pip_settings_to_uv() {
    local index cert
    index=$(pip_setting index-url)
    cert=$(pip_setting cert)
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    [ -z "$cert" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"
}

# uv links files from its cache into the venv. Where it cannot, as on another disk, it would keep a second copy of it all,
# maybe in a small home: then the cache lies in the venv's own folder for temporary files, and goes with it.
choose_uv_cache() {
    local cache
    cache=$("$VENV/bin/uv" cache dir)
    if ! { mkdir -p "$cache" && : >"$cache/agentfly-$$" && ln "$cache/agentfly-$$" "$TMPDIR/linked"; } 2>>"$LOG"; then
        export UV_CACHE_DIR="${UV_CACHE_DIR:-$TMPDIR/uv}"
    fi
    rm -f "$cache/agentfly-$$"
}

# Falls back to pip where uv cannot be had or does not run.
get_uv() {
    [ "$INSTALLER" = uv ] || return 0
    if pip install --quiet "$UV_PIN" >>"$LOG" 2>&1 && "$VENV/bin/uv" --version >>"$LOG" 2>&1; then
        hand_pip_settings_to_uv
        choose_uv_cache
    else
        INSTALLER=pip
        say "uv cannot be had here ($LOG says why): pip installs instead, in 3 to 10 minutes"
    fi
}

# The two packages without a wheel are built beside the downloads, in 1.4 s each, with the lock's setuptools: that holds
# nobody up, so they are not set apart.
run_uv() {
    "$VENV/bin/uv" pip install --python "$VENV/bin/python" --color never --build-constraints "$LOCK" --no-deps "$@" 2>&1 |
        tee -a "$LOG" | awk -v terminal="$TERMINAL" '
            function show(text) { printf "%s%s%s", (terminal ? "\r" : ""), "install: " text, (terminal ? "" : "\n") }
            /^Downloading / { size[$2] = substr($3, 2) + 0 }
            /^ Downloaded / { mb += size[$2]; if (terminal || mb >= told + 500) show(int(told = mb) " MB downloaded") }
            /^Prepared / && told { if (terminal) print ""; print "install: unpacking" }
            { fflush() }'
}

# One line shows how far it is.
run_pip() {
    pip install --progress-bar off --no-compile --no-deps "$@" 2>&1 |
        tee -a "$LOG" | awk -v total="$(grep -c '==' "$LOCK")" -v terminal="$TERMINAL" '
            /^(Collecting|Processing|Requirement already) / && (++n % 50 == 0 || terminal) {
                printf "%s", (terminal ? "\r" : "") "install: " n " of " total " packages" (terminal ? "" : "\n")
            }
            /^Installing collected/ && n > 10 { print (terminal ? "\n" : "") "install: unpacking, about two minutes" }
            { fflush() }'
}

# The installer's own output goes to the log, and the log's end is shown if it fails. pip would only fail like uv, some
# minutes later, unless it knows of sources or ways that uv has not been told of.
install_packages() {
    if [ "$INSTALLER" = uv ]; then
        run_uv "$@" && return
        if [ -n "$(pip_setting 'extra-index-url|find-links|no-index|proxy|client-cert|trusted-host|keyring-provider')" ]; then
            INSTALLER=pip
            say "uv failed ($LOG says why), and pip has settings that uv does not read: pip tries, in 3 to 10 minutes"
        fi
    fi
    if [ "$INSTALLER" = uv ] || ! run_pip "$@"; then
        grep -v "^WARNING: Location" "$LOG" | tail -n 15 >&2
        die "$INSTALLER failed; its complete output is in $LOG. Once the cause is gone, the same command goes on from there."
    fi
}

# A training starts eight processes that import the same 3,000 files. Where Python may not write what it has compiled, as
# in many containers (PYTHONDONTWRITEBYTECODE), each of them would compile all of that again, in every run: 16 s of a core
# instead of 8. Some packages carry files for other Pythons, which cannot be compiled and are not needed.
compile_packages() {
    say "compiling"
    "$VENV/bin/python" -m compileall -q -j 0 "$VENV"/lib/python*/site-packages >>"$LOG" 2>&1 || true
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
    venv_fits || "$python" -m venv --clear "$VENV"
    # The wheels are larger than many a /tmp.
    export TMPDIR="$PWD/$VENV/tmp"
    case "$VENV" in /*) TMPDIR="$VENV/tmp" ;; esac
    rm -rf "$TMPDIR"
    mkdir -p "$TMPDIR"
    : >"$LOG"
    "$VENV/bin/python" -c 'import pip' 2>/dev/null || "$VENV/bin/python" -m ensurepip >>"$LOG" 2>&1 # made by uv, say
    get_uv
    install_packages -r "$LOCK"
    local own=(-e .)
    if [ "$SET" = cpu ]; then
        cp -r packaging/vllm "$TMPDIR/vllm" # setuptools builds where the source is; keep that out of the checkout
        own+=("$TMPDIR/vllm")
    fi
    install_packages --no-build-isolation "${own[@]}"
    compile_packages
    rm -rf "$TMPDIR"
}

case "$INSTALLER" in uv | pip) ;; *) die "INSTALLER is '$INSTALLER': set it to uv or pip." ;; esac
SET=$(choose_set)
LOCK="requirements-$SET.txt"
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ] && venv_fits; then
    exit 0
fi
check_machine
say "making $VENV from $LOCK: about 7 GB, most of the time is download"
started=$SECONDS
make_environment
fingerprint >"$STAMP"
say "done in $((SECONDS - started)) s: $VENV/bin/agentfly --help"
