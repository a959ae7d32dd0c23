"""A run's folder: nothing is lost, nothing is mixed, and damage is named."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from PIL import Image

from agentfly.agents import StopReason
from agentfly.agents.trajectory_file import FILE_NAME
from agentfly.errors import ConfigError
from agentfly.evaluation.run_folder import RunFolder, read_records
from agentfly.files import LineFile
from agentfly.images import ImageStore
from tests.unit.evaluation.agents import record, square


async def written(folder: Path, *values: float) -> None:
    opened = RunFolder(folder, {"model": "m"})
    for number, value in enumerate(values):
        await opened.append(record(f"t{number}", value))
    opened.close()


async def test_what_was_appended_is_there_after_a_reopen_and_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    await written(tmp_path, 1.0, 2.0)
    whole = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(whole + whole[: len(whole) // 3])
    assert [r.id for r in read_records(tmp_path / FILE_NAME)] == ["t0", "t1"]
    opened = RunFolder(tmp_path, {"model": "m"})
    assert {id_: r.value("judge") for id_, r in opened.finished.items()} == {"t0": 1.0, "t1": 2.0}
    opened.close()
    assert (tmp_path / FILE_NAME).read_bytes() == whole


async def test_images_of_a_folder_of_an_older_version_are_found(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), "red")
    handle = ImageStore(tmp_path / "pictures").put(image)
    await written(tmp_path, 1.0)
    (tmp_path / "images").rmdir()
    opened = RunFolder(tmp_path, {"model": "m"})
    assert opened.images.get(handle).tobytes() == image.tobytes()
    opened.close()


async def test_the_last_line_of_a_task_counts(tmp_path: Path) -> None:
    opened = RunFolder(tmp_path, {})
    await opened.append(record("t", 1.0))
    await opened.append(record("t", 2.0))
    opened.close()
    opened = RunFolder(tmp_path, {})
    assert [r.value("judge") for r in opened.finished.values()] == [2.0]
    opened.close()


async def test_other_settings_are_named_without_their_values(tmp_path: Path) -> None:
    await written(tmp_path, 1.0)
    with pytest.raises(ConfigError, match=r"other settings \(model, seed; see settings.json") as fault:
        RunFolder(tmp_path, {"model": "sk-secret", "seed": 1})
    assert "sk-secret" not in str(fault.value)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, {})
    with pytest.raises(ConfigError, match="another process writes"):
        RunFolder(tmp_path, {})
    first.close()
    RunFolder(tmp_path, {}).close()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{"trajectory": {}}\n')
    with pytest.raises(ConfigError, match="something else than an evaluation"):
        RunFolder(tmp_path, {})
    assert not (tmp_path / "settings.json").exists()


@pytest.mark.parametrize(("line", "words"), [("{oops", "line 3 is damaged"), ('{"a": 1}', "line 3 is no trajectory")])
async def test_a_damaged_line_is_named(line: str, words: str, tmp_path: Path) -> None:
    await written(tmp_path, 1.0, 2.0)
    path = tmp_path / FILE_NAME
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=words):
        list(read_records(path))


async def test_a_start_that_failed_holds_nobody_to_its_settings(tmp_path: Path) -> None:
    RunFolder(tmp_path, {"model": "of a typo"}).close()
    await written(tmp_path, 1.0)
    with pytest.raises(ConfigError, match="other settings"):
        RunFolder(tmp_path, {"model": "of a typo"})


async def test_a_line_for_which_the_disk_has_no_space_leaves_the_others_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = RunFolder(tmp_path, {"model": "m"})
    await opened.append(record("t0", 1.0))
    write, room = os.write, [40]

    def fills_up(file: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: room.pop()])

    monkeypatch.setattr(os, "write", fills_up)
    with pytest.raises(OSError, match=FILE_NAME):
        await opened.append(record("t1", 2.0))
    monkeypatch.undo()
    await opened.append(record("t2", 3.0))
    opened.close()
    assert [r.id for r in read_records(tmp_path / FILE_NAME)] == ["t0", "t2"]


async def test_a_start_that_finished_nothing_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    for folder in (tmp_path / "a/b", tmp_path / "mine"):
        RunFolder(folder, {"model": "of a typo"}).close()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "notes.txt"]


async def test_images_of_tasks_in_progress_stay_when_nothing_is_finished(tmp_path: Path) -> None:
    opened = RunFolder(tmp_path / "run", {})
    handle = opened.images.put(square(3))
    opened.close()
    assert (tmp_path / f"run/images/{handle}.png").is_file()


async def test_closing_twice_touches_no_later_start(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", {})
    first.close()
    second = RunFolder(tmp_path / "run", {"model": "m"})
    first.close()
    await second.append(record("t", 1.0))
    second.close()
    assert (tmp_path / "run/settings.json").is_file()
    RunFolder(tmp_path / "run", {"model": "m"}).close()


async def test_a_start_whose_every_task_failed_binds_nobody_to_its_settings(tmp_path: Path) -> None:
    opened = RunFolder(tmp_path, {"base_url": "http://wrong"})
    for name in ("t0", "t1"):
        await opened.append(record(name, None, stop_reason=StopReason.BACKEND_ERROR, error="cannot reach it"))
    opened.close()
    opened = RunFolder(tmp_path, {"base_url": "http://right"})
    assert opened.finished == {}
    await opened.append(record("t0", 3.0))
    opened.close()
    assert [r.value("judge") for r in read_records(tmp_path / FILE_NAME)] == [3.0]
    # The failures are kept beside it.
    assert [r.id for r in read_records(tmp_path / "trajectories.failed.jsonl")] == ["t0", "t1"]
    with pytest.raises(ConfigError, match="other settings"):
        RunFolder(tmp_path, {"base_url": "http://wrong"})


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "[" * 100_000])
async def test_damaged_settings_are_one_clear_error(content: str, tmp_path: Path) -> None:
    await written(tmp_path, 1.0)
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(ConfigError, match=r"settings.json' is damaged .*: use another --out"):
        RunFolder(tmp_path, {"model": "m"})


def test_a_torn_file_of_something_else_is_not_repaired(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{"trajectory": {}}\n{"torn')
    with pytest.raises(ConfigError, match="something else"):
        RunFolder(tmp_path, {})
    assert (tmp_path / FILE_NAME).read_text().endswith('{"torn')


def test_a_file_that_its_last_owner_discards_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flock = tmp_path / "lines", fcntl.flock
    left = [path]

    def discarded_meanwhile(file: int, how: int) -> None:
        if left:
            left.pop().unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", discarded_meanwhile)
    lines = LineFile(path, "run")
    lines.append("{}")
    lines.close()
    assert path.read_text() == "{}\n"
