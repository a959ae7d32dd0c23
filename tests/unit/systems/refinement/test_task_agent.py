"""The loop as an agent on tasks: an honest trajectory for the tables."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from agentfly.agents import StopReason, Trajectory
from agentfly.cli import app
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError
from agentfly.images import ImageStore
from agentfly.systems.refinement.task_agent import TOOL, RefinementTaskAgent
from tests.unit.systems.refinement.openai_server import OpenAIServer, Reply, drawn, fault, judged, refused, written

SOURCE = Image.new("RGB", (32, 24), "white")
TASK = EditTask("t-1", "Make it red", (SOURCE,), task_type="colour")


def agent(openai: OpenAIServer, **settings: Any) -> RefinementTaskAgent:
    return RefinementTaskAgent(
        **{"base_url": openai.url, "retries": 0, "max_turns": 3, "request_timeout": 20, **settings}
    )


async def attempt(openai: OpenAIServer, task: EditTask = TASK, **settings: Any) -> tuple[Trajectory, ImageStore]:
    made = agent(openai, **settings)
    try:
        return await made.attempt(task), made.store
    finally:
        await made.close()


async def test_each_iteration_is_a_turn_and_the_best_image_is_the_answer(openai: OpenAIServer) -> None:
    openai.say(
        [drawn("red"), fault(400, "blocked", "moderation_blocked"), drawn("blue")],
        [judged(70, "Nearly."), judged(30, "Worse.")],
        [written("redder"), written("reddest")],
    )
    trajectory, store = await attempt(openai)
    assert (trajectory.id, trajectory.group_id, trajectory.stop_reason) == ("t-1-0", "t-1", StopReason.ANSWERED)
    assert [turn.text for turn in trajectory.turns] == ["Make it red", "redder", "reddest"]
    records = trajectory.tool_records
    assert [record.name for record in records] == [TOOL] * 3
    assert [record.data["score"] for record in records] == [70, None, 30]
    assert "moderation_blocked" in str(records[1].error)
    assert (records[0].error, records[2].error) == (None, None)
    assert trajectory.final_image is not None
    assert store.get(trajectory.final_image).getpixel((0, 0)) == (255, 0, 0)
    assert "iteration 1" in trajectory.answer
    # The judge of the loop is not the evaluator of the table.
    assert (trajectory.score, trajectory.token_exact) == (None, False)
    assert [message.role for message in trajectory.messages] == ["user", *["assistant", "tool"] * 3, "assistant"]
    assert len(trajectory.images) == 3
    assert [record.images for record in records] == [tuple(trajectory.images[1:2]), (), tuple(trajectory.images[2:])]
    # An image begins from the last one that was made.
    assert [record.data["source"] for record in records] == [trajectory.images[0], *[trajectory.images[1]] * 2]
    assert set(trajectory.names.values()) == set(trajectory.images)
    assert trajectory.metadata["refinement"]["usage"]["generator"]["requests"] == 3
    assert Trajectory.from_json(trajectory.to_json()) == trajectory
    # An edit keeps what the image has.
    tool = openai.bodies("image")[0]["tools"][0]
    assert (tool["background"], tool["size"]) == ("auto", "auto")
    assert len(openai.bodies("image")[0]["input"][0]["content"]) == 2


async def test_without_any_image_there_is_no_answer_and_no_fault_of_ours(openai: OpenAIServer) -> None:
    openai.say([refused("No.")])
    trajectory, _ = await attempt(openai)
    assert (trajectory.stop_reason, trajectory.final_image, trajectory.answered) == (StopReason.MAX_TURNS, None, False)


async def test_a_wrong_key_ends_the_whole_run(openai: OpenAIServer) -> None:
    openai.say([fault(401)])
    with pytest.raises(ConfigError, match=r"refuses the key \(HTTP 401\): check OPENAI_API_KEY"):
        await attempt(openai)


async def test_an_image_that_cannot_be_loaded_is_a_failed_task(openai: OpenAIServer, tmp_path: Path) -> None:
    trajectory, _ = await attempt(openai, EditTask("t-2", "x", (tmp_path / "none.png",)))
    assert trajectory.stop_reason is StopReason.ERROR
    assert "no image file" in str(trajectory.error)
    assert openai.asked == []


async def test_what_was_done_until_the_time_is_over_is_kept(openai: OpenAIServer) -> None:
    openai.say([drawn("red"), Reply(drawn().body, after=3.0)])
    store = ImageStore()
    trajectory, used = await attempt(openai, timeout=1.5, store=store)
    assert used is store
    assert (trajectory.stop_reason, len(trajectory.turns)) == (StopReason.ANSWERED, 2)
    assert trajectory.metadata["refinement"]["end"] == "wall_clock"
    assert trajectory.seconds < 2.9


async def test_tasks_side_by_side_do_not_mix(openai: OpenAIServer) -> None:
    made = agent(openai, max_turns=2)
    tasks = [EditTask(f"t-{number}", f"wish {number}", (SOURCE,)) for number in range(4)]
    trajectories = await asyncio.gather(*(made.attempt(task) for task in tasks))
    await made.close()
    assert [trajectory.turns[0].text for trajectory in trajectories] == [f"wish {number}" for number in range(4)]
    assert all(len(trajectory.turns) == 2 for trajectory in trajectories)


def test_settings_are_those_of_the_loop(openai: OpenAIServer) -> None:
    made = agent(openai, seed=4, name="loop-x", quality="low")
    assert (made.name, made.settings.seed, made.settings.max_iterations, made.settings.quality) == (
        "loop-x",
        4,
        3,
        "low",
    )
    with pytest.raises(ConfigError, match="--max-iterations"):
        RefinementTaskAgent(max_iteration=3)


async def test_agentfly_eval_knows_it(openai: OpenAIServer) -> None:
    from agentfly.evaluation.task_agent import AGENTS, TaskAgent

    module, _, name = AGENTS["refinement-loop"].partition(":")
    assert (RefinementTaskAgent.__module__, RefinementTaskAgent.__name__) == (module, name)
    assert isinstance(agent(openai), TaskAgent)


@pytest.mark.slow
def test_agentfly_eval_runs_it(openai: OpenAIServer, tmp_path: Path) -> None:
    openai.say([drawn("red")], [judged(95)])
    options = json.dumps({"max_iterations": 2, "retries": 0})
    flags = ["--agent", "refinement-loop", "--base-url", openai.url, "--agent-options", options]
    flags += ["--data", "stickers", "--limit", "2", "--evaluator", "reference", "--out", str(tmp_path / "eval")]
    done = CliRunner().invoke(app, ["eval", *flags])
    assert done.exit_code == 0, done.output
    assert len(openai.bodies("image")) == 2
    assert any((tmp_path / "eval").iterdir())
