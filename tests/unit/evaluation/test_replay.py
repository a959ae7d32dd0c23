"""Trajectories from wherever they come: scored again, and their calls carried out again on engines old and new."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import Agent, ImageEditingAgent, ToolRecord, Trajectory
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.datasets import EditTask, tasks_to_dataset
from agentfly.errors import ConfigError
from agentfly.evaluation.reexecution import measure, reexecute
from agentfly.evaluation.replay import ReplaySettings, read_recording, replay
from agentfly.images import ImageStore
from agentfly.messages import ImagePart, Message
from agentfly.vision import EditParams, Engines, make_engines
from tests.unit.evaluation.agents import call, run, scripted, square, task
from tests.unit.images.damage import DAMAGE

TURNS = (
    call("qwen_edit_image", image_id="img_1", prompt="darken") + call("no_such_tool", x=1),
    call("qwen_edit_image", image_id="img_2", prompt="darken")
    + call("qwen_edit_image", image_id="img_1", prompt="blur"),
    call("give_answer", final_image_id="img_3"),
)


def structured(number: int) -> EditTask:
    """A task whose image is not of one grey, so that every edit changes it."""
    ramp = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    ramp.paste((200, number, 30), (4, 4, 14, 14))
    target = ramp.copy()
    target.paste((0, 0, 0), (4, 4, 14, 14))
    return task(number, images=(ramp,), target=target)


class Shifted:
    """An editor whose every result is one level brighter in its left half; the first edit of a chain can be as ever."""

    name = "shifted"

    def __init__(self, engines: Engines, after: int = 0) -> None:
        self._editor, self._left = engines.editor, after

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        made = await self._editor.edit(image, instruction, params)
        self._left -= 1
        if self._left >= 0:
            return made
        half = made.crop((0, 0, made.width // 2, made.height)).point(lambda value: min(255, value + 1))
        made.paste(half, (0, 0))
        return made


def editing_agent(engines: Engines) -> Agent:
    return ImageEditingAgent("replay", engines=engines, backend=ScriptedBackend([]))


async def recorded(store: ImageStore, number: int = 1) -> Trajectory:
    return await scripted(store, *TURNS).attempt(structured(number))


async def test_the_same_engines_give_the_same_images() -> None:
    store = ImageStore()
    found = await reexecute("t", await recorded(store), store, editing_agent(make_engines()))
    assert (found.calls, found.equal) == (5, 3)
    assert (found.differences, found.skipped) == ([], [])


async def test_another_engine_differs_where_it_begins() -> None:
    store, engines = ImageStore(), make_engines()
    trajectory = await recorded(store)
    found = await reexecute("t", trajectory, store, editing_agent(replace(engines, editor=Shifted(engines, after=1))))
    assert found.equal == 1
    first = found.differences[0]
    assert (first.turn, first.tool, first.max) == (2, "qwen_edit_image", 1)
    assert first.share == pytest.approx(0.5, abs=0.2)
    assert {difference.turn for difference in found.differences} == {2}


async def test_a_call_that_fails_now_and_images_that_nobody_makes_are_told() -> None:
    store, engines = ImageStore(), make_engines()
    trajectory = await recorded(store)

    class Refusing(Shifted):
        async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
            from agentfly.errors import ToolError

            raise ToolError("needs a model backend")

    found = await reexecute("t", trajectory, store, editing_agent(replace(engines, editor=Refusing(engines))))
    words = [(d.turn, d.call, d.image, d.what) for d in found.differences]
    assert (1, 1, "", "failed now: needs a model backend") in words
    assert (2, 1, "img_3", "was made when it was recorded, and is not made now") in words
    assert found.equal == 0


async def test_tools_that_are_no_image_tools_are_skipped_and_their_images_taken_as_recorded() -> None:
    store = ImageStore()
    trajectory = await recorded(store)
    first = trajectory.turns[0]
    trajectory.turns[0] = replace(first, tools=(replace(first.tools[0], name="paint_by_hand"), first.tools[1]))
    found = await reexecute("t", trajectory, store, editing_agent(make_engines()))
    (reason,) = found.skipped
    assert reason == "turn 1: there is no tool paint_by_hand: name the agent or the tool with --agent or --tools"
    assert found.differences == []
    assert found.equal == 2


async def test_a_view_that_nobody_makes_now_stays_a_view_and_an_edit_equal_to_it_an_image() -> None:
    """`img_2` has the pixels of `view_1`: the recorded call that looked must not take its name."""
    store = ImageStore()
    trajectory = await recorded(store)
    shown = ToolRecord("zoom", {}, 0.1, looks=True)
    trajectory.turns[0] = replace(trajectory.turns[0], tools=(shown, *trajectory.turns[0].tools))
    place = next(i for i, message in enumerate(trajectory.messages) if message.role == "tool")
    view = Message("tool", (ImagePart(trajectory.names["img_2"]),))
    trajectory.messages.insert(place, view)
    trajectory.names = {"img_1": trajectory.names["img_1"], "view_1": trajectory.names["img_2"], **trajectory.names}
    found = await reexecute("t", trajectory, store, editing_agent(make_engines()))
    assert [reason.partition(":")[0] for reason in found.skipped] == ["turn 1"]
    assert (found.equal, found.differences) == (3, [])


async def test_a_source_that_was_not_kept_is_told() -> None:
    trajectory = await recorded(ImageStore())
    found = await reexecute("t", trajectory, ImageStore(), editing_agent(make_engines()))
    assert "was not kept" in found.skipped[0]
    assert found.calls == 0


def test_images_are_measured() -> None:
    before, after = square(10), square(10)
    after.paste((14, 10, 10), (0, 0, 12, 24))
    found = measure(before, after)
    assert found == {"what": "pixels differ", "mean": pytest.approx(4 / 6, abs=1e-3), "max": 4, "share": 0.5}
    assert "24x24, is 12x24" in measure(before, before.resize((12, 24)))["what"]
    assert measure(before, before.convert("RGBA")) == {"what": "was RGB, is RGBA", "mean": 0.0, "max": 0, "share": 0.0}


async def test_a_run_is_scored_again_and_resumes(tmp_path: Path) -> None:
    agent = scripted(None, *TURNS)
    await run(tmp_path / "run", agent, [structured(n) for n in range(3)], ("structural",))
    settings = ReplaySettings(run=tmp_path / "run", evaluator=("structural", "tests.unit.evaluation.agents:Brightness"))
    first = await replay(settings)
    resumed: list[bool] = []
    second = await replay(settings, lambda record, known: resumed.append(known))
    assert resumed == [True] * 3
    assert first.summary is not None
    assert second.summary == first.summary
    before = [json.loads(line) for line in (tmp_path / "run/trajectories.jsonl").read_text().splitlines()]
    after = [json.loads(line) for line in (tmp_path / "run/replay/trajectories.jsonl").read_text().splitlines()]
    scores = [{line["task"]["id"]: line["evaluations"]["structural"] for line in lines} for lines in (before, after)]
    assert scores[0] == scores[1]
    # A replay is a run of its own: it can be replayed without the first one's images.
    again = await replay(ReplaySettings(run=first.out, evaluator="structural", re_execute=True))
    assert again.summary is not None
    assert again.summary["all"]["scores"]["structural"]["scored"] == 3
    assert not again.differs


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_lost_image_is_one_failed_row_until_it_is_back(damage: str, tmp_path: Path) -> None:
    records = await run(tmp_path / "run", scripted(None, *TURNS), [structured(n) for n in range(3)], ("structural",))
    files = [tmp_path / "run/images" / f"{handle}.png" for handle in (*records[1].task.images, *records[2].task.images)]
    data = [file.read_bytes() for file in files]
    for file in files:
        DAMAGE[damage](file)
    settings = ReplaySettings(run=tmp_path / "run", evaluator="structural", re_execute=True)
    first = await replay(settings)
    assert first.summary is not None
    assert first.summary["all"]["failed"] == 2
    assert first.summary["all"]["scores"]["structural"]["scored"] == 1
    assert first.reexecution is not None
    assert first.reexecution["chains_with_skipped_calls"] == 2
    report = (tmp_path / "run/replay/trajectories.jsonl").read_text()
    assert all(file.stem in report for file in files)
    for file, content in zip(files, data, strict=True):
        file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)
        file.write_bytes(content)
    resumed: list[bool] = []
    second = await replay(settings, lambda record, known: resumed.append(known))
    assert sorted(resumed) == [False, False, True]
    assert second.summary is not None
    assert second.summary["all"]["scores"]["structural"]["scored"] == 3
    assert not second.differs


def line(trajectory: Trajectory) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(trajectory.to_json())
    return found


@pytest.mark.parametrize("form", ["training", "journal", "plain"])
async def test_other_logs_take_their_tasks_from_the_data_set(form: str, tmp_path: Path) -> None:
    trajectories = [await recorded(ImageStore(), number) for number in (1, 2)]
    # A second chain of one task, as training logs them.
    trajectories.append(replace(trajectories[0], id="t1-1"))
    wrap = {
        "training": lambda t: {"step": 1, "validate": False, "task_type": "look", "trajectory": line(t)},
        "journal": lambda t: {"fingerprint": "f", "trajectory": line(t)},
        "plain": line,
    }[form]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f"{json.dumps(wrap(t))}\n" for t in trajectories) + '{"torn')
    tasks_to_dataset([structured(n) for n in range(4)]).to_parquet(str(tmp_path / "tasks.parquet"))
    with pytest.raises(ConfigError, match="name their folder with --images, or the data set"):
        await replay(ReplaySettings(run=path, evaluator="structural"))
    data = {"data": str(tmp_path / "tasks.parquet"), "out": tmp_path / "out"}
    result = await replay(ReplaySettings(run=path, evaluator="structural", re_execute=True, **data))
    assert not result.differs
    assert result.reexecution is not None
    assert result.reexecution["images_equal"] == 9
    assert result.summary is not None
    assert result.summary["all"]["scores"]["structural"]["scored"] == 3
    ids = [json.loads(one)["task"]["id"] for one in (tmp_path / "out/trajectories.jsonl").read_text().splitlines()]
    assert sorted(ids) == ["t1", "t1#2", "t2"]


async def test_what_the_messages_tell_of_a_task() -> None:
    facts = TrajectoryLine(await recorded(ImageStore())).described_task()
    assert (facts.id, facts.instruction, facts.task_type) == ("t1", "Make it darker, 1.", "darken")
    assert len(facts.images) == 1


def test_recordings_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "greedy.jsonl").touch()
    with pytest.raises(ConfigError, match=r"there is evaluation/greedy\.jsonl: name one of them"):
        read_recording(tmp_path)
    with pytest.raises(ConfigError, match="has no finished trajectory"):
        read_recording(tmp_path / "evaluation" / "greedy.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"trajectory": {"id": 1}}\n')
    with pytest.raises(ConfigError, match="line 1 is no trajectory"):
        read_recording(tmp_path / "bad.jsonl")


async def test_keys_are_not_written_down(tmp_path: Path) -> None:
    await run(tmp_path / "run", scripted(None, *TURNS), [structured(0)], ("structural",))
    mine = {"evaluator": "tests.unit.evaluation.agents:Brightness", "api_key": "sk-mine"}
    with pytest.raises(ConfigError, match="environment variable instead of api_key"):
        await replay(ReplaySettings(run=tmp_path / "run", evaluator=(mine,)))
    assert not list((tmp_path / "run" / "replay").glob("*.json"))


async def test_chains_of_a_training_whose_images_were_left_out_are_no_failures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ImageStore(tmp_path / "images")
    chains = [await recorded(store if number == 1 else ImageStore(), number) for number in (1, 2)]
    lines = [TrajectoryLine.of_chain(t, step=1, images_kept=n == 1).to_json() for n, t in enumerate(chains, 1)]
    (tmp_path / "trajectories.jsonl").write_text("".join(f"{line}\n" for line in lines))
    tasks_to_dataset([structured(n) for n in (1, 2)]).to_parquet(str(tmp_path / "tasks.parquet"))
    result = await replay(ReplaySettings(run=tmp_path, evaluator="structural", data=str(tmp_path / "tasks.parquet")))
    assert result.summary is not None
    scores = result.summary["all"]["scores"]["structural"]
    assert (scores["scored"], scores["not_scored"]) == (1, 0)
    assert "1 of 2 chains are left out: their images were not kept" in caplog.text
    recording = read_recording(tmp_path)
    assert [chain.images_kept for chain in recording.chains] == [True, False]
    # Where none were kept, the message about the missing images says more.
    alone = replace(recording, chains=recording.chains[1:])
    assert alone.with_images() is alone


async def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --evaluator"):
        await replay(ReplaySettings(run=tmp_path))


async def test_a_log_without_targets_says_what_to_give(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    trajectory = await recorded(store)
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "trajectory": line(trajectory)}) + "\n")
    settings = ReplaySettings(run=tmp_path / "log.jsonl", evaluator="structural", out=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"none of the first 1 tasks can be scored: .*the data set .* with --data$"):
        await replay(settings)
    for name, numbers in (("others", (7, 8)), ("tasks", (1, 2))):
        tasks_to_dataset([structured(n) for n in numbers]).to_parquet(str(tmp_path / f"{name}.parquet"))
    others = settings.model_copy(update={"data": str(tmp_path / "others.parquet")})
    with pytest.raises(ConfigError, match=r"others\.parquet has no tasks with the ids of this log, such as 't1'"):
        await replay(others)
    # What was refused does not bind the folder to its settings.
    found = await replay(settings.model_copy(update={"data": str(tmp_path / "tasks.parquet")}))
    assert found.summary is not None
    assert found.summary["all"]["scores"]["structural"]["scored"] == 1
