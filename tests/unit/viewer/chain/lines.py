"""Trajectory lines for tests of a chain's page: real images, real tools, a script for the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.token_check import TokenTrace
from agentfly.agents.trajectory import StopReason, ToolRecord, Trajectory, Turn
from agentfly.agents.trajectory_file import FILE_NAME, IMAGES, TrajectoryLine, append_line
from agentfly.images import ImageStore
from agentfly.messages import ImagePart, Message, TextPart, ToolCall, text_message
from agentfly.viewer.command import find_runs
from agentfly.viewer.opened import OpenRun

ROOT = Path(__file__).resolve().parents[4]
POLICY = ROOT / "data" / "warm_start"
SIDE = 84  # pixels of an image: nine tokens of the shipped policy


def picture(spot: str | None = "red") -> Image.Image:
    """Return a grey image with a disc of a colour, or without one."""
    image = Image.new("RGB", (SIDE, SIDE), (200, 200, 200))
    if spot is not None:
        ImageDraw.Draw(image).ellipse((20, 20, 50, 50), fill=spot)
    return image


def edit(source: str, result: str, **changes: Any) -> ToolRecord:
    """Return the record of an edit."""
    record = ToolRecord(
        "qwen_edit_image",
        {"image_id": "img_1", "prompt": "remove red"},
        0.5,
        "classical",
        data={"source": source},
        images=(result,),
    )
    return replace(record, **changes)


def trajectory(
    store: ImageStore,
    records: Sequence[Sequence[ToolRecord]] | None = None,
    *,
    reward: float | None = 0.5,
    **changes: Any,
) -> Trajectory:
    """Return a chain that edits and answers; `records` are those of its turns in place of the usual ones."""
    source, result = store.put(picture()), store.put(picture(None))
    if records is None:
        answer = ToolRecord("give_answer", {"final_image_id": "img_2"}, 0.0, images=(result,))
        records = [[edit(source, result)], [answer]]
    messages = [Message("user", (TextPart("img_1: "), ImagePart(source), TextPart("Remove the red disc.")))]
    for number, calls in enumerate(records):
        asked = tuple(ToolCall(f"call_{i}", call.name, call.arguments) for i, call in enumerate(calls))
        messages.append(Message("assistant", (TextPart(f"turn {number}"),), asked))
        if number < len(records) - 1:
            messages += [
                Message(
                    "tool", (TextPart(f"seen {number}.{i}"), *map(ImagePart, call.images)), tool_call_id=f"call_{i}"
                )
                for i, call in enumerate(calls)
            ]
    made = Trajectory(
        "chain-0",
        "group-0",
        messages,
        [Turn(f"turn {number}", "stop", 1.0, tuple(calls)) for number, calls in enumerate(records)],
        [source, result],
        {"img_1": source, "img_2": result},
        stop_reason=StopReason.ANSWERED,
        final_image=result,
        score=80.0,
        aspects={"inside": 0.9},
        reward=reward,
        reward_parts={"edit": 0.5},
    )
    return replace(made, **changes)


def line_of(chain: Trajectory, **changes: Any) -> TrajectoryLine:
    """Return the line of a chain of training step 1."""
    return replace(
        TrajectoryLine(chain, TaskFacts("task-0", "Remove the red disc.", "named"), step=1, validate=False), **changes
    )


def with_tokens(chain: Trajectory) -> Trajectory:
    """Return a chain with the ids of the shipped tokenizer, and log-prob -0.5 for each sampled one."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(POLICY / "tokenizer.json"))
    image = f"<|vision_start|>{'<|image_pad|>' * 9}<|vision_end|>"
    trace, turns = TokenTrace(tokenizer.encode(f"<|im_start|>user\n{image}Go<|im_end|>").ids), []
    for number, turn in enumerate(chain.turns):
        ids = tokenizer.encode(f"{turn.text}<|im_end|>").ids
        start, end = trace.add_sampled(ids, [-0.5] * len(ids))
        turns.append(replace(turn, start=start, end=end))
        if number < len(chain.turns) - 1:
            trace.add_observation(tokenizer.encode(f"\n<tool_response>{image}</tool_response>").ids)
    return replace(chain, turns=turns, tokens=trace)


def earlier(*roles: str) -> list[Message]:
    """Return messages of an earlier conversation."""
    return [text_message("assistant" if role == "assistant" else "user", f"earlier {role}") for role in roles]


def run_of(folder: Path, lines: Sequence[TrajectoryLine], config: Mapping[str, Any] | None = None) -> OpenRun:
    """Write lines into the folder of a training run, open it, and read its index. Images are written by their store."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config or {})), encoding="utf-8")
    for line in lines:
        append_line(folder / FILE_NAME, line)
    run = OpenRun(find_runs([folder])[0])
    run.up_to_date(60.0)
    return run


def store_of(folder: Path) -> ImageStore:
    """Return the images of a run's folder."""
    folder.mkdir(exist_ok=True)
    return ImageStore(folder / IMAGES)
