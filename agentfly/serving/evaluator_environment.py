"""An environment of its own for an evaluator whose packages conflict with those of training.

It is a virtual environment with agentfly and the packages that the evaluator needs. A stamp in it names what was
installed: an environment that has all of it is used as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentfly import __version__
from agentfly.errors import ConfigError, first_line
from agentfly.files import held, write_text

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).parents[2]
STAMP = "agentfly-evaluator.json"
LOG = "agentfly-install.log"
INSTALL_SECONDS = 3600.0
# Extras of agentfly that each evaluator needs, and packages of which only files are read: installed without their own.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "editscore": ("serve", "rewards"),
    "editreward": ("serve", "rewards"),
    "similarity": ("serve", "rewards"),
}
FILES_ONLY: Mapping[str, tuple[str, ...]] = {"editscore": ("editscore==0.2",)}


def make_environment(folder: Path, evaluator: str, requirements: Sequence[str] = ()) -> Path:
    """Return the Python of an environment, which is made where it is not there or lacks something.

    uv makes it where it is installed, else venv and pip.

    Args:
        folder: of the environment; an existing folder is used only if this function made it, or if it is empty.
        evaluator: name of the evaluator that it is for.
        requirements: further packages, as pip takes them.

    Raises:
        ConfigError: the folder holds something else, or the installation failed; the message names its log.
    """
    wanted = {"source": str(SOURCE), "version": __version__, "extras": EXTRAS.get(evaluator, ("serve",))}
    alone = FILES_ONLY.get(evaluator, ())
    key = hashlib.sha256(json.dumps([wanted, alone, list(requirements)]).encode()).hexdigest()
    stamp, python = folder / STAMP, folder / "bin" / "python"
    if folder.exists() and any(folder.iterdir()) and not (stamp.is_file() or (folder / LOG).is_file()):
        raise ConfigError(f"{folder} holds something else: give --venv another folder, or an empty one")
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / f"{STAMP}.lock", "another agentfly serve-evaluator"):
        if _stamped(stamp) == key and python.is_file():
            return python
        logger.warning("making the environment %s (log: %s); this takes minutes, once", folder, folder / LOG)
        with (folder / LOG).open("a", encoding="utf-8") as log:
            for command in _commands(folder, wanted["extras"], requirements, alone):
                _run(command, folder / LOG, log.fileno())
        write_text(stamp, json.dumps({"key": key, "evaluator": evaluator}) + "\n")
    return python


def _commands(
    folder: Path, extras: Sequence[str] | str, requirements: Sequence[str], alone: Sequence[str]
) -> list[list[str]]:
    """Return the commands that make an environment."""
    if not (SOURCE / "setup.py").is_file():
        raise ConfigError(
            "agentfly is installed without its source, which --venv installs from: clone the repository and run the "
            "command from there, or make an environment by hand (docs/evaluators.md)"
        )
    uv, python = shutil.which("uv"), str(folder / "bin" / "python")
    packages = ["-e", f"{SOURCE}[{','.join(extras)}]", *requirements]
    if uv is not None:
        install = [uv, "pip", "install", "--python", python]
        make = [uv, "venv", "--allow-existing", "--python", sys.executable, str(folder)]
    else:
        install = [python, "-m", "pip", "install", "--disable-pip-version-check"]
        make = [sys.executable, "-m", "venv", str(folder)]
    without = [[*install, "--no-deps", *alone]] if alone else []
    return [make, [*install, *packages], *without]


def _run(command: Sequence[str], log: Path, output: int) -> None:
    try:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as fault:
        raise ConfigError(f"{command[0]} took longer than {INSTALL_SECONDS:g} s; its log is {log}") from fault
    except subprocess.CalledProcessError as fault:
        last = next((line for line in reversed(log.read_text("utf-8", "replace").splitlines()) if line.strip()), "")
        raise ConfigError(f"{' '.join(map(str, command[:3]))} failed: {last[:200]}; its log is {log}") from fault
    except OSError as fault:
        raise ConfigError(f"{command[0]} cannot be run: {first_line(fault)}") from fault


def _stamped(stamp: Path) -> str | None:
    try:
        content = json.loads(stamp.read_text(encoding="utf-8"))
        return str(content["key"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def run_in(python: Path, arguments: Sequence[str]) -> None:
    """Replace this process by the evaluator server of an environment; its signals then reach the server itself.

    Args:
        python: of the environment.
        arguments: of `python -m agentfly.serving.evaluator_server`.

    Raises:
        ConfigError: it cannot be run.
    """
    command = [str(python), "-m", "agentfly.serving.evaluator_server", *arguments]
    # Packages of this environment must not be found in that one.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        os.execve(command[0], command, {**environment, "VIRTUAL_ENV": str(python.parents[1])})
    except OSError as fault:
        raise ConfigError(f"{python} cannot be run ({fault.strerror}): remove {python.parents[1]}") from fault
