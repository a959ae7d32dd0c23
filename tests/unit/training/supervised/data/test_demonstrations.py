"""Demonstrations call the tools correctly, and do not show which calls work."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from agentfly.agents import (
    AgentSettings,
    EvaluationSetup,
    ImageEditingAgent,
    StopReason,
    Trajectory,
    score_trajectory,
    task_conversation,
)
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.spec import AgentSpec
from agentfly.datasets import FAMILIES, LOOK_FAMILIES, RETOUCH_FAMILIES, EditTask, StickerWorld
from agentfly.evaluators import ReferenceEvaluator
from agentfly.images import ImageStore
from agentfly.training.supervised.data import demonstrations
from agentfly.training.supervised.data.demonstrations import (
    EXPERT,
    DemonstrationMix,
    Demonstrations,
    Demonstrator,
    seeing,
)
from agentfly.vision.shapes import COLOURS

pytestmark = pytest.mark.slow


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


def test_demonstrations_do_not_depend_on_the_processes_that_play_them() -> None:
    source = Demonstrations(12, FAMILIES, DemonstrationMix(), seed=3, system_prompt=None, together=5)
    of_two, of_one = ([*source.batches(processes)] for processes in (2, 1))
    for (chains, images), (same_chains, same_images) in zip(of_two, of_one, strict=True):
        assert [chain.turns[0].text for chain in chains] == [chain.turns[0].text for chain in same_chains]
        assert [chain.images for chain in chains] == [chain.images for chain in same_chains]
        assert {name: image.tobytes() for name, image in images.items()} == {
            name: image.tobytes() for name, image in same_images.items()
        }
    # Draws and tasks go on where the batch before ended, as if all were played by one.
    world, rng, shown = StickerWorld(), random.Random("demonstrations-3"), []
    for start in (0, 5, 10):
        numbers = range(start, min(start + 5, 12))
        batch = [world.task(n, "train", FAMILIES[n % len(FAMILIES)], seed=3) for n in numbers]
        shown += asyncio.run(demonstrations.play(batch, DemonstrationMix(), ImageStore(), rng, system_prompt=None))
    assert [chain.images for chain in shown] == [chain.images for chains, _ in of_two for chain in chains]


def test_seeing_is_the_right_first_call_up_to_the_word_that_the_image_tells() -> None:
    world, rng = StickerWorld(), random.Random(0)
    for index in range(20):
        task = world.task(index, "train", "look")
        begin, word = seeing(task, rng, DemonstrationMix(looks=0.0))
        assert begin.startswith('<tool_call>{"name": "')
        assert word.strip() == task.metadata["steps"][0]["detect"].split()[0]
        assert not begin.endswith(" ")


LOOK = AgentSpec(tools=("edit", "zoom", "colour_at"))
RETOUCH = AgentSpec(tools=("edit", "adjust_tone", "adjust_colour"))


async def played(family: str, mix: DemonstrationMix, spec: AgentSpec, count: int = 16) -> list[Trajectory]:
    world, store = StickerWorld(), ImageStore()
    tasks = [world.task(index, "heldout", family) for index in range(count)]
    found = await demonstrations.play(tasks, mix, store, random.Random(0), system_prompt=None, spec=spec)
    setup = EvaluationSetup(ReferenceEvaluator())
    return [await score_trajectory(one, task, store, setup) for one, task in zip(found, tasks, strict=True)]


@pytest.mark.parametrize("family", [*LOOK_FAMILIES, *RETOUCH_FAMILIES])
async def test_the_expert_solves_every_family_and_random_choices_do_not(family: str) -> None:
    spec = LOOK if family in LOOK_FAMILIES else RETOUCH
    best = await played(family, EXPERT, spec)
    drawn = await played(family, DemonstrationMix(), spec)
    assert np.mean([one.score for one in best]) >= 99
    assert np.mean([one.score for one in drawn]) < 85
    for one in drawn:
        assert one.stop_reason is StopReason.ANSWERED
        assert not any(record.malformed for record in one.tool_records)


async def test_demonstrations_look_only_where_the_agent_can() -> None:
    looked = await played("tiny", EXPERT, LOOK)
    assert {record.name for one in looked for record in one.tool_records[:1]} == {"zoom", "colour_at"}
    assert all([record.looks for record in one.tool_records] == [True, False, False] for one in looked)
    blind = await played("tiny", EXPERT, AgentSpec(tools=("edit",)))
    assert not any(record.looks for one in blind for record in one.tool_records)


@pytest.mark.parametrize(
    ("family", "spec"), [("tiny", LOOK), ("most", LOOK), ("exposure", RETOUCH), ("match", RETOUCH), ("cast", RETOUCH)]
)
async def test_seen_calls_end_before_what_only_the_image_tells(family: str, spec: AgentSpec) -> None:
    tasks = [StickerWorld().task(index, "train", family) for index in range(8)]
    found = await demonstrations.seen_calls(
        tasks, DemonstrationMix(), ImageStore(), random.Random(0), system_prompt=None, spec=spec
    )
    for task, call in zip(tasks, found, strict=True):
        assert len(call.turns) == sum(message.role == "assistant" for message in call.messages)
        assert len(call.turns) == (2 if spec is LOOK else 1)
        assert call.turns[-1].startswith('<tool_call>{"name": "')
        assert call.words not in call.turns[-1]
        step = task.metadata["steps"][0]
        assert call.words.strip('", ').startswith(step["detect"].split()[0] if spec is LOOK else step["action"])


async def test_expert_demonstrations_of_other_families_carry_their_tools() -> None:
    found = await demonstrations.expert_demonstrations(
        4,
        ImageStore(),
        0,
        system_prompt=None,
        families=("tiny", "cast"),
        spec=AgentSpec(tools=("edit", "look", "retouch")),
    )
    assert [one.metadata["task_type"] for one in found] == ["tiny", "cast"] * 2
    for one in found:
        assert {"zoom", "adjust_colour", "give_answer"} <= {tool["function"]["name"] for tool in one.tools}
        assert one.stop_reason is StopReason.ANSWERED
