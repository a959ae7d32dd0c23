"""A made-up run: trajectories, summary and examples, small and seeded."""

from __future__ import annotations

import random
from copy import deepcopy
from functools import cache
from typing import Any

from PIL import Image, ImageDraw

from agentfly.agents.trajectory import StopReason, ToolRecord, Trajectory, Turn
from agentfly.evaluation.in_memory import Evaluation, paired_difference
from agentfly.messages import Message, TextPart, ToolCall, text_message
from agentfly.training.quickstart.report import Example

FAMILIES = ("look", "named", "repair")


def photo(seed: int, side: int = 168) -> Image.Image:
    """A noisy image with a disc: as hard to compress as a photograph."""
    rng = random.Random(seed)
    image = Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side)).resize((side // 4, side // 4))
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    x, y = rng.randrange(20, side - 60), rng.randrange(20, side - 60)
    ImageDraw.Draw(image).ellipse((x, y, x + 40, y + 40), fill=("red", "blue", "green")[seed % 3], outline="white")
    return image


def trajectory(score: float, *, threshold: float = 0.35, observation: str = "mask_1: red circle 0.91") -> Trajectory:
    """Detect, inpaint, answer; the answer's observation is in no message, as the rollout leaves it."""
    detect = {"image_id": "img_1", "text_prompt": "the red circle", "box_threshold": threshold}
    paint = {"image_id": "img_1", "mask_id": "mask_1", "prompt": "remove", "auto_mask_dilate": 4}
    return Trajectory(
        id=f"t{score}",
        group_id="g",
        messages=[
            text_message("user", "Remove the red circle"),
            Message("assistant", (), (ToolCall("c0", "detect_objects", detect),)),
            Message("tool", (TextPart(observation),), tool_call_id="c0"),
            Message("assistant", (), (ToolCall("c1", "inpaint", paint),)),
            Message("tool", (TextPart("img_2: filled"),), tool_call_id="c1"),
            Message("assistant", (), (ToolCall("c2", "give_answer", {"image_id": "img_2"}),)),
        ],
        turns=[
            Turn("…", "stop", 0.1, (ToolRecord("detect_objects", detect, 0.01, "classical"),)),
            Turn("…", "stop", 0.1, (ToolRecord("inpaint", paint, 0.01, "classical"),)),
            Turn("…", "stop", 0.1, (ToolRecord("give_answer", {"image_id": "img_2"}, 0.0),)),
        ],
        stop_reason=StopReason.ANSWERED,
        answer="img_2",
        score=score,
        aspects={"success": score / 100, "preservation": 0.97},
    )


def evaluation(mean: float, seed: int) -> Evaluation:
    """Forty tasks a family around a mean score."""
    rng = random.Random(seed)
    names = FAMILIES * 40
    chains = [
        trajectory(min(100.0, max(0.0, rng.gauss(mean, 25))), threshold=rng.choice((0.2, 0.35, 0.5))) for _ in names
    ]
    for chain in rng.sample(chains, 9):
        chain.stop_reason = StopReason.MAX_TURNS
    return Evaluation(tuple(chains), names)


def summary() -> dict[str, Any]:
    """The content of a `summary.json`, to change at will."""
    return deepcopy(_summary())


@cache
def _summary() -> dict[str, Any]:
    before = {"greedy": evaluation(58, 1), "sampled": evaluation(50, 2)}
    after = {"greedy": evaluation(79, 3), "sampled": evaluation(75, 4)}
    return {
        "algorithm": "grpo",
        "seed": 0,
        "minutes": 14.2,
        "warm_start": {mode: value.summary() for mode, value in before.items()},
        "trained": {mode: value.summary() for mode, value in after.items()},
        "gain": {
            mode: {
                name or "all": paired_difference(before[mode], after[mode], name).to_dict()
                for name in (None, *FAMILIES)
            }
            for mode in before
        },
        "blanked": {"trained": {"look": {"mean": 0.22, "low": 0.14, "high": 0.31}}, "chance": 0.2},
        "rollout_actor_diff_max": 0.0004,
        "seconds": {"warm_start": 201.4, "training": 512.0, "evaluation": 120.5},
        "versions": {"verl": "0.9.1", "vllm": "0.24.0"},
    }


def examples(count: int) -> list[Example]:
    """Examples, families in turn, two policies each."""
    return [
        Example(
            FAMILIES[i % 3],
            f"Remove the red circle number {i}",
            photo(i),
            photo(i + 1),
            (("trained", trajectory(91.5 if i % 2 else 23.0), photo(i + 2)), ("warm start", trajectory(31.25), None)),
        )
        for i in range(count)
    ]
