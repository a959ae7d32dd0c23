"""Play demonstrations that are valid but not good: they show how to call the tools, with choices at random.

Tool, thresholds and dilation are drawn at random. A policy that is warm-started on them knows how to call the tools but
not which calls work; that is left to the reward. The demonstrations run on the real tools through the real rollout, so
that observations, errors and images are those that the policy will get.

`seeing` gives the other half of the warm start: the beginning of a call, up to the one word that can only be known from
the image. `EXPERT` is the mix without random choices: the right tool, parameters and words, for imitation.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from agentfly.agents import AgentSettings, Trajectory, task_conversation
from agentfly.agents.factory import make_agent
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.agents.llm_backends.base import SamplingParams
from agentfly.agents.spec import DEFAULT, AgentSpec
from agentfly.datasets import FAMILIES, EditTask, StickerWorld
from agentfly.images import ImageStore, ImageView
from agentfly.messages import Message, text_message
from agentfly.settings import Settings
from agentfly.vision.shapes import COLOURS

PLAYED_TOGETHER = 100  # more use more memory and are no faster
_FIRST_TASK = 2_000_000  # of the expert's, beyond the tasks of the quickstart's warm start and training


class DemonstrationMix(Settings):
    """Distributions that demonstrations draw from.

    Attributes:
        tools: weight of each way to carry out a step.
        thresholds: values of `box_threshold`, drawn uniformly.
        dilations: values of `auto_mask_dilate`, drawn uniformly.
        phrases: weights of naming colour and shape, colour alone, shape alone.
        looks: share of look tasks in which the right sticker is named; otherwise any colour.
        retries: attempts after a failed call.
    """

    tools: Mapping[str, float] = {"auto_inpaint_image": 0.5, "detect_objects": 0.2, "qwen_edit_image": 0.3}
    thresholds: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    dilations: tuple[int, ...] = (0, 2, 4, 8, 12, 16)
    phrases: Mapping[str, float] = {"both": 0.6, "colour": 0.35, "shape": 0.05}
    looks: float = 0.6
    retries: int = 1


EXPERT = DemonstrationMix(
    tools={"auto_inpaint_image": 1.0},
    thresholds=(0.6,),
    dilations=(4,),
    phrases={"both": 1.0},
    looks=1.0,
)


def call_text(name: str, arguments: Mapping[str, object]) -> str:
    """Return a tool call as the compact template writes it.

    Args:
        name: of the tool.
        arguments: of the call, by name.
    """
    return f'<tool_call>{{"name": "{name}", "arguments": {json.dumps(dict(arguments))}}}</tool_call>'


class Demonstrator:
    """Player of one task, as a function of the conversation: the script of a `ScriptedBackend`.

    Args:
        task: of the sticker world, with its steps in the metadata.
        rng: for all draws.
        mix: distributions that are drawn from.
        colours: words that a wrong colour is drawn from.
    """

    def __init__(self, task: EditTask, rng: random.Random, mix: DemonstrationMix, colours: Sequence[str]) -> None:
        self._steps: list[Mapping[str, str]] = list(task.metadata["steps"])
        self._family, self._rng, self._mix, self._colours = task.task_type, rng, mix, colours
        self._user_words: str | None = task.metadata.get("said")
        self._current, self._mask, self._retries = "img_1", "", mix.retries

    def __call__(self, request: GenerationRequest) -> str:
        """Return the next turn."""
        last = request.messages[-1]
        failed = last.role == "tool" and not self._note(last)
        if not self._steps or (failed and self._retries == 0):
            return call_text("give_answer", {"final_image_id": self._current})
        if failed:
            self._retries -= 1
        if self._mask:
            arguments = {"image_id": self._current, "mask_id": self._mask, "prompt": self._steps[0]["new"]}
            return call_text("inpaint_image", arguments)
        tool = self._rng.choices(list(self._mix.tools), list(self._mix.tools.values()))[0]
        step, words = self._steps[0], self._words()
        if tool == "qwen_edit_image":
            prompt = f"replace {words} by {step['new']}" if step["new"] else f"remove {words}"
            return call_text(tool, {"image_id": self._current, "prompt": prompt})
        numbers = {
            "box_threshold": self._rng.choice(self._mix.thresholds),
            "auto_mask_dilate": self._rng.choice(self._mix.dilations),
        }
        if tool == "detect_objects":
            return call_text(tool, {"image_id": self._current, "text_prompt": words, **numbers})
        return call_text(tool, {"image_id": self._current, "detect_prompt": words, "prompt": step["new"], **numbers})

    def _note(self, observation: Message) -> bool:
        """Note the result of a call; return True if it succeeded."""
        name = observation.text.split(":", 1)[0].split(" ", 1)[0].strip()
        if observation.text.startswith("Error"):
            self._mask = ""
            return False
        if name.startswith("mask_"):
            self._mask = name
            return True
        self._current, self._mask = name, ""
        self._steps.pop(0)
        return True

    def _words(self) -> str:
        """Return words for the detector: the user's own first where they differ, then any way to name the sticker."""
        rng = self._rng
        if self._user_words and self._retries == self._mix.retries and rng.random() < 0.5:
            return self._user_words
        colour, shape = str(self._steps[0]["detect"]).split()
        if self._family == "look":
            return colour if rng.random() < self._mix.looks else rng.choice(list(self._colours))
        if self._family == "repair":
            return shape if rng.random() < 0.5 else rng.choice(list(self._colours))
        form = rng.choices(list(self._mix.phrases), list(self._mix.phrases.values()))[0]
        return {"both": f"{colour} {shape}", "colour": colour, "shape": shape}[form]


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
    scripts = {f"{task.id}-0": Demonstrator(task, random.Random(rng.random()), mix, tuple(COLOURS)) for task in tasks}

    def script(request: GenerationRequest) -> str:
        return scripts[request.session_id](request)

    settings = AgentSettings(system_prompt=system_prompt)
    agent = make_agent(spec, "demonstrations", backend=ScriptedBackend(script), store=store, settings=settings)
    try:
        return list(await agent.run([task_conversation(task) for task in tasks]))
    finally:
        await agent.close()


async def expert_demonstrations(
    count: int, store: ImageStore, seed: int, spec: AgentSpec = DEFAULT, *, system_prompt: str | None
) -> list[Trajectory]:
    """Demonstrate tasks of the sticker world, task types in turn, by the expert script.

    Args:
        count: number of tasks.
        store: gets the images.
        seed: of the tasks and the draws.
        spec: agent and tools.
        system_prompt: first message of each chain, None for none.

    Returns:
        Trajectories with the schemas of the tools.
    """
    world, rng = StickerWorld(), random.Random(f"demonstrations-{seed}")
    families = [FAMILIES[index % len(FAMILIES)] for index in range(count)]
    tasks = [world.task(_FIRST_TASK + index, "train", family, seed=seed) for index, family in enumerate(families)]
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
