"""The limit of a run's images: which chains keep theirs, the same in every process."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentfly.training.launch.log_reader import notice_in
from agentfly.training.recording.image_budget import ImageBudget, place_of

ROWS = range(64)


def kept(budget: ImageBudget, step: int, *, validate: bool = False) -> set[int]:
    return {row for row in ROWS if budget.allows(step, row, validate=validate)}


def test_up_to_half_of_the_limit_every_chain_keeps_its_images(tmp_path: Path) -> None:
    budget = ImageBudget(tmp_path, 1000, 100)
    budget.spend(499)
    assert kept(budget, 1) == set(ROWS)


def test_beyond_half_a_share_of_the_tasks_does_and_validations_come_first(tmp_path: Path) -> None:
    budget = ImageBudget(tmp_path, 1000, 100)
    budget.spend(500)
    # 500 bytes in 20 steps: the other 500 have to last for 80.
    quarter = kept(budget, 21)
    assert 8 <= len(quarter) <= 24
    assert kept(budget, 21, validate=True) == set(ROWS)
    budget.spend(250)
    # The share of a step stays as it was when the step began, so that groups stay whole.
    assert kept(budget, 21) == quarter
    # The tasks of a later step with less room are among those of the steps before.
    assert kept(budget, 22) < quarter
    budget.spend(250)
    assert kept(budget, 23) == kept(budget, 23, validate=True) == kept(budget, 21) == set()


@pytest.mark.slow
def test_the_images_of_a_long_run_are_of_all_its_steps(tmp_path: Path) -> None:
    budget = ImageBudget(tmp_path, 640_000, 400)
    counts = []
    for step in range(1, 401):
        rows = kept(budget, step)
        counts.append(len(rows))
        # The chains have more images the longer the run lasts.
        budget.spend((100 + step // 5) * len(rows))
    assert counts[:40] == [64] * 40
    assert all(sum(counts[start : start + 20]) > 0 for start in range(0, 400, 20))
    assert 512_000 < json.loads((tmp_path / ".budget.json").read_text())["used"] < 641_000


def test_a_run_whose_images_fit_keeps_all_of_them(tmp_path: Path) -> None:
    budget = ImageBudget(tmp_path, 64_000, 10)
    for step in range(1, 11):
        assert kept(budget, step) == set(ROWS)
        budget.spend(6_200)


def decide(folder: Path, step: int) -> set[int]:
    budget = ImageBudget(folder, 10_000, 10)
    found = set()
    for row in ROWS:
        if budget.allows(step, row, validate=False):
            found.add(row)
            budget.spend(60)
    return found


@pytest.mark.slow
def test_processes_that_share_the_folder_decide_alike(tmp_path: Path) -> None:
    ImageBudget(tmp_path, 10_000, 10).spend(6_000)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        answers = [pool.apply_async(decide, (tmp_path, 3)) for _ in range(2)]
        one, two = (answer.get(60) for answer in answers)
    assert one == two != set()
    # Each of them counted what it spent.
    assert json.loads((tmp_path / ".budget.json").read_text())["used"] == 6_000 + 60 * (len(one) + len(two))


def test_images_that_are_there_are_counted_where_nothing_says_how_many(tmp_path: Path) -> None:
    (tmp_path / "img_0123456789ab.png").write_bytes(b"x" * 900)
    assert len(kept(ImageBudget(tmp_path, 1000, 100), 1)) < 10
    # A process was killed while it wrote.
    (tmp_path / ".budget.json").write_text('{"used": 1, "sha')
    assert len(kept(ImageBudget(tmp_path, 1000, 100), 1)) < 10


def test_no_limit_keeps_everything_and_writes_no_file(tmp_path: Path) -> None:
    budget = ImageBudget(tmp_path, None, 10)
    budget.spend(10**15)
    assert kept(budget, 1) == set(ROWS)
    assert list(tmp_path.iterdir()) == []


def test_the_room_for_checkpoints_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 10**9))
    assert ImageBudget(tmp_path, 1000, 10, lambda: 2 * 10**9).allows(1, 0, validate=False)
    assert not ImageBudget(tmp_path, 1000, 10, lambda: 3 * 10**9).allows(1, 0, validate=True)
    assert notice_in(caplog.messages[-1]) == (
        f"the disk of {tmp_path} has little room left: until it has more, no images of chains are kept"
    )


def test_the_user_is_told_once_in_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, other = ImageBudget(tmp_path, 1_000_000, 100), ImageBudget(tmp_path, 1_000_000, 100)  # of two processes
    for step, size in ((9, 0), (10, 600_000), (11, 0), (12, 400_000)):
        one.spend(size)
        for budget in (one, other):
            budget.spend(1)  # and so sees what the other one spent
            kept(budget, step)
    assert [notice_in(text) for text in caplog.messages] == [
        "half of agentfly.images.max_gb=0.001 is used: from now on a part of the tasks keeps the images of its chains",
        f"{tmp_path} has reached agentfly.images.max_gb=0.001: no more images of chains are kept",
    ]


def test_an_asynchronous_trainer_has_many_steps_in_work_and_the_file_stays_small(tmp_path: Path) -> None:
    budget = ImageBudget(tmp_path, 1000, 500)
    for step in range(500):
        budget.allows(step, 0, validate=False)
    assert (tmp_path / ".budget.json").stat().st_size < 1000
    # Without a step nothing is fixed.
    assert kept(budget, -1) == set(ROWS)
    budget.spend(600)
    assert kept(budget, -1) < set(ROWS)


def test_the_places_of_tasks_are_spread(tmp_path: Path) -> None:
    places = sorted(map(place_of, range(400)))
    assert all(abs(place - index / 400) < 0.01 for index, place in enumerate(places))
