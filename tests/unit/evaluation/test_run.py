"""A run: bounded, resumable, and no task ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import StopReason, Trajectory
from agentfly.datasets import EditTask
from agentfly.errors import BackendError, ConfigError, DatasetError
from agentfly.evaluators import NotScored
from agentfly.images import ImageStore
from tests.unit.evaluation.agents import BRIGHTNESS, PlainAgent, answered, run, solved, task
from tests.unit.images.damage import DAMAGE


async def test_records_come_in_the_order_of_the_tasks_and_no_more_run_at_once_than_allowed(tmp_path: Path) -> None:
    full = asyncio.Event()

    async def wait(task: EditTask, store: ImageStore) -> Trajectory:
        if agent.most_at_once == 3:
            full.set()
        await full.wait()
        return solved(task, store)

    agent = PlainAgent(wait)
    records = await run(tmp_path, agent, [task(n) for n in range(12)], concurrency=3)
    assert [record.id for record in records] == [f"t{n}" for n in range(12)]
    assert all(record.value(BRIGHTNESS) == 100.0 for record in records)
    assert agent.most_at_once == 3


async def test_tasks_are_taken_one_by_one(tmp_path: Path) -> None:
    agent, ahead = PlainAgent(), []

    def tasks() -> Iterator[EditTask]:
        for number in range(8):
            ahead.append(number - len(agent.asked))
            yield task(number)

    await run(tmp_path, agent, tasks(), concurrency=2)
    assert max(ahead) <= 2


async def test_a_second_start_runs_what_is_left_and_only_that(tmp_path: Path) -> None:
    await run(tmp_path, PlainAgent(), [task(n) for n in range(3)])
    agent = PlainAgent()
    records = await run(tmp_path, agent, [task(n) for n in range(5)])
    assert sorted(agent.asked) == ["t3", "t4"]
    assert len(records) == 5
    assert len((tmp_path / "trajectories.jsonl").read_text().splitlines()) == 5


async def test_a_failing_task_is_a_record_that_can_be_retried(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def act(task: EditTask, store: ImageStore) -> Trajectory:
        if task.id == "t1":
            raise ZeroDivisionError("a bug")
        if task.id == "t2":
            raise BackendError("the server is down")
        return solved(task, store)

    tasks = [task(n) for n in range(4)]
    with caplog.at_level(logging.CRITICAL):
        records = await run(tmp_path, PlainAgent(act), tasks)
    assert [record.failed for record in records] == [False, True, True, False]
    assert records[1].trajectory.error == "ZeroDivisionError: a bug"
    assert records[2].scores[BRIGHTNESS] == NotScored("the agent failed: the server is down")
    agent = PlainAgent()
    await run(tmp_path, agent, tasks)
    assert agent.asked == []
    records = await run(tmp_path, agent, tasks, retry_failed=True)
    assert sorted(agent.asked) == ["t1", "t2"]
    assert not any(record.failed for record in records)


async def test_a_task_that_takes_too_long_ends_alone(tmp_path: Path) -> None:
    async def forever() -> Trajectory:
        await asyncio.Event().wait()
        raise AssertionError

    def act(task: EditTask, store: ImageStore) -> Any:
        return forever() if task.id == "t0" else solved(task, store)

    slow, quick = await run(tmp_path, PlainAgent(act), [task(0), task(1)], timeout=0.05)
    assert slow.trajectory.stop_reason is StopReason.WALL_CLOCK
    assert "0.05 s" in (slow.trajectory.error or "")
    assert not slow.failed
    assert quick.value(BRIGHTNESS) == 100.0


async def test_an_image_that_cannot_be_loaded_is_a_failed_record(tmp_path: Path) -> None:
    agent = PlainAgent()
    [record] = await run(tmp_path, agent, [task(0, images=("nowhere.png",))])
    assert record.failed
    assert "nowhere.png" in (record.trajectory.error or "")
    assert agent.asked == []


@pytest.mark.parametrize("damage", [kind for kind in DAMAGE if kind != "a folder"])
async def test_a_finished_task_whose_image_is_lost_runs_again_alone(damage: str, tmp_path: Path) -> None:
    tasks = [task(n) for n in range(3)]
    first = await run(tmp_path, PlainAgent(), tasks)
    for handle in (first[1].task.images[0], first[2].trajectory.final_image):
        DAMAGE[damage](tmp_path / "images" / f"{handle}.png")
    agent = PlainAgent()
    records = await run(tmp_path, agent, tasks)
    assert sorted(agent.asked) == ["t1", "t2"]
    assert [record.value(BRIGHTNESS) for record in records] == [100.0] * 3
    agent = PlainAgent()
    await run(tmp_path, agent, tasks)
    assert agent.asked == []


async def test_an_image_that_is_damaged_while_a_task_runs_ends_no_other(tmp_path: Path) -> None:
    def act(task: EditTask, store: ImageStore) -> Trajectory:
        made = store.put(Image.new("RGB", (9, 9 + int(task.id[1:]))))
        if task.id == "t1":
            DAMAGE["truncated"](store.path(made))  # type: ignore[arg-type]
            store._memory.clear()
        return answered(task, made)

    tasks = [task(n) for n in range(3)]
    records = await run(tmp_path, PlainAgent(act, ImageStore(tmp_path / "own")), tasks, concurrency=1)
    assert isinstance(records[1].scores[BRIGHTNESS], NotScored)
    assert [record.value(BRIGHTNESS) is None for record in records] == [False, True, False]


async def test_images_that_were_never_kept_do_not_run_a_task_again(tmp_path: Path) -> None:
    def act(task: EditTask, store: ImageStore) -> Trajectory:
        return answered(task, "img_0123456789ab", names={"img_2": "img_ba9876543210", "img_3": "img_3"})

    for asked in (["t0"], []):
        agent = PlainAgent(act)
        await run(tmp_path, agent, [task(0)])
        assert agent.asked == asked


async def test_images_of_an_agent_with_its_own_store_are_kept_with_the_run(tmp_path: Path) -> None:
    def act(task: EditTask, store: ImageStore) -> Trajectory:
        step, final = store.put(Image.new("RGB", (9, 9))), store.put(Image.new("RGB", (8, 8)))
        return answered(task, final, images=[step], names={"img_2": step})

    [record] = await run(tmp_path, PlainAgent(act), [task(0)])
    kept = ImageStore(tmp_path / "images")
    assert record.trajectory.final_image is not None
    assert kept.get(record.trajectory.final_image).size == (8, 8)
    assert kept.get(record.trajectory.images[0]).size == (9, 9)


async def test_a_wrong_set_up_ends_the_run(tmp_path: Path) -> None:
    def act(task: EditTask, store: ImageStore) -> Trajectory:
        raise ConfigError("no key")

    with pytest.raises(ConfigError, match="no key"):
        await run(tmp_path, PlainAgent(act), [task(0)])


async def test_ids_are_unique_and_mean_the_same_task_at_the_next_start(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="two tasks have the id 't1'"):
        await run(tmp_path / "a", PlainAgent(), [task(1), task(1)])
    await run(tmp_path / "b", PlainAgent(), [task(1)])
    other = EditTask("t1", "Something else.", task(1).images)
    with pytest.raises(ConfigError, match="another task under the id 't1'"):
        await run(tmp_path / "b", PlainAgent(), [other])
