"""Choose a few chains of a step from the run's log, and draw each as source and result with a caption."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from agentfly.agents import StopReason
from agentfly.agents.display.strip import Step, draw_steps
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.errors import printable, shortened
from agentfly.images import ImageStore, encode_image
from agentfly.training.recipe.record_settings import Kind, ShownChains

logger = logging.getLogger(__name__)

_LEAST_SIDE = 32
_MOST_INSTRUCTION = 200  # characters
_MOST_WORD = 60
# Some loggers show captions as markup. These look alike, and are none in any of them.
_NO_MARKUP = str.maketrans({"<": "‹", ">": "›", "`": "'", "[": "(", "]": ")", "|": "¦"})


@dataclass(frozen=True)
class ChainFacts:
    """What the choice needs of a line of the log.

    Attributes:
        start: place of the line in the file, in bytes.
        reward: None where the chain was lost.
        alarm: what is wrong with the chain; "" for nothing.
        validate: the chain belongs to a validation.
    """

    start: int
    reward: float | None
    alarm: str
    validate: bool


@dataclass(frozen=True)
class ShownChain:
    """A chain as the loggers get it.

    Attributes:
        name: "best", or "validation_best" for a chain of a validation.
        image: source and result side by side.
        caption: one line without markup.
    """

    name: str
    image: Image.Image
    caption: str


def new_chains(log: Path, start: int) -> tuple[list[ChainFacts], int]:
    """Return the chains whose images are there from a place of the log on, and the place after the last whole line.

    Args:
        log: the run's `trajectories.jsonl`; it may not be there yet.
        start: place in bytes.

    Raises:
        OSError: the log cannot be read.
    """
    found: list[ChainFacts] = []
    if not log.is_file():
        return found, start
    with log.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                data = json.loads(line)
                if data.get("images_kept") is not False and data["trajectory"]["images"]:
                    found.append(_facts(data, start))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                # A process that was killed leaves a torn line; it must not hide those after it.
                logger.warning("%s has a damaged line at byte %d: it is not shown", log, start)
            start += len(line)
    return found, start


def _facts(data: dict[str, Any], start: int) -> ChainFacts:
    trajectory = data["trajectory"]
    stop = trajectory["stop_reason"]
    alarm = ""
    if stop is None or StopReason(stop).failed:
        alarm = f"stopped: {stop}"
    elif trajectory["reward"] is None:
        alarm = "lost: not scored"
    elif any(tool["malformed"] for turn in trajectory["turns"] for tool in turn["tools"]):
        alarm = "malformed call"
    elif any(tool["error"] is not None for turn in trajectory["turns"] for tool in turn["tools"]):
        alarm = "failed call"
    return ChainFacts(start, trajectory["reward"], alarm, bool(data.get("validate")))


def choose(chains: Sequence[ChainFacts], kinds: Sequence[Kind], seed: str) -> list[tuple[Kind, ChainFacts]]:
    """Choose a chain of each kind; none is chosen twice, and a kind that no chain has is left out.

    Args:
        chains: of one step.
        kinds: the kinds, in the order in which they choose.
        seed: of the choice at random.
    """
    left, chosen = list(chains), list[tuple[Kind, ChainFacts]]()
    for kind in kinds:
        fit = list(_fitting(left, kind))
        if not fit:
            continue
        if kind == "random":
            found = random.Random(seed).choice(fit)
        elif kind == "alarm":
            # Lost chains come before those with a slip.
            found = min(fit, key=lambda chain: chain.reward is not None)
        else:
            found = (max if kind == "best" else min)(fit, key=lambda chain: chain.reward or 0.0)
        left.remove(found)
        chosen.append((kind, found))
    return chosen


def _fitting(chains: Sequence[ChainFacts], kind: Kind) -> Iterator[ChainFacts]:
    for chain in chains:
        if kind == "random" or (bool(chain.alarm) if kind == "alarm" else chain.reward is not None):
            yield chain


def draw(log: Path, store: ImageStore, name: str, facts: ChainFacts, settings: ShownChains) -> ShownChain:
    """Draw a chain: source and result, each with a caption.

    Args:
        log: the run's `trajectories.jsonl`.
        store: the images of its chains.
        name: see `ShownChain`.
        facts: of the chain.
        settings: sizes.

    Raises:
        OSError: the log cannot be read.
        ImageError: an image is missing or damaged.
        ConfigError: the line is no trajectory.
    """
    with log.open("rb") as file:
        file.seek(facts.start)
        line = TrajectoryLine.from_dict(json.loads(file.readline()))
    trajectory, task = line.trajectory, line.task
    words = _words(task.instruction if task else "", _MOST_INSTRUCTION)
    numbers = [
        f"{title} {value:.{digits}f}"
        for title, value, digits in (("reward", trajectory.reward, 2), ("score", trajectory.score, 0))
        if value is not None
    ]
    stop = trajectory.stop_reason.value.replace("_", " ") if trajectory.stop_reason else "not ended"
    facts_in_words = ", ".join((*numbers, stop, *([facts.alarm] if facts.alarm else [])))
    shown = [Step(words or "source", store.get(trajectory.images[0]))]
    if trajectory.final_image is not None:
        shown.append(Step(facts_in_words, store.get(trajectory.final_image)))
    else:
        shown[0] = Step(f"{words} ({facts_in_words}, no result)", shown[0].image)
    chain = _words(trajectory.id, _MOST_WORD)
    caption = f"step {line.step}, {name.replace('_', ' ')}: {facts_in_words} | {words} | chain {chain}"
    return ShownChain(name, _within(shown, settings), caption)


def _within(shown: Sequence[Step], settings: ShownChains) -> Image.Image:
    """Return the strip of some images, scaled down until it is no larger than the settings allow."""
    side = settings.side
    while True:
        strip = draw_steps(shown, side)
        if side <= _LEAST_SIDE or len(encode_image(strip)) <= 1000 * settings.max_kb:
            return strip
        side = max(_LEAST_SIDE, int(0.7 * side))


def _words(text: str, most: int) -> str:
    """Return a text of anybody's as one short line without markup or control characters."""
    return shortened(" ".join(printable(text[: 10 * most]).split()), most).translate(_NO_MARKUP)
