"""`agentfly new`: the project that it writes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from agentfly.cli import app
from agentfly.datasets import load_tasks
from agentfly.errors import ConfigError
from agentfly.project import create as room
from agentfly.project import create_project
from agentfly.project.create import agent_name, check_name
from agentfly.training.recipe.compose import compose, settings_of
from tests import programs

ROOT = Path(__file__).resolve().parents[3]
FILES = {
    *(".gitignore", "README.md", "pyproject.toml", "recipe.yaml", "recipe_gpu.yaml", "script.yaml"),
    *(f"ours/{name}.py" for name in ("__init__", "agent", "tools", "rewards")),
    *("data/tasks.jsonl", *(f"data/{number}{kind}.png" for number in range(1, 5) for kind in ("", "_target"))),
    "tests/test_project.py",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_project(tmp_path_factory.mktemp("new") / "ours").folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_project_has_its_files_and_the_policy_that_can_be_trained(folder: Path) -> None:
    written = {name for name in files(folder) if "__pycache__" not in name and ".pytest_cache" not in name}
    policy = {name for name in written if name.startswith("policy/")}
    assert written - policy == FILES
    assert {"policy/config.json", "policy/model.safetensors", "policy/agentfly.json"} <= policy
    # Not the records that mark a warm start made here.
    assert not {"policy/warm_start.json", "policy/figures.json"} & policy
    assert sum((folder / name).stat().st_size for name in FILES) < 500_000
    assert not any("{{" in (folder / name).read_text() for name in FILES if not name.endswith(".png"))


def test_the_tests_of_a_project_pass(folder: Path) -> None:
    done = programs.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_the_code_of_a_project_is_tidy(folder: Path) -> None:
    for command in (["check"], ["format", "--check"]):
        line = [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", str(ROOT / "pyproject.toml"), "ours"]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_tasks_are_four_stickers_that_must_go(folder: Path) -> None:
    tasks = list(load_tasks(folder / "data" / "tasks.jsonl"))
    assert len(tasks) == 4
    for task in tasks:
        assert task.metadata["colour"] in task.instruction
        assert task.target is not None


@pytest.mark.slow
def test_the_recipes_are_for_a_cpu_and_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("verl")
    # A name of its own: the package stays imported in this process.
    folder = create_project(tmp_path / "for_two_devices").folder
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    small, same, large = (
        settings_of(compose(folder / name, overrides))
        for name, overrides in (
            ("recipe.yaml", []),
            ("recipe.yaml", ["device=cuda"]),
            ("recipe_gpu.yaml", []),
        )
    )
    assert [settings.device for settings in (small, same, large)] == ["cpu", "cuda", "cuda"]
    assert small.model == same.model == str(folder / "policy")
    assert large.model == "Qwen/Qwen3.5-4B"
    assert {(s.agent, s.tools, s.reward_function, s.data.train) for s in (small, same, large)} == {
        (
            "for_two_devices.agent:ForTwoDevicesAgent",
            ("for_two_devices.tools:erase_colour",),
            "for_two_devices.rewards:colour_gone",
            "data/tasks.jsonl",
        )
    }


def test_names_of_two_projects_do_not_meet(tmp_path: Path) -> None:
    project = create_project(tmp_path / "sky_swap")
    assert "class SkySwapAgent(ImageEditingAgent)" in (tmp_path / "sky_swap" / "sky_swap" / "agent.py").read_text()
    assert "agent: sky_swap.agent:SkySwapAgent" in (tmp_path / "sky_swap" / "recipe.yaml").read_text()
    assert (project.name, agent_name("sky_swap2")) == ("sky_swap", "SkySwap2Agent")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my-project", "no name for a Python package"),
        ("2d", "no name for a Python package"),
        ("class", "no name for a Python package"),
        ("größe", "no name for a Python package"),
        ("data", "choose another name, such as my_data"),
        ("tests", "choose another name, such as my_tests"),
        ("json", "there is a Python module 'json' already"),
        ("numpy", "there is a Python module 'numpy' already"),
        ("agentfly", "there is a Python module 'agentfly' already"),
    ],
)
def test_names_that_no_package_can_have_are_refused(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        create_project(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty, and nothing in it is overwritten"):
        create_project(folder)
    # Written by somebody between the check and the end.
    monkeypatch.setattr(room, "check_name", lambda folder: None)
    with pytest.raises(ConfigError, match="is not empty"):
        create_project(folder)
    assert files(tmp_path) == {"ours/thesis.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    place = tmp_path / "ours"
    place.write_text("mine") if kind == "file" else place.symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="is no folder"):
        create_project(place)
    assert list((tmp_path / "other").iterdir()) == []


def test_an_empty_folder_in_the_working_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))  # as the command does: the folder can be imported as a namespace
    check_name(tmp_path / "ours")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ConfigError, match="module 'ours' already"):
        check_name(tmp_path / "elsewhere" / "ours")


def test_the_command_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["new", "ours"])
    assert done.exit_code == 0
    assert [line for line in done.output.splitlines() if line.startswith("  ")][:2] == ["  cd ours", "  pytest"]
    row = json.loads((tmp_path / "ours" / "data" / "tasks.jsonl").read_text().splitlines()[0])
    with Image.open(tmp_path / "ours" / "data" / row["image"]) as image:
        assert image.size == (168, 168)


def test_an_installation_without_the_small_policy_says_where_one_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SHIPPED_POLICY", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["new", "ours"])
    assert done.exit_code == 0
    assert "make quickstart" in " ".join(done.output.split())
    assert not (tmp_path / "ours" / "policy").exists()


def test_an_empty_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["new", ""]).exit_code == 2
    assert list(tmp_path.iterdir()) == []
