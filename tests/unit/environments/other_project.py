"""Environments with another project's packages, which pin other versions. Each is made once for its content."""

from __future__ import annotations

import fcntl
import hashlib
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

ROOT = Path(__file__).resolve().parents[3]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentfly-tests"
INSTALL_SECONDS = 500
_NO_NETWORK = ("dns error", "error sending request", "Failed to fetch", "Network is unreachable", "NewConnectionError")


def requirements(extra: str) -> list[str]:
    """Return what setup.py asks for with an extra."""
    with patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    given = setup.call_args.kwargs
    return [*given["install_requires"], *given["extras_require"][extra]]


def python_with(extra: str) -> Path:
    """Return the Python of an environment with the light package's requirements and those of an extra.

    Without a network the test is skipped, except in CI, where an index can always be reached.
    """
    wanted = requirements(extra)
    content = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()[:12]
    folder = CACHE / f"{extra}-{content}"
    python, done = folder / "bin" / "python", folder / "installed"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be making it
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _install(folder, python, wanted)
            done.touch()
    return python


def _install(folder: Path, python: Path, wanted: list[str]) -> None:
    own = Path(sys.executable).with_name("uv")
    uv = str(own) if own.exists() else shutil.which("uv")
    if uv:
        make = [uv, "venv", "-q", "--python", sys.executable, str(folder)]
        install = [uv, "pip", "install", "-q", "--python", str(python), *wanted]
    else:
        make = [sys.executable, "-m", "venv", str(folder)]
        install = [str(python), "-m", "pip", "install", "-q", *wanted]
    for command in (make, install):
        # Not in our tree, whose pyproject.toml tells uv what our own environment does without.
        done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            if not os.environ.get("CI") and any(sign in done.stderr for sign in _NO_NETWORK):
                pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
            pytest.fail(f"{' '.join(command[:4])}: {done.stderr[-2000:]}")


def environment(**variables: str) -> dict[str, str]:
    """Return the variables of a program of another project, which finds our package in the source tree."""
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME")}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1,localhost", **variables}
