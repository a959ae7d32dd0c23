"""Reward functions: arguments by name, numbers out, and failures that stay on their trajectory."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, Trajectory, reward
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.errors import BackendError, ConfigError
from agentfly.messages import Message

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'
ANSWER = (
    '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2", "description": "dark"}}</tool_call>'
)


async def scored(function: Any, script: Any = None, timeout: float = 600.0, **metadata: Any) -> Trajectory:
    image = Image.new("RGB", (16, 16), (200, 90, 30))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Darker."}]
    agent = ImageEditingAgent(
        "s",
        backend=ScriptedBackend(script or [EDIT, ANSWER]),
        reward=function,
        settings=AgentSettings(reward_timeout=timeout),
    )
    return (await agent.run({"messages": [{"role": "user", "content": content}], **metadata}))[0]


async def test_arguments_are_given_by_name() -> None:
    got: dict[str, Any] = {}

    @reward
    def judge(
        prediction: str,
        final_image: Image.Image,
        source_image: Image.Image,
        trajectory: Trajectory,
        messages: list[Message],
        task: dict[str, Any],
        metadata: dict[str, Any],
        difficulty: int,
        weight: float = 2.0,
    ) -> float:
        got.update(locals())
        return sum(source_image.tobytes()) - sum(final_image.tobytes()) > 0

    trajectory = await scored(judge, difficulty=3, source="x")
    assert trajectory.reward == 1.0
    assert got["prediction"] == "dark"
    assert got["difficulty"] == 3
    assert got["weight"] == 2.0
    assert got["task"] == got["metadata"] == {"difficulty": 3, "source": "x"}
    assert got["trajectory"] is trajectory
    assert got["messages"] == trajectory.messages
    assert judge.__name__ == "judge"


async def test_a_field_called_task_is_the_task_and_defaults_give_way_to_metadata() -> None:
    def judge(task: str, weight: float = 2.0, **fields: Any) -> dict[str, float]:
        return {"reward": weight, "length": len(task), "fields": len(fields)}

    trajectory = await scored(judge, task="darken", weight=5.0, other=1)
    assert trajectory.reward == 5.0
    assert trajectory.reward_parts == {"length": 6.0, "fields": 1.0}


@pytest.mark.parametrize(
    ("value", "number", "parts"),
    [
        (0.25, 0.25, {}),
        (1, 1.0, {}),
        (True, 1.0, {}),
        (np.float32(0.5), 0.5, {}),
        (np.bool_(False), 0.0, {}),
        ({"reward": 1, "success": True, "quality": 0.5}, 1.0, {"success": 1.0, "quality": 0.5}),
    ],
)
@pytest.mark.parametrize("style", ["sync", "async", "object"])
async def test_values_become_numbers(value: Any, number: float, parts: dict[str, float], style: str) -> None:
    def judge() -> Any:
        return value

    async def later() -> Any:
        await asyncio.sleep(0)
        return value

    class Judge:
        async def __call__(self) -> Any:
            return value

    trajectory = await scored({"sync": judge, "async": later, "object": Judge()}[style])
    assert (trajectory.reward, trajectory.reward_parts, trajectory.reward_error) == (number, parts, None)


def broken() -> float:
    raise ZeroDivisionError("no")


async def hangs() -> float:
    await asyncio.Event().wait()
    return 1.0


async def gives_up() -> float:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (broken, "ZeroDivisionError: no"),
        (hangs, "longer than 0.05 s"),
        (gives_up, "cancelled"),
        (lambda: "good", "reward is str"),
        (lambda: None, "reward is NoneType"),
        (lambda: float("nan"), "finite"),
        (lambda: {"success": 1.0}, "under 'reward'"),
        (lambda: {"reward": 1.0, "why": "x"}, "why is str"),
        (lambda final_imag: 1.0, "Did you mean 'final_image'"),
    ],
)
async def test_a_failure_is_written_on_the_trajectory(function: Any, words: str) -> None:
    trajectory = await scored(function, timeout=0.05 if function is hangs else 600.0)
    assert trajectory.answered
    assert trajectory.reward is None
    assert words in (trajectory.reward_error or "")
    assert trajectory.error is None


async def test_a_chain_that_made_no_image_has_none() -> None:
    trajectory = await scored(lambda final_image, prediction: float(final_image is None), ["no"])
    assert trajectory.reward == 1.0


async def test_a_chain_that_a_fault_ended_is_not_scored() -> None:
    def script(request: GenerationRequest) -> str:
        raise BackendError("gone")

    trajectory = await scored(lambda: 1.0, script)
    assert trajectory.reward is None
    assert trajectory.reward_error is None


def test_arguments_without_a_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be given by name"):

        @reward
        def judge(*values: Any) -> float:
            return 1.0
