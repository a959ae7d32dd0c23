"""verl's loggers in the trainer: chains before metrics, faults of services, W&B without a key."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from agentfly.training.recipe.settings import DataSettings, TrainSettings
from agentfly.training.recording.image_loggers import ChainShower

pytest.importorskip("verl")
from verl.trainer.ppo.v1 import trainer_base
from verl.utils import tracking as verls

from agentfly.training.verl.tracking import (
    StepTracking,
    use_step_tracking,
    work_offline_without_key,
)
from tests.unit.training.recording.test_image_loggers import write_step

pytestmark = pytest.mark.slow


class Service:
    """A logger of somebody's."""

    def __init__(self, events: list[str], fault: Exception | None = None) -> None:
        self._events, self._fault = events, fault

    def log(self, data: Any, step: int) -> None:
        self._events.append(f"metrics {step}")
        if self._fault is not None:
            raise self._fault

    def finish(self) -> None:
        self._events.append("finish")


@pytest.fixture
def events() -> list[str]:
    return []


def settings(folder: Path, **values: Any) -> TrainSettings:
    return TrainSettings(model="m", out=folder, data=DataSettings(train="stickers"), **values)


def tracking(folder: Path, events: list[str], *, in_time: bool = True, **values: Any) -> StepTracking:
    def drain(limit: float) -> bool:
        events.append("drain")
        return in_time

    made = StepTracking("p", "run", ["console"], settings=settings(folder, **values), drain=drain)
    made.logger = {"tensorboard": Service(events)}
    return made


def test_the_trainer_makes_ours_under_verls_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainer_base.Tracking is verls.Tracking
    monkeypatch.setattr(trainer_base, "Tracking", verls.Tracking)  # and puts it back
    use_step_tracking(settings(tmp_path), lambda limit: True)
    # As verl calls it.
    made = trainer_base.Tracking(project_name="p", experiment_name="e", default_backend=["console"], config={})
    assert isinstance(made, StepTracking)
    assert list(made.logger) == ["console"]


def test_the_chains_of_a_step_are_on_the_disk_before_its_metrics(tmp_path: Path, events: list[str]) -> None:
    made = tracking(tmp_path, events)
    made.log({"reward": 1.0}, 3)
    made.finish()
    made.finish()
    assert events == ["drain", "metrics 3", "drain", "finish"]


def test_a_disk_that_hangs_is_waited_for_once(
    tmp_path: Path, events: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    made = tracking(tmp_path, events, in_time=False)
    made.log({}, 1)
    made.log({}, 2)
    made.finish(1)
    assert events == ["drain", "metrics 1", "metrics 2", "finish"]
    assert caplog.messages == ["chains were not written within 30 s, and are not waited for again; training goes on"]


def test_a_service_that_fails_is_one_warning(
    tmp_path: Path, events: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    made, other = tracking(tmp_path, events), list[str]()
    made.logger = {"wandb": Service(events, ConnectionError("no network")), "file": Service(other)}
    made.log({}, 1)
    made.log({}, 2, backend=["file"])
    made.log({}, 3)
    assert other == ["metrics 1", "metrics 2", "metrics 3"]
    assert caplog.messages == ["wandb did not take the metrics of step 1: no network; training goes on"]
    # The launcher reads the file: without it the run could not be followed.
    made.logger = {"file": Service(other, OSError("No space left on device"))}
    with pytest.raises(OSError, match="No space"):
        made.log({}, 4)
    made.logger = {}


@pytest.mark.parametrize("values", [{"images": False}, {"trajectories": False}])
def test_without_a_log_of_chains_there_is_nothing_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, values: dict[str, bool]
) -> None:
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "tensorboard"))
    made = StepTracking("p", "run", "tensorboard", settings=settings(tmp_path, **values), drain=lambda limit: True)
    made.finish()
    assert made._shower is None
    assert caplog.messages == [
        "tensorboard get no images of chains: agentfly.images and agentfly.trajectories must be on for that"
    ]


def test_chains_are_shown_where_a_logger_can_unless_somebody_does_not_want_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "tensorboard"))
    shown: list[int | str] = []
    monkeypatch.setattr(ChainShower, "show", lambda self, step: shown.append(step))
    monkeypatch.setattr(ChainShower, "close", lambda self, limit: shown.append("closed"))
    for values in ({}, {"show_chains": False}):
        made = StepTracking("p", "run", "tensorboard", settings=settings(tmp_path, **values), drain=lambda limit: True)
        made.log({"reward": 1.0}, 4)
        made.finish()
    assert shown == [4, "closed"]
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("variables", "netrc", "offline"),
    [
        ({}, "", True),
        ({"WANDB_API_KEY": "k" * 40}, "", False),
        ({"WANDB_MODE": "online"}, "", False),
        ({}, "machine api.wandb.ai login user password secret\n", False),
        ({"WANDB_BASE_URL": "https://wandb.mine.org"}, "machine api.wandb.ai login user password secret\n", True),
        ({"WANDB_BASE_URL": "https://wandb.mine.org"}, "machine wandb.mine.org login user password secret\n", False),
        ({}, "no such form {", True),
    ],
)
def test_wandb_works_offline_where_it_has_no_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    netrc: str,
    offline: bool,
) -> None:
    for name in list(os.environ):
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text(netrc)
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("WANDB_MODE", "")
    work_offline_without_key(variables)
    assert os.environ["WANDB_MODE"] == ("offline" if offline else "")
    assert [text.partition(",")[0] for text in caplog.messages] == (
        ["W&B has no key (WANDB_API_KEY"] if offline else []
    )


def test_the_metrics_file_has_what_verl_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "metrics.jsonl"))
    made = StepTracking("p", "run", ["file"], settings=settings(tmp_path), drain=lambda limit: True)
    made.log({"reward/mean": 0.5}, 1)
    made.finish()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "data": {"reward/mean": 0.5}}


def test_all_loggers_of_verl_at_once_and_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here verl opens and closes them; test_image_loggers.py reads each one back."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "NETRC"))]:
        monkeypatch.delenv(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads its folder when it is imported
    monkeypatch.setenv("WANDB_MODE", "")  # and puts it back
    for name, folder in (("HOME", ""), ("WANDB_DIR", ""), ("TRACKIO_DIR", "trackio"), ("TENSORBOARD_DIR", "board")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "metrics.jsonl"))
    given = ["file", "wandb", "trackio", "tensorboard"]
    made = StepTracking("p", "run", given, {"trainer": {}}, settings=settings(tmp_path), drain=lambda limit: True)
    write_step(tmp_path, 1)
    made.log({"reward/mean": 0.5}, 1)
    made.finish()
    # Nobody said that W&B is offline: it has no key.
    assert "W&B has no key" in caplog.text
    assert "training goes on" not in caplog.text
    [run] = (tmp_path / "wandb").glob("offline-run-*")
    for place in (run, tmp_path / "trackio"):
        assert [path for path in place.rglob("*.png") if "best" in str(path) or place.name == "trackio"], place
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert events.Tags()["scalars"] == ["reward/mean"]
    assert len(events.Tags()["images"]) == 4
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1
