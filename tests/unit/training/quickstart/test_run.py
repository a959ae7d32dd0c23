"""The quickstart replaces its own runs, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentfly.errors import ConfigError
from agentfly.training.quickstart import run as room
from agentfly.training.quickstart import warm_start as warm_starts
from agentfly.training.quickstart.run import QuickstartConfig, run_quickstart
from agentfly.training.quickstart.warm_start import RECORD, UNFINISHED, WarmStartConfig


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is no run of the quickstart: give another --out"):
        run_quickstart(QuickstartConfig(out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


class Began(Exception):
    """Raised instead of the first heavy part of a run, with its name."""


@pytest.fixture
def begins(monkeypatch: pytest.MonkeyPatch) -> Callable[[QuickstartConfig], str]:
    """Return a function that starts a run and returns the name of its first heavy part."""

    def begin(function: Callable[..., Any], *_: Any, **__: Any) -> None:
        raise Began(function.__name__)

    class Process:
        """Stands for the process that evaluates."""

        def __enter__(self) -> Process:
            raise Began("evaluation")

        def __exit__(self, *_: object) -> None:
            """Never reached."""

    monkeypatch.setattr(room, "run_phase", begin)
    monkeypatch.setattr(room, "PhaseProcess", Process)

    def first(config: QuickstartConfig) -> str:
        with pytest.raises(Began) as began:
            run_quickstart(config)
        return str(began.value)

    return first


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a shipped warm start."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / RECORD).write_text(warm_starts._record(WarmStartConfig()))
    monkeypatch.setattr(warm_starts, "SHIPPED", folder)
    return folder


def test_the_shipped_warm_start_is_taken_where_its_settings_are_wanted(
    shipped: Path, tmp_path: Path, begins: Callable[[QuickstartConfig], str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert begins(QuickstartConfig(out=out)) == "evaluation"
    assert (out / "warm_start" / "model.safetensors").read_bytes() == b"weights"
    assert "the one that comes with the repository" in capsys.readouterr().out
    # With another seed, other settings or FROM_SCRATCH=1 it is made, even if the copy of an earlier run is there.
    assert begins(QuickstartConfig(out=out, seed=1)) == "warm_start"
    assert begins(QuickstartConfig(out=out, warm_start=WarmStartConfig(looks=5))) == "warm_start"
    assert begins(QuickstartConfig(out=out)) == "evaluation"
    assert begins(QuickstartConfig(out=out, from_scratch=True)) == "warm_start"


def test_without_a_shipped_one_it_is_made(
    shipped: Path, tmp_path: Path, begins: Callable[[QuickstartConfig], str]
) -> None:
    shutil.rmtree(shipped)
    assert begins(QuickstartConfig(out=tmp_path / "run")) == "warm_start"


def test_a_warm_start_of_an_earlier_run_is_kept(
    shipped: Path, tmp_path: Path, begins: Callable[[QuickstartConfig], str]
) -> None:
    out, record = tmp_path / "run", warm_starts._record(WarmStartConfig(seed=1))
    begins(QuickstartConfig(out=out, seed=1))
    (out / "warm_start").mkdir()
    (out / "warm_start" / RECORD).write_text(record)
    (out / "summary.json").write_text("of the run before")
    assert begins(QuickstartConfig(out=out, seed=1, algorithm="ppo")) == "evaluation"
    assert sorted(path.name for path in out.iterdir()) == ["logs", "quickstart.json", "warm_start"]
    assert begins(QuickstartConfig(out=out, seed=2)) == "warm_start"
    assert not (out / "warm_start").exists()


def test_a_warm_start_that_was_stopped_is_gone_on_with(
    shipped: Path, tmp_path: Path, begins: Callable[[QuickstartConfig], str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    begins(QuickstartConfig(out=out, seed=1))
    work = out / "warm_start" / UNFINISHED
    work.mkdir(parents=True)
    (work / RECORD).write_text(warm_starts._record(WarmStartConfig(seed=1)))
    assert begins(QuickstartConfig(out=out, seed=1)) == "warm_start"
    assert work.exists()
    assert "resuming an unfinished one" in capsys.readouterr().out
