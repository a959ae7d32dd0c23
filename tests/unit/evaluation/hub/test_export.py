"""Exported trajectories are what `datasets` shows: every image to the pixel, every text without keys."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from agentfly.agents import Trajectory
from agentfly.agents.tasks import TaskFacts
from agentfly.agents.token_check import TokenTrace
from agentfly.agents.trajectory_file import TrajectoryLine, append_line, read_trajectories
from agentfly.cli import app
from agentfly.datasets import load_tasks
from agentfly.errors import ConfigError, DatasetError
from agentfly.evaluation.hub import HubExport, export_trajectories, line_of
from agentfly.evaluators import NotScored, Score
from agentfly.images import ImageStore, load_image
from tests.unit.training.chains import ANSWER, bad_edit, good_edit, roll, task_of

pytestmark = pytest.mark.slow

KEY = "sk-very-secret-0123"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


async def chain(folder: Path, index: int, texts: Sequence[str] | None = None, **changes: Any) -> Trajectory:
    """A chain with tokens and a reward; its images lie in the folder."""
    task = task_of(index)
    trajectory, store = await roll(task, texts or [good_edit(task), ANSWER])
    kept = ImageStore(folder / "images")
    kept.copy_from(store, trajectory.handles)
    sampled = [5, 6, 7, 8]
    trajectory.tokens = TokenTrace([1, 2, 3], sampled, [1, 1, 0, 1], [-0.1, -1 / 3, 0.0, -2.5])
    trajectory.score, trajectory.reward, trajectory.reward_parts = 90.0, 0.9, {"score": 0.9, "cost": -0.01}
    return replace(trajectory, **changes)


async def training_run(folder: Path) -> Path:
    """A run of `agentfly train`: two chains of a prompt, and one of a validation."""
    folder.mkdir()
    config = {"agentfly": {"model": "/home/me/policies/mine", "data": {"train": "stickers"}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for number, validate in enumerate((False, False, True)):
        made = await chain(folder, 0, id=f"chain-{number}")
        append_line(folder / "trajectories.jsonl", TrajectoryLine.of_chain(made, step=number // 2, validate=validate))
    return folder


def load(folder: Path) -> dict[str, datasets.Dataset]:
    return dict(datasets.load_dataset(str(folder)))


def pixels(image: Any) -> list[Any]:
    return [image.mode, np.asarray(image).tolist()]


async def test_datasets_loads_the_splits_with_every_image_to_the_pixel(tmp_path: Path) -> None:
    run = await training_run(tmp_path / "run")
    found = export_trajectories(HubExport(run, tmp_path / "out"))
    rows = load(found.folder)
    assert found.rows == {name: len(split) for name, split in rows.items()} == {"train": 2, "validation": 1}
    store, first = ImageStore(run / "images"), rows["train"][0]
    line = next(line for _, line in read_trajectories(run / "trajectories.jsonl"))
    assert [pixels(image) for image in first["images"]] == [
        pixels(store.get(handle)) for handle in line.trajectory.images
    ]
    assert pixels(first["result"]) == pixels(store.get(str(line.trajectory.final_image)))
    # The place of an image part is that of its image among those of the conversation.
    places = [part["image"] for message in first["messages"] for part in message["content"] if part["type"] == "image"]
    assert places == list(range(len(first["images"]))) != []
    assert first["model"] == "mine"  # not the path
    assert {entry["name"]: entry["value"] for entry in first["reward_parts"]} == {"score": 0.9, "cost": -0.01}
    assert [call["name"] for call in first["tool_calls"]] == ["auto_inpaint_image", "give_answer"]


async def test_a_row_is_the_trajectory_again(tmp_path: Path) -> None:
    made = await chain(tmp_path, 0)
    task = TaskFacts.keep(task_of(0), ImageStore(tmp_path / "images"))
    scores: dict[str, Score | NotScored] = {"one": Score(70.0, "fine", {"a": 0.5}), "two": NotScored("no key")}
    line = TrajectoryLine(made, task, scores, step=3, validate=False)
    append_line(tmp_path / "trajectories.jsonl", line)
    export_trajectories(HubExport(tmp_path, tmp_path / "out"))
    store = ImageStore()
    back = line_of(load(tmp_path / "out")["train"][0], store)
    assert back == line
    assert back.trajectory.handles <= {handle for handle in back.trajectory.handles if handle in store}


async def test_the_tasks_of_the_folder_are_read_as_tasks_each_once(tmp_path: Path) -> None:
    run = await training_run(tmp_path / "run")
    export_trajectories(HubExport(run, tmp_path / "out", shard_bytes=1))
    assert len(list((tmp_path / "out/data").glob("train-*-of-00002.parquet"))) == 2
    (task,) = load_tasks(tmp_path / "out", split="train")
    wanted = task_of(0)
    assert (task.id, task.instruction, task.task_type) == (wanted.id, wanted.instruction, wanted.task_type)
    assert [pixels(load_image(image)) for image in task.images] == [
        pixels(load_image(image)) for image in wanted.images
    ]
    assert "messages" not in task.metadata
    with pytest.raises(DatasetError, match="name one: train, validation"):
        next(load_tasks(tmp_path / "out"))
    with pytest.raises(DatasetError, match="no split 'test'"):
        next(load_tasks(tmp_path / "out", split="test"))


async def test_keys_of_settings_environment_and_addresses_are_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY_OF_MINE", "judge-key-abcdef")
    monkeypatch.setenv("MY_API_KEY", KEY)
    run = tmp_path / "run"
    told = [f"I use {KEY} at https://me:pass-word@host/x?api_key=query-key. {ANSWER}"]
    clean = await chain(run, 1, id="clean")
    spoiled = await chain(
        run, 0, told, id="spoiled", metadata={"id": "x", "password": "meta-pass"}, error="judge-key-abcdef"
    )
    settings = {"evaluator": {"api_key_env": "JUDGE_KEY_OF_MINE", "api_key": "config-key-123"}, "model": f"m{KEY}"}
    (run / "settings.json").write_text(json.dumps(settings))
    for made in (clean, replace(spoiled, answer="config-key-123")):
        append_line(run / "trajectories.jsonl", TrajectoryLine.of_chain(made))
    found = export_trajectories(HubExport(run, tmp_path / "out"))
    rows = load(tmp_path / "out")["train"]
    text = "".join(repr({**row, "images": None}) for row in rows) + (tmp_path / "out/README.md").read_text()
    for secret in (KEY, "pass-word", "query-key", "meta-pass", "judge-key-abcdef", "config-key-123"):
        assert secret not in text, secret
    # The ids of its turn would spell the key.
    assert [row["tokens"] is None for row in rows] == [False, True]
    assert found.without_tokens == 1


async def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    run = await training_run(tmp_path / "run")
    bad = await chain(run, 1, [bad_edit(), ANSWER], id="bad", score=10.0)
    unscored = await chain(run, 2, id="unscored", score=None)
    blind = await chain(run, 3, id="blind")
    (run / "images" / f"{blind.images[0]}.png").write_bytes(b"no image")
    # The same chain again, as a start that was resumed writes it.
    for made in (bad, bad, unscored, blind):
        append_line(run / "trajectories.jsonl", TrajectoryLine.of_chain(made, step=2, validate=False))
    found = export_trajectories(HubExport(run, tmp_path / "out", min_score=50.0))
    assert found.rows == {"train": 2, "validation": 1}
    assert found.left_out == {
        "written again later": 1,
        "below the minimum score": 2,
        "its images are missing or damaged": 1,
    }
    # An export replaces an earlier one, and nothing else.
    assert export_trajectories(HubExport(run, tmp_path / "out", limit=1)).rows == {"train": 1}
    assert len(load(tmp_path / "out")["train"]) == 1
    with pytest.raises(ConfigError, match="below the minimum score: 6"):
        export_trajectories(HubExport(run, tmp_path / "out", min_score=99.0))
    assert len(load(tmp_path / "out")["train"]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out", "cache"}
    with pytest.raises(ConfigError, match="is no folder of exported trajectories"):
        export_trajectories(HubExport(run, run))


async def test_runs_that_kept_no_images_say_how_to_keep_them_and_a_quickstart_has_its_evaluation(
    tmp_path: Path,
) -> None:
    run = await training_run(tmp_path / "run")
    for image in (run / "images").iterdir():
        image.unlink()
    with pytest.raises(ConfigError, match=r"damaged: 3\); `agentfly train` keeps images unless agentfly\.images=false"):
        export_trajectories(HubExport(run, tmp_path / "out"))
    kept = tmp_path / "quick" / "evaluation" / "trained"
    made = await chain(kept, 0)
    append_line(kept / "greedy.jsonl", TrajectoryLine.of_chain(made))
    assert export_trajectories(HubExport(tmp_path / "quick", tmp_path / "out")).rows == {"train": 1}


async def test_hostile_texts_break_neither_the_card_nor_the_rows(tmp_path: Path) -> None:
    made = await chain(tmp_path, 0, answer="half \ud800", metadata={"task_type": "|\n---\n# <b>[x](y)</b>"})
    made.names["img_9"] = made.images[0]
    append_line(tmp_path / "trajectories.jsonl", TrajectoryLine.of_chain(made))
    out = tmp_path / "a: *b* <i> \x1b[31m"
    export_trajectories(HubExport(tmp_path, out))
    card = (out / "README.md").read_text()
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front)["pretty_name"] == out.name
    assert "<b>" not in body
    assert "[x](y)" not in body
    assert "\x1b" not in body
    assert "\n---\n" not in body
    assert load(out)["train"][0]["answer"] == "half ?"


def test_the_command_that_pushes_is_one_of_the_hubs() -> None:
    hub = Path(sys.executable).with_name("hf")
    shown = subprocess.run([hub, "upload", "--help"], capture_output=True, text=True, timeout=60).stdout
    assert "--repo-type" in shown
    assert "dataset" in shown
    assert all(word in shown for word in ("REPO_ID", "LOCAL_PATH", "PATH_IN_REPO"))


async def test_the_command_says_what_was_written_and_how_to_push_it(tmp_path: Path) -> None:
    run, out = await training_run(tmp_path / "run"), tmp_path / "out"

    def export(*words: object) -> Any:
        return CliRunner().invoke(app, ["export", str(run), "--out", str(out), *map(str, words)])

    shown = export("--to-hub", "--no-tokens")
    assert shown.exit_code == 0, shown.output
    assert "2 chains in train" in shown.output
    assert f"hf upload YOUR_NAME/DATASET {out} . --repo-type dataset" in " ".join(shown.output.split())
    assert "tokens" not in load(out)["train"].column_names
    for words, option in ((["--to-hub", "--adapter"], "--adapter"), (["--no-tokens"], "--no-tokens")):
        refused = export(*words)
        assert isinstance(refused.exception, ConfigError)
        assert option.removeprefix("--no-") in str(refused.exception)
    (run / "trajectories.jsonl").unlink()
    assert "agentfly.trajectories=false" in str(export("--to-hub").exception)


async def test_folders_beside_the_export_stay_as_they_are(tmp_path: Path) -> None:
    run, other = await training_run(tmp_path / "run.export"), tmp_path / "mine.export"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    for name in ("mine", "run"):
        export_trajectories(HubExport(run, tmp_path / name))
    assert (other / "thesis.txt").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.export", "run", "run.export"]


async def test_a_link_to_a_folder_and_the_working_folder_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, here = await training_run(tmp_path / "run"), tmp_path / "here"
    here.mkdir()
    (tmp_path / "link").symlink_to(here)
    export_trajectories(HubExport(run, tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    monkeypatch.chdir(here)
    export_trajectories(HubExport(run, Path()))
    assert len(load(here)["train"]) == 2


@pytest.mark.parametrize("changes", [{"step": 2**70}, {"score": "high"}, {"reward_parts": None}])
async def test_a_line_with_values_of_the_wrong_kind_is_one_message(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = await training_run(tmp_path / "run")
    path = run / "trajectories.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    place = line if "step" in changes else line["trajectory"]
    place.update(changes)
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(ConfigError, match=r"trajectories\.jsonl"):
        export_trajectories(HubExport(run, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
