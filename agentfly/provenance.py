"""What a run is made with: package versions, the commit of the code, Python, and the machine.

A run keeps it in `environment.json`, so that a later reader can tell why two runs differ. It names no user, no host and
no folder.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from agentfly.files import write_text

FORMAT = "agentfly.environment/1"
FILE_NAME = "environment.json"
PACKAGES = ("agentfly-rl", "torch", "transformers", "peft", "verl", "vllm", "ray")  # that a policy depends on
_MORE = ("diffusers", "accelerate", "numpy", "pillow", "openai")  # that results may depend on
_SECONDS = 5.0  # for git, which may have to look at a large folder
_MOST_STARTS = 20
# Flags of /proc/cpuinfo that decide which kernels are taken.
_FLAGS = ("sse4_2", "avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "neon", "asimd", "sve")


def installed_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return the versions of packages, of those that are installed."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def record_environment(folder: Path) -> None:
    """Write `environment.json` into the folder of a run that starts, which has to exist.

    Each start of a run that goes on is in it, unless it is like the one before.

    Raises:
        OSError: the file cannot be written.
    """
    path = folder / FILE_NAME
    starts = read_starts(path)
    now = current_environment()
    if not starts or {**starts[-1], "began": ""} != {**now, "began": ""}:
        kept = [*starts, {"began": datetime.now(UTC).isoformat(timespec="seconds"), **now}][-_MOST_STARTS:]
        write_text(path, json.dumps({"format": FORMAT, "starts": kept}, indent=2) + "\n")


def read_starts(path: Path) -> list[dict[str, object]]:
    """Return the starts that a file names, the newest last; none where there is no such file, or a damaged one."""
    try:
        if not path.is_file():  # a pipe would never end
            return []
        found = json.loads(path.read_text(encoding="utf-8"))["starts"]
        return [start for start in found if isinstance(start, dict)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


@cache
def current_environment() -> Mapping[str, object]:
    """Return versions, commits, Python and machine of this process, JSON-able."""
    return {
        "versions": installed_versions((*PACKAGES, *_MORE)),
        "python": platform.python_version(),
        "commit": commit_of(Path(__file__).parent),
        "working_folder_commit": commit_of(Path.cwd()),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "instructions": _instructions(Path("/proc/cpuinfo")),
            "accelerators": _accelerators(Path("/proc/driver/nvidia/gpus")),
        },
    }


def commit_of(folder: Path) -> dict[str, object] | None:
    """Return the commit of the git working tree around a folder, and if tracked files were changed; None outside one.

    A folder that git ignores, such as an environment of installed packages inside a project, is outside.
    """
    head = _git(folder, "rev-parse", "HEAD")
    if head is None or _git(folder, "check-ignore", "-q", ".") is not None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": head, "changed": None if changed is None else bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command that only looks; None where it fails or takes too long."""
    # No program that the settings of a repository name is run.
    command = ("git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments)
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, env=environment, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _instructions(cpuinfo: Path) -> list[str]:
    """Return the instruction sets of the processor, as Linux names them."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    flags = next(
        (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))), []
    )
    return [flag for flag in _FLAGS if flag in flags]


def _accelerators(gpus: Path) -> list[str]:
    """Return the models of the GPUs that NVIDIA's driver names, without starting anything."""
    found = []
    for path in sorted(gpus.glob("*/information")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return found
