"""Scripts that carry out sticker tasks by calling the tools, with choices drawn at random.

`Demonstrator` edits. `LookDemonstrator` looks before it edits, if the agent has tools for that. `RetouchDemonstrator`
adjusts the whole image by an amount. None of them shows which choices work.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agentfly.agents.llm_backends import GenerationRequest
from agentfly.datasets import LOOK_FAMILIES, RETOUCH_FAMILIES, EditTask
from agentfly.datasets.retouch_tasks import EXPOSURES, STRENGTHS
from agentfly.datasets.sticker_layout import CELLS, REFERENCE_SIDE, cell_box
from agentfly.messages import Message
from agentfly.settings import Settings
from agentfly.vision.shapes import SHAPES

LOOKS = ("zoom", "colour_at")  # tools of the group "look" that are demonstrated
ADJUSTMENTS: Mapping[str, str] = {"exposure": "adjust_tone", "temperature": "adjust_colour", "tint": "adjust_colour"}


class DemonstrationMix(Settings):
    """Distributions that demonstrations draw from.

    Attributes:
        tools: weight of each way to carry out a step.
        thresholds: values of `box_threshold`, drawn uniformly.
        dilations: values of `auto_mask_dilate`, drawn uniformly.
        phrases: weights of naming colour and shape, colour alone, shape alone.
        looks: share of look tasks in which the right sticker is named; otherwise any colour.
        retries: attempts after a failed call.
        first_looks: share of the tasks in which looking pays that begin with a look, where the agent has a tool for it.
        places: share of these looks that go where the answer can be seen; otherwise to any place.
        amounts: share of retouch tasks with the right adjustment; otherwise any one by any amount, or the editor.
    """

    tools: Mapping[str, float] = {"auto_inpaint_image": 0.5, "detect_objects": 0.2, "qwen_edit_image": 0.3}
    thresholds: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    dilations: tuple[int, ...] = (0, 2, 4, 8, 12, 16)
    phrases: Mapping[str, float] = {"both": 0.6, "colour": 0.35, "shape": 0.05}
    looks: float = 0.6
    retries: int = 1
    first_looks: float = 0.3
    places: float = 0.8
    amounts: float = 0.1


EXPERT = DemonstrationMix(
    tools={"auto_inpaint_image": 1.0},
    thresholds=(0.6,),
    dilations=(4,),
    phrases={"both": 1.0},
    looks=1.0,
    first_looks=1.0,
    places=1.0,
    amounts=1.0,
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
        self._steps: list[Mapping[str, Any]] = list(task.metadata["steps"])
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


class LookDemonstrator(Demonstrator):
    """Player of a task in which looking pays.

    Args:
        task, rng, mix, colours: see `Demonstrator`.
        tools: names of the agent's tools; those of `LOOKS` among them are used.
    """

    def __init__(
        self,
        task: EditTask,
        rng: random.Random,
        mix: DemonstrationMix,
        colours: Sequence[str],
        tools: Collection[str],
    ) -> None:
        super().__init__(task, rng, mix, colours)
        looks = [name for name in LOOKS if name in tools]
        boxes = [tuple(box) for box in task.metadata["look"]]
        if rng.random() >= mix.places:
            boxes = [cell_box(REFERENCE_SIDE, place) for place in CELLS]
        self._box, self._looking = rng.choice(boxes), False
        self._look = rng.choice(looks) if looks and rng.random() < mix.first_looks else None

    def __call__(self, request: GenerationRequest) -> str:
        """Return the next turn."""
        if self._look is None:
            turn = super().__call__(request)
            self._looking = False
            return turn
        name, self._look, self._looking = self._look, None, True
        x0, y0, x1, y1 = self._box
        where = {"box": [x0, y0, x1, y1]} if name == "zoom" else {"x": (x0 + x1) // 2, "y": (y0 + y1) // 2}
        return call_text(name, {"image_id": self._current, **where})

    def _note(self, observation: Message) -> bool:
        # A look changes no image, whatever its observation names.
        return True if self._looking else super()._note(observation)

    def _words(self) -> str:
        rng, right = self._rng, str(self._steps[0]["detect"])
        if rng.random() < self._mix.looks:
            return right
        if self._family == "tiny":
            return rng.choice(list(self._colours))
        return f"{rng.choice(list(self._colours))} {right.split()[1]}" if " " in right else rng.choice(SHAPES)


class RetouchDemonstrator(Demonstrator):
    """Player of a task whose answer is an amount; see `Demonstrator`. Which tool fits is left to the reward."""

    def __call__(self, request: GenerationRequest) -> str:
        """Return the next turn."""
        last = request.messages[-1]
        if last.role == "tool":
            self._note(last)
            return call_text("give_answer", {"final_image_id": self._current})
        action, amount = str(self._steps[0]["action"]), float(self._steps[0]["amount"])
        if self._rng.random() >= self._mix.amounts:
            action = self._rng.choice((*ADJUSTMENTS, "edit"))
            size: float = self._rng.choice(EXPOSURES if action == "exposure" else STRENGTHS)
            amount = self._rng.choice((1, -1)) * size
        if action == "edit":
            prompt = "brighten" if amount > 0 else "darken"
            return call_text("qwen_edit_image", {"image_id": self._current, "prompt": prompt})
        number = round(amount, 1) if action == "exposure" else round(amount)
        return call_text(ADJUSTMENTS[action], {"image_id": self._current, action: number})


def demonstrator(
    task: EditTask, rng: random.Random, mix: DemonstrationMix, colours: Sequence[str], tools: Collection[str]
) -> Demonstrator:
    """Return the player of a task by its type; see `Demonstrator` and `LookDemonstrator`."""
    if task.task_type in LOOK_FAMILIES:
        return LookDemonstrator(task, rng, mix, colours, tools)
    kind = RetouchDemonstrator if task.task_type in RETOUCH_FAMILIES else Demonstrator
    return kind(task, rng, mix, colours)
