"""Images of chains in W&B, Trackio and TensorBoard, each with its real library and without network."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentfly.agents.trajectory_file import FILE_NAME
from agentfly.images import load_image
from agentfly.training.recipe.record_settings import ShownChains
from agentfly.training.recording import image_loggers
from agentfly.training.recording.image_budget import ImageBudget
from agentfly.training.recording.image_loggers import ChainShower, LogImages
from agentfly.training.recording.recorder import ChainRecorder
from agentfly.training.recording.shown_chains import ShownChain
from tests.unit.training.recording.records import record

KINDS = {"best", "worst", "alarm", "random"}


def write_step(folder: Path, step: int, *, validate: bool = False) -> None:
    recorder = ChainRecorder(folder / FILE_NAME, ImageBudget(folder / "images", None, 10))
    for row in range(6):
        name = f"step-{step}-row-{row}" + "-validation" * validate
        tool = {"malformed": True, "error": "no JSON"} if row == 3 else {}
        recorder.record(record(name, step=step, row=row, validate=validate, reward=row / 10, tool=tool))
    assert recorder.drain(60.0)


class Seen:
    """A logger that remembers."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.calls: list[tuple[int, list[str]]] = []
        self._fault = fault

    def __call__(self, shown: Sequence[ShownChain], step: int) -> None:
        self.calls.append((step, [chain.name for chain in shown]))
        if self._fault is not None:
            raise self._fault


def shower(folder: Path, loggers: dict[str, LogImages], **settings: Any) -> ChainShower:
    return ChainShower(folder / FILE_NAME, folder / "images", ShownChains(**settings), loggers)


def test_each_step_shows_its_own_chains_and_those_of_its_validation(tmp_path: Path) -> None:
    write_step(tmp_path, 1)  # of an earlier start of the run
    seen = Seen()
    shown = shower(tmp_path, {"seen": seen})
    write_step(tmp_path, 2)
    shown.show(2)
    shown.close(60.0)
    assert seen.calls == [(2, ["best", "worst", "alarm", "random"])]
    shown = shower(tmp_path, {"seen": seen}, kinds=("worst", "best"))
    write_step(tmp_path, 3)
    write_step(tmp_path, 3, validate=True)
    shown.show(3)
    shown.close(60.0)
    assert seen.calls[1:] == [(3, ["worst", "best", "validation_worst", "validation_best"])]


def test_a_step_without_chains_shows_nothing_and_steps_can_be_left_out(tmp_path: Path) -> None:
    seen = Seen()
    shown = shower(tmp_path, {"seen": seen}, every=2)
    for step in (1, 2, 3):
        if step != 2:
            write_step(tmp_path, step)
        shown.show(step)
    shown.close(60.0)
    assert seen.calls == []


def test_a_logger_that_fails_is_one_warning_and_the_others_get_their_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, seen = Seen(RuntimeError("the service is down\nwith more")), Seen()
    shown = shower(tmp_path, {"broken": broken, "seen": seen})
    for step in (1, 2):
        write_step(tmp_path, step)
        shown.show(step)
    shown.close(60.0)
    assert sum(len(names) for _, names in seen.calls) >= 4
    assert caplog.messages == ["broken did not take the images of step 1: the service is down; training goes on"]


def test_a_logger_that_hangs_holds_up_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    free, begun = threading.Event(), threading.Event()

    def hang(shown: Sequence[ShownChain], step: int) -> None:
        begun.set()
        free.wait(60.0)

    shown = shower(tmp_path, {"hangs": hang})
    write_step(tmp_path, 1)
    shown.show(1)
    assert begun.wait(60.0)
    for step in range(2, 9):
        shown.show(step)
    shown.close(0.01)
    free.set()
    assert caplog.messages == ["the loggers are slow: step 4 shows its chains later or not at all; training goes on"]


def test_a_damaged_log_or_image_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()
    shown = shower(tmp_path, {"seen": seen})
    write_step(tmp_path, 1)
    for path in (tmp_path / "images").glob("*.png"):
        path.write_bytes(b"damaged")
    shown.show(1)
    shown.close(60.0)
    assert seen.calls == []
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("a chain of step 1 is not shown in the loggers: the image file")


def wandb_history(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an offline run. The file is a log in the form of LevelDB's, behind seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (room := 32768 - place % 32768) < 7:
            place += room
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                yield {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def run_with(code: str, folder: Path, **variables: str) -> None:
    """Show the chains of two steps and of a validation with a library, in a process of its own: they keep state."""
    program = f"""
import sys
from pathlib import Path
from agentfly.training.recording.image_loggers import *
from tests.unit.training.recording.test_image_loggers import shower, write_step
folder = Path({str(folder)!r})
{code}
for step in (1, 2, 3):
    shown = shower(folder, {{"library": log}}, side=64)
    write_step(folder, step, validate=step == 3)
    scalars(step)
    shown.show(step)
    shown.close(120.0)
end()
"""
    environment = {name: value for name, value in os.environ.items() if "WANDB" not in name} | variables
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_wandb_has_the_images_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    code = """
import wandb
wandb.init(project="p", name="run", config={})
log = wandb_images(wandb)
scalars = lambda step: wandb.log({"reward": step / 10}, step=step)
end = wandb.finish
"""
    run_with(code, tmp_path, WANDB_MODE="offline", WANDB_DIR=str(tmp_path), WANDB_SILENT="true")
    [run] = (tmp_path / "wandb").glob("offline-run-*")
    rows = list(wandb_history(next(run.glob("*.wandb"))))
    # Scalars are not moved or lost.
    assert [(row["_step"], row["reward"]) for row in rows] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    for row, prefix in zip(rows, ("", "", "validation_"), strict=True):
        images = {name.split("/")[1] for name in row if name.startswith(image_loggers.PREFIX)}
        assert images == {prefix + kind for kind in KINDS}
        for name in images:
            path, width, caption = (row[f"chain_images/{name}/{field}"] for field in ("path", "width", "caption"))
            assert load_image(run / "files" / path).width == width
            assert caption.startswith(f"step {row['_step']}, {name.replace('_', ' ')}: reward 0.")


@pytest.mark.slow
def test_trackio_has_the_images_in_its_database(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    code = """
import trackio
trackio.init(project="p", name="run", config={}, embed=False)
log = trackio_images(trackio)
scalars = lambda step: trackio.log({"reward": step / 10}, step=step)
end = trackio.finish
"""
    run_with(code, tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"), HF_HUB_OFFLINE="1")
    [database] = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select step, metrics from metrics").fetchall()
    found: dict[tuple[str, int], Any] = {}
    for step, metrics in rows:
        for name, value in json.loads(metrics).items():
            found[name, step] = value
    assert found["reward", 2] == 0.2
    names = {(image_loggers.PREFIX + kind, step) for kind in KINDS for step in (1, 2)}
    assert names <= found.keys()
    best = found["chain_images/best", 1]
    assert best["caption"].startswith("step 1, best: reward 0.50")
    [file] = (tmp_path / "trackio").rglob(Path(best["file_path"]).name)
    assert load_image(file).width == 2 * (64 + 2 * 17)


@pytest.mark.slow
def test_tensorboard_has_the_images_in_its_event_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    code = f"""
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter({str(tmp_path / "tensorboard")!r})
log = tensorboard_images(writer)
scalars = lambda step: writer.add_scalar("reward", step / 10, step)
end = writer.close
"""
    run_with(code, tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    assert set(events.Tags()["images"]) == {
        image_loggers.PREFIX + prefix + kind for kind in KINDS for prefix in ("", "validation_")
    }
    [first, second] = events.Images("chain_images/best")
    assert (first.step, second.step) == (1, 2)
    assert load_image(first.encoded_image_string).size == (first.width, first.height)
    [text, _] = events.Tensors("chain_images/best/text_summary")
    assert text.tensor_proto.string_val[0].startswith(b"    step 1, best: reward 0.50, score 50, answered | Make it")


def test_the_loggers_of_verl_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, object]] = []
    for name in ("wandb", "trackio", "tensorboard"):

        def make(given: object, name: str = name) -> Seen:
            made.append((name, given))
            return Seen()

        monkeypatch.setattr(image_loggers, f"{name}_images", make)

    class Adapter:
        trackio, writer = "the module", "the writer"

    loggers = {"console": object(), "wandb": "the run", "trackio": Adapter(), "tensorboard": Adapter()}
    assert list(image_loggers.image_loggers(loggers)) == ["wandb", "trackio", "tensorboard"]
    assert made == [("wandb", "the run"), ("trackio", "the module"), ("tensorboard", "the writer")]
    assert image_loggers.image_loggers({"console": object(), "file": object()}) == {}
