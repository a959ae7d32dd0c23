"""Query the NVIDIA driver for its GPUs, without torch."""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits")
_SECONDS = 10.0

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class GPU:
    """One GPU; memory in MiB."""

    name: str
    memory: int
    used: int


@dataclass(frozen=True)
class Driver:
    """The state of the NVIDIA driver.

    Attributes:
        gpus: in the driver's order.
        version: of the driver; empty without one.
        cuda: newest CUDA that the driver supports, (major, minor); None where it is not known.
        trouble: reason for which an installed driver does not answer; empty otherwise.
    """

    gpus: tuple[GPU, ...] = ()
    version: str = ""
    cuda: tuple[int, int] | None = None
    trouble: str = ""


def read_driver(run: Run | None = None) -> Driver:
    """Query nvidia-smi for the GPUs, and libcuda for its version.

    Args:
        run: runs a command and returns its output; by default `subprocess.run` with a time limit.
    """
    run = run or partial(subprocess.run, capture_output=True, text=True, timeout=_SECONDS, check=False)
    try:
        done = run(_QUERY)
    except FileNotFoundError:
        return Driver()
    except (OSError, subprocess.TimeoutExpired) as fault:
        return Driver(trouble=str(fault))
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        return Driver(trouble=said[0] if said else f"nvidia-smi ended with exit code {done.returncode}")
    rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 3]
    gpus = tuple(GPU(name, _number(total), _number(used)) for name, total, used, _ in rows)
    if not rows:
        return Driver()
    cuda, number = None, ctypes.c_int(0)
    # Of CUDA's driver API, this function needs no context and no initialisation.
    with contextlib.suppress(OSError, AttributeError):
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) == 0 and number.value:
            cuda = number.value // 1000, number.value % 1000 // 10
    return Driver(gpus, rows[0][3], cuda)


def _number(text: str) -> int:
    # GPUs that share the host's memory report "[N/A]".
    return int(text) if text.isdigit() else 0
