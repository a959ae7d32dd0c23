"""Demonstrations call the tools correctly, and do not show which calls work."""

from __future__ import annotations

import random

import numpy as np
import pytest

from agentfly.agents import (
    AgentSettings,
    EvaluationSetup,
    ImageEditingAgent,
    StopReason,
    score_trajectory,
    task_conversation,
)
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.datasets import FAMILIES, EditTask, StickerWorld
from agentfly.evaluators import ReferenceEvaluator
from agentfly.training.supervised.data.demonstrations import EXPERT, DemonstrationMix, Demonstrator, seeing
from agentfly.vision.shapes import COLOURS


async def play(tasks: list[EditTask], mix: DemonstrationMix) -> list[float]:
    scripts = {f"{t.id}-0": Demonstrator(t, random.Random(i), mix, tuple(COLOURS)) for i, t in enumerate(tasks)}
    agent = ImageEditingAgent(
        "demonstrations",
        backend=ScriptedBackend(lambda request: scripts[request.session_id](request)),
        settings=AgentSettings(system_prompt=None),
    )
    result = await agent.run([task_conversation(task) for task in tasks])
    setup, scores = EvaluationSetup(ReferenceEvaluator()), []
    for trajectory, task in zip(result, tasks, strict=True):
        assert trajectory.stop_reason is StopReason.ANSWERED
        assert not any(record.malformed for record in trajectory.tool_records)
        scored = await score_trajectory(trajectory, task, agent.store, setup)
        scores.append(scored.score or 0.0)
    return scores


@pytest.fixture(scope="module")
def tasks() -> list[EditTask]:
    world = StickerWorld()
    return [world.task(index, "train", FAMILIES[index % len(FAMILIES)]) for index in range(60)]


async def test_random_demonstrations_leave_room_above_them(tasks: list[EditTask]) -> None:
    """The right tool and parameters score far more than random ones: reinforcement has something to find."""
    drawn = await play(tasks, DemonstrationMix())
    best = await play(tasks, EXPERT)
    assert np.mean(best) > np.mean(drawn) + 20
    assert np.mean(drawn) > 20


def test_seeing_is_the_right_first_call_up_to_the_word_that_the_image_tells() -> None:
    world, rng = StickerWorld(), random.Random(0)
    for index in range(20):
        task = world.task(index, "train", "look")
        begin, word = seeing(task, rng, DemonstrationMix(looks=0.0))
        assert begin.startswith('<tool_call>{"name": "')
        assert word.strip() == task.metadata["steps"][0]["detect"].split()[0]
        assert not begin.endswith(" ")
