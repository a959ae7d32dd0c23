"""scripts/install_browser.sh, with stand-ins on PATH: what it finds, what it installs, and what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "install_browser.sh"
TOOLS = ("bash", "env", "tail")


class Machine:
    """A PATH with nothing on it but the stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool} here"))
        self.add("id", "echo 1000")

    def add(self, name: str, text: str = "") -> Path:
        path = self.bin / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
        return path

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {"PATH": str(self.bin), "BIN": str(self.bin), **environment}
        return subprocess.run([SCRIPT, *words], env=own, capture_output=True, text=True, timeout=30)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_browser_on_the_path_is_found_and_nothing_is_installed(machine: Machine) -> None:
    path = machine.add("google-chrome")
    machine.add("apt-get", "exit 9")
    found = machine.run("--find")
    assert (found.returncode, found.stdout) == (0, f"{path}\n")
    quiet = machine.run()
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_the_variable_goes_before_the_path_and_is_not_replaced_in_silence(machine: Machine, tmp_path: Path) -> None:
    machine.add("chromium")
    mine = tmp_path / "mine"
    missing = machine.run("--find", AGENTFLY_BROWSER=str(mine))
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "AGENTFLY_BROWSER is" in machine.run(AGENTFLY_BROWSER=str(mine)).stderr
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    assert machine.run("--find", AGENTFLY_BROWSER=str(mine)).stdout == f"{mine}\n"


def test_root_installs_debians(machine: Machine) -> None:
    machine.add("id", "echo 0")
    machine.add("timeout", 'shift; exec "$@"')
    install = 'printf "#!/usr/bin/env bash\\n" >"$BIN/chromium"; "$CHMOD" 755 "$BIN/chromium"'
    machine.add("apt-get", f'case "$*" in *install*chromium*) {install} ;; esac')
    done = machine.run(CI="true", CHMOD=shutil.which("chmod") or "")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "browser: installing chromium, which the tests of the viewer drive\n"


@pytest.mark.parametrize("ci", [True, False])
def test_a_machine_that_cannot_have_one_fails_on_ci_alone(machine: Machine, ci: bool) -> None:
    machine.add("apt-get", "exit 9")
    done = machine.run(**({"CI": "true"} if ci else {}))
    assert done.returncode == int(ci)
    assert "sudo apt-get install chromium" in done.stderr
    assert ("they are skipped" in done.stderr) is not ci


def test_the_end_of_a_failed_installation_is_shown(machine: Machine) -> None:
    machine.add("id", "echo 0")
    machine.add("timeout", 'shift; exec "$@"')
    machine.add("apt-get", "echo 'E: no such package' >&2; exit 100")
    done = machine.run()
    assert done.returncode == 0
    assert "E: no such package" in done.stderr
    assert os.access(SCRIPT, os.X_OK)
