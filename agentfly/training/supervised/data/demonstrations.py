"""Play demonstrations that are valid but not good: they show how to call the tools, with choices at random.

Tool, thresholds and dilation are drawn at random. A policy that is warm-started on them knows how to call the tools but
not which calls work; that is left to the reward. The demonstrations run on the real tools through the real rollout, so
that observations, errors and images are those that the policy will get.

`seeing` gives the other half of the warm start: the beginning of a call, up to the one word that can only be known from
the image. `EXPERT` is the mix without random choices: the right tool, parameters and words, for imitation.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from agentfly.agents import AgentSettings, Trajectory, task_conversation
from agentfly.agents.factory import make_agent
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.agents.llm_backends.base import SamplingParams
from agentfly.agents.spec import DEFAULT, AgentSpec
from agentfly.datasets import FAMILIES, LOOK_FAMILIES, RETOUCH_FAMILIES, EditTask, StickerWorld
from agentfly.images import ImageStore, ImageView
from agentfly.messages import Message, text_message
from agentfly.training.supervised.data.demonstrators import (
    EXPERT,
    LOOKS,
    DemonstrationMix,
    Demonstrator,
    call_text,
    demonstrator,
)
from agentfly.vision.shapes import COLOURS

__all__ = [
    "EXPERT",
    "SEEN_FAMILIES",
    "DemonstrationMix",
    "Demonstrations",
    "Demonstrator",
    "SeenCall",
    "call_text",
    "expert_demonstrations",
    "play",
    "seeing",
    "seen_calls",
    "tool_schemas",
]

PLAYED_TOGETHER = 100  # more use more memory and are no faster
_FIRST_TASK = 2_000_000  # of the expert's, beyond the tasks of the quickstart's warm start and training
# Families of which `seen_calls` gives calls.
SEEN_FAMILIES: tuple[str, ...] = (*LOOK_FAMILIES, *RETOUCH_FAMILIES)
_LOOKS = tuple(f'<tool_call>{{"name": "{name}"' for name in LOOKS)


@dataclass(frozen=True)
class SeenCall:
    """A chain up to the words that only its images show.

    Attributes:
        messages: up to the turn with the call.
        turns: texts of its turns; the last one ends before those words.
        words: that follow.
    """

    messages: tuple[Message, ...]
    turns: tuple[str, ...]
    words: str


Played = tuple[list[Trajectory], dict[str, Image.Image]]  # chains, and their images by handle


@dataclass(frozen=True)
class Demonstrations:
    """Demonstrations of the tasks of the sticker world, made a batch at a time: those of all would take gigabytes.

    Attributes:
        count: number of tasks.
        families: task types, in turn.
        mix: distributions that are drawn from.
        seed: of the tasks and the draws.
        system_prompt, spec: see `play`.
        together: tasks of a batch.
    """

    count: int
    families: tuple[str, ...]
    mix: DemonstrationMix
    seed: int
    system_prompt: str | None
    spec: AgentSpec = DEFAULT
    together: int = PLAYED_TOGETHER

    def batches(self, processes: int) -> Iterator[Played]:
        """Yield batches in order. They do not depend on the number of processes, each of which keeps a core busy."""
        starts = range(0, self.count, self.together)
        if (processes := min(processes, len(starts))) < 2:
            yield from map(self.batch, starts)
            return
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
        try:
            yield from pool.map(self.batch, starts)
        finally:
            pool.shutdown(cancel_futures=True)

    def batch(self, start: int) -> Played:
        """Return the batch that begins with a task."""
        world, rng, store = StickerWorld(), random.Random(f"demonstrations-{self.seed}"), ImageStore()
        for _ in range(start):
            rng.random()  # one for each task, see `_scripts`
        numbers = range(start, min(start + self.together, self.count))
        families = [self.families[number % len(self.families)] for number in numbers]
        tasks = [world.task(number, "train", of, seed=self.seed) for number, of in zip(numbers, families, strict=True)]
        played = asyncio.run(play(tasks, self.mix, store, rng, system_prompt=self.system_prompt, spec=self.spec))
        return played, {handle: store.get(handle) for trajectory in played for handle in trajectory.images}


async def play(
    tasks: Sequence[EditTask],
    mix: DemonstrationMix,
    store: ImageStore,
    rng: random.Random,
    *,
    system_prompt: str | None,
    spec: AgentSpec = DEFAULT,
) -> list[Trajectory]:
    """Demonstrate tasks of the sticker world on the real tools, through the real rollout, all at once.

    Args:
        tasks: with the steps of the world in their metadata; `PLAYED_TOGETHER` is a good number of them.
        mix: distributions that are drawn from.
        store: gets the images.
        rng: for all draws; batches of tasks that are played one after another share it.
        system_prompt: first message of each chain, None for none.
        spec: agent and tools.
    """
    scripts = await _scripts(tasks, mix, rng, spec)
    return await _played(tasks, lambda request: scripts[request.session_id](request), store, system_prompt, spec)


async def _scripts(
    tasks: Sequence[EditTask], mix: DemonstrationMix, rng: random.Random, spec: AgentSpec
) -> dict[str, Demonstrator]:
    """Return the players of tasks by the names of their chains."""
    tools = {schema["function"]["name"] for schema in await tool_schemas(spec)}
    return {
        f"{task.id}-0": demonstrator(task, random.Random(rng.random()), mix, tuple(COLOURS), tools) for task in tasks
    }


async def _played(
    tasks: Sequence[EditTask],
    script: Callable[[GenerationRequest], str],
    store: ImageStore,
    system_prompt: str | None,
    spec: AgentSpec,
) -> list[Trajectory]:
    settings = AgentSettings(system_prompt=system_prompt)
    agent = make_agent(spec, "demonstrations", backend=ScriptedBackend(script), store=store, settings=settings)
    try:
        return list(await agent.run([task_conversation(task) for task in tasks]))
    finally:
        await agent.close()


async def expert_demonstrations(
    count: int,
    store: ImageStore,
    seed: int,
    *,
    system_prompt: str | None,
    families: Sequence[str] = FAMILIES,
    spec: AgentSpec = DEFAULT,
) -> list[Trajectory]:
    """Demonstrate tasks of the sticker world, task types in turn, by the expert script.

    Args:
        count: number of tasks.
        store: gets the images.
        seed: of the tasks and the draws.
        system_prompt: first message of each chain, None for none.
        families: task types.
        spec: agent and tools; tasks in which looking or retouching pays need more tools than the agent's own.

    Returns:
        Trajectories with the schemas of the tools.
    """
    world, rng = StickerWorld(), random.Random(f"demonstrations-{seed}")
    turns = [families[index % len(families)] for index in range(count)]
    tasks = [world.task(_FIRST_TASK + index, "train", family, seed=seed) for index, family in enumerate(turns)]
    played: list[Trajectory] = []
    for start in range(0, count, PLAYED_TOGETHER):
        batch = tasks[start : start + PLAYED_TOGETHER]
        played += await play(batch, EXPERT, store, rng, system_prompt=system_prompt, spec=spec)
    schemas = await tool_schemas(spec)
    for trajectory in played:
        trajectory.tools = schemas
    return played


async def tool_schemas(spec: AgentSpec = DEFAULT) -> list[dict[str, Any]]:
    """Return the schemas of the tools of an agent."""
    agent = make_agent(spec, "demonstrations", backend=ScriptedBackend([]))
    try:
        await agent.prepare()
        return agent.tools_for(ImageView(ImageStore())).schemas()
    finally:
        await agent.close()


def seeing(task: EditTask, rng: random.Random, mix: DemonstrationMix) -> tuple[str, str]:
    """Return the right first call of a look task in two parts: up to the word that only the image shows, and it.

    Tool and parameters are drawn at random as everywhere else.

    Args:
        task: of type "look".
        rng: for all draws.
        mix: distributions that are drawn from, except for the word.
    """
    colour = str(task.metadata["steps"][0]["detect"]).split()[0]
    right = mix.model_copy(update={"looks": 1.0})
    request = GenerationRequest("seeing", "seeing", (text_message("user", task.instruction),), (), SamplingParams())
    call = Demonstrator(task, rng, right, (colour,))(request)
    begin = call[: call.index(colour, call.index("prompt"))].rstrip(" ")
    return begin, call[len(begin) :].split(colour)[0] + colour


async def seen_calls(
    tasks: Sequence[EditTask],
    mix: DemonstrationMix,
    store: ImageStore,
    rng: random.Random,
    *,
    system_prompt: str | None,
    spec: AgentSpec = DEFAULT,
) -> list[SeenCall]:
    """Play tasks of `SEEN_FAMILIES` with the right answer, after the right look if the agent can look.

    Args:
        tasks, store, rng, system_prompt, spec: see `play`.
        mix: thresholds and dilations that are drawn from.
    """
    right = EXPERT.model_copy(update={"thresholds": mix.thresholds, "dilations": mix.dilations})
    scripts, by_id = await _scripts(tasks, right, rng, spec), {f"{task.id}-0": task for task in tasks}
    turns: dict[str, list[str]] = {name: [] for name in scripts}
    found: dict[str, SeenCall] = {}

    def script(request: GenerationRequest) -> str:
        name = request.session_id
        text = scripts[name](request)
        if text.startswith(_LOOKS):
            turns[name].append(text)
            return text
        begin, words = _before_seen(by_id[name], text)
        messages = (*request.messages, text_message("assistant", ""))
        found[name] = SeenCall(messages, (*turns[name], begin), words)
        # The edit itself need not be made.
        return call_text("give_answer", {"final_image_id": "img_1"})

    await _played(tasks, script, store, system_prompt, spec)
    return [found[name] for name in scripts]


def _before_seen(task: EditTask, call: str) -> tuple[str, str]:
    """Return a call up to the words that only the images show, and these words."""
    step = task.metadata["steps"][0]
    # The first word of what to detect, or the parameter with its amount.
    words = step["detect"].split()[0] if "detect" in step else f'", "{step["action"]}": {step["amount"]}'
    return call[: call.index(words, call.index('"arguments"'))], words
