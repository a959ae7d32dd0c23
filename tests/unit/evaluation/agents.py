"""Agents that need no model, tasks that need no files, and the folder of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from agentfly.agents import StopReason, ToolRecord, Trajectory, Turn
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.datasets import EditTask
from agentfly.evaluation import EvaluationRun, TaskFacts, TaskRecord
from agentfly.evaluation.run_folder import RunFolder
from agentfly.evaluation.scoring import Scorer, read_specs
from agentfly.evaluation.task_agent import NamedTaskAgent
from agentfly.evaluators import EditSample, NotScored, Score
from agentfly.images import ImageStore
from agentfly.messages import text_message
from tests.unit.agents.conftest import completion


def square(level: int) -> Image.Image:
    """An image of one grey."""
    return Image.new("RGB", (24, 24), (level, level, level))


def task(number: int, task_type: str = "darken", **more: Any) -> EditTask:
    """A task whose image is its number, and whose target is much darker."""
    fields = {"images": (square(100 + number),), "target": square(30 + number), **more}
    return EditTask(f"t{number}", f"Make it darker, {number}.", task_type=task_type, **fields)


class Brightness:
    """Scores 100 where the result is the target, else what its grey says; no result is not scored."""

    async def evaluate(self, sample: EditSample) -> Score:
        from agentfly.errors import EvaluatorError

        if sample.result is None:
            raise EvaluatorError("there is no result to look at")
        if sample.target is not None and sample.result.tobytes() == sample.target.tobytes():
            return Score(100.0, "as wanted", {"grey": 1.0})
        return Score(sample.result.convert("L").getpixel((0, 0)) / 2.55, "a shade", {"grey": 0.5})  # type: ignore[operator]


BRIGHTNESS = "tests.unit.evaluation.agents:Brightness"


class PlainAgent:
    """Does with a task what a function says; counts what it was asked and how many at once."""

    name = "plain"

    def __init__(
        self, act: Callable[[EditTask, ImageStore], Any] | None = None, store: ImageStore | None = None
    ) -> None:
        self.store = store or ImageStore()
        self.asked: list[str] = []
        self.most_at_once = self._now = 0
        self.closed = False
        self._act = act or solved

    async def attempt(self, task: EditTask) -> Trajectory:
        self.asked.append(task.id)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            await asyncio.sleep(0)
            made = self._act(task, self.store)
            return await made if asyncio.iscoroutine(made) else made
        finally:
            self._now -= 1

    async def close(self) -> None:
        self.closed = True


def solved(task: EditTask, store: ImageStore, **more: Any) -> Trajectory:
    """The trajectory of an agent that knows the answer."""
    return answered(task, store.put(task.target) if isinstance(task.target, Image.Image) else None, **more)


def answered(task: EditTask, final: str | None, **more: Any) -> Trajectory:
    """A trajectory of one turn with one call."""
    turn = Turn("…", "stop", 0.1, (ToolRecord("edit", {}, 0.1, "classical"),), prompt_tokens=7, completion_tokens=3)
    fields = {"stop_reason": StopReason.ANSWERED, "final_image": final, "seconds": 1.5, **more}
    return Trajectory(f"{task.id}-0", task.id, [text_message("user", task.instruction)], [turn], **fields)


def record(id_: str, value: float | None, *, task_type: str = "edit", label: str = "judge", **more: Any) -> TaskRecord:
    """A record with one score, or with none."""
    facts = TaskFacts(id_, f"do {id_}", task_type, images=("img_000000000000",))
    score = NotScored("the judge refused") if value is None else Score(value)
    return TaskRecord(facts, answered(EditTask(id_, "", ()), None, **more), {label: score})


async def run(
    folder: Path, agent: Any, tasks: Any, evaluators: tuple[Any, ...] = (BRIGHTNESS,), **settings: Any
) -> list[TaskRecord]:
    """Run tasks into a folder."""
    opened = RunFolder(folder, {"agent": agent.name})
    try:
        return await EvaluationRun(agent, tasks, Scorer(read_specs(evaluators)), opened, **settings)()
    finally:
        opened.close()


def call(name: str, **arguments: Any) -> str:
    """A tool call as a policy writes it."""
    import json

    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def scripted(store: ImageStore | None, *texts: str) -> NamedTaskAgent:
    """The real image-editing agent, whose policy says what it is told."""
    return NamedTaskAgent(store=store, model="scripted", backend=ScriptedBackend(texts))


def editing(store: ImageStore | None = None, prompt: str = "darken", log: str | None = None) -> Any:
    """An agent for the command line: it edits once and answers; `log` gets the id of each task that it is given."""
    edit = call("qwen_edit_image", image_id="img_1", prompt=prompt)
    agent = scripted(store, edit, call("give_answer", final_image_id="img_2"))
    return agent if log is None else _Logged(agent, Path(log))


class _Logged:
    """Writes down what it is asked, and takes its time."""

    name = "logged"

    def __init__(self, agent: NamedTaskAgent, log: Path) -> None:
        self._agent, self._log = agent, log
        self.store = agent.store

    async def attempt(self, task: EditTask) -> Trajectory:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{task.id}\n")
        await asyncio.sleep(0.1)
        return await self._agent.attempt(task)

    async def close(self) -> None:
        await self._agent.close()


def blurs(body: dict[str, Any]) -> Any:
    """A model that blurs whatever it is given, and answers with that."""
    acted = any(message["role"] == "tool" for message in body["messages"])
    text = (
        call("give_answer", final_image_id="img_2")
        if acted
        else call("qwen_edit_image", image_id="img_1", prompt="blur")
    )
    return completion(text)(body)
