"""scripts/install.sh, with stand-ins for Python, pip, uv and df on PATH: which of them it calls, and what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
COPIED = (
    "scripts/install.sh",
    "requirements-cpu.txt",
    "setup.py",
    "agentfly/__init__.py",
    "packaging/vllm/pyproject.toml",
)
TOOLS = [
    *("awk", "bash", "cat", "chmod", "cp", "cut", "dirname", "env", "grep", "id"),
    *("ln", "mkdir", "rm", "sed", "sha256sum", "tail", "tee", "uname"),
]

# The venv's Python is a copy of this script, so the name of the file that made the venv is kept in `made-by`.
PYTHON = """#!/usr/bin/env bash
here="$(dirname "$0")"
version="${0##*python}"
[ -f "$here/made-by" ] && version="$(cat "$here/made-by")"
case "$*" in
    *version_info*) case "$version" in 3.11 | 3.12) echo "$version" ;; *) exit 1 ;; esac ;;
    "-c "*) ;;
    "-m venv"*) rm -rf "${@: -1}"; mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python"
        echo "$version" >"${@: -1}/bin/made-by"; echo "venv $version" >>"$CALLS" ;;
    *"config list") printf '%s\\n' "${PIP_SETTINGS:-}" ;;
    *"install --quiet uv=="*) [ -z "${NO_UV:-}" ] || exit 1; cp "$FAKE_UV" "$here/uv" ;;
    *"-m pip"*install*) echo "pip $*" >>"$CALLS"; echo "Collecting torch"; echo "pip's last words"
        exit "${PIP_STATUS:-0}" ;;
    "-m compileall"*) echo "compiled $*" >>"$CALLS"; exit "${COMPILE_STATUS:-0}" ;;
    *) echo "unexpected: $*" >>"$CALLS"; exit 1 ;;
esac
"""
UV = """#!/usr/bin/env bash
case "$*" in
    --version) [ -z "${BROKEN_UV:-}" ] ;;
    "cache dir") echo "$HOME/cache" ;;
    "pip install"*) echo "uv $* index=${UV_DEFAULT_INDEX:-} cert=${SSL_CERT_FILE:-} cache=${UV_CACHE_DIR:-}" >>"$CALLS"
        printf '%s\\n' "Downloading torch (506.0MiB)" " Downloaded torch" "Prepared 1 package in 1s" >&2
        echo "uv's last words" >&2
        exit "${UV_STATUS:-0}" ;;
esac
"""
DF = """#!/usr/bin/env bash
printf 'head\\ndisk 1 1 %s 1 /\\n' "$((${FREE_GB:-100} * 1048576))"
"""


class Checkout:
    """A copy of what the script reads, and a PATH with nothing on it but the stand-ins and the tools it needs."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.bin = folder / "bin"
        self.calls_file = folder / "calls"
        self.bin.mkdir()
        for name in COPIED:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool} here"))
        for name, text in {"python3.11": PYTHON, "python3.12": PYTHON, "df": DF, "fake-uv": UV}.items():
            self.add(name, text)

    def add(self, name: str, text: str) -> None:
        """Put an executable on PATH."""
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(text, encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def install(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script in an environment of its own; `calls` then has what this run alone called."""
        self.calls_file.write_text("", encoding="utf-8")
        own = {"PATH": str(self.bin), "HOME": str(self.root.parent), "ACCELERATOR": "cpu"}
        own |= {"CALLS": str(self.calls_file), "FAKE_UV": str(self.bin / "fake-uv")}
        command = [self.root / "scripts" / "install.sh"]
        return subprocess.run(command, env=own | environment, capture_output=True, text=True, timeout=60)

    @property
    def calls(self) -> list[str]:
        """The venvs made and the packages installed, in order."""
        return self.calls_file.read_text(encoding="utf-8").splitlines()

    @property
    def installers(self) -> list[str]:
        """Who was called, in order."""
        return [call.partition(" ")[0] for call in self.calls]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    if os.uname().sysname != "Linux" or os.uname().machine != "x86_64":
        pytest.skip("the lock is for Linux x86_64")
    return Checkout(tmp_path)


def test_uv_installs_the_lock_then_the_package_and_the_alias(checkout: Checkout) -> None:
    done = checkout.install()
    assert (done.returncode, done.stderr) == (0, "")
    assert checkout.installers == ["venv", "uv", "uv", "compiled"]
    lock, own, compiled = checkout.calls[1:]
    assert compiled.endswith("/site-packages")
    assert " --no-deps -r requirements-cpu.txt " in lock
    assert " --no-deps --no-build-isolation -e . " in own
    assert "/tmp/vllm " in own
    assert "506 MB downloaded\ninstall: unpacking\n" in done.stdout
    assert not (checkout.root / ".venv" / "tmp").exists()


def test_files_that_cannot_be_compiled_are_no_fault(checkout: Checkout) -> None:
    assert checkout.install(COMPILE_STATUS="1").returncode == 0
    assert checkout.install().stdout == ""


@pytest.mark.slow
def test_a_second_call_does_nothing_until_something_changes(checkout: Checkout) -> None:
    checkout.install()
    again = checkout.install()
    assert (again.returncode, again.stdout, again.stderr, checkout.calls) == (0, "", "", [])
    (checkout.root / "setup.py").write_text("", encoding="utf-8")
    checkout.install()
    assert checkout.installers == ["uv", "uv", "compiled"]


@pytest.mark.parametrize("trouble", ["NO_UV", "BROKEN_UV"])
def test_pip_installs_where_uv_cannot_be_had(checkout: Checkout, trouble: str) -> None:
    done = checkout.install(**{trouble: "1"})
    assert done.returncode == 0
    assert checkout.installers == ["venv", "pip", "pip", "compiled"]
    assert "install: uv cannot be had here (.venv/install.log says why): pip installs instead" in done.stdout


def test_pip_installs_on_request(checkout: Checkout) -> None:
    done = checkout.install(INSTALLER="pip")
    assert (done.returncode, checkout.installers) == (0, ["venv", "pip", "pip", "compiled"])
    assert "uv" not in done.stdout


def test_a_failure_of_uv_shows_its_last_words_and_asks_nothing_of_pip(checkout: Checkout) -> None:
    done = checkout.install(UV_STATUS="1")
    assert (done.returncode, checkout.installers) == (1, ["venv", "uv"])
    assert "uv's last words\ninstall: uv failed; its complete output is in .venv/install.log." in done.stderr
    assert (checkout.install().returncode, checkout.installers) == (0, ["uv", "uv", "compiled"])


def test_pip_tries_after_uv_where_it_knows_ways_that_uv_does_not(checkout: Checkout) -> None:
    done = checkout.install(UV_STATUS="1", PIP_SETTINGS="global.proxy='http://proxy.example:3128'")
    assert (done.returncode, checkout.installers) == (0, ["venv", "uv", "pip", "pip", "compiled"])
    assert "install: uv failed (.venv/install.log says why), and pip has settings that uv does not read" in done.stdout


def test_a_failure_of_both_shows_the_last_words_of_pip(checkout: Checkout) -> None:
    settings = ":env:.proxy='http://proxy.example:3128'"
    done = checkout.install(UV_STATUS="1", PIP_STATUS="1", PIP_SETTINGS=settings)
    assert (done.returncode, checkout.installers) == (1, ["venv", "uv", "pip"])
    assert "pip's last words\ninstall: pip failed; its complete output is in .venv/install.log." in done.stderr


def test_uv_takes_the_index_and_the_certificate_of_pip(checkout: Checkout) -> None:
    settings = ":env:.index-url='https://a.example/simple'\nglobal.cert='/ca.pem'\nglobal.index-url='https://b.example'"
    checkout.install(PIP_SETTINGS=settings)
    assert "index=https://a.example/simple cert=/ca.pem" in checkout.calls[1]


def test_settings_of_uv_win_over_those_of_pip(checkout: Checkout) -> None:
    checkout.install(PIP_SETTINGS="global.index-url='https://pip.example'", UV_DEFAULT_INDEX="https://uv.example")
    assert "index=https://uv.example cert= " in checkout.calls[1]


@pytest.mark.slow
def test_cache_stays_in_the_venv_for_the_while_where_files_cannot_be_linked(checkout: Checkout) -> None:
    checkout.install()
    assert checkout.calls[1].endswith(" cache=")
    checkout.add("ln", "#!/usr/bin/env bash\nexit 1\n")
    shutil.rmtree(checkout.root / ".venv")
    checkout.install()
    assert checkout.calls[1].endswith(f" cache={checkout.root}/.venv/tmp/uv")
    assert list((checkout.root.parent / "cache").iterdir()) == []


@pytest.mark.slow
def test_another_version_of_python_gets_a_venv_of_its_own(checkout: Checkout) -> None:
    checkout.install()
    checkout.install(PYTHON="python3.11")
    assert checkout.calls == []
    checkout.install(PYTHON="python3.12")
    assert checkout.calls[0] == "venv 3.12"
    checkout.install()
    assert checkout.calls == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATOR": "tpu"}, "install: ACCELERATOR is 'tpu': set it to cpu, gpu or auto.\n"),
        ({"INSTALLER": "conda"}, "install: INSTALLER is 'conda': set it to uv or pip.\n"),
        ({"FREE_GB": "7"}, "install: 7 GB are free for .venv and 12 GB are needed.\n"),
        ({"PYTHON": "python3.9"}, "install: PYTHON=python3.9 is no Python 3.11 or 3.12 with the venv module.\n"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(
    checkout: Checkout, environment: dict[str, str], message: str
) -> None:
    checkout.add("python3.9", PYTHON)
    done = checkout.install(**environment)
    assert (done.returncode, checkout.calls) == (1, [])
    assert done.stderr.startswith(message)


def test_no_python_is_said_with_a_way_to_one(checkout: Checkout) -> None:
    for name in ("python3.11", "python3.12"):
        (checkout.bin / name).unlink()
    done = checkout.install()
    assert done.returncode == 1
    assert "install: No Python 3.11 or 3.12 with the venv module was found.\n" in done.stderr
    assert "Python 3.13 will not do: verl 0.9.1" in done.stderr
    assert "make install PYTHON=/path/to/python3.12" in done.stderr
