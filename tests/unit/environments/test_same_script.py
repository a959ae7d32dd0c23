"""A script of turns gives the same chain through our own rollout and through the environment, whatever it says."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentfly.agents import (
    AgentSettings,
    ImageEditingAgent,
    Rollout,
    RolloutLimits,
    Trajectory,
    score_trajectory,
    task_conversation,
)
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.llm_backends.base import Generation
from agentfly.datasets import EditTask, load_tasks
from agentfly.environments import EnvironmentSettings
from agentfly.environments.policy import read_turn
from agentfly.errors import EvaluatorError
from agentfly.images import ImageStore
from tests.unit.environments.scripted import answer, call

LIMITS = {"max_turns": 4, "max_tool_calls": 5, "max_images": 4}
_EDITS = st.sampled_from(
    (
        call("qwen_edit_image", image_id="img_1", prompt="darken"),
        call("qwen_edit_image", image_id="img_2", prompt="brighten"),
        call("qwen_edit_image", image_id="img_9", prompt="no such image"),
        call("detect_objects", image_id="img_1", text_prompt="circle"),
        call("no_such_tool"),
        answer("img_1"),
        answer("img_2"),
        answer("img_9"),
    )
)
_TURNS = st.one_of(
    _EDITS,
    st.lists(_EDITS, min_size=2, max_size=3).map(
        lambda several: {
            "role": "assistant",
            "content": "several",
            "tool_calls": [{**turn["tool_calls"][0], "id": f"call_{number}"} for number, turn in enumerate(several)],
        }
    ),
    st.sampled_from(("", "Done.", "<tool_call>{broken</tool_call>", "half \ud800")),
)
_SCRIPTS = st.lists(st.tuples(_TURNS, st.sampled_from(("stop", "length"))), min_size=5, max_size=5)


@functools.cache
def _task() -> EditTask:
    (task,) = load_tasks("stickers", limit=1)
    return task


async def _through_environment(script: list[tuple[Any, str]]) -> tuple[Trajectory, list[str], Any]:
    made = EnvironmentSettings(data="stickers", limit=1, limits=LIMITS).make_environment()
    episode = await made.reset(_task())
    seen: list[str] = []
    for turn, reason in script:
        result = await episode.step(turn, finish_reason=reason)
        seen += [part["text"] for message in result.messages for part in _parts(message) if part["type"] == "text"]
        assert result.reward is None or result.done
        if result.done:
            break
    await made.close()
    assert result.done
    return episode.trajectory, seen, result


def _parts(message: Any) -> list[Any]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


async def _through_rollout(script: list[tuple[Any, str]], prompt: str) -> Trajectory:
    turns = iter(script)

    def generate(_: Any) -> Generation:
        turn, reason = next(turns)
        return read_turn(turn, reason)

    agent = ImageEditingAgent(
        "scripted",
        backend=ScriptedBackend(generate),
        settings=AgentSettings(system_prompt=prompt, limits=RolloutLimits(**LIMITS)),
    )
    chain = agent.chain(task_conversation(_task()), _task().id, store=ImageStore())
    trajectory = await Rollout(agent.backend, agent.settings.limits).run(chain)
    try:
        evaluation = EnvironmentSettings(data="stickers", limit=1).make_evaluation()
        await score_trajectory(trajectory, _task(), chain.view.store, evaluation)
    except EvaluatorError:
        assert trajectory.reward is None
    await agent.close()
    return trajectory


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(_SCRIPTS)
def test_a_script_gives_one_chain_through_rollout_and_environment(script: list[tuple[Any, str]]) -> None:
    theirs, seen, result = asyncio.run(_through_environment(script))
    ours = asyncio.run(_through_rollout(script, theirs.messages[0].text))
    assert [message.to_dict() for message in theirs.messages] == [message.to_dict() for message in ours.messages]
    assert (theirs.stop_reason, theirs.answer, theirs.final_image) == (ours.stop_reason, ours.answer, ours.final_image)
    assert (theirs.score, theirs.reward, theirs.reward_parts) == (ours.score, ours.reward, ours.reward_parts)
    assert result.reward == ours.reward
    shown = [message.text for message in ours.messages if message.role == "tool"]
    assert "".join(seen) == "".join(shown)[: len("".join(seen))]
    assert theirs.images == ours.images
