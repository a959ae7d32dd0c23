#!/usr/bin/env bash
# Finds the Chromium for the viewer's browser tests and screenshots; installs Debian's where it is missing and may be.
#
#   scripts/install_browser.sh           find or install; without either, fail where CI is set and else say what to do
#   scripts/install_browser.sh --find    print the path of the browser, or fail without a word
#
#   AGENTFLY_BROWSER    the program to take    (chromium or Chrome on PATH)
set -euo pipefail

find_browser() {
    local name
    if [ -n "${AGENTFLY_BROWSER:-}" ]; then
        command -v "$AGENTFLY_BROWSER"
        return
    fi
    for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
        command -v "$name" && return
    done
    return 1
}

say() { printf 'browser: %s\n' "$*" >&2; }

# The fonts are those that the pages fall back to: without any, text has no width.
apt() { DEBIAN_FRONTEND=noninteractive timeout "$1" apt-get -qq -o Acquire::Retries=3 -o Acquire::http::Timeout=30 "${@:2}"; }
install_chromium() {
    apt 120 update && apt 600 install -y --no-install-recommends chromium fonts-dejavu-core fonts-liberation
}

if [ "${1:-}" = --find ]; then
    find_browser
    exit
fi
find_browser >/dev/null && exit
if [ -n "${AGENTFLY_BROWSER:-}" ]; then
    say "AGENTFLY_BROWSER is '$AGENTFLY_BROWSER', which cannot be run: unset it, or give the path of a Chromium"
    exit 1
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing chromium, which the tests of the viewer drive"
    if log=$(install_chromium </dev/null 2>&1) && find_browser >/dev/null; then
        exit
    fi
    printf '%s\n' "$log" | tail -n 5 >&2
fi
say "no Chromium and no Chrome: the browser tests of the viewer need one"
say "Debian: sudo apt-get install chromium; elsewhere: install Chrome, or set AGENTFLY_BROWSER=/path/to/chrome"
[ -z "${CI:-}" ] || exit 1
say "they are skipped"
